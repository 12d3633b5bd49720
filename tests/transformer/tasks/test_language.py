"""Windows of texts and of the copying task, and perplexities."""

import jax
import numpy as np
import pytest

from smyrf_jax import Dense
from transformer.plain import PlainConfig
from transformer.tasks.language import CopyData, Copying, Stream, TextData


def config(length, vocab_size):
    return PlainConfig(vocab_size, length, 16, 1, 2, 16, dropout=0.0)


def text_data(length=8, tokens=100):
    stream = np.arange(tokens).astype(np.uint16)
    return TextData(config(length, tokens), {name: Stream(stream, 20) for name in ("train", "test")})


def test_an_epoch_has_windows_that_follow_each_other():
    data = text_data()
    number = data.num_examples("train")
    assert number == 11
    seen = []
    for epoch in range(2):
        tokens, targets = data.batch(3, epoch * number, number)
        np.testing.assert_array_equal(targets, tokens + 1)
        first = np.sort(tokens[:, 0])
        np.testing.assert_array_equal(np.diff(first), 8)
        assert 0 <= first[0] < 8
        assert np.any(np.diff(tokens[:, 0]) != 8)  # in an order of its own
        seen.append((first[0], tokens[:, 0].tolist()))
    assert seen[0] != seen[1]
    # Wherever it is entered.
    np.testing.assert_array_equal(data.batch(3, 5, 9).tokens[2:5], data.batch(3, 7, 3).tokens)
    assert np.any(data.batch(4, 5, 9).tokens != data.batch(3, 5, 9).tokens)


@pytest.mark.parametrize("tokens", [96, 97, 98, 104])
def test_every_token_but_the_first_is_predicted_once(tokens):
    windows = text_data(tokens=tokens).windows("test")
    kept = windows.targets >= 0
    np.testing.assert_array_equal(windows.targets[kept], np.arange(1, tokens))
    np.testing.assert_array_equal(windows.tokens[kept], np.arange(tokens - 1))


def test_perplexity_is_of_all_tokens_whatever_the_batches():
    data = text_data(tokens=90)
    model = data.model(Dense())
    params = data.fresh(model, jax.random.key(0))
    found = [data.metrics(model, params, "test", size) for size in (2, 64)]
    windows = data.windows("test")
    kept = windows.targets >= 0
    logits = jax.nn.log_softmax(model.apply({"params": params}, windows.tokens))
    losses = -np.take_along_axis(np.asarray(logits), np.maximum(windows.targets, 0)[..., None], -1)[..., 0]
    total = losses[kept].sum()
    for values in found:
        np.testing.assert_allclose(values["perplexity"], np.exp(total / 89), rtol=1e-4)
        np.testing.assert_allclose(values["perplexity_per_word"], np.exp(total / 20), rtol=1e-4)
    some = data.metrics(model, params, "test", 2, most=3)
    np.testing.assert_allclose(some["perplexity"], np.exp(losses[:3].mean()), rtol=1e-4)


def test_texts_too_short_are_refused():
    with pytest.raises(ValueError, match=r"'train' has 16 tokens, but should have two windows of .*=8"):
        text_data(tokens=16)


def test_copies():
    copying = Copying(64)
    tokens, targets = copying.windows((0, 1), 0, 500)
    assert tokens.shape == (500, 64)
    np.testing.assert_array_equal(tokens[:, :32], tokens[:, 32:])
    assert np.all(tokens[:, 0] == 0)
    assert np.all(tokens[:, 1:32] > 0)
    counts = np.bincount(tokens[:, 1:32].ravel(), minlength=17)[1:]
    assert len(counts) == 16
    assert np.all(np.abs(counts / counts.mean() - 1) < 0.15)
    kept = targets >= 0
    np.testing.assert_array_equal(np.flatnonzero(kept[0]), np.arange(32, 63))
    np.testing.assert_array_equal(targets[:, 32:63], tokens[:, 33:])
    assert len(np.unique(tokens, axis=0)) == 500


def test_an_example_of_a_stream_is_the_same_wherever_it_is_entered():
    copying = Copying(100)  # of two blocks
    whole = copying.windows((7, 0), 0, 20).tokens
    np.testing.assert_array_equal(copying.windows((7, 0), 13, 4).tokens, whole[13:17])
    assert np.any(copying.windows((8, 0), 0, 20).tokens != whole)
    assert np.any(copying.windows((7, 1), 0, 20).tokens != whole)


def test_the_test_part_is_none_of_the_training():
    sizes = {"train": 10, "validation": 64, "test": 64}
    data = CopyData(config(32, 17), Copying(32), sizes)
    rows = [data.batch(0, 0, 64), data.windows("validation"), data.windows("test")]
    assert len(np.unique(np.concatenate([of.tokens for of in rows]), axis=0)) == 3 * 64
    assert data.baselines() == {"chance": {"perplexity": 16.0}}


def test_lengths_and_symbols_that_have_no_meaning_are_refused():
    with pytest.raises(ValueError, match="config.data.length should be even and 4 at least, but is 9"):
        Copying(9)
    with pytest.raises(ValueError, match="config.data.num_symbols should divide 256, but is 10"):
        Copying(8, 10)
