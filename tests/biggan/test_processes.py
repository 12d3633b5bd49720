"""Several processes train a GAN as one process with as many devices does."""

import chex
import jax
import pytest

from biggan.restoring import read_config
from tests.biggan.run import Task
from tests.training.many import ended, start
from training.restoring import restore

pytestmark = pytest.mark.process


def state_after_run(workdir, num_processes, devices):
    processes = start("tests.biggan.run", num_processes, devices, f"--workdir={workdir}")
    for status, _, errors in ended(processes, 600):
        assert status == 0, errors[-3000:]
    config = read_config(str(workdir))
    task = Task(config, str(workdir), jax.devices()[:1])
    template = jax.eval_shape(task.initial_state)
    return restore(str(workdir), lambda saved: template, config.to_dict())


@pytest.mark.parametrize(
    ("num_processes", "devices"),
    [(2, 1), pytest.param(4, 1, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow)],
)
def test_processes_are_one_with_as_many_devices(num_processes, devices, tmp_path):
    """The same images, noise and hash directions; micro-batches, and batch norm over all replicas."""
    with jax.enable_x64(True):
        several = state_after_run(tmp_path / "several", num_processes, devices)
        one = state_after_run(tmp_path / "one", 1, num_processes * devices)
    assert int(one.step) == 3
    chex.assert_trees_all_close(several, one, rtol=1e-7, atol=1e-9)
