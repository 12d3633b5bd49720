"""A GAN's training step and its batches, over the devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from biggan.train_step import GAN, Batch, train_step
from training.parallel import AXIS, replicated_step


def replica_step(gan: GAN) -> Callable[..., Any]:
    """`train_step` of one replica over AXIS: (state, batch, rng) -> (state, metrics)."""
    if gan.axis_name != AXIS:
        raise ValueError(f"gan.axis_name should be {AXIS!r}, but got {gan.axis_name!r}.")
    return functools.partial(train_step, gan)


def parallel_step(gan: GAN, devices: Sequence[jax.Device] | None = None) -> Any:
    """`replica_step` on every device, as `replicated_step` has it."""
    return replicated_step(replica_step(gan), devices)


def shard_batch(gan: GAN, images: np.ndarray, labels: np.ndarray, num_devices: int) -> Batch:
    """Images [num_devices * d_steps * accumulation * B, H, W, 3] as one Batch a device.

    A training step's images are spread so that the same images make the same update on however many
    devices: device r has the r-th part of every micro-batch.
    """

    def spread(array: np.ndarray) -> np.ndarray:
        per_step = (gan.d_steps, gan.accumulation, num_devices, -1)
        return np.moveaxis(array.reshape(*per_step, *array.shape[1:]), 2, 0)

    return Batch(spread(images), spread(labels))
