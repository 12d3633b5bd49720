"""The commands of the README, in processes of their own."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import pytest
from ml_collections import ConfigDict

from biggan.experiment import read_config, restore_state
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


def test_samples(whole):
    workdir = whole[0]
    command = [sys.executable, "-m", "biggan.sample", f"--workdir={workdir}", "--num=5"]
    for extra, name in (
        (["--truncation=0.7", "--seed=1"], "sampled_step0000060_seed1"),
        (["--standing_statistics", "--noema", "--step=50"], "sampled_step0000050_seed0"),
    ):
        done = subprocess.run(
            [*command, *extra], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        assert "5 images" in done.stdout
        files = sorted(path.name for path in (workdir / name).iterdir())
        assert files == [*(f"{index:05d}.png" for index in range(5)), "grid.png"]
    missing = subprocess.run(
        [*command, "--step=5"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert missing.returncode != 0
    assert "no checkpoint of step 5" in missing.stderr
