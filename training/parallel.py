"""Data parallelism over the devices: the only file that knows of them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import PyTree

AXIS = "replicas"


def replicated_step(step: Callable[..., Any], devices: Sequence[jax.Device] | None = None) -> Any:
    """step(state, batch, rng) -> (state, metrics) on every device, as a pmapped function over AXIS.

    State, batch and metrics have a leading axis of local devices; rng is the same everywhere.

    The state that goes in is donated: it cannot be used again. devices: None means all local ones.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, None), devices=devices, donate_argnums=0)


def _sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """A copy of every array on every device, behind a leading axis of devices.

    Laid out as pmap's own results are, so that the step compiles once.
    """
    sharding = _sharding(devices)

    def copies(leaf: Any) -> Array:
        host = np.asarray(leaf)
        shards = [jax.device_put(host[None], device) for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *host.shape), sharding, shards)

    return jax.tree.map(copies, tree)


def to_host(tree: PyTree) -> PyTree:
    """The first replica's copy, as NumPy arrays.

    Copied: on the CPU a view would lie in memory that the next step, to which the state is donated,
    writes to while a checkpoint is being saved.
    """
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_shards[0].data)[0], tree)
