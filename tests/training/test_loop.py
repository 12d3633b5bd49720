"""Runs of a task that costs nothing: interrupted ones end as others do, and what goes wrong is told."""

import json
import os
import signal

import chex
import jax
import pytest
from ml_collections import ConfigDict

from tests.training.numbers import BATCH, Numbers, make_config, rows, saved
from training import loop
from training.checkpoint import Checkpoints


@pytest.fixture
def config():
    return make_config()


def train(config, workdir, num_devices=1, continue_finished=False, **calls):
    task = Numbers(workdir, config, num_devices, **calls)
    return loop.train(task, config, str(workdir), jax.devices()[:num_devices], continue_finished)


def latest(workdir):
    checkpoints = Checkpoints(str(workdir / "checkpoints"))
    step = checkpoints.latest_step()
    checkpoints.close()
    return step


def raises(number, error):
    """Raises the error when it is called with the number."""

    def call(found):
        if found == number:
            raise error

    return call


class Cut(Exception):
    """Stands for a crash."""


def test_a_run_leaves_what_it_promises(config, tmp_path, capsys):
    state = train(config, tmp_path)
    assert int(state.step) == 6
    chex.assert_trees_all_equal(saved(tmp_path), state)
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 7))
    assert [row["mean"] for row in rows(tmp_path)] == [7.5 + 16 * step for step in range(6)]
    assert (tmp_path / "evaluations.txt").read_text() == "4 on the way\n6 last\n"
    assert ConfigDict(json.loads((tmp_path / "config.json").read_text())) == config
    assert list((tmp_path / "tensorboard").iterdir())
    output = capsys.readouterr().out
    assert output.count("a message of the task") == 1
    for text in ("A new run in", "step 6: mean=", f"evaluations: {tmp_path}", f"checkpoint: {tmp_path}"):
        assert text in output
    # Run again, it is done, and says how to go on.
    chex.assert_trees_all_equal(train(config, tmp_path), state)
    output = capsys.readouterr().out
    assert "--config.num_steps=12" in output
    assert f"checkpoint: {tmp_path}" in output
    assert len(rows(tmp_path)) == 6


def test_a_finished_run_can_be_continued(config, tmp_path):
    train(config, tmp_path)
    config.num_steps = 2
    assert int(train(config, tmp_path, continue_finished=True).step) == 8
    assert config.num_steps == 2
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 9))
    config.num_steps = 8
    chex.assert_trees_all_equal(saved(tmp_path), train(config, tmp_path / "whole"))


@pytest.mark.parametrize("crashes", [(1,), (2,), (3,), (4,), (5,), (6,), (4, 6), (2, 4, 5)])
def test_a_crash_at_any_step_changes_nothing(crashes, config, tmp_path):
    """The state after crashes and new starts is bitwise that of the whole run."""
    train(config, tmp_path / "whole")
    for crash in crashes:
        with pytest.raises(Cut):
            train(config, tmp_path / "cut", at_batch=raises(crash, Cut))
    train(config, tmp_path / "cut")
    chex.assert_trees_all_equal(saved(tmp_path / "cut"), saved(tmp_path / "whole"))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def terminates(number):
    """Asks the process to end when it is called with the number."""
    return lambda found: found == number and os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_asked_to_stop_saves_and_can_be_continued(config, tmp_path, capsys):
    train(config, tmp_path / "whole")
    config.checkpoint.every = 0
    before = signal.getsignal(signal.SIGTERM)
    assert int(train(config, tmp_path / "cut", at_batch=terminates(3)).step) == 3
    assert "Asked to stop after step 3. The same command continues." in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before
    assert latest(tmp_path / "cut") == 3
    train(config, tmp_path / "cut")
    chex.assert_trees_all_equal(saved(tmp_path / "cut"), saved(tmp_path / "whole"))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_stop_during_an_evaluation_saves_that_step(config, tmp_path):
    config.checkpoint.every = 0
    assert int(train(config, tmp_path, at_evaluation=terminates(4)).step) == 4
    assert latest(tmp_path) == 4


def test_a_run_that_was_cut_behind_its_last_step_is_evaluated_anew(config, tmp_path):
    with pytest.raises(Cut):
        train(config, tmp_path, at_evaluation=raises(6, Cut))
    os.remove(tmp_path / "evaluations.txt")
    assert int(train(config, tmp_path).step) == 6
    assert (tmp_path / "evaluations.txt").read_text() == "6 last\n"


def test_a_checkpoint_of_eight_replicas_resumes_on_one_and_back(config, tmp_path):
    train(config, tmp_path / "whole", 8)
    for num_steps, num_devices in ((2, 8), (4, 1), (6, 8)):
        config.num_steps = num_steps
        assert int(train(config, tmp_path / "run", num_devices).step) == num_steps
    # The means of whole numbers are exact, over however many replicas.
    chex.assert_trees_all_equal(saved(tmp_path / "run"), saved(tmp_path / "whole"))
    progress = Checkpoints(str(tmp_path / "run" / "checkpoints")).progress(6)
    assert progress.examples_seen == 6 * BATCH


@pytest.mark.parametrize(("broken", "every", "good"), [(2, 5, "none"), (6, 5, "step 5"), (4, 2, "step 2")])
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(broken, every, good, config, tmp_path):
    """Also when the step before the checkpoint's, or the checkpoint's own, is the broken one."""
    config.broken, config.checkpoint.every = broken, every
    message = rf"step {broken}: mean, norm is not finite. The last good checkpoint is {good} in "
    with pytest.raises(FloatingPointError, match=message):
        train(config, tmp_path)
    if good != "none":
        chex.assert_tree_all_finite(saved(tmp_path))


# Orbax leaves threads with errors of their own behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_set_aside(config, tmp_path, capsys):
    train(config, tmp_path / "run")
    directory = tmp_path / "run" / "checkpoints"
    for path in (directory / "6").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    config.num_steps = 8
    train(config, tmp_path / "run")
    output = capsys.readouterr().out
    assert f"DAMAGED: checkpoint 6 in {directory} cannot be read" in output
    assert f"what came after step 4 is lost. It is kept in {directory}.damaged/6." in output
    assert "at step 4 on" in output
    train(config, tmp_path / "whole")
    chex.assert_trees_all_equal(saved(tmp_path / "run"), saved(tmp_path / "whole"))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert latest(tmp_path / "run") == 8


def test_what_differs_from_the_checkpoint_is_told(config, tmp_path, capsys):
    train(config, tmp_path)
    config.num_steps, config.seed = 7, 1
    train(config, tmp_path)
    assert "config.seed was 0, is 1 from here on" in capsys.readouterr().out
    config.width = 4
    with pytest.raises(ValueError, match=r"does not fit this run: config.width is 3 in .* and 4 in"):
        train(config, tmp_path)
