"""The notebook's cells, one after the other, in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from tests.biggan.variables import save_run

ROOT = pathlib.Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "notebooks" / "sampling.ipynb"
CELLS = """
import json, sys
import matplotlib

matplotlib.use("Agg")
names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
print(names["found"].values())
print(names["images"].shape, names["weights"].shape, names["weights"].sum(), len(names["plt"].get_fignums()))
"""
pytestmark = pytest.mark.process


def opened(workdir, where):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "WORKDIR": str(workdir)}
    command = [sys.executable, "-c", CELLS, str(NOTEBOOK)]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)


def test_the_cells_run_from_any_folder_of_the_checkout(tiny, tmp_path):
    save_run(tiny, tmp_path, steps=(2,))
    done = opened(tmp_path, ROOT / "tests" / "biggan")
    assert done.returncode == 0, done.stderr
    shapes, total, figures = done.stdout.splitlines()[-1].rsplit(maxsplit=2)
    assert shapes == "(4, 32, 32, 3) (8, 8)"
    assert float(total) == pytest.approx(1, abs=1e-5)
    assert figures == "2"
    assert "'kd_dinov2_s14': " in done.stdout
    assert "kd_dinov2_s14: " in done.stdout  # the line for people
    with Image.open(tmp_path / "notebook_walk.gif") as picture:
        assert (picture.n_frames, picture.size) == (32, (32, 32))


def test_without_a_run_it_says_how_to_make_one(tmp_path):
    done = opened(tmp_path, ROOT)
    assert done.returncode == 1
    assert "holds no run" in done.stderr.splitlines()[-1]
    assert "`make quickstart` makes a run" in done.stderr.splitlines()[-1]


def test_outside_a_checkout_it_says_where_to_open_it(tmp_path):
    done = opened(tmp_path, tmp_path)
    assert "lies in no checkout of this project" in done.stderr.splitlines()[-1]


def test_outputs_are_stripped():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
