"""Images in files: folders, uncompressed tar files, zip files. On this machine or, as gs://, on another."""

import contextlib
import io
import os
import tarfile
import threading
import weakref
import zipfile
from typing import Any

from etils import epath

from biggan.images import SUFFIXES, Element, ImageError, decode, printable, size_of, usable
from biggan.listing import list_folder, list_tar, list_zip, some
from biggan.names import IN_CONFIG, Names, way_out


def _others(names: Names) -> str:
    wants = f"; the data_dir of TFDS wants {names['source']}=tfds" if "source" in names else ""
    return (
        "Other sources are array_record (info.json and *.array_record files of biggan.convert) and tfds "
        f"(features.json{wants})."
    )


# Of a tar's member, what is read to find an image's size; the whole where that is too little.
_HEADER = 1 << 16


class Folder:
    """Image files below a folder, sorted; with `classes`, the subfolder is the class.

    Hidden files and folders are passed over, and links to folders followed.

    Raises:
        FileNotFoundError: no folder, or no images in it.
        ValueError: with `classes`, an image that lies elsewhere than in one of the subfolders.
    """

    def __init__(self, path: str, classes: bool = False, names: Names = IN_CONFIG):
        self._root = epath.Path(path)
        if not self._root.is_dir():
            raise FileNotFoundError(f"{names['path']}: there is no folder {path!r}.")
        self._names, left = list_folder(self._root)
        self.remarks = left.remarks()
        if not self._names:
            raise FileNotFoundError(
                f"{names['path']}: the folder {path!r} holds no {', '.join(SUFFIXES)} files. "
                f"{' '.join([*self.remarks, _others(names)])}"
            )
        self.class_names: list[str] | None = None
        self._labels: dict[str, int] = {}
        if classes:
            self._labels = self._classes(path, names)
            self.class_names = list(map(printable, self._labels))

    def _classes(self, path: str, names: Names) -> dict[str, int]:
        deep = [name for name in self._names if name.count("/") > 1]
        root = [name for name in self._names if "/" not in name]
        if deep or root:
            raise ValueError(
                f"{names['path']}: with classes, each image lies in a subfolder of {path!r}, its class. "
                + (f"{len(deep)} lie deeper ({some(deep)}): is the path a folder too high? " if deep else "")
                + (f"{len(root)} lie in none ({some(root)}): move them. " if root else "")
                + "Without classes images lie anywhere."
            )
        return {name: label for label, name in enumerate(sorted({n.split("/")[0] for n in self._names}))}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return printable(str(self._root / self._names[index]))

    def __getitem__(self, index: int) -> Element:
        name, file = self.name(index), self._root / self._names[index]
        label = self._labels.get(self._names[index].split("/")[0], 0)
        return Element(image=decode(usable(name, file.read_bytes), name), label=label, name=name)

    def size(self, index: int) -> tuple[int, int]:
        name = self.name(index)

        def read() -> tuple[int, int]:
            with (self._root / self._names[index]).open("rb") as opened:
                return size_of(opened, name)

        return usable(name, read)


class Tar:
    """Image members of an uncompressed tar, as data128x128.tar; read in place. It has no classes.

    skip_corrupt: take what comes before the place where the file is cut or damaged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an uncompressed tar file, without images, or (without skip_corrupt) cut or damaged.
    """

    class_names: list[str] | None = None

    def __init__(self, path: str, skip_corrupt: bool = False, names: Names = IN_CONFIG):
        file = epath.Path(path)
        if not file.exists() or file.is_dir():
            raise FileNotFoundError(f"{names['path']}: there is no tar file {path!r}.")
        stack = contextlib.ExitStack()
        weakref.finalize(self, stack.close)
        self._file: Any = stack.enter_context(file.open("rb"))
        try:
            self._members, left, fault = list_tar(self._file)
        except tarfile.TarError as error:
            raise ValueError(
                f"{names['path']}: {path!r} is not an uncompressed tar file: {error}."
            ) from error
        self.remarks = left.remarks()
        if fault:
            fault = f"{path!r} {fault}: {len(self._members)} images come before that."
            self.remarks.insert(0, fault)
        if fault and not skip_corrupt:
            raise ValueError(f"{names['path']}: {fault} {way_out(names, 'to go on with those')}")
        if not self._members:
            raise ValueError(
                f"{names['path']}: the tar file {path!r} holds no {', '.join(SUFFIXES)} files. "
                f"{' '.join(self.remarks)}".rstrip()
            )
        self._path, self._lock = path, threading.Lock()

    def __len__(self) -> int:
        return len(self._members)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            # pread keeps no position, so threads do not disturb each other.
            return os.pread(self._file.fileno(), size, offset)
        except (AttributeError, io.UnsupportedOperation):  # not a file of this machine
            with self._lock:
                self._file.seek(offset)
                return self._file.read(size)

    def name(self, index: int) -> str:
        return printable(f"{self._path}:{self._members[index].name}")

    def __getitem__(self, index: int) -> Element:
        member, name = self._members[index], self.name(index)
        data = usable(name, lambda: self._read(member.offset, member.size))
        return Element(image=decode(data, name), label=0, name=name)

    def size(self, index: int) -> tuple[int, int]:
        member, name = self._members[index], self.name(index)

        def read(num: int) -> tuple[int, int]:
            return size_of(io.BytesIO(usable(name, lambda: self._read(member.offset, num))), name)

        try:
            return read(min(member.size, _HEADER))
        except ImageError:
            return read(member.size)


class Zip:
    """Image members of a zip file; read in place. It has no classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a zip file, or without images.
    """

    class_names: list[str] | None = None

    def __init__(self, path: str, names: Names = IN_CONFIG):
        file = epath.Path(path)
        if not file.exists() or file.is_dir():
            raise FileNotFoundError(f"{names['path']}: there is no zip file {path!r}.")
        stack = contextlib.ExitStack()
        weakref.finalize(self, stack.close)
        try:
            self._zip = stack.enter_context(zipfile.ZipFile(stack.enter_context(file.open("rb"))))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{names['path']}: {path!r} is no zip file, or cut: {error}.") from error
        self._names, left = list_zip(self._zip)
        self.remarks, self._path = left.remarks(), path
        if not self._names:
            raise ValueError(
                f"{names['path']}: the zip file {path!r} holds no {', '.join(SUFFIXES)} files. "
                f"{' '.join(self.remarks)}".rstrip()
            )

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return printable(f"{self._path}:{self._names[index]}")

    def __getitem__(self, index: int) -> Element:
        name = self.name(index)
        data = usable(name, lambda: self._zip.read(self._names[index]))
        return Element(image=decode(data, name), label=0, name=name)

    def size(self, index: int) -> tuple[int, int]:
        name = self.name(index)

        def read() -> tuple[int, int]:
            with self._zip.open(self._names[index]) as opened:
                return size_of(opened, name)

        return usable(name, read)
