"""Replication, the spreading of batches, and that the step compiles once."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from biggan.experiment import build_gan
from biggan.parallel import AXIS, parallel_step, replicate, shard_batch, to_host


def test_a_replicated_state_is_laid_out_as_the_results_of_pmap():
    compilations = []

    def listen(name, _, **__):
        compilations.extend([name] * ("backend_compile" in name))

    step = jax.pmap(lambda state: jax.tree.map(lambda x: x + 1, state), axis_name=AXIS)
    devices = jax.devices()
    state = replicate({"a": np.zeros(3), "b": np.int32(1)}, devices)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        state = step(step(step(state)))
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(compilations) == 1
    chex.assert_trees_all_equal(to_host(state), {"a": np.full(3, 3.0), "b": np.int32(4)})
    chex.assert_tree_shape_prefix(state, (len(devices),))


def test_shard_batch_gives_each_device_its_part_of_every_micro_batch(tiny):
    gan = dataclasses.replace(build_gan(tiny), d_steps=2, accumulation=3)
    images = np.arange(2 * 3 * 4 * 5).reshape(-1, 1, 1, 1)
    batch = shard_batch(gan, images, images[:, 0, 0, 0], 4)
    chex.assert_shape(batch.images, (4, 2, 3, 5, 1, 1, 1))
    np.testing.assert_array_equal(batch.labels[:, 1, 2].reshape(-1), np.arange(100, 120))


def test_a_gan_of_another_axis_is_refused(tiny):
    gan = dataclasses.replace(build_gan(tiny), axis_name=None)
    with pytest.raises(ValueError, match="axis_name should be 'replicas'"):
        parallel_step(gan)
