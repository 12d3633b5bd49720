"""Folders of labelled images, and ImageNet's preprocessing."""

import re

import numpy as np
import pytest
import skimage.data
import torchvision
from PIL import Image

from transformer.class_images import open_class_images, prepared


def write(path, height=20, width=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def open_folder(folder, num_labels=3, labels="", classes=""):
    return open_class_images(str(folder), labels=str(labels), classes=str(classes), num_labels=num_labels)


@pytest.fixture
def folders(tmp_path):
    """Class folders, written in another order than that of their names."""
    for name in ("n03/b.JPEG", "n01/z.png", "n02/a.jpg", "n01/y.JPEG"):
        write(tmp_path / "val" / name)
    (tmp_path / "val" / "n01" / "notes.txt").write_text("no image")
    return tmp_path / "val"


def names_of(images):
    return [path.name for path in images.paths]


def test_class_folders_are_classes_by_their_sorted_names(folders, tmp_path):
    images = open_folder(folders)
    assert names_of(images) == ["y.JPEG", "z.png", "a.jpg", "b.JPEG"]
    assert images.labels.tolist() == [0, 0, 1, 2]
    with pytest.raises(ValueError, match="has 3 folders, but the model has 5 classes"):
        open_folder(folders, 5)
    (tmp_path / "synsets.txt").write_text("n00 a fish\nn01 a bird\nn03 a cat\nn02 a dog\nn04\n")
    assert open_folder(folders, 5, classes=tmp_path / "synsets.txt").labels.tolist() == [1, 1, 3, 2]
    (tmp_path / "synsets.txt").write_text("n00\nn01\nn05\n")
    with pytest.raises(ValueError, match="the folder 'n02' is no class of --classes"):
        open_folder(folders, 3, classes=tmp_path / "synsets.txt")
    with pytest.raises(ValueError, match="should have 4 different names, one a line, but has 3 with 3"):
        open_folder(folders, 4, classes=tmp_path / "synsets.txt")


def test_a_file_has_the_classes_of_images_alone(tmp_path):
    for name in ("b.png", "a.png", "c.png"):
        write(tmp_path / "flat" / name)
    labels = tmp_path / "val.txt"
    labels.write_text("b.png 2\n\na.png 0\n")
    images = open_folder(tmp_path / "flat", labels=labels)
    assert (names_of(images), images.labels.tolist()) == (["b.png", "a.png"], [2, 0])
    assert len(images.notes) == 1
    assert images.notes[0].startswith("1 images of")
    (tmp_path / "synsets.txt").write_text("n7\nn8\nn9\n")
    labels.write_text("b.png n8\na.png 2\nc.png n7\n")
    images = open_folder(tmp_path / "flat", labels=labels, classes=tmp_path / "synsets.txt")
    assert (images.labels.tolist(), images.notes) == ([1, 2, 0], ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("490\n361\n", "--labels=.*, line 1: '490' should be a file's name and its class"),
        ("a.png 0\nb.png 3\n", r"line 2: the class '3' should be 0 \.\. 2 \(for names give --classes\)"),
        ("a.png -1\n", "line 1: the class '-1' should be"),
        ("a.png 0\nd.png 1\n", r"line 2: .*d\.png is missing"),
        ("\n", "names no images"),
    ],
)
def test_faults_of_a_file_of_labels_are_named(content, message, tmp_path):
    for name in ("a.png", "b.png"):
        write(tmp_path / "flat" / name)
    (tmp_path / "val.txt").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_folder(tmp_path / "flat", labels=tmp_path / "val.txt")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--images=.*none is no folder"):
        open_folder(tmp_path / "none")
    write(tmp_path / "flat" / "a.png")
    with pytest.raises(ValueError, match="has no folders, one a class. For images alone give --labels"):
        open_folder(tmp_path / "flat")
    with pytest.raises(FileNotFoundError, match=r"--labels=.*val\.txt is no file"):
        open_folder(tmp_path / "flat", labels=tmp_path / "val.txt")
    for name in ("a", "b", "c"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="its folders have no images"):
        open_folder(tmp_path / "empty")
    (tmp_path / "flat" / "cut.png").write_bytes((tmp_path / "flat" / "a.png").read_bytes()[:90])
    with pytest.raises(ValueError, match=re.escape("cut.png cannot be read as an image")):
        prepared(tmp_path / "flat" / "cut.png", 16)


def test_some_are_spread_over_all(folders):
    images = open_folder(folders)
    assert names_of(images.spread(2)) == ["y.JPEG", "b.JPEG"]
    assert names_of(images.spread(9)) == names_of(images)


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (100, 90), (248, 248), (613, 250)])
def test_the_preprocessing_is_that_of_torchvision(shape, tmp_path):
    image = Image.fromarray(skimage.data.astronaut()).resize(shape[::-1])
    image.save(tmp_path / "a.png")
    transforms = torchvision.transforms
    bicubic = transforms.InterpolationMode.BICUBIC
    reference = transforms.Compose([transforms.Resize(248, bicubic), transforms.CenterCrop(224)])
    np.testing.assert_array_equal(prepared(tmp_path / "a.png", 224), np.asarray(reference(image)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_kind_of_image_becomes_rgb(mode, tmp_path):
    image = Image.fromarray(skimage.data.astronaut()).convert(mode)
    image.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    assert prepared(next(tmp_path.iterdir()), 16).shape == (16, 16, 3)
