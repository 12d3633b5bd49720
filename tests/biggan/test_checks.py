"""What is looked at before training starts, and `python -m biggan.convert --check`."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from biggan.checks import check_classes, check_sizes
from biggan.data import pipeline
from biggan.experiment import build_data, build_gan
from biggan.files import Folder
from biggan.images import ImageError
from biggan.restoring import read_config
from biggan.sources import Photos, open_source
from biggan.survey import lines, survey
from biggan.train import GANTask


def save(file, size=(40, 48), value=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (value, 0, 0)).save(file)


@pytest.fixture
def folder(tmp_path):
    """Three images in class a, two in b."""
    for name in ("a/1", "a/2", "a/3", "b/4", "b/5"):
        save(tmp_path / "images" / f"{name}.png", value=int(name[-1]))
    return tmp_path / "images"


@pytest.fixture
def config(tiny, folder):
    tiny.data.source, tiny.data.path = "", str(folder)
    return tiny


def test_a_count_of_classes_that_is_not_the_data_s(config, folder, tmp_path):
    save(folder / "c" / "6.png")
    config.num_classes = 2
    with pytest.raises(ValueError, match=r"config\.num_classes is 2, but the data has 3 classes: a, b, c\."):
        build_data(config, 1, 0, str(tmp_path / "classes.json"))
    (tmp_path / "high").mkdir()
    (tmp_path / "high" / "images").symlink_to(folder / "a")
    high = Folder(str(tmp_path / "high"), classes=True)
    with pytest.raises(ValueError, match="the data has 1 classes: images. Is config.data.path a folder too"):
        check_classes(high, 2)
    with pytest.raises(ValueError, match="source='photos' has no classes, but config.num_classes asks"):
        open_source("photos", classes=True)
    check_classes(Photos(), 1)
    check_classes(Folder(str(folder)), 1)


def test_a_label_that_is_no_class_is_refused(folder):
    source = Folder(str(folder), classes=True)
    options = {"resolution": 32, "batch_size": 5, "seed": 0}
    stream, _ = pipeline(source, **options, num_classes=2)
    assert sorted(next(stream)["label"].tolist()) == [0, 0, 0, 1, 1]
    with pytest.raises(ImageError, match=r"/b/.\.png has the label 1, but config\.num_classes is 1"):
        next(pipeline(source, **options)[0])


def test_a_run_goes_on_with_its_classes_alone(config, folder, tmp_path):
    config.num_classes = 2
    file = tmp_path / "run" / "classes.json"
    build_data(config, 1, 0, str(file))
    assert json.loads(file.read_text()) == ["a", "b"]
    build_data(config, 1, 10, str(file))
    (folder / "a").rename(folder / "z")
    with pytest.raises(ValueError, match=r"began with the classes a, b .*classes\.json.* has b, z\."):
        build_data(config, 1, 10, str(file))
    build_data(config, 1, 0, str(file))  # a new run
    assert json.loads(file.read_text()) == ["b", "z"]


def test_small_and_damaged_images_are_counted_at_the_start(config, folder, tmp_path, capsys):
    assert check_sizes(Folder(str(folder)), 40, False, 2) == []
    assert check_sizes(Photos(), 10_000, False, 2) == []
    save(folder / "a" / "2.png", (8, 99))
    (folder / "b" / "5.png").write_bytes(b"x")
    classes_file = str(tmp_path / "classes.json")
    said = (
        r"2 of 5 images cannot be used at 32x32: the image .*a/2\.png is 8x99, smaller than 32; cannot read"
    )
    with pytest.raises(ImageError, match=said + r".*Set config\.data\.skip_corrupt to go on without"):
        build_data(config, 1, 0, classes_file)
    config.data.skip_corrupt = True
    (folder / "list.txt").write_text("x")
    task = GANTask(config, str(tmp_path / "run"), jax.devices()[:1])
    capsys.readouterr()
    next(task.batches(0))
    left, remark, *skipped = capsys.readouterr().out.splitlines()
    assert left == "Left out by their suffix: 1 files (.txt 1)."
    assert remark.startswith("2 of 5 images cannot be used at 32x32")
    assert all(line.startswith("Skipped") for line in skipped)


def test_of_many_images_some_are_looked_at(folder):
    for index in range(40):
        save(folder / f"{index:02d}.png", (8, 8))
    (remark,) = check_sizes(Folder(str(folder)), 32, True, 2, most=9)
    assert remark.startswith("8 of 9 images looked at, of 45, cannot be used")


def test_num_classes_of_runs_and_configs_of_before(tiny, tmp_path):
    plain = json.loads(tiny.to_json())
    del plain["num_classes"]
    for network in ("generator", "discriminator"):
        plain[network]["num_classes"] = 3
    plain["data"]["classes"] = True
    (tmp_path / "config.json").write_text(json.dumps(plain))
    gan = build_gan(read_config(str(tmp_path)))
    assert (gan.generator.num_classes, gan.discriminator.num_classes) == (3, 3)
    for section, name in (("generator", "num_classes"), ("data", "classes")):
        config = tiny.copy_and_resolve_references()
        config[section][name] = 3
        with pytest.raises(ValueError, match=rf"config\.{section}\.{name} is no field any more"):
            build_gan(config)
    tiny.num_classes = 0
    with pytest.raises(ValueError, match=r"config\.num_classes must be positive"):
        build_gan(tiny)


def test_a_survey(folder):
    save(folder / "a" / "2.png", (8, 99))
    save(folder / "b" / "4.png", (100, 50))
    (folder / "a" / "3.png").write_bytes(b"x")
    source = Folder(str(folder), classes=True)
    found = survey(source, 32, lambda items, total: items)
    assert [image.place for image in found.seen] == [0, 1, 3, 4]
    assert [image.label for image in found.seen] == [0, 0, 1, 1]
    assert [image.size for image in found.seen] == [(40, 48), (8, 99), (100, 50), (40, 48)]
    small, broken = found.unusable
    assert small.endswith("a/2.png is 8x99, smaller than 32.")
    assert "a/3.png: cannot identify" in broken
    assert "Sizes, height x width: smallest 8x99, median 40x48, largest 100x50." in lines(source, found)


def called(*flags):
    """What `python -m biggan.convert` prints, and its status."""
    command = [sys.executable, "-m", "biggan.convert", "--resolution=32", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, done.returncode


@pytest.mark.process
def test_the_check(folder, tmp_path):
    (folder / "list.txt").write_text("x")
    flags = f"--path={folder}", "--check", f"--sheet={tmp_path / 'sheet.png'}"
    output, status = called(*flags, "--classes")
    assert status == 0
    for part in (
        "5 images, 0 of them cannot be used",
        "smallest 40x48, median 40x48, largest 40x48",
        "2 classes:\n  0 a: 3\n  1 b: 2\n",
        "Left out by their suffix: 1 files (.txt 1).",
        f"Sheet: {tmp_path / 'sheet.png'}",
    ):
        assert part in output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 66 + 2, 66 + 2)
        reds = {np.asarray(sheet)[34, 34 + 66 * place, 0] for place in range(5)}
    assert reds == {1, 2, 3, 4, 5}
    (folder / "a" / "2.png").write_bytes(b"x")
    output, status = called(*flags)
    assert status == 1
    assert "5 images, 1 of them cannot be used" in output
    assert "a/2.png: cannot identify" in output
    assert called(*flags, "--skip_corrupt")[1] == 0


@pytest.mark.process
def test_the_command_names_its_flags(folder, tmp_path):
    for flags, said in (
        ((f"--path={tmp_path / 'missing'}", "--check"), "--path: there is nothing at"),
        ((f"--path={folder}",), "either --out, the folder to write, or --check"),
        (("--help",), "with --check: picture to write"),
    ):
        output, status = called(*flags)
        assert status == (flags != ("--help",))
        assert said in output
        assert "config.data" not in output
