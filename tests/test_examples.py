"""Each example runs, and what it prints says that it did what it is for."""

import pathlib
import re
import runpy
import sys

import pytest

from tests.test_imports import roots_of

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
# examples/sample_exported.py is tested with biggan.export.
PRINTED = {
    "linen_attention.py": (
        r"not denoised: mean squared error 0\.2\d+\ndense: mean squared error 0\.1[0-6]\d\n"
        r"swapped, not retrained: mean squared error 0\.1[0-6]\d\n"
        r"swapped output: [1-9]\.\d% off the dense one\n"
    ),
    "nnx_attention.py": (
        r"loss 4\.\d+ at first, 1\.\d+ after 20 steps\n"
        r"its logits are (0\.[1-9]|[1-4]\.\d)% off those with dense attention\n"
    ),
    "plain_jax.py": r"error of the layer: [1-9]\.\d%\n.*'q': \(64, 4, 16\).*\n",
    "decoding.py": r"24 tokens one by one: at most \d\.\de-0[6-9] off the output of all at once\n",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTED, "sample_exported.py"}


@pytest.mark.parametrize("name", PRINTED)
def test_example(name, capsys):
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.fullmatch(PRINTED[name], printed), printed


@pytest.mark.parametrize("name", PRINTED)
def test_examples_are_short_and_want_little(name):
    """What Flax brings along is enough: optax is among what it depends on."""
    assert len((EXAMPLES / name).read_text().splitlines()) <= 40
    assert roots_of(EXAMPLES / name) <= {"jax", "flax", "optax", "smyrf_jax", *sys.stdlib_module_names}
