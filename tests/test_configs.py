"""Every config builds a GAN, and the paper's settings are in its configs."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from biggan.experiment import build_gan, build_state

NAMES = sorted(path.stem for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def config_of(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_and_says_what_it_is(name):
    config = config_of(name)
    gan = build_gan(config)
    state = jax.eval_shape(lambda: build_state(config, gan))
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state)) > 1e6
    text = importlib.import_module(f"configs.{name}").__doc__
    for part in ("Command:", "Result:"):
        assert part in text


def test_the_paper():
    assert set(NAMES) == {"celeba128_smyrf", "celeba128_dense64", "celeba256_smyrf", "quickstart"}
    config = config_of("celeba128_smyrf")
    assert config.generator.attention.to_dict() == {
        "128": {"name": "smyrf", "num_hashes": 4, "cluster_size": 2048}
    }
    gan = build_gan(config)
    assert gan.generator.axis_name is None  # statistics of each core
    assert (gan.d_steps, config.batch_size, config.num_steps) == (2, 4, 120_000)
    assert config.adam.to_dict() == {"g_lr": 5e-5, "d_lr": 2e-4, "b1": 0.0, "b2": 0.999, "eps": 1e-6}
    assert list(build_gan(config_of("celeba128_dense64")).generator.attention) == [64]
    assert list(build_gan(config_of("celeba256_smyrf")).generator.attention) == [256]
