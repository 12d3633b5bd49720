"""Where a result comes from: every result tells its command, date, commit and machine."""

import datetime
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence

import jax

ROOT = pathlib.Path(__file__).parents[1]


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command that this program was started with, to be pasted. Of paths of this machine the last part.

    argv: of the program; None: sys.argv.
    """
    program, *given = sys.argv if argv is None else argv
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = program if spec is None else spec.name.removesuffix(".__main__")
    started = ["python", name] if spec is None else ["python", "-m", name]
    return shlex.join(started[:-1] + [_without_folders(part) for part in (started[-1], *given)])


def _without_folders(argument: str) -> str:
    """--path=/a/b: --path=b."""
    flag, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    return flag + equals + (os.path.basename(os.path.normpath(value)) if value[:1] in ("/", "~") else value)


def commit() -> str:
    """The checkout's short commit; "+ changes" where more than its results differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", ".", ":!docs/results/tables")
        return git("rev-parse", "--short=7", "HEAD") + (" + changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    """What JAX computes on, and JAX's version."""
    devices = jax.local_devices()
    where = f"{len(devices)} x {devices[0].device_kind}"
    if devices[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        where = f"{cores} cores, {_processor()}"
    return f"{where}; jax {jax.__version__}"


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def origin(command: str = "", where: str = "") -> dict[str, str]:
    """What every result tells, by name. command, where: else those of this program and this machine."""
    return {
        "Command": f"`{command or command_line()}`",
        "Date": datetime.date.today().isoformat(),
        "Commit": commit(),
        "Machine": where or machine(),
    }


def header(of: Mapping[str, str] | None = None) -> list[str]:
    """The lines that a table begins with, and an empty one. of: an `origin`; None: of this program, here."""
    return [*(f"- {name}: {value}" for name, value in (of or origin()).items()), ""]


def picture_metadata(of: Mapping[str, str] | None = None) -> dict[str, str]:
    """The same for the metadata of matplotlib's `savefig` of a PNG."""
    return {"Description": "; ".join(f"{name}: {value}" for name, value in (of or origin()).items())}
