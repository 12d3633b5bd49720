"""The spreading of batches over devices."""

import dataclasses

import chex
import numpy as np
import pytest

from biggan.experiment import build_gan
from biggan.parallel import parallel_step, shard_batch


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
