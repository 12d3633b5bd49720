"""Data parallelism over the devices: the only file that knows of them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import PyTree

from biggan.steps import GAN, Batch, train_step

AXIS = "replicas"


def parallel_step(gan: GAN, devices: Sequence[jax.Device] | None = None) -> Any:
    """`train_step` on every device, (state, batch, rng) -> (state, metrics), as a pmapped function.

    State, batch and metrics have a leading axis of local devices.

    The state that goes in is donated: it cannot be used again. devices: None means all local ones.
    """
    if gan.axis_name != AXIS:
        raise ValueError(f"gan.axis_name should be {AXIS!r}, but got {gan.axis_name!r}.")
    return jax.pmap(
        functools.partial(train_step, gan),
        axis_name=AXIS,
        in_axes=(0, 0, None),
        devices=devices,
        donate_argnums=0,
    )


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


def shard_batch(gan: GAN, images: np.ndarray, labels: np.ndarray, num_devices: int) -> Batch:
    """Images [num_devices * d_steps * accumulation * B, H, W, 3] as one Batch a device.

    A training step's images are spread so that the same images make the same update on however many
    devices: device r has the r-th part of every micro-batch.
    """

    def spread(array: np.ndarray) -> np.ndarray:
        per_step = (gan.d_steps, gan.accumulation, num_devices, -1)
        return np.moveaxis(array.reshape(*per_step, *array.shape[1:]), 2, 0)

    return Batch(spread(images), spread(labels))
