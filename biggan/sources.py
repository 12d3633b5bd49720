"""Where images come from: photos, folder, tar, zip, arrays, tfds, array_record."""

import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from etils import epath

from biggan.arrays import Arrays
from biggan.files import Folder, Tar, Zip
from biggan.images import Element
from biggan.names import IN_CONFIG, Names
from biggan.records import TFDS, ArrayRecord
from training.photographs import NAMES, photograph


@runtime_checkable
class Source(Protocol):
    """Random access to images. `__getitem__` raises ImageError for one that cannot be used.

    class_names: of the labels 0, 1, ...; None: all labels are 0. remarks: on what was passed over.
    """

    class_names: list[str] | None
    remarks: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Element: ...


@runtime_checkable
class Sized(Source, Protocol):
    """A source of files, of which a header tells (height, width). `size` raises ImageError."""

    def name(self, index: int) -> str: ...

    def size(self, index: int) -> tuple[int, int]: ...


class Photos:
    """The colour photographs that scikit-image ships: no download, for a first try."""

    class_names: list[str] | None = None

    def __init__(self) -> None:
        self._images = [photograph(name) for name in NAMES]
        self.remarks: list[str] = []

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Element:
        return Element(image=self._images[index], label=0, name=NAMES[index])


def _kind(path: str, names: Names) -> str:
    """The source that a path is."""
    place = epath.Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{names['path']}: there is nothing at {path!r}.")
    if not place.is_dir():
        if ".tar" in place.name:
            return "tar"
        for suffix, kind in ((".zip", "zip"), (".npy", "arrays"), (".npz", "arrays")):
            if place.name.lower().endswith(suffix):
                return kind
        raise ValueError(
            f"{names['path']}: {path!r} is neither a folder nor a .tar, .zip, .npy or .npz file."
        )
    if (place / "info.json").exists() and any(f.name.endswith(".array_record") for f in place.iterdir()):
        return "array_record"
    if (place / "features.json").exists():
        return "tfds"
    return "folder"


def open_source(
    source: str = "",
    *,
    path: str = "",
    name: str = "",
    split: str = "train",
    classes: bool = False,
    skip_corrupt: bool = False,
    names: Names = IN_CONFIG,
) -> Source:
    """The images that config.data names.

    source: "photos", "folder", "tar", "zip", "arrays", "tfds" or "array_record"; "": what lies at the path.
    path: where they are, on this machine or, as gs://, on another. name, split: of a TFDS data set.
    classes: labels are wanted. skip_corrupt: a file that ends too early gives what it has.
    names: what errors call these.

    Raises:
        FileNotFoundError, ValueError: nothing there, or not of that kind; names the path.
    """
    kinds: dict[str, Callable[[], Source]] = {
        "photos": Photos,
        "folder": lambda: Folder(path, classes, names),
        "tar": lambda: Tar(path, skip_corrupt, names),
        "zip": lambda: Zip(path, names),
        "arrays": lambda: Arrays(path, names),
        "tfds": lambda: TFDS(name, path, split, classes, names),
        "array_record": lambda: ArrayRecord(path, classes, skip_corrupt, names),
    }
    if source and source not in kinds:
        raise ValueError(
            f"{names['source']} should be one of {sorted(kinds)}, or '' to go by the path, got {source!r}."
        )
    if source == "photos" and path:
        raise ValueError(
            f"{names['source']}='photos' takes bundled photographs, but {names['path']}={path!r} is given: "
            f"leave the path out, or set {names['source']} to '' to go by the path."
        )
    if source not in ("photos", "tfds") and not path:
        raise ValueError(
            f"{names['source']}={source!r} wants {names['path']}."
            if source
            else f"{names['path']} is missing: a folder, a .tar or .zip file, or records of biggan.convert."
        )
    path = os.path.expanduser(path)
    source = source or _kind(path, names)
    if classes and source in ("photos", "tar", "zip", "arrays"):
        raise ValueError(
            f"{names['source']}={source!r} has no classes, but {names['classes']} asks for them."
        )
    return kinds[source]()
