"""Which files are images, in folders, tar and zip files, and what is passed over."""

import collections
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Iterable
from typing import Any, NamedTuple

from etils import epath

from biggan.images import is_hidden, is_image, printable


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names, and that there are more."""
    names = [printable(name) for name in names]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


class LeftOut:
    """Counts what is no image of the data, for people."""

    def __init__(self) -> None:
        self.suffixes: collections.Counter[str] = collections.Counter()
        self.hidden: list[str] = []
        self.others: list[str] = []  # that are neither files nor folders, or cannot be read

    def takes(self, name: str) -> bool:
        """Whether a file, by its path, is an image; else it is counted."""
        parts = name.split("/")
        if any(map(is_hidden, parts)):
            self.hidden.append(name)
        elif not is_image(parts[-1]):
            self.suffixes[posixpath.splitext(parts[-1])[1].lower() or "no suffix"] += 1
        else:
            return True
        return False

    def remarks(self) -> list[str]:
        """A line for each kind."""
        lines = []
        if self.suffixes:
            counts = sorted(self.suffixes.items(), key=lambda of: (-of[1], of[0]))
            kinds = some(f"{suffix} {count}" for suffix, count in counts)
            lines.append(f"Left out by their suffix: {self.suffixes.total()} files ({kinds}).")
        if self.hidden:
            lines.append(f"Hidden, and left out: {len(self.hidden)} ({some(sorted(self.hidden))}).")
        if self.others:
            lines.append(f"Not read: {len(self.others)} ({some(sorted(self.others))}).")
        return lines


def list_folder(root: epath.Path) -> tuple[list[str], LeftOut]:
    """Images below a folder as paths relative to it, sorted by their parts; links to folders are followed.

    A link to a folder that it lies in is passed over. What has an image's suffix is taken to be a file.

    Raises:
        OSError: the folder cannot be read.
    """
    names: list[str] = []
    left = LeftOut()

    def walk(folder: epath.Path, prefix: str, above: frozenset[str]) -> None:
        here = os.path.realpath(folder)
        if here in above:
            left.others.append(f"{prefix}: leads back to a folder above it")
            return
        for entry in folder.iterdir():
            if entry == folder:
                continue  # as object stores may list it
            name = prefix + entry.name
            if is_hidden(entry.name) or is_image(entry.name) or not entry.is_dir():
                if left.takes(name):
                    names.append(name)
                continue
            try:
                walk(entry, name + "/", above | {here})
            except OSError as error:
                left.others.append(f"{name}: {error.strerror or error}")

    walk(root, "", frozenset())
    return sorted(names, key=lambda name: name.split("/")), left


class Member(NamedTuple):
    """A file in a tar file: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def list_tar(file: Any) -> tuple[list[Member], LeftOut, str]:
    """Images in an open, uncompressed tar file, sorted by name, and what is wrong with it: "" or a clause.

    Raises:
        tarfile.TarError: it begins as no uncompressed tar file does.
    """
    members: list[Member] = []
    left = LeftOut()
    size, end = file.seek(0, os.SEEK_END), -1
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        try:
            for member in tar:
                in_place = member.isreg() and not member.issparse()
                if member.offset <= end or (in_place and member.offset_data + member.size > size):
                    break
                end = member.offset
                if in_place and left.takes(member.name):
                    members.append(Member(member.name, member.offset_data, member.size))
                elif not (in_place or member.isdir()):
                    left.others.append(member.name)
        except (tarfile.TarError, ArithmeticError, LookupError, ValueError, RecursionError):
            pass  # the place says what there is to say
        # Where the next header was looked for: zeros end an archive, and nothing comes behind them.
        place = tar.offset
        fault = "" if _ends(file, place) else f"is cut or damaged at byte {min(place, size)} of {size}"
    return sorted(members), left, fault


def list_zip(file: zipfile.ZipFile) -> tuple[list[str], LeftOut]:
    """Images in a zip file, sorted by name."""
    left = LeftOut()
    files = [member.filename for member in file.infolist() if not member.is_dir()]
    return sorted(filter(left.takes, files)), left


def _ends(file: Any, place: int) -> bool:
    file.seek(place)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return False
    while block:
        if block.strip(b"\0"):
            return False
        block = file.read(1 << 20)
    return True
