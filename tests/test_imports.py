"""Imports point one way."""

import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
FORBIDDEN = {
    "smyrf_jax": {"training", "biggan", "transformer", "launch", "configs"},
    "training": {"biggan", "transformer", "launch", "configs"},
    "biggan": {"transformer", "launch", "configs"},
    "transformer": {"biggan", "launch", "configs"},
    "configs": {"smyrf_jax", "training", "biggan", "transformer", "launch"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_imports_point_one_way():
    files = 0
    for package, forbidden in FORBIDDEN.items():
        for path in (ROOT / package).rglob("*.py"):
            files += 1
            roots = {name.split(".")[0] for name in imported(path)}
            assert not roots & forbidden, f"{path} imports {roots & forbidden}"
    assert files > 10


def test_the_operation_depends_on_jax_alone():
    """Flax and matplotlib are each known to one file, which the package itself does not import."""
    known = {"flax_adapter.py": {"flax"}, "pictures.py": {"matplotlib"}}
    allowed = {"jax", "jaxtyping", "numpy", "scipy", "smyrf_jax", *sys.stdlib_module_names}
    for path in (ROOT / "smyrf_jax").glob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert roots <= allowed | known.get(path.name, set()), path
        modules = {name.split(".")[-1] for name in imported(path) if name.startswith("smyrf_jax")}
        assert not modules & {"flax_adapter", "pictures"}, path


def test_only_the_entry_points_read_a_config():
    entry = {
        "training": {"loop.py", "command.py"},
        "biggan": {"train.py", "sample.py", "experiment.py"},
        "transformer": {"finetune.py"},
    }
    for package, files in entry.items():
        for path in (ROOT / package).rglob("*.py"):
            if path.name not in files:
                assert not any(name.startswith("ml_collections") for name in imported(path)), path
