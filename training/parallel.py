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

    State, batch and metrics have a leading axis of this process's devices; rng is the same everywhere.

    The state that goes in is donated: it cannot be used again.

    devices: of all processes; None: all there are.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, None), devices=devices, donate_argnums=0)


def voting_step(step: Callable[..., Any], devices: Sequence[jax.Device] | None = None) -> Any:
    """`replicated_step` of (state, (batch, votes), rng) -> (state, (metrics, count of votes)).

    How processes agree: all see the count of the same step, and none waits for it. votes: [devices] int32.
    """

    def voted(state: Any, batch: Any, rng: Any) -> Any:
        batch, vote = batch
        state, metrics = step(state, batch, rng)
        return state, (metrics, jax.lax.psum(vote, AXIS))

    return replicated_step(voted, devices)


def local_devices(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Those of this process.

    Raises:
        ValueError: processes have different numbers of them, or theirs do not lie side by side.
    """
    processes = [device.process_index for device in devices]
    count = len(devices) // jax.process_count()
    if processes != [index for index in range(jax.process_count()) for _ in range(count)]:
        raise ValueError(
            f"each process should have as many devices as the others, side by side, but they are of the "
            f"processes {processes}."
        )
    return [device for device in devices if device.process_index == jax.process_index()]


def _sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """A copy of every array on every device of this process, behind a leading axis of devices.

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
