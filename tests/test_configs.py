"""Every config builds what it trains, and the paper's settings are in its configs."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from biggan.augment import Augmentation
from biggan.experiment import build_gan, build_state
from biggan.fields import FIELDS as OF_GANS
from smyrf_jax import Canopy, Smyrf, method_from_config
from smyrf_jax.budget import BudgetError
from smyrf_jax.methods import METHODS
from training import fields
from transformer.budgeted import budgeted, part_of_pairs
from transformer.fields import FIELDS as OF_TRAINING
from transformer.fields import FINETUNE_FIELDS
from transformer.plain import PlainConfig
from transformer.updates import build_optimizer

NAMES = {path.stem for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")}
# What an encoder is fine-tuned by (tests/transformer/test_finetune.py trains with the first two).
FINETUNING = {"imdb_minilm_smyrf", "glue_bert_smyrf", "sst2_minilm_scatterbrain"}
# What is trained from random weights by transformer.train (tests/transformer/test_train.py).
FROM_SCRATCH = {"copy", "lm_wikitext103_scatterbrain"} | {
    f"lra_{task}" for task in ("listops", "text", "pathfinder", "image", "retrieval")
}
GANS = NAMES - FINETUNING - FROM_SCRATCH


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


@pytest.mark.parametrize("name", sorted(FROM_SCRATCH))
def test_a_config_from_scratch_builds_with_every_attention(name):
    module = importlib.import_module(f"configs.{name}")
    with pytest.raises(ValueError, match=f"configs/{name}.py:large: the variants are .*small, and none"):
        module.get_config("large")
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        assert config.attention in config.attentions
        assert config.num_steps or config.epochs
        build_optimizer(config.optimizer.to_dict(), 100)
        data = config.data.to_dict()
        length = data.get("length") or data.get("max_length") or data.get("window", 32) ** 2
        PlainConfig(100, length, **config.model.to_dict())
        is_causal = name in {"copy", "lm_wikitext103_scatterbrain"}
        length += config.model.get("pooling") == "cls"
        for options in config.attentions.to_dict().values():
            if options["name"] in METHODS:
                # As the docstrings of those configs tell.
                dear = options["name"] == "canopy" and length in (1001, 1025) and config.pairs == 1 / 16
                pairs = 0.07 if dear else config.pairs
                if options["name"] == "causalcanopy" and pairs == 1 / 16:
                    with pytest.raises(BudgetError, match="the least is CausalCanopy"):
                        budgeted(length=length, pairs=pairs, is_causal=is_causal, **options)
                    continue
                method = budgeted(length=length, pairs=pairs, is_causal=is_causal, **options)
                most = 1 if options["name"] == "dense" else pairs
                assert method.cost(length, length).pairs <= most
                if not is_causal:
                    assert part_of_pairs(method, length, is_causal) <= most


def test_the_schedules_of_scatterbrains_configs():
    """Peaks and warmups in steps, at the steps that their epochs have."""
    for name, examples, peak, warmup, steps in (
        ("lra_listops", 96_000, 1.58e-3, 1000, 30_000),
        ("lra_text", 25_000, 5.6e-4, 8000, 20_312),
        ("lra_retrieval", 147_086, 5.6e-4, 8000, 45_964),
        ("lra_image", 45_000, 5e-4, 176, 35_156),
        ("lra_pathfinder", 160_000, 1e-3, 312, 62_500),
    ):
        config = config_of(name)
        assert config.optimizer.learning_rate == pytest.approx(peak, rel=0.01)
        assert config.epochs * examples / config.batch_size == pytest.approx(steps, abs=1)
        assert config.optimizer.warmup * steps == pytest.approx(warmup, rel=0.01)
        assert config.pairs == 1 / 16


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


@pytest.mark.parametrize(
    ("configs", "said"),
    [(GANS, OF_GANS), (FROM_SCRATCH, OF_TRAINING), (FINETUNING, FINETUNE_FIELDS)],
    ids=["biggan.train", "transformer.train", "transformer.finetune"],
)
def test_help_has_a_line_for_each_field_and_no_other(configs, said):
    found = {name for config in configs for name, _ in fields.names(config_of(config))}
    assert found == set(said)
    assert all(said.values())
    lines = fields.lines(config_of(min(configs)), said)
    assert any(line.startswith("  --config.batch_size: ") for line in lines)


def test_a_field_that_there_is_not_is_told():
    config = config_of("quickstart")
    good = ["--config.generator.remat=1", "--config.ema.on", "--workdir=x", "config.no"]
    fields.check_names(config, good)
    for given, hint in (
        ("--config.batchsize=1", "Did you mean --config.batch_size"),
        ("--config.resolution=1", "--config.generator.resolution"),
        ("--config.seed.x=1", "no such field"),
        ("--config.generator.attention.64.num_hashes=3", "a key that is a number cannot be given"),
    ):
        with pytest.raises(fields.ConfigError, match=hint):
            fields.check_names(config, [given])


def test_a_config_that_cannot_be_loaded_is_told(tmp_path):
    (tmp_path / "cut.py").write_text("def get_config(:")
    (tmp_path / "none.py").write_text("x = 1")
    (tmp_path / "own.py").write_text("def get_config():\n    return {}[1]")
    (tmp_path / "refuses.py").write_text("def get_config(size):\n    raise ValueError(f'no size {size}')")
    for name, message in (
        ("missing.py", "there is no file"),
        ("cut.py", "is no Python file: line 1"),
        ("none.py", "should have a function get_config"),
        ("own.py:large", "has no variants: leave :large out"),
        ("refuses.py:9", "no size 9"),
    ):
        with pytest.raises(fields.ConfigError, match=message):
            fields.load(str(tmp_path / name))
    with pytest.raises(KeyError):  # the file's own fault keeps its traceback
        fields.load(str(tmp_path / "own.py"))
