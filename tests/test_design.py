"""The map of modules in docs/design.md names every module, and nothing else."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("smyrf_jax", "biggan", "transformer", "evaluation", "training", "launch", "benchmarks")


def names_on_the_map():
    """Of each package, the names in the first two columns of its rows, without folders."""
    package, found = "", {of: set() for of in PACKAGES}
    for line in (ROOT / "docs" / "design.md").read_text().splitlines():
        if line.startswith("### "):
            package = line.removeprefix("### ").split(",")[0]
        elif line.startswith("## "):
            package = ""
        elif line.startswith("|") and package:
            names = re.findall(r"`([\w/.]+)`", line)
            start = re.match(r"\| `(\w+)/", line)
            of = start.group(1) if start and start.group(1) in PACKAGES else package
            if of in found:
                found[of] |= {name.rstrip("/").rsplit("/", 1)[-1] for name in names}
    return found


def test_every_module_is_on_the_map():
    found = names_on_the_map()
    missing = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            inside = path.relative_to(ROOT / package)
            name = inside.parts[0] if inside.parts[0] in ("tasks", "fuzz") else path.stem
            if not name.startswith("__") and name not in found[package]:
                missing.append(f"{package}/{inside}")
    assert not missing


def test_every_name_that_a_row_begins_with_is_there():
    text = (ROOT / "docs" / "design.md").read_text().split("## Where things are")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("|")]
    names = {name.rstrip("/").rsplit("/", 1)[-1] for row in rows for name in re.findall(r"`([\w/.]+)`", row)}
    folders = (*PACKAGES, "configs", "examples", "notebooks", "docs", "tests")
    there = {path.stem for folder in folders for path in (ROOT / folder).rglob("*")} | set(folders)
    assert names - there == set()
