"""The command, in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from biggan.restoring import restore_generator
from tests.biggan.several import ROOT, run_several
from tests.biggan.variables import save_run, to_state_dict
from tests.evaluation import toy

pytestmark = pytest.mark.process


def compare(*commands):
    return run_several("tests.biggan.toy_compare", *commands)


def rows_of(folder):
    return {(row["method"], row["part"]): row for row in json.loads((folder / "rows.json").read_text())}


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_tiny):
    workdir = tmp_path_factory.mktemp("runs") / "compared"
    save_run(make_tiny(), workdir, steps=(2,))
    return workdir


SMALL = ["--num=6", "--maps=2", "--batch_size=3"]


def test_compare(run, tmp_path):
    """Of the run's checkpoint, with the data of the run; and of the same weights from a PyTorch file."""
    _, variables, _ = restore_generator(str(run), ema=False)
    np.savez(tmp_path / "G.npz", **to_state_dict(variables))
    np.save(tmp_path / "real.npy", np.stack(toy.images(5, side=32)))
    workdir = f"--workdir={run}"
    lines, progress = compare(
        [workdir, *SMALL, "--methods=smyrf,local", "--pairs=1/64,1"],
        [
            workdir,
            *SMALL,
            "--methods=local",
            "--pairs=1",
            "--grid_pairs=1",
            f"--torch_weights={tmp_path / 'G.npz'}",
            f"--real={tmp_path / 'real.npy'}",
            f"--out={tmp_path / 'own'}",
        ],
        [
            workdir,
            *SMALL,
            "--methods=local",
            "--pairs=1",
            "--grid_pairs=1",
            "--noema",
            f"--out={tmp_path / 'raw'}",
        ],
    )
    assert lines.count("done") == 3, lines
    assert "8/8" in progress
    folder = run / "compared_step0000002_ema"
    assert {path.name for path in folder.iterdir()} == {
        "table.md",
        "rows.json",
        "curves.png",
        "grid.png",
        "map.png",
    }
    rows = rows_of(folder)
    assert list(rows) == [
        ("dense", None),
        ("as trained", None),
        ("removed", None),
        ("smyrf", 0.125),
        ("smyrf", 1),
        *(("local", part) for part in (1 / 64, 0.125, 1)),
        *((name, part) for name in ("largest keys", "truncated SVD") for part in (1 / 64, 0.125, 1)),
    ]
    assert rows["local", 1]["image_error"] < 1e-3 < 1e-2 < rows["removed", None]["image_error"]
    assert rows["as trained", None]["settings"].startswith("Smyrf(num_hashes=2, cluster_size=64")
    assert rows["smyrf", 0.125]["kd_real"] > 0
    text = (folder / "table.md").read_text()
    command = text.splitlines()[0]
    assert command.startswith("- Command: `python ")
    assert "--methods=smyrf,local" in command
    assert "6 images of each method, of step0000002_ema; 6 real images" in text
    left_out = [
        line for line in text.splitlines() if line.startswith("smyrf at 1.56% of the pairs is left out")
    ]
    assert left_out
    assert left_out[0] in lines
    # The same weights give the same images, whose distance from other real images is another.
    ours, theirs = rows_of(tmp_path / "own"), rows_of(tmp_path / "raw")
    assert ours.keys() == theirs.keys()
    for key, row in ours.items():
        assert row["attention_error"] == pytest.approx(theirs[key]["attention_error"], rel=1e-3, abs=1e-6)
        if row["image_error"] is not None:
            assert row["image_error"] == pytest.approx(theirs[key]["image_error"], abs=1e-3)
            assert row["fd"] == pytest.approx(theirs[key]["fd"], rel=0.01, abs=1e-3)
    assert ours["dense", None]["kd_real"] != pytest.approx(theirs["dense", None]["kd_real"], rel=0.01)
    assert "of G; 5 real images" in (tmp_path / "own" / "table.md").read_text()


def test_compare_without_the_data_of_the_run(tmp_path, make_tiny):
    """It says so, and measures the rest."""
    config = make_tiny()
    config.data.source, config.data.path = "", str(tmp_path / "gone")
    save_run(config, tmp_path / "run", steps=(2,))
    workdir = f"--workdir={tmp_path / 'run'}"
    lines, _ = compare([workdir, *SMALL, "--methods=local", "--pairs=1", "--grid_pairs=1"])
    assert lines[-1] == "done"
    remark = (
        "No KD to real: the data of the run cannot be read; --real names other. config.data.path: there is"
    )
    assert lines[0].startswith(remark)
    folder = tmp_path / "run" / "compared_step0000002_ema"
    assert remark in (folder / "table.md").read_text()
    assert {row["kd_real"] for row in rows_of(folder).values()} == {None}


def test_compare_tells_what_is_wrong(run, tmp_path, make_tiny):
    plain = make_tiny()
    plain.generator.attention = {}
    save_run(plain, tmp_path / "plain", steps=(2,))
    workdir = f"--workdir={run}"
    cases = {
        f"--workdir={tmp_path}": "holds no run",
        f"--workdir={tmp_path / 'plain'}": "has no attention to swap",
        f"{workdir} --methods=smyrf,linear": "--methods should be of smyrf, canopy",
        f"{workdir} --pairs=1/8,2": "--pairs should be parts above 0 and up to 1, but got [2.0]",
        f"{workdir} --pairs=1/0": "--pairs should be parts as 1/8 or 0.125, but got '1/0'",
        f"{workdir} --grid_pairs=all": "--grid_pairs should be parts as 1/8 or 0.125, but got 'all'",
        f"{workdir} --step=5": "no checkpoint of step 5",
        f"{workdir} --torch_weights={tmp_path / 'none.npz'}": "there is no weights file",
        f"{workdir} --torch_weights=G.npz --step=5": "either --step or --torch_weights is wanted",
        f"{workdir} --real={tmp_path / 'none'}": "--real: there is nothing at",
        f"{workdir} --truncation=0": "truncation must be positive",
    }
    (tmp_path / "file").touch()
    cases[f"{workdir} --out={tmp_path / 'file'}"] = "File exists"
    lines, _ = compare(*(case.split() for case in cases))
    for line, (case, message) in zip(lines, cases.items(), strict=True):
        assert message in line, case
    # As a command: a message, status 1, and no traceback.
    command = [sys.executable, "-m", "biggan.compare", f"--workdir={tmp_path}"]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("--workdir=")
    assert "Traceback" not in ended.stderr
