"""The best checkpoint of a run."""

import json

import flax.struct
import jax
import numpy as np
import pytest

from tests.training.numbers import Numbers, make_config
from training import loop
from training.best import BestCheckpoint
from training.checkpoint import Progress
from training.restoring import restore
from training.task import Best


class State(flax.struct.PyTreeNode):
    step: np.ndarray
    values: np.ndarray


def state_of(step):
    return State(np.int32(step), np.full(3, step, np.float32))


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("smaller", [True, False])
def test_the_best_is_kept_and_no_other(smaller, tmp_path):
    folder = tmp_path / "best"
    sign = 1 if smaller else -1
    best = BestCheckpoint(str(folder), Best("distance", smaller))
    for step, value in ((10, 3.0), (20, 5.0), (30, 2.0), (40, 2.0)):
        best.offer(state_of(step), Progress(step, {}), {"distance": sign * value, "other": 1.0})
    best.offer(state_of(50), Progress(50, {}), {"other": -9.0})  # it was not measured
    assert kept(folder) == ["30"]
    best.close()
    # A run that goes on knows it; one that went back to an earlier step may find a better one.
    best = BestCheckpoint(str(folder), Best("distance", smaller))
    best.offer(state_of(25), Progress(25, {}), {"distance": sign * 2.5})
    assert kept(folder) == ["30"]
    best.offer(state_of(25), Progress(25, {}), {"distance": sign * 1.5})
    assert kept(folder) == ["25"]
    best.offer(state_of(25), Progress(25, {}), {"distance": sign * 1.0})  # the same step again
    best.close()
    assert kept(folder) == ["25"]
    found = BestCheckpoint(str(folder), Best("distance", smaller))
    assert found._value == sign * 1.0
    found.close()


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
    progress = json.loads((tmp_path / "checkpoints" / "best" / "4" / "progress" / "metadata").read_text())
    assert progress["metrics"] == {"distance": 0.0}


def test_steps_that_are_none(tmp_path):
    def restored(step):
        return restore(str(tmp_path), lambda saved: state_of(0), {}, step=step)

    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="no best checkpoint in"):
        restored("best")
    with pytest.raises(ValueError, match="--step should be a number, 'newest' or 'best', but got 'last'"):
        restored("last")
