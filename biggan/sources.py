"""Where images come from: photos, folder, tar, tfds, array_record."""

import io
import json
import os
import pathlib
import tarfile
from collections.abc import Callable
from typing import Protocol, TypedDict, runtime_checkable

import flax.serialization
import grain
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from training.photographs import NAMES, photograph

SUFFIXES = (".jpg", ".jpeg", ".png")


class Element(TypedDict):
    """An image [H, W, 3] uint8 of any size, its class, and what to call it in a message."""

    image: np.ndarray
    label: int
    name: str


@runtime_checkable
class Source(Protocol):
    """Random access to images. `__getitem__` raises ImageError for one that cannot be used."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Element: ...


class ImageError(ValueError):
    """An image that cannot be used; says which and why."""


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a JPEG or PNG.

    Raises:
        ImageError: not an image, or cut short.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"cannot read the image {name}: {error}.") from error


class Photos:
    """The colour photographs that scikit-image ships: no download, for a first try."""

    def __init__(self) -> None:
        self._images = [photograph(name) for name in NAMES]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Element:
        return Element(image=self._images[index], label=0, name=NAMES[index])


class Folder:
    """JPEG and PNG files below a folder, sorted; with `classes`, the subfolder is the class."""

    def __init__(self, path: str, classes: bool = False):
        root = pathlib.Path(path)
        if not root.is_dir():
            raise FileNotFoundError(f"config.data.path: there is no folder {path!r}.")
        self._files = sorted(
            file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not self._files:
            raise FileNotFoundError(
                f"config.data.path: the folder {path!r} holds no {', '.join(SUFFIXES)} files."
            )
        names = sorted({file.relative_to(root).parts[0] for file in self._files})
        self._labels = {name: label if classes else 0 for label, name in enumerate(names)}
        self._root = root

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Element:
        file = self._files[index]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot read the image {file}: {error}.") from error
        label = self._labels[file.relative_to(self._root).parts[0]]
        return Element(image=decode(data, str(file)), label=label, name=str(file))


class Tar:
    """JPEG and PNG members of an uncompressed tar, as data128x128.tar; read in place."""

    def __init__(self, path: str):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"config.data.path: there is no tar file {path!r}.")
        try:
            with tarfile.open(path, "r:") as tar:
                members = sorted(
                    (member.name, member.offset_data, member.size)
                    for member in tar
                    if member.isfile() and member.name.lower().endswith(SUFFIXES)
                )
        except tarfile.TarError as error:
            raise ValueError(f"{path!r} is not an uncompressed tar file: {error}.") from error
        if not members:
            raise ValueError(f"the tar file {path!r} holds no {', '.join(SUFFIXES)} files.")
        self._path, self._members = path, members
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Element:
        name, offset, size = self._members[index]
        name = f"{self._path}:{name}"
        # pread keeps no position, so threads do not disturb each other.
        return Element(image=decode(os.pread(self._file, size, offset), name), label=0, name=name)


class TFDS:
    """A prepared TensorFlow Datasets folder of array_record files; TensorFlow is not imported."""

    def __init__(self, name: str, path: str | None, split: str):
        import tensorflow_datasets as tfds

        if path and (pathlib.Path(path) / "features.json").is_file():
            self._source = tfds.builder_from_directory(path).as_data_source(split)
        else:
            try:
                self._source = tfds.data_source(name, split=split, data_dir=path or None, download=False)
            except (AssertionError, OSError, NotImplementedError) as error:
                raise FileNotFoundError(
                    f"there is no prepared data set {name!r} in config.data.path={path!r}: {error}. "
                    "Prepare it on a machine with TensorFlow: tfds build "
                    f"{name} --file_format=array_record."
                ) from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        example = self._source[index]
        return Element(
            image=np.asarray(example["image"]), label=int(example.get("label", 0)), name=f"example {index}"
        )


class ArrayRecord:
    """A folder that `python -m biggan.convert` wrote."""

    def __init__(self, path: str):
        info = pathlib.Path(path) / "info.json"
        if not info.is_file():
            raise FileNotFoundError(
                f"config.data.path: there is no {str(info)!r}; python -m biggan.convert writes it."
            )
        self.resolution = json.loads(info.read_text())["resolution"]
        files = sorted(str(file) for file in pathlib.Path(path).glob("*.array_record"))
        self._source = grain.sources.ArrayRecordDataSource(files)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        record = flax.serialization.msgpack_restore(self._source[index])
        name = record["name"]
        return Element(image=decode(record["png"], name), label=record["label"], name=name)


def open_source(
    source: str, *, path: str = "", name: str = "", split: str = "train", classes: bool = False
) -> Source:
    """The images that config.data names.

    source: "photos", "folder", "tar", "tfds" or "array_record". path: where they are. name, split:
    of a TFDS data set. classes: a folder's subfolders are the classes.

    Raises:
        FileNotFoundError, ValueError: nothing there, or not of that kind; names the path.
    """
    kinds: dict[str, Callable[[], Source]] = {
        "photos": Photos,
        "folder": lambda: Folder(path, classes),
        "tar": lambda: Tar(path),
        "tfds": lambda: TFDS(name, path, split),
        "array_record": lambda: ArrayRecord(path),
    }
    if source not in kinds:
        raise ValueError(f"config.data.source should be one of {sorted(kinds)}, got {source!r}.")
    if source in ("folder", "tar", "array_record") and not path:
        raise ValueError(f"config.data.source={source!r} wants config.data.path.")
    return kinds[source]()
