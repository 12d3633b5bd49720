"""Each example runs, and what it prints says that it did what it is for."""

import pathlib
import re
import runpy

import jax
import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
# examples/sample_exported.py is tested with biggan.export.
PRINTED = {
    "linen_attention.py": r"(.*of the pairs: the output is \d+\.\d% off dense attention's\n){4}",
    "nnx_attention.py": r"step 0: loss 4\.\d+\nstep 10: loss 3\.\d+\nstep 20: loss 1\.\d+\n",
    "plain_jax.py": r"error of the layer: [0-9]\.\d%\n.*'q': \(64, 4, 16\).*\n",
    "decoding.py": r"24 tokens one by one: at most \d\.\de-0[6-9] off the output of all at once\n",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTED, "sample_exported.py"}


@pytest.mark.parametrize("name", PRINTED)
def test_example(name, capsys):
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.fullmatch(PRINTED[name], printed), printed


@pytest.mark.parametrize("name", PRINTED)
def test_examples_are_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) <= 41
