"""The folder of a run: one run at a time, its config, and nothing of other programs."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from etils import epath

from training.files import is_remote, keep_aside, make_folder, path_of, write_whole
from training.processes import is_first, say

# What every config of a run has.
_FIELDS = {"seed", "num_steps", "checkpoint"}


class Workdir:
    """The folder of a run, held from `with` on: a second run is refused there. By the first process.

    Raises on entering:
        ValueError: another run is at work in it, or it holds another program's files.
        OSError: it cannot be written.
    """

    def __init__(self, path: str):
        self.path = path_of(path)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Workdir":
        if is_first():
            if self.path.exists() and not self.path.is_dir():
                raise ValueError(f"--workdir={self.path} is a file: take another.")
            made = not self.path.exists()
            make_folder(self.path)
            lock = self.path / "run.lock"
            if lock.is_dir():
                raise ValueError(f"{lock} is a folder: move it away.")
            self._stack.enter_context(_lock(lock))
            if made:
                self._stack.callback(self._remove_if_empty)  # before the lock is free
            try:
                _check_kinds(self.path)
                _check_checkpoints(self.path / "checkpoints")
                _check_config(self.path / "config.json")
            except BaseException:
                self._stack.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _remove_if_empty(self) -> None:
        """A start that failed leaves nothing: the folder that it has made goes again."""
        with contextlib.suppress(OSError):
            entries = {entry.name: entry for entry in self.path.iterdir()}
            if set(entries) <= {"run.lock", "checkpoints", "classes.json"}:
                if "checkpoints" in entries:
                    entries["checkpoints"].rmdir()  # of an empty one alone
                if "classes.json" in entries:  # of data that a start has looked at
                    entries["classes.json"].unlink()
                entries["run.lock"].unlink()
                self.path.rmdir()

    def write_config(self, plain: dict[str, Any]) -> None:
        """Writes config.json, whole or not at all."""
        write_whole(self.path / "config.json", json.dumps(plain, indent=1).encode())


def read_config(workdir: str) -> dict[str, Any] | None:
    """config.json of a run as plain values; None: there is none that can be read."""
    try:
        plain = json.loads((path_of(workdir) / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) and set(plain) >= _FIELDS else None


# What a run leaves; of what its task leaves, the task knows.
_FILES = ("config.json", "metrics.jsonl", "curves.png")
_FOLDERS = ("checkpoints", "tensorboard", "profile", "samples", "evaluation")


def _check_kinds(folder: epath.Path) -> None:
    """Raises ValueError where a folder is in the place of a file, or a file in that of a folder."""
    for names, wanted in ((_FILES, False), (_FOLDERS, True)):
        for name in names:
            path = folder / name
            if path.exists() and path.is_dir() != wanted:
                found, kind = ("a file", "a folder") if wanted else ("a folder", "a file")
                raise ValueError(
                    f"{path} is {found}, where a run has {kind}: take another --workdir, or move it away."
                )


def _check_checkpoints(folder: epath.Path) -> None:
    """Raises ValueError where a checkpoint's place is taken: old checkpoints are removed as a run goes on."""
    if not folder.exists():
        return
    for entry in folder.iterdir():
        if entry.name.isdigit() and not _is_checkpoint(entry):
            raise ValueError(
                f"{entry} is no checkpoint of this program: take another --workdir, or move it away."
            )


def _is_checkpoint(entry: epath.Path) -> bool:
    """Whether it is one, or what damage has left of one."""
    if not entry.is_dir():
        return False
    names = {child.name for child in entry.iterdir()}
    return not names or bool(names & {"state", "progress", "_CHECKPOINT_METADATA"})


def _check_config(path: epath.Path) -> None:
    if not path.exists():
        return
    try:
        plain = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # cut or damaged; a run writes it anew
        say(f"DAMAGED: {path} cannot be read. It is written anew, and kept as {keep_aside(path)}.")
        return
    if not isinstance(plain, dict) or not set(plain) >= _FIELDS:
        raise ValueError(f"{path} is no config of this program: take another --workdir, or move it away.")


@contextlib.contextmanager
def _lock(path: epath.Path) -> Iterator[None]:
    """Holds a lock that the end of this process frees, whatever ends it."""
    if is_remote(path):
        with _lock_by_beats(path):
            yield
        return
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _taken(path, file.read().strip()) from None
        file.truncate(0)
        file.write(_who())
        file.flush()
        yield
        file.truncate(0)


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _taken(path: epath.Path, who: str) -> ValueError:
    return ValueError(
        f"another run is at work in {path.parent} ({who}): wait for its end, or take another --workdir."
    )


@contextlib.contextmanager
def _lock_by_beats(path: epath.Path, seconds: float = 20.0, beats: int = 4) -> Iterator[None]:
    """`_lock` where files know no locks: whoever holds it writes anew every so many seconds.

    Who has missed so many beats is dead. If it was not, but slept, it finds the lock taken and ends at once.
    """
    mine = {"who": _who(), "token": uuid.uuid4().hex}
    found = _content(path)
    if found is not None:
        who = found.get("who", "unknown")
        say(f"{path} was left by a run ({who}). Waits {beats * seconds:.0f} s to see whether it lives.")
        for _ in range(beats):
            time.sleep(seconds)
            if _content(path) not in (found, None):
                raise _taken(path, who)
    write_whole(path, json.dumps(mine).encode())
    time.sleep(seconds / 10)  # of two that begin at once, the last to write has it
    now = _content(path)
    if now is None or now.get("token") != mine["token"]:
        raise _taken(path, (now or {}).get("who", "unknown"))
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(seconds):
            count += 1
            try:
                now = _content(path)
                if now is not None and now.get("token") != mine["token"]:
                    _give_up(path)
                write_whole(path, json.dumps(mine | {"beat": count}).encode())
            except Exception:  # of networks, of many kinds: the next beat tries again
                continue

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if (_content(path) or {}).get("token") == mine["token"]:
            path.unlink(missing_ok=True)


def _content(path: epath.Path) -> dict[str, Any] | None:
    """Of a lock that beats; None: there is none. Whatever else is there counts as somebody's."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _give_up(path: epath.Path) -> None:
    """Ends this process without saving: two runs would mix in one folder."""
    say(f"LOST: another run has taken {path}, as this one was not heard of for a while. This one ends.", True)
    os._exit(1)
