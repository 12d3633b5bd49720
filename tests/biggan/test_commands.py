"""The commands of the README, in processes of their own."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from biggan.restoring import read_config, restore_generator, restore_state
from tests.biggan.several import run_several
from tests.biggan.variables import save_run, to_state_dict
from training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent.parent
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}
pytestmark = pytest.mark.process


def start(config: ConfigDict, workdir: pathlib.Path) -> subprocess.Popen:
    """Trains, with a config file beside workdir."""
    path = workdir.parent / f"{workdir.name}_config.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    command = [sys.executable, "-m", "biggan.train", f"--config={path}", f"--workdir={workdir}"]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def wait_for(path, process, seconds=600):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def final_state(workdir):
    return restore_state(str(workdir), read_config(str(workdir)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_tiny):
    """A run that nothing interrupted, long enough that no signal comes when it has ended, and its config.

    A process too: XLA rounds otherwise with another number of CPU devices.
    """
    workdir, config = tmp_path_factory.mktemp("runs") / "whole", make_tiny()
    config.num_steps, config.checkpoint.every, config.sample.every = 60, 10, 0
    finish(start(config, workdir))
    return workdir, config


def test_kill_and_terminate(whole, tmp_path):
    """Killed with -9 and asked to stop by SIGTERM, the same command goes on to the same end."""
    finished, config = whole
    workdir = tmp_path / "run"
    process = start(config, workdir)
    wait_for(workdir / "checkpoints" / "10", process)
    process.kill()
    process.wait()
    process.stdout.close()

    process = start(config, workdir)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("step "):
            process.send_signal(signal.SIGTERM)
            break
    seen += process.stdout.readlines()
    assert process.wait() == 0, "".join(seen)
    process.stdout.close()
    output = "".join(seen)
    assert "Continues" in output
    assert "The same command continues" in output
    stopped = Checkpoints(str(workdir / "checkpoints")).latest_step()
    assert 10 < stopped < 60

    finish(start(config, workdir))
    chex.assert_trees_all_equal(final_state(workdir), final_state(finished))


@pytest.fixture(scope="module")
def classes(tmp_path_factory, make_tiny):
    """A run with three classes and two checkpoints."""
    workdir, config = tmp_path_factory.mktemp("runs") / "classes", make_tiny()
    config.num_classes = 3
    save_run(config, workdir, steps=(4, 12))
    return workdir


def sample(*commands):
    return run_several("biggan.sample", *commands)


def pictures(folder):
    paths = sorted((folder / "images").iterdir())
    assert [path.name for path in paths] == [f"{index:05d}.png" for index in range(len(paths))]
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def test_sample(classes, tmp_path):
    """Folders have the name of what decides the images; noise that was kept draws them again."""
    workdir, first = f"--workdir={classes}", classes / "sampled_step0000012_ema_seed1_num5_truncation0.7"
    kept = str(first) + "_classes2-0/latents.npz"
    plain = [workdir, "--num=5", "--seed=1", "--truncation=0.7", "--classes=2,0", "--batch_size=2"]
    lines, progress = sample(
        plain,
        [workdir, f"--z={kept}", "--seed=1"],
        [workdir, f"--z={kept}", "--seed=1", "--num=4", "--classes=1", f"--out={tmp_path / 'own'}"],
        [workdir, "--num=3", "--noema", "--standing_statistics", "--step=4"],
    )
    assert lines[1::2] == ["done"] * 4
    assert lines[0].startswith("5 images in ")
    assert "drawing" in progress
    assert "5/5" in progress
    folder = pathlib.Path(f"{first}_classes2-0")
    assert {path.name for path in folder.iterdir()} == {"grid.png", "images", "latents.npz"}
    images = pictures(folder)
    assert images.shape == (5, 32, 32, 3)
    with Image.open(folder / "grid.png") as picture:
        assert picture.size == (3 * 34 + 2, 2 * 34 + 2)
    with np.load(folder / "latents.npz") as latents:
        assert latents["labels"].tolist() == [2, 0, 2, 0, 2]
        assert np.abs(latents["noise"]).max() <= 0.7
    again = pictures(classes / "sampled_step0000012_ema_seed1_num5_z_latents")
    assert np.abs(again.astype(int) - images).max() <= 1
    others = pictures(tmp_path / "own")
    assert len(others) == 4
    assert np.abs(others.astype(int) - images[:4]).mean() > 1
    assert len(pictures(classes / "sampled_step0000004_seed0_num3_standing")) == 3


def test_sample_of_a_pytorch_generator(classes, tmp_path):
    """The weights of the run itself, written as that program names and lays them."""
    _, variables, _ = restore_generator(str(classes), ema=False)
    np.savez(tmp_path / "G.npz", **to_state_dict(variables))
    ours = [f"--workdir={classes}", "--num=3", "--noema"]
    lines, _ = sample(ours, [*ours[:2], f"--torch_weights={tmp_path / 'G.npz'}"])
    assert lines[1::2] == ["done"] * 2, lines
    found, expected = (pictures(classes / f"sampled_{name}_seed0_num3") for name in ("G", "step0000012"))
    np.testing.assert_array_equal(found, expected)


def test_sample_interpolates(classes):
    lines, _ = sample([f"--workdir={classes}", "--num=2", "--interpolate=3", "--classes=0,1"])
    assert lines[1] == "done"
    folder = classes / "sampled_step0000012_ema_seed0_num2_classes0-1_interpolate3"
    images = pictures(folder)
    assert len(images) == 2 * 4
    with Image.open(folder / "grid.png") as picture:
        assert picture.size == (4 * 34 + 2, 2 * 34 + 2)
    for kind in ("webp", "gif"):
        with Image.open(folder / f"walk.{kind}") as picture:
            assert (picture.n_frames, picture.size) == (6, (32, 32))
    with Image.open(folder / "walk.webp") as picture:
        picture.seek(3)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), images[4])


def test_sample_tells_what_is_wrong(classes, tmp_path):
    workdir = f"--workdir={classes}"
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "wide.npy", np.zeros((2, 9), np.float32))
    np.save(tmp_path / "two.npy", np.zeros((2, 8), np.float32))
    cases = {
        f"--workdir={tmp_path}": "holds no run",
        "--classes=0,3": "--classes should be numbers in 0 .. 2, as the generator has num_classes=3, but",
        "--classes=cat": "--classes should be numbers, as 3,7, but got 'cat'",
        "--step=5": "no checkpoint of step 5",
        "--step=last": "--step should be a number, 'newest' or 'best', but got 'last'",
        "--truncation=0": "truncation must be positive, got truncation=0.0",
        f"--z={tmp_path / 'none.npy'}": "there is no such file",
        f"--z={tmp_path / 'wide.npy'}": "noise should be [B, 8], but got [2, 9]",
        f"--z={tmp_path / 'two.npy'} --num=3": "--num should be 2 at most",
        f"--z={tmp_path / 'two.npy'} --truncation=1": "--truncation is of drawn noise",
        "--interpolate=3 --num=1": "--interpolate wants two images or more",
        f"--out={tmp_path}": "holds images already",
        f"--torch_weights={tmp_path / 'none.npz'}": "there is no weights file",
    }
    lines, _ = sample(*([workdir, *case.split()] for case in cases))
    for line, (case, message) in zip(lines, cases.items(), strict=True):
        assert message in line, case
    assert not (classes / "sampled_step0000012_ema_seed0_num64").exists()
    # As a command: a message, status 1, and no traceback.
    command = [sys.executable, "-m", "biggan.sample", f"--workdir={tmp_path}"]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("--workdir=")
    assert "Traceback" not in ended.stderr
