"""Files of a run, on disks and in buckets (gs://), by etils.epath."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath


def path_of(path: str) -> epath.Path:
    """The path, absolute on disks, ~ the home folder. `gs://` paths stay what they are.

    Raises:
        ValueError: it is of another kind, as s3://.
    """
    kind, found, _ = path.partition("://")
    if found and kind != "gs":
        raise ValueError(f"{path!r} should be a path on a disk, or gs://bucket/folder.")
    return epath.Path(path if found else os.path.abspath(os.path.expanduser(path)))


def is_remote(path: str | epath.Path) -> bool:
    """Whether a path names a bucket and no disk: files there can neither be locked nor appended to."""
    return os.fspath(path).startswith("gs://")


# Folders made within `tidied`, in the order in which they were made; None: outside of it.
_made: list[epath.Path] | None = None


@contextlib.contextmanager
def tidied() -> Iterator[None]:
    """Removes the folders that `make_folder` makes inside if the work fails and they are still empty."""
    global _made
    before, _made = _made, []
    try:
        yield
    except BaseException:
        for folder in reversed(_made):
            with contextlib.suppress(OSError):  # it holds something
                os.rmdir(folder)
        raise
    finally:
        _made = before


def make_folder(folder: epath.Path) -> None:
    """Makes a folder and those above it, unless they are there."""
    if is_remote(folder):  # a bucket has objects alone
        folder.mkdir(parents=True, exist_ok=True)
        return
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if _made is not None:
        _made.extend(reversed(new))


def write_whole(path: str | epath.Path, data: bytes) -> None:
    """Writes a file that nobody ever sees half; makes its folder."""
    path = epath.Path(path)
    make_folder(path.parent)
    if is_remote(path):  # a bucket's objects appear when they are whole
        path.write_bytes(data)
        return
    part = path.parent / f"{path.name}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def make_parent(flag: str, path: str) -> None:
    """Makes the folder that a flag's file will lie in, before the work that it holds is done.

    Raises:
        OSError: it cannot be made; names the flag.
    """
    try:
        make_folder(path_of(path).parent)
    except OSError as error:
        raise OSError(f"--{flag}={path} cannot be written: {error.strerror or error}.") from error


def say_if_replaced(path: str) -> None:
    """Tells on the terminal, before the work is done, that what an earlier command wrote is written over."""
    if path_of(path).exists():
        print(f"{path} is there already: it will be replaced. Another --out keeps it.", flush=True)


def keep_aside(path: epath.Path) -> epath.Path:
    """Copies a damaged file to a name of its own beside it, and says where to."""
    copy = free_name(path.parent / f"{path.name}.damaged")
    write_whole(copy, path.read_bytes())
    return copy


def free_name(path: epath.Path) -> epath.Path:
    """The path, or with a number behind it, where nothing is yet."""
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.parent / f"{path.name}.{number}"
    return free


def move_folder(folder: epath.Path, target: epath.Path) -> None:
    """Moves a folder; makes the one it is moved to. Buckets know objects alone, which are copied."""
    if not is_remote(folder):
        make_folder(target.parent)
        folder.rename(target)
        return
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            move_folder(entry, target / entry.name)
        else:
            entry.copy(target / entry.name)
    folder.rmtree(missing_ok=True)
