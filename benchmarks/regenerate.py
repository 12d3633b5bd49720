"""Regenerates results: what lies in docs/results/tables, each by its command.

    python -m benchmarks.regenerate --list
    python -m benchmarks.regenerate theory regimes
    python -m benchmarks.regenerate                  # all whose needs are there: a day of two cores
    make results ONLY="theory regimes"               # the same, in the environment of the Makefile

What a result needs and is not there is told, and the result is skipped. A command that fails, or does not
write its files, is told at the end and does not stop the others. The status is 0 if all that were asked for
by name, or all that could be, were written; else 1.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.registry import REGISTRY, Result, machine, missing
from benchmarks.tables import RESULTS
from training.provenance import ROOT, commit, origin, picture_metadata


def regenerate(result: Result, images: str = "") -> str:
    """Runs a result's command, from the repository's root; returns what went wrong, or an empty string."""
    runs = "runs/results/" + commit().replace(" + ", "_")
    command = result.command.format(images=shlex.quote(images), runs=runs)
    program, *arguments = shlex.split(command)
    before = {name: _written(RESULTS / name) for name in result.files}
    done = subprocess.run([sys.executable if program == "python" else program, *arguments], cwd=ROOT)
    if done.returncode:
        return f"status {done.returncode}"
    if same := [name for name in result.files if _written(RESULTS / name) == before[name]]:
        return f"did not write {', '.join(same)}"
    for name, place in result.copied.items():
        source = ROOT / place.format(runs=runs)
        if not source.exists():
            return f"did not write {source.relative_to(ROOT)}"
        _copy(source, RESULTS / name, command)
    return ""


def _written(path: pathlib.Path) -> int:
    """When, in nanoseconds; 0 if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else 0


def _copy(source: pathlib.Path, target: pathlib.Path, command: str) -> None:
    """Copies a result; a picture that does not tell its origin is given it."""
    if source.suffix != ".png":
        target.write_bytes(source.read_bytes())
        return
    with Image.open(source) as picture:
        told = PngInfo()
        metadata = picture_metadata(origin(command, machine())) | picture.info
        told.add_text("Description", str(metadata["Description"]))
        picture.save(target, pnginfo=told)


def show(images: str) -> None:
    """Prints each result: its files, its command, and what is missing."""
    for name, result in REGISTRY.items():
        print(f"{name}: {', '.join(result.names)}\n    {result.command}")
        needs = f"; needs {', '.join(result.needs)}" if result.needs else ""
        print(f"    about {result.minutes:g} min{needs}")
        for reason in missing(result, images):
            print(f"    not here: {reason}")


def main(names: Sequence[str], images: str, registry: Mapping[str, Result] = REGISTRY) -> int:
    """Regenerates the named results, or all that can be; returns the exit status."""
    if unknown := [name for name in names if name not in registry]:
        print(f"There is no result {', '.join(unknown)}; there are {', '.join(registry)}.")
        return 1
    chosen = list(names) or list(registry)
    skipped = {name: reasons for name in chosen if (reasons := missing(registry[name], images))}
    for name, reasons in skipped.items():
        print(f"SKIPPED {name}: {'; '.join(reasons)}.")
    wanted = [name for name in chosen if name not in skipped]
    minutes = sum(registry[name].minutes for name in wanted)
    print(f"{len(wanted)} results, about {minutes:g} minutes on two CPU cores.", flush=True)
    failed = {}
    for number, name in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {name}: {registry[name].command}", flush=True)
        if problem := regenerate(registry[name], images):
            failed[name] = problem
    for name, problem in failed.items():
        print(f"FAILED {name}: {problem}.")
    print(f"{len(wanted) - len(failed)} written, {len(failed)} failed, {len(skipped)} skipped.")
    return int(bool(failed) or (bool(names) and bool(skipped)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of results (see --list); default: all whose needs are here")
    parser.add_argument("--list", action="store_true", help="show the results and what each needs")
    parser.add_argument("--images", default="", help="a folder of images of your own, for augmentation")
    flags = parser.parse_args()
    if flags.list:
        show(flags.images)
    else:
        sys.exit(main(flags.names, flags.images))
