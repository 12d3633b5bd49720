"""What sources find, pass over and refuse: paths, classes, damaged files."""

import concurrent.futures
import contextlib
import io
import json
import os
import shutil
import tarfile
import zipfile

import flax.serialization
import grain
import numpy as np
import pytest
from etils.epath.testing import mock_epath
from PIL import Image

from biggan.data import write_array_record
from biggan.files import Folder, Tar
from biggan.images import ImageError
from biggan.records import ArrayRecord
from biggan.sources import open_source


def png(value=7, size=(40, 40)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, format="PNG")
    return buffer.getvalue()


def place(root, **files):
    """Images of the values given, in files called by the names given: a__b for a/b.png."""
    for name, value in files.items():
        file = root / f"{name.replace('__', '/')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(value))
    return root


def packed(root, path):
    with tarfile.open(path, "w") as tar:
        for file in sorted(root.rglob("*.png")):
            tar.add(file, arcname=str(file.relative_to(root)))
    return path


def values(source):
    return [int(source[index]["image"][0, 0, 0]) for index in range(len(source))]


@pytest.fixture
def images(tmp_path):
    return place(tmp_path / "images", a__1=1, a__2=2, b__3=3)


@pytest.fixture
def records(images, tmp_path):
    write_array_record(Folder(str(images), True), str(tmp_path / "records"), 32, False, iter)
    return tmp_path / "records"


def test_a_path_says_what_it_is(images, records, tmp_path):
    tar = packed(images, tmp_path / "images.tar")
    for path, kind in ((images, Folder), (tar, Tar), (records, ArrayRecord)):
        source = open_source(path=str(path))
        assert isinstance(source, kind)
        assert values(source) == [1, 2, 3]
    (tmp_path / "tfds").mkdir()
    (tmp_path / "tfds" / "features.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.data\.path: cannot read the data set .*tfds"):
        open_source(path=str(tmp_path / "tfds"))


def test_a_path_that_is_nothing(images, tmp_path):
    with pytest.raises(ValueError, match=r"config\.data\.path is missing"):
        open_source()
    with pytest.raises(FileNotFoundError, match=r"config\.data\.path: there is nothing at"):
        open_source(path=str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=r"config\.data\.path: .* is neither a folder nor a \.tar, \.zip, "):
        open_source(path=str(images / "a" / "1.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no \.jpg.*array_record \(info\.json.*features\.json"):
        open_source(path=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"source='photos' takes bundled.*path='/x' is given"):
        open_source("photos", path="/x")


@contextlib.contextmanager
def bucket(folder, monkeypatch):
    """What is in a folder of this disk, at gs://bucket; without numbers of open files, as there."""

    def moved(name):
        def call(original, path, *arguments, **options):
            return original(str(path).replace("gs://bucket", str(folder)), *arguments, **options)

        return call

    def opened(original, path, mode):
        file = moved("open")(original, path, mode)
        if "b" not in mode:
            return file
        with file:
            return io.BytesIO(file.read())

    def reader(paths):
        return local([path.replace("gs://bucket", str(folder)) for path in paths])

    local = grain.sources.ArrayRecordDataSource
    monkeypatch.setattr(grain.sources, "ArrayRecordDataSource", reader)
    with mock_epath(open=opened, **{name: moved(name) for name in ("exists", "isdir", "listdir", "stat")}):
        yield


def test_paths_of_a_bucket(images, records, tmp_path, monkeypatch):
    packed(images, tmp_path / "images.tar")
    with bucket(tmp_path, monkeypatch):
        for name in ("images", "images.tar", "records"):
            source = open_source(path=f"gs://bucket/{name}")
            assert values(source) == [1, 2, 3]
            if name != "records":
                assert source.size(1) == (40, 40)
                assert source[0]["name"].startswith(f"gs://bucket/{name}")
        assert open_source(path="gs://bucket/images", classes=True).class_names == ["a", "b"]
    with pytest.raises(ValueError, match="--out='gs://bucket/x' should be a folder of this machine"):
        write_array_record(source, "gs://bucket/x", 32, False, iter)


def test_hidden_and_other_files_are_passed_over_and_told(images):
    place(images, **{".ipynb_checkpoints__1-checkpoint": 0, "a__._1": 0})
    place(images / "__MACOSX" / "a", **{"1": 0})
    for name in ("a/list.txt", "more.txt"):
        (images / name).write_text("x")
    (images / "b" / "4.JPE").write_bytes(png(4))
    (images / "b" / "ORIGINAL").write_text("x")
    source = Folder(str(images), classes=True)
    assert values(source) == [1, 2, 3, 4]
    assert source.class_names == ["a", "b"]
    left, hidden = source.remarks
    assert left == "Left out by their suffix: 3 files (.txt 2, no suffix 1)."
    assert hidden.startswith("Hidden, and left out: 3 (")
    for name in (".ipynb_checkpoints", "__MACOSX", "a/._1.png"):
        assert name in hidden


def test_links_are_followed_but_not_for_ever(images, tmp_path):
    place(tmp_path / "elsewhere", x=9)
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "a" / "up").symlink_to(images)
    source = Folder(str(images))
    assert values(source) == [1, 2, 3, 9]
    assert source.remarks == ["Not read: 1 (a/up/: leads back to a folder above it)."]


def test_a_folder_that_cannot_be_read_is_told(images):
    def listdir(original, path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    with mock_epath(listdir=listdir):
        source = Folder(str(images))
    assert values(source) == [1, 2]
    assert source.remarks == ["Not read: 1 (b: Permission denied)."]


def test_a_name_that_is_no_utf8(images, tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    os.rename(images / "a" / "1.png", images / "a" / name)
    for source in (Folder(str(images)), Tar(str(packed(images, tmp_path / "x.tar")))):
        names = [source[index]["name"] for index in range(3)]
        assert [of for of in names if of.endswith("caf\\xe9.png")]
        "".join(names).encode()  # can be printed
    write_array_record(Folder(str(images)), str(tmp_path / "r"), 32, False, iter)
    assert len(ArrayRecord(str(tmp_path / "r"))) == 3


def test_images_that_lie_in_no_class(images, tmp_path):
    place(tmp_path / "high", train__a__1=1, train__b__2=2, test__a__3=3)
    with pytest.raises(ValueError, match=r"3 lie deeper \(test/a/3.png, .*is the path a folder too high"):
        Folder(str(tmp_path / "high"), classes=True)
    place(images, stray=1)
    with pytest.raises(ValueError, match=r"config\.data\.path: with classes.* 1 lie in none \(stray\.png\)"):
        Folder(str(images), classes=True)
    assert len(Folder(str(images))) == 4


def test_classes_of_records(records):
    source = ArrayRecord(str(records), classes=True)
    assert source.class_names == ["a", "b"]
    assert [source[index]["label"] for index in range(3)] == [0, 0, 1]
    without = ArrayRecord(str(records))
    assert without.class_names is None
    assert without.remarks == ["The data's 2 classes are not used."]
    assert without[2]["label"] == 0
    info = json.loads((records / "info.json").read_text())
    (records / "info.json").write_text(json.dumps(info | {"class_names": None}))
    with pytest.raises(ValueError, match=r"info\.json in config\.data\.path names none"):
        ArrayRecord(str(records), classes=True)


@pytest.mark.parametrize("cut", ["within a header", "within an image", "before the end", "a header"])
def test_a_tar_that_is_cut_or_damaged(images, tmp_path, cut):
    path = packed(images, tmp_path / "images.tar")
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2]
    data = bytearray(path.read_bytes())
    if cut == "a header":
        data[third.offset : third.offset + 512] = bytes(512)
    else:
        end = third.offset_data + 512 * (-(-third.size // 512))
        places = {"within a header": third.offset + 99, "within an image": third.offset_data + 9}
        del data[places.get(cut, end) :]
    path.write_bytes(data)
    left = 3 if cut == "before the end" else 2
    with pytest.raises(
        ValueError, match=rf"is cut or damaged at byte \d+ of \d+: {left} images.*skip_corrupt"
    ):
        Tar(str(path))
    source = Tar(str(path), skip_corrupt=True)
    assert values(source) == [1, 2, 3][:left]
    assert "is cut or damaged at byte" in source.remarks[0]


def test_a_tar_may_end_in_many_zeros_and_hold_other_things(images, tmp_path):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(images, arcname="./images")
        for name, kind in (("images/link.png", tarfile.SYMTYPE), ("._x.png", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
    path.write_bytes(path.read_bytes() + bytes(5 << 20))
    source = Tar(str(path))
    assert values(source) == [1, 2, 3]
    assert source.remarks == ["Hidden, and left out: 1 (._x.png).", "Not read: 1 (images/link.png)."]


def test_the_size_of_an_image_in_a_tar_whose_header_is_long(images, tmp_path):
    """JPEG tells it behind the colour profile."""
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, format="JPEG", icc_profile=bytes(100_000))
    (images / "a" / "0.png").write_bytes(buffer.getvalue())
    assert Tar(str(packed(images, tmp_path / "images.tar"))).size(0) == (20, 30)


def test_damaged_records_are_unusable_images(images, records, tmp_path):
    file = records / "images.array_record"
    data = bytearray(file.read_bytes())
    place_of = data.index(b"\x89PNG")
    data[place_of + 20] ^= 1
    file.write_bytes(data)
    source = ArrayRecord(str(records))
    faults = []
    for index in range(3):
        try:
            source[index]
        except ImageError as error:
            faults.append(str(error))
    assert len(faults) == 1
    assert faults[0].startswith("cannot read the image of record")


@pytest.mark.parametrize(
    "record",
    [b"\xc1 no msgpack", flax.serialization.msgpack_serialize({"png": png(), "label": 0}), b"", b"\x93\x01"],
)
def test_records_of_another_kind_are_unusable_images(records, monkeypatch, record):
    source = ArrayRecord(str(records), classes=True)
    monkeypatch.setattr(source, "_source", [record])
    with pytest.raises(ImageError, match="cannot read the image of record 0: "):
        source[0]


def test_files_of_records_that_cannot_be_opened(records):
    file, whole = records / "images.array_record", (records / "images.array_record").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"config\.data\.path: cannot open '.*images\.array_record': "):
        ArrayRecord(str(records))
    file.write_bytes(whole)
    shutil.copy(file, records / "more.array_record")
    with pytest.raises(
        ValueError, match=r"hold 6 records, info\.json says 3\. Set config\.data\.skip_corrupt"
    ):
        ArrayRecord(str(records))
    source = ArrayRecord(str(records), skip_corrupt=True)
    assert len(source) == 6
    assert "hold 6 records" in source.remarks[0]
    (records / "info.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.data\.path: '.*info\.json' is damaged"):
        ArrayRecord(str(records))


def test_a_file_that_goes_away_is_an_unusable_image(images):
    source = Folder(str(images))
    (images / "a" / "1.png").unlink()
    for look in (source.size, source.__getitem__):
        with pytest.raises(ImageError, match=r"cannot read the image .*a/1\.png: .*No such file"):
            look(0)
    np.testing.assert_array_equal(source[1]["image"], 2)


def test_zip(images, tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for image in sorted(images.rglob("*.png"), reverse=True):
            file.write(image, image.relative_to(images))
        file.writestr("notes.txt", "no image")
        file.writestr("__MACOSX/._1.png", "hidden")
    source = open_source(path=str(path))
    assert values(source) == [1, 2, 3]
    assert source.size(1) == (40, 40)
    assert source.name(0) == f"{path}:a/1.png"
    assert "1 files (.txt 1)" in source.remarks[0]
    assert "Hidden, and left out: 1" in source.remarks[1]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: int(source[index % 3]["image"][0, 0, 0]), range(60)))
    assert found == [1, 2, 3] * 20


def test_zip_files_that_are_none(images, tmp_path):
    path = tmp_path / "cut.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "no image")
    with pytest.raises(ValueError, match=r"holds no \.jpg.*1 files \(\.txt 1\)"):
        open_source(path=str(path))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="no zip file, or cut"):
        open_source(path=str(path))
    with pytest.raises(FileNotFoundError, match="no zip file"):
        open_source("zip", path=str(tmp_path / "none.zip"))
