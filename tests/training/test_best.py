"""The best checkpoint of a run."""

import json

import flax.struct
import jax
import numpy as np
import pytest

from tests.training.numbers import Numbers, make_config
from training import loop
from training.best import BestCheckpoint
from training.checkpoint import Checkpoints, Progress
from training.restoring import restore
from training.task import Best


class State(flax.struct.PyTreeNode):
    step: np.ndarray
    values: np.ndarray


def state_of(step):
    return State(np.int32(step), np.full(3, step, np.float32))


CONFIG = {"evaluate": {"num": 9}, "lr": 0.1}


def keeper(folder, smaller=True, config=CONFIG):
    return BestCheckpoint(str(folder), Best("distance", smaller, fields=("evaluate.",)), config)


def offer(best, step, value, config=CONFIG):
    best.offer(state_of(step), Progress(step, config), {"distance": value, "other": 1.0})


def kept(folder):
    """The step of the best, which is the one checkpoint there is."""
    (number,) = (int(path.name) for path in folder.iterdir())
    checkpoints = Checkpoints(str(folder), read_only=True)
    state = checkpoints.restore(number, lambda config: state_of(0), CONFIG)
    checkpoints.close()
    return int(state.step)


@pytest.mark.parametrize("smaller", [True, False])
def test_the_best_is_kept_and_no_other(smaller, tmp_path):
    folder, sign = tmp_path / "best", 1 if smaller else -1
    best = keeper(folder, smaller)
    for step, value in ((5, np.inf), (10, 3.0), (20, 5.0), (30, 2.0), (40, 2.0), (45, np.nan)):
        offer(best, step, sign * value)
    best.offer(state_of(50), Progress(50, CONFIG), {"other": -9.0})  # it was not measured
    best.close()
    assert kept(folder) == 30
    # A run that goes on knows it; one that went back to an earlier step may find a better one.
    best = keeper(folder, smaller)
    offer(best, 25, sign * 2.5)
    best.close()
    assert kept(folder) == 30
    best = keeper(folder, smaller)
    offer(best, 25, sign * 1.5)
    offer(best, 25, sign * 1.0)  # the same step again
    best.close()
    assert kept(folder) == 25


def test_what_was_measured_in_another_way_is_no_mark(tmp_path, capsys):
    best = keeper(tmp_path / "best")
    offer(best, 10, 1.0)
    best.close()
    other = {"evaluate": {"num": 4}, "lr": 0.2}
    best = keeper(tmp_path / "best", config=other)
    assert "The best checkpoint was measured in another way (evaluate.num)" in capsys.readouterr().out
    offer(best, 20, 7.0, other)
    best.close()
    assert kept(tmp_path / "best") == 20
    best = keeper(tmp_path / "best", config=other | {"lr": 0.3})
    offer(best, 30, 8.0, other)
    best.close()
    assert kept(tmp_path / "best") == 20


def test_a_run_keeps_its_best_and_goes_on_from_its_newest(tmp_path):
    config = make_config()
    config.evaluate_every, config.best_step = 2, 4

    def train():
        devices = jax.local_devices()[:1]
        return loop.train(Numbers(tmp_path, config, 1), config, str(tmp_path), devices)

    def template(saved):
        return jax.eval_shape(lambda: Numbers(tmp_path, config, 1).initial_state())

    def restored(step):
        return int(restore(str(tmp_path), template, {}, step=step).step)

    train()
    assert (restored("best"), restored("newest"), restored(2)) == (4, 6, 2)
    config.num_steps, config.best_step = 10, 8
    train()
    # The distance of step 4 was 0 then, as that of step 8 is now.
    assert (restored("best"), restored("newest")) == (4, 10)
    (folder,) = (tmp_path / "checkpoints" / "best").iterdir()
    progress = json.loads((folder / "progress" / "metadata").read_text())
    assert progress["metrics"] == {"distance": 0.0}


def test_a_last_evaluation_that_was_cut_is_made_up_for(tmp_path):
    """And what it finds may be the best."""

    class Cut(Exception):
        pass

    def cut(step):
        if step == 6:
            raise Cut

    config = make_config()
    config.evaluate_every, config.best_step = 4, 6
    devices = jax.local_devices()[:1]
    with pytest.raises(Cut):
        loop.train(Numbers(tmp_path, config, 1, at_evaluation=cut), config, str(tmp_path), devices)
    (tmp_path / "evaluations.txt").unlink()
    loop.train(Numbers(tmp_path, config, 1), config, str(tmp_path), devices)
    state = restore(
        str(tmp_path), lambda saved: Numbers(tmp_path, config, 1).initial_state(), {}, step="best"
    )
    assert int(state.step) == 6


def test_steps_that_are_none(tmp_path):
    def restored(step):
        return restore(str(tmp_path), lambda saved: state_of(0), {}, step=step)

    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="no best checkpoint in"):
        restored("best")
    with pytest.raises(ValueError, match="--step should be a number, 'newest' or 'best', but got 'last'"):
        restored("last")
