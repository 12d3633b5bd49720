"""A GAN of 32x32 pixels and a few channels: one small program for all tests."""

from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from configs import quickstart


def tiny_config() -> ConfigDict:
    """A fresh config of a tiny run on the photographs."""
    config = quickstart.get_config()
    config.num_steps = 6
    config.batch_size = 2
    for network in (config.generator, config.discriminator):
        network.resolution = 32
        network.channels = 4
    config.generator.dim_z = 8
    config.generator.attention = ConfigDict({"16": {"name": "smyrf", "num_hashes": 2, "cluster_size": 64}})
    config.ema.start = 2
    config.data.num_threads = 1
    config.evaluate.metrics = ""
    config.checkpoint.every = 2
    config.sample.every = 4
    config.sample.num = 4
    config.log_every = 1
    return config.copy_and_resolve_references()


@pytest.fixture(scope="session")
def make_tiny() -> Callable[[], ConfigDict]:
    return tiny_config


@pytest.fixture
def tiny() -> ConfigDict:
    return tiny_config()
