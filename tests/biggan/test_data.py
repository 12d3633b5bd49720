"""Every source, the order of images, and what is said of those that cannot be used."""

import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from biggan.data import pipeline, resize, write_array_record
from biggan.files import Folder, Tar
from biggan.images import SUFFIXES, Element, ImageError
from biggan.records import TFDS, ArrayRecord
from biggan.sources import Photos, open_source


def picture(seed, size=(40, 48)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    for index in range(10):
        place = tmp_path / "images" / ("even" if index % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        picture(index).save(place / f"{index:03d}.png")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path / "images"


def take(source, num, **options):
    options = {"resolution": 32, "batch_size": 4, "seed": 0, "num_threads": 2} | options
    stream, readable = pipeline(source, **options)
    return [next(stream) for _ in range(num)], readable


def test_folder(folder):
    source = Folder(str(folder), classes=True)
    assert len(source) == 10
    assert [source[index]["label"] for index in (0, 9)] == [0, 1]
    np.testing.assert_array_equal(source[0]["image"], np.asarray(picture(0)))
    assert Folder(str(folder))[9]["label"] == 0


def test_tar(folder, tmp_path):
    path = tmp_path / "data128x128.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname="data128x128")
    source = Tar(str(path))
    assert len(source) == 10
    for index in range(10):
        np.testing.assert_array_equal(source[index]["image"], Folder(str(folder))[index]["image"])


def test_array_record_holds_what_was_converted(folder, tmp_path):
    source, out = Folder(str(folder), classes=True), str(tmp_path / "records")
    assert write_array_record(source, out, 32, skip_corrupt=False, progress=iter) == []
    records = ArrayRecord(out, classes=True)
    assert len(records) == 10
    for index in range(10):
        expected = source[index]
        np.testing.assert_array_equal(records[index]["image"], resize(expected, 32))
        assert records[index]["label"] == expected["label"]
    with pytest.raises(FileExistsError, match="records already"):
        write_array_record(source, out, 32, skip_corrupt=False, progress=iter)
    with pytest.raises(ValueError, match=r"records .* are 32x32, but .* resolution is 64"):
        take(records, 1, resolution=64)
    batches, _ = take(records, 2, num_classes=2)
    assert batches[0]["image"].shape == (4, 32, 32, 3)


@pytest.mark.process
def test_the_command_that_converts(folder, tmp_path):
    command = [sys.executable, "-m", "biggan.convert", f"--path={folder}", "--resolution=32"]
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'records'}"], capture_output=True, text=True, check=True
    )
    assert "10 images in" in done.stdout
    assert len(open_source("array_record", path=str(tmp_path / "records"))) == 10


@pytest.mark.process
def test_tfds_without_tensorflow():
    """In a process of its own: other tests' imports do not count."""
    program = """
import sys
import tensorflow_datasets as tfds
from biggan.data import pipeline
from biggan.sources import open_source
with tfds.testing.mock_data(num_examples=5):
    source = open_source("tfds", name="celeb_a_hq/128", path="")
    stream, _ = pipeline(source, resolution=64, batch_size=3, seed=0)
    assert next(stream)["image"].shape == (3, 64, 64, 3)
assert len(source) == 5
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)


def test_tfds_that_is_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)no prepared data set 'celeb_a_hq/128'.*tfds build"):
        TFDS("celeb_a_hq/128", str(tmp_path), "train")


def test_photos_are_cropped_at_random():
    (batch,), _ = take(Photos(), 1, batch_size=8, resolution=64, flip=True)
    assert batch["image"].shape == (8, 64, 64, 3)
    assert batch["image"].dtype == np.uint8
    assert len({image.tobytes() for image in batch["image"]}) == 8


def test_the_stream_can_be_entered_anywhere_and_depends_on_the_seed_alone(folder):
    source = Folder(str(folder))

    def images(num, **options):
        batches, _ = take(source, num, flip=True, **options)
        return np.concatenate([batch["image"] for batch in batches])

    whole = images(6)  # 24 images: the order differs from epoch to epoch
    np.testing.assert_array_equal(images(6), whole)
    np.testing.assert_array_equal(images(2, start=8), whole[8:16])
    np.testing.assert_array_equal(images(3, batch_size=8), whole)
    np.testing.assert_array_equal(images(24, batch_size=1), whole)
    # Of two processes, the second has every other batch.
    np.testing.assert_array_equal(images(2, shard=(1, 2)), np.concatenate([whole[4:8], whole[12:16]]))
    np.testing.assert_array_equal(images(1, num_batches=2, shard=(1, 2)), images(2, shard=(1, 2)))
    assert np.any(images(6, seed=1) != whole)
    first, second = ({image.tobytes() for image in whole[:, :, ::8]} for whole in (whole[:10], whole))
    assert len(first) == 10
    assert len(second) > 10  # flipped anew


def test_resize_takes_the_centred_square():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 10:50] = 255
    element = Element(image=image, label=0, name="wide.png")
    np.testing.assert_array_equal(resize(element, 20), 255)
    with pytest.raises(ImageError, match="wide.png is 40x60, smaller than 64"):
        resize(element, 64)


@pytest.mark.parametrize("content", [b"not an image", None, b""])
def test_a_corrupt_image_is_named_or_skipped(folder, content):
    broken = folder / "even" / "004.png"
    data = broken.read_bytes()
    broken.write_bytes(data[: len(data) // 2] if content is None else content)
    source = Folder(str(folder))
    with pytest.raises(ImageError, match=r"cannot read the image .*004\.png.*skip_corrupt"):
        take(source, 3)
    batches, readable = take(source, 3, skip_corrupt=True)
    assert sum(len(batch["image"]) for batch in batches) == 12
    assert len(readable.skipped) == 1
    assert "004.png" in next(iter(readable.skipped.values()))


def test_a_small_image_is_named_and_nothing_usable_is_an_error(folder, tmp_path):
    with pytest.raises(ImageError, match=r"00\d.png is 40x48, smaller than 64"):
        take(Folder(str(folder)), 1, resolution=64)
    with pytest.raises(ImageError, match="none of the 10 images can be used; the last"):
        take(Folder(str(folder)), 1, resolution=64, skip_corrupt=True)
    with pytest.raises(ImageError, match="smaller than 64.*--skip_corrupt"):
        write_array_record(Folder(str(folder)), str(tmp_path / "r"), 64, skip_corrupt=False, progress=iter)


def test_grey_and_transparent_images_reach_the_batches(tmp_path):
    Image.new("L", (40, 40), 7).save(tmp_path / "a.png")
    Image.new("RGBA", (40, 40), (1, 2, 3, 0)).save(tmp_path / "b.png")
    (batch,), _ = take(Folder(str(tmp_path)), 1, batch_size=2)
    assert sorted(batch["image"].mean(axis=(1, 2, 3)).tolist()) == [7, 255]


def test_missing_paths_are_named(tmp_path):
    missing = str(tmp_path / "missing")
    for kind, message in (
        ("folder", "no folder"),
        ("tar", "no tar file"),
        ("array_record", "biggan.convert writes it"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            open_source(kind, path=missing)
        with pytest.raises(ValueError, match=f"config.data.source='{kind}' wants config.data.path"):
            open_source(kind)
    with pytest.raises(FileNotFoundError, match="holds no .jpg"):
        open_source("folder", path=str(tmp_path))
    with pytest.raises(ValueError, match="config.data.source should be one of .*'webdataset'"):
        open_source("webdataset")
    compressed = tmp_path / "a.tar.gz"
    with tarfile.open(compressed, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        open_source("tar", path=str(compressed))
    assert ".jpeg" in SUFFIXES
