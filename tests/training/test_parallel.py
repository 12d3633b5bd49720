"""Replication, and that the step compiles once."""

import chex
import jax
import numpy as np

from training.parallel import AXIS, replicate, to_host


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
