"""Files of a run, on disks and in buckets (gs://), by etils.epath."""

import os

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


def write_whole(path: str | epath.Path, data: bytes) -> None:
    """Writes a file that nobody ever sees half; makes its folder."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
        path_of(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--{flag}={path} cannot be written: {error.strerror or error}.") from error


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
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        return
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            move_folder(entry, target / entry.name)
        else:
            entry.copy(target / entry.name)
    folder.rmtree(missing_ok=True)
