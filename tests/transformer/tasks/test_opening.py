"""Each task's data go through the model that its config has, at its sizes; the files are small ones."""

import importlib

import jax
import numpy as np
import pytest

from smyrf_jax import Dense
from tests.transformer.tasks import test_cifar, test_corpora
from transformer.tasks import open_task

CONFIGS = {
    "copy": "copy",
    "language": "lm_wikitext103_scatterbrain",
    "listops": "lra_listops",
    "text": "lra_text",
    "pathfinder": "lra_pathfinder",
    "image": "lra_image",
    "retrieval": "lra_retrieval",
}


@pytest.fixture
def options(tmp_path):
    """What makes each task small, and its files."""
    for name, text in test_corpora.LINES.items():
        (tmp_path / f"wiki.{name}.tokens").write_text(10 * text.replace("zebra", "cat"))
    (tmp_path / "reviews.csv").write_text(
        "\n".join(["text,label", *(f"review {i},{i % 2}" for i in range(60))])
    )
    for name in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text("1\t1\t2\ta\tb\n0\t1\t2\tc\td\n")
    test_cifar.write(tmp_path / "cifar", "bin")
    few = {"train_size": 20, "validation_size": 4, "test_size": 8}
    return {
        "copy": {"length": 16},
        "language": {"path": str(tmp_path), "length": 4},
        "listops": {"min_length": 5, "max_length": 40, "folder": str(tmp_path / "kept")} | few,
        "text": {"path": str(tmp_path / "reviews.csv"), "length": 16},
        "pathfinder": {"window": 16, "contour": 4, "distractors": 1, "folder": ""} | few,
        "image": {"path": str(tmp_path / "cifar")},
        "retrieval": {"path": str(tmp_path), "length": 24},
    }


@pytest.mark.parametrize("task", CONFIGS)
def test_a_tasks_data_fit_its_model(task, options):
    config = importlib.import_module(f"configs.{CONFIGS[task]}").get_config()
    config.data.update(options[task])
    data = open_task(model=config.model.to_dict(), **config.data.to_dict())
    model = data.model(Dense())
    batch = data.batch(0, 0, 3)
    tokens = batch.tokens
    assert tokens.dtype == np.int32
    assert tokens.min() >= 0
    assert tokens.max() < data.config.vocab_size
    rng = jax.random.key(0)
    params = jax.eval_shape(lambda: data.fresh(model, rng))

    def loss(params):
        return data.loss(model, params, batch, {"dropout": rng, "hashing": rng})

    assert jax.eval_shape(loss, params).shape == ()
    for part in ("train", "validation", "test"):
        assert data.num_examples(part) > 0
    lengths = {"copy": 16, "language": 4, "listops": 41, "text": 17, "pathfinder": 256, "image": 1025}
    assert data.attention_length == (lengths | {"retrieval": 24})[task]
    if task == "listops":
        again = open_task(model=config.model.to_dict(), **config.data.to_dict())
        np.testing.assert_array_equal(again.batch(0, 0, 3).tokens, tokens)


def test_there_is_no_other_task():
    with pytest.raises(ValueError, match=r"config.data.task should be one of \['copy', .* but is 'chess'"):
        open_task("chess", {})


@pytest.mark.parametrize(
    ("task", "section", "changed", "message"),
    [
        ("listops", "data", {"train_size": 0}, "config.data.train_size must be positive, got 0"),
        ("pathfinder", "data", {"test_size": -1}, "config.data.test_size must be positive, got -1"),
        ("pathfinder", "data", {"windows": 9}, "config.data.windows is no field: there are window, contour"),
        ("language", "data", {"paths": ""}, "config.data.paths is no field: there are source, "),
        ("copy", "data", {"window": 9}, "config.data.window is no field: there are length, num_symbols"),
        ("copy", "data", {"length": None}, "config.data.length is missing"),
        ("language", "data", {"length": 0}, "config.data.length must be positive, got 0"),
        ("text", "data", {"length": -1}, "config.data.length must be positive, got -1"),
        ("retrieval", "data", {"length": 0}, "config.data.length must be positive, got 0"),
        ("listops", "data", {"min_length": None}, "config.data.min_length is missing"),
        ("copy", "model", {"width": 9}, "config.model.width is no field: there are hidden_size"),
        ("copy", "model", {"num_layers": None}, "config.model.num_layers is missing"),
        ("copy", "model", {"num_heads": 0}, "config.model.num_heads must be positive, got 0"),
        ("copy", "model", {"attention_size": -1}, "config.model.attention_size must not be negative, got -1"),
        ("copy", "model", {"dropout": 1.0}, r"config.model.dropout should be in \[0, 1\), got 1.0"),
        ("copy", "model", {"vocab_size": 9}, "config.model.vocab_size is no field"),
    ],
)
def test_a_wrong_field_is_named(task, section, changed, message, options):
    config = importlib.import_module(f"configs.{CONFIGS[task]}").get_config()
    sections = {"model": config.model.to_dict(), "data": config.data.to_dict() | options[task]}
    sections[section] |= changed
    sections[section] = {name: value for name, value in sections[section].items() if value is not None}
    with pytest.raises(ValueError, match=message):
        open_task(model=sections["model"], **sections["data"])
