"""Batches and accuracies of labelled sequences."""

import jax
import numpy as np
import pytest

from smyrf_jax import Dense
from transformer.plain import PairClassifier, PlainConfig
from transformer.tasks.labelled import Labelled, LabelledData, flat, unflat


def part_of(number, *shape, length=6):
    rng = np.random.default_rng(number)
    tokens = rng.integers(1, 9, (number, *shape, length)).astype(np.uint8)
    lengths = rng.integers(2, length + 1, (number, *shape))
    return Labelled(tokens, lengths, (np.arange(number) % 3).astype(np.int32))


def data_of(*shape, pooling="mean", full=False):
    parts = {
        name: part_of(number, *shape) for name, number in (("train", 10), ("validation", 5), ("test", 7))
    }
    if full:
        parts = {name: part._replace(lengths=np.full_like(part.lengths, 6)) for name, part in parts.items()}
    return LabelledData(PlainConfig(9, 6, 8, 1, 1, 8, dropout=0.0, pooling=pooling), parts, 3)


def test_an_epoch_has_each_once():
    data = data_of()
    tokens, kept, labels = data.batch(1, 0, 10)
    np.testing.assert_array_equal(np.sort(tokens, axis=0), np.sort(data.parts["train"].tokens, axis=0))
    np.testing.assert_array_equal(np.sort(kept.sum(axis=1)), np.sort(data.parts["train"].lengths))
    assert tokens.dtype == labels.dtype == np.int32
    np.testing.assert_array_equal(data.batch(1, 7, 6).tokens[1:3], data.batch(1, 8, 2).tokens)
    assert data_of(full=True).batch(1, 0, 4).kept is None


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_accuracy_is_of_each_whatever_the_batches(shape, pooling):
    data = data_of(*shape, pooling=pooling)
    assert data.attention_length == (7 if pooling == "cls" else 6)
    model = data.model(Dense())
    assert isinstance(model, PairClassifier) == bool(shape)
    params = data.fresh(model, jax.random.key(0))
    params["head_outer"]["kernel"] *= 100
    part = data.parts["test"]
    kept = np.arange(6) < part.lengths[..., None]
    logits = model.apply({"params": params}, part.tokens.astype(np.int32), kept)
    hits = np.argmax(logits, axis=-1) == part.labels
    for size in (2, 64):
        assert data.metrics(model, params, "test", size) == {"accuracy": pytest.approx(hits.mean())}
    assert data.metrics(model, params, "test", 2, most=3) == {"accuracy": pytest.approx(hits[:3].mean())}


def test_the_most_frequent_class_is_that_of_training():
    data = data_of()
    assert data.baselines() == {"most frequent class": {"accuracy": pytest.approx(3 / 7)}}
    found = data.by_table(np.arange(10) % 3, np.arange(7) % 3)
    assert found == {"accuracy": 1.0}


def test_arrays_by_name():
    parts = {"train": part_of(4), "test": part_of(3, 2)}
    again = unflat(flat(parts))
    assert list(again) == ["train", "test"]
    for name, part in parts.items():
        for one, other in zip(part, again[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_part_without_sequences_is_refused():
    with pytest.raises(ValueError, match="the part 'test' has no sequences"):
        LabelledData(
            PlainConfig(9, 6, 8, 1, 1, 8),
            {"train": part_of(4), "test": part_of(4).first(0)._replace(labels=np.zeros(0, int))},
            3,
        )
