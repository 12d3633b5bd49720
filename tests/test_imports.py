"""Imports point one way."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "smyrf_jax"
FORBIDDEN = {
    "smyrf_jax": {"training", "biggan", "transformer", "evaluation", "launch", "configs", "benchmarks"},
    "training": {"smyrf_jax", "biggan", "transformer", "evaluation", "launch", "configs", "benchmarks"},
    "biggan": {"transformer", "launch", "configs", "benchmarks"},
    "transformer": {"biggan", "evaluation", "launch", "configs", "benchmarks"},
    "evaluation": {"biggan", "launch", "configs", "benchmarks"},
    "configs": {"smyrf_jax", "training", "biggan", "transformer", "evaluation", "launch", "benchmarks"},
}
# The rooms of smyrf_jax, files and folders: each may know those before it, and none behind it.
ROOMS = (
    ("rows", "checks", "sharding", "batching", "chips"),
    ("clustering",),
    ("blockwise",),
    ("far_field",),
    ("clustered", "causal"),
    ("methods",),
    ("attention",),
    ("decoding",),
    ("flax_adapter",),
)


def imported(path):
    """Dotted names of what a file imports: modules, and what it takes out of them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots_of(path):
    return {name.split(".")[0] for name in imported(path)}


def rooms_of(path):
    """The rooms of smyrf_jax that a file imports from."""
    names = (name.split(".") for name in imported(path))
    return {parts[1] for parts in names if parts[0] == "smyrf_jax" and len(parts) > 1}


def test_imports_point_one_way():
    files = 0
    for package, forbidden in FORBIDDEN.items():
        for path in (ROOT / package).rglob("*.py"):
            files += 1
            assert not roots_of(path) & forbidden, f"{path} imports {roots_of(path) & forbidden}"
    assert files > 10


@pytest.mark.parametrize("place", range(len(ROOMS)))
def test_a_room_knows_none_behind_it(place):
    behind = {room for rooms in ROOMS[place + 1 :] for room in rooms}
    for room in ROOMS[place]:
        folder = PACKAGE / room
        files = list(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]
        assert files, room
        for path in files:
            assert not rooms_of(path) & behind, f"{path} imports {rooms_of(path) & behind}"


def test_the_operation_depends_on_jax_alone():
    """Flax and matplotlib are each known to one file, which the package itself does not import."""
    known = {"flax_adapter.py": {"flax"}, "pictures.py": {"matplotlib"}}
    allowed = {"jax", "jaxtyping", "numpy", "scipy", "smyrf_jax", *sys.stdlib_module_names}
    for path in PACKAGE.rglob("*.py"):
        extra = known.get(str(path.relative_to(PACKAGE)), set())
        assert roots_of(path) <= allowed | extra, path
        assert not rooms_of(path) & {"flax_adapter", "pictures"}, path


def test_only_the_entry_points_read_a_config():
    entry = {
        "training": {"loop.py", "command.py", "fields.py"},
        "biggan": {"train.py", "sample.py", "experiment.py", "restoring.py", "evaluation.py"},
        "transformer": {"finetune.py", "train.py"},
        "evaluation": set(),
    }
    for package, files in entry.items():
        for path in (ROOT / package).rglob("*.py"):
            if path.name not in files:
                assert "ml_collections" not in roots_of(path), path
