"""Every config builds what it trains, and the paper's settings are in its configs."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from biggan.augment import Augmentation
from biggan.experiment import build_gan, build_state
from smyrf_jax import Canopy, Smyrf, method_from_config

NAMES = {path.stem for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")}
# What an encoder is fine-tuned by (tests/transformer/test_finetune.py trains with the first two).
FINETUNING = {"imdb_minilm_smyrf", "glue_bert_smyrf", "sst2_minilm_scatterbrain"}
GANS = NAMES - FINETUNING


def config_of(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_config_says_what_it_is(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    for part in ("Command:", "Result:"):
        assert part in text


@pytest.mark.parametrize("name", sorted(GANS))
def test_a_config_builds(name):
    config = config_of(name)
    assert config.dtype == "float32"  # as the authors' program
    assert config.num_classes == 1
    # A path says what it is; the quickstart has none.
    assert config.data.source == ("photos" if name == "quickstart" else "")
    gan = build_gan(config)
    state = jax.eval_shape(lambda: build_state(config, gan))
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state)) > 1e6


def test_the_paper():
    canopy = {"celeba128_canopy", "celeba256_canopy"}
    small = {"quickstart", "own_images"}
    assert {"celeba128_smyrf", "celeba128_dense64", "celeba256_smyrf"} | canopy | small == GANS
    config = config_of("celeba128_smyrf")
    assert config.generator.attention.to_dict() == {
        "128": {"name": "smyrf", "num_hashes": 4, "cluster_size": 2048}
    }
    gan = build_gan(config)
    assert gan.augmentation is None
    assert gan.generator.attention[128] == Smyrf(num_hashes=4, cluster_size=2048)
    assert gan.generator.axis_name is None  # statistics of each core
    assert (gan.d_steps, config.batch_size, config.num_steps) == (2, 4, 120_000)
    assert config.adam.to_dict() == {"g_lr": 5e-5, "d_lr": 2e-4, "b1": 0.0, "b2": 0.999, "eps": 1e-6}
    assert list(build_gan(config_of("celeba128_dense64")).generator.attention) == [64]
    assert list(build_gan(config_of("celeba256_smyrf")).generator.attention) == [256]


def test_canopy_has_the_pairs_that_its_configs_tell():
    for size, dense, share in ((128, 0.5, 0.125), (256, 0.125, 0.03125)):
        num_queries = size**2
        for name, expected in (("smyrf", dense), ("canopy", share)):
            method = build_gan(config_of(f"celeba{size}_{name}")).generator.attention[size]
            cost = method.cost(num_queries, num_queries // 4)
            assert cost.pairs == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("resolution", ["64", "128"])
def test_own_images_at_either_resolution(resolution):
    config = importlib.import_module("configs.own_images").get_config(resolution)
    gan = build_gan(config)
    assert gan.generator.resolution == gan.discriminator.resolution == int(resolution)
    assert gan.generator.attention == {64: Canopy()}
    assert gan.augmentation == Augmentation(("color", "translation", "cutout"))
    jax.eval_shape(lambda: build_state(config, gan))


def test_own_images_at_no_other_resolution():
    with pytest.raises(ValueError, match="own_images.py:256: the resolutions are 64, 128"):
        importlib.import_module("configs.own_images").get_config("256")


def test_the_rows_of_glue():
    rows = {}
    for row in ("2x32", "2x16", "128", "64", "32"):
        config = importlib.import_module("configs.glue_bert_smyrf").get_config(row)
        options = config.attentions[config.attention].to_dict()
        rows[row] = (config.data.length, options.get("num_hashes"), options.get("cluster_size"))
    assert rows == {
        "2x32": (128, 2, 32),
        "2x16": (128, 2, 16),
        "128": (128, None, None),
        "64": (64, None, None),
        "32": (32, None, None),
    }
    with pytest.raises(ValueError, match="the rows are 2x32, 2x16, 128, 64, 32"):
        importlib.import_module("configs.glue_bert_smyrf").get_config("3x3")


def test_sentences_leave_a_quarter_to_half_of_the_pairs():
    config = config_of("sst2_minilm_scatterbrain")
    methods = {name: method_from_config(**options) for name, options in config.attentions.to_dict().items()}
    assert set(methods) == {"dense", "scatterbrain", "smyrf", "canopy"}
    for name, method in methods.items():
        shares = [method.cost(width, width).pairs for width in (32, 64)]
        if name == "dense":
            assert shares == [1, 1]
        else:
            assert all(0.25 <= share <= 0.5 for share in shares), (name, shares)
            assert shares[1] == 0.25
