"""Several processes that train one run: they leave what one process leaves, and end together."""

import pathlib
import signal
import subprocess
import sys
import time

import chex
import pytest

from tests.training.many import ended, start
from tests.training.numbers import rows, saved

pytestmark = pytest.mark.process
ROOT = pathlib.Path(__file__).parent.parent.parent


def train(workdir, num_processes, devices, *flags, of_each=()):
    found = ended(
        start(
            "tests.training.numbers", num_processes, devices, f"--workdir={workdir}", *flags, of_each=of_each
        )
    )
    for status, _, errors in found:
        assert status == 0, errors[-3000:]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("whole")
    train(workdir, 1, 2)
    return workdir


def test_two_processes_are_one_with_two_devices(whole, tmp_path):
    (_, first, _), (_, second, _) = train(tmp_path, 2, 1)
    chex.assert_trees_all_equal(saved(tmp_path), saved(whole))
    assert rows(tmp_path) == rows(whole)
    assert (tmp_path / "evaluations.txt").read_text() == "4 on the way\n6 last\n"
    assert "of 2 processes" in first
    assert "Process 1: a message of the task" in second
    assert "step" not in second


def test_a_signal_to_one_saves_once_and_ends_all(whole, tmp_path):
    flags = (), (f"--signal={int(signal.SIGTERM)}", "--at=3")
    (_, first, _), _ = train(tmp_path, 2, 1, "--every=0", of_each=flags)
    assert first.count("Asked to stop after step") == 1
    stopped = int(saved(tmp_path).step)
    assert 3 <= stopped < 6
    assert f"Asked to stop after step {stopped}." in first
    assert rows(tmp_path)[-1]["step"] == stopped
    # Another number of processes goes on where these stopped.
    train(tmp_path, 1, 2)
    chex.assert_trees_all_equal(saved(tmp_path), saved(whole))
    assert rows(tmp_path) == rows(whole)


def test_a_damaged_checkpoint_is_set_aside_by_one(whole, tmp_path):
    train(tmp_path, 2, 1)
    for path in (tmp_path / "checkpoints" / "6").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    (_, first, _), _ = train(tmp_path, 2, 1)
    assert "DAMAGED: what came after step 4 is lost" in first
    chex.assert_trees_all_equal(saved(tmp_path), saved(whole))
    assert rows(tmp_path) == rows(whole)


@pytest.mark.parametrize("late", [0, 1])
def test_processes_that_come_late_take_the_same_checkpoint(late, whole, tmp_path):
    """One is damaged, and one appears while the first process is still to come."""
    train(tmp_path, 2, 1)
    directory = tmp_path / "checkpoints"
    (directory / "6").rename(tmp_path / "kept")
    for path in (directory / "4").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    flags = [[], []]
    flags[late] = ["--late=6"]
    processes = start("tests.training.numbers", 2, 1, f"--workdir={tmp_path}", of_each=flags)
    if late == 0:
        time.sleep(5)
        (tmp_path / "kept").rename(directory / "6")
    found = ended(processes)
    assert [status for status, _, _ in found] == [0, 0], found
    chex.assert_trees_all_equal(saved(tmp_path), saved(whole))
    assert rows(tmp_path) == rows(whole)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_and_a_restart_goes_on(killed, whole, tmp_path):
    flags = [[], []]
    flags[killed] = [f"--signal={int(signal.SIGKILL)}", "--at=4"]
    began = time.monotonic()
    found = ended(start("tests.training.numbers", 2, 1, f"--workdir={tmp_path}", of_each=flags))
    assert time.monotonic() - began < 90
    status, output, errors = found[1 - killed]
    assert status != 0
    # Process 0 hears of the others; without it, all that can be told is that it is gone.
    gone = "tasks are unhealthy (stopped sending heartbeats):\n1" if killed else "leader task"
    assert gone in errors
    assert killed == 0 or "Start all processes again" in output
    train(tmp_path, 2, 1)
    chex.assert_trees_all_equal(saved(tmp_path), saved(whole))
    assert rows(tmp_path) == rows(whole)


def test_where_one_alone_fails_all_end(tmp_path):
    """The first one finds another program's file in the way."""
    (tmp_path / "metrics.jsonl").mkdir()
    began = time.monotonic()
    found = ended(start("tests.training.numbers", 2, 1, f"--workdir={tmp_path}"))
    assert time.monotonic() - began < 90
    assert all(status != 0 for status, _, _ in found)
    assert "metrics.jsonl is a folder, where a run has a file" in found[0][2]


def test_flags_that_are_missing_are_named():
    command = [sys.executable, "-m", "tests.training.numbers", "--workdir=x", "--num_processes=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "--coordinator_address and --process_id should be given too" in done.stderr
