"""Perplexities are those of the model, of settings that are within the budget."""

import numpy as np
import optax
import pytest

from smyrf_jax import Canopy, Dense, Local, Scatterbrain, Smyrf
from transformer.needle import DEPTHS, ordinary_tokens, with_needle
from transformer.swapped import check_causal, measure, predictor, settings_of

WINDOWS = np.random.default_rng(0).integers(0, 62, (2, 192))


def logits_of(loaded, method, tokens):
    return loaded.model.clone(attention=method).apply({"params": loaded.params}, tokens)


@pytest.mark.parametrize("method", [Dense(), Local(window=20)])
def test_layer_by_layer_is_the_model(method, tiny_llama):
    expected = tiny_llama.model.clone(attention=method).apply(
        {"params": tiny_llama.params}, WINDOWS[:1], method="predictions"
    )
    found = predictor(tiny_llama, method, 192)(WINDOWS[0])
    np.testing.assert_allclose(found.losses, expected.losses, atol=1e-4)
    np.testing.assert_array_equal(found.hits, expected.hits)


def test_positions_are_interpolated_for_longer_windows(tiny_llama):
    model, params, _ = tiny_llama
    window = np.concatenate([WINDOWS[0], WINDOWS[1]])
    longer = model.clone(config=model.config.with_longer_positions(384))
    expected = longer.apply({"params": params}, window[None], method="predictions")
    found = predictor(tiny_llama, Dense(), 384)(window)
    np.testing.assert_allclose(found.losses, expected.losses, atol=1e-4)


def test_figures_are_those_of_the_logits(tiny_llama):
    method = Local(window=20)
    row = measure("local", method, 0.5, tiny_llama, WINDOWS, needle=True)
    logits = logits_of(tiny_llama, method, WINDOWS)[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, WINDOWS[:, 1:])
    np.testing.assert_allclose(row.perplexity, np.exp(np.mean(losses)), rtol=1e-4)
    assert len(row.perplexity_by_position) == 16
    first, last = np.exp(np.mean(losses[:, :12])), np.exp(np.mean(losses[:, -11:]))
    ends = [row.perplexity_by_position[0], row.perplexity_by_position[-1]]
    np.testing.assert_allclose(ends, [first, last], rtol=1e-4)
    assert (row.method, row.length, row.budget, row.sees_later) == ("local", 192, 0.5, False)
    assert row.settings == "Local(window=20)"
    assert 0 < row.pairs < 0.5
    assert row.seconds > 0
    words = ordinary_tokens(tiny_llama.tokenizer)
    assert [needle.depth for needle in row.needle] == list(DEPTHS)
    tokens = np.stack([with_needle(window, 0.5, words, i) for i, window in enumerate(WINDOWS)])
    logits = logits_of(tiny_llama, method, tokens)[:, -9:-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, -8:])
    np.testing.assert_allclose(row.needle[2].log_likelihood, -np.mean(losses), rtol=1e-4)
    hits = np.mean(np.argmax(logits, axis=-1) == tokens[:, -8:])
    np.testing.assert_allclose(row.needle[2].accuracy, hits)


def test_settings_are_within_the_causal_pairs(capsys):
    assert settings_of(Dense, 256, [0.1, 0.2], 8, {}) == {1.0: Dense()}
    windows = settings_of(Local, 256, [0.1, 0.2], 8, {})
    assert list(windows) == [0.1, 0.2]
    assert windows[0.1].window < windows[0.2].window
    smyrf = settings_of(Smyrf, 256, [0.2], 8, {"num_hashes": 2})[0.2]
    assert smyrf.clusters_see_future
    assert smyrf.num_hashes == 2
    scatterbrain = settings_of(Scatterbrain, 256, [0.5], 8, {"window": 16})[0.5]
    assert scatterbrain.window == 16
    assert not scatterbrain.clusters_see_future
    assert settings_of(Smyrf, 256, [1e-4], 8, {}) == {}
    assert "Smyrf of 256 tokens is left out. No settings are within pairs=0.01%" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Local has no fields"):
        settings_of(Local, 256, [0.2], 8, {"size": 3})


def test_methods_that_cannot_be_causal_are_refused(tiny_llama):
    check_causal(Smyrf(cluster_size=16, clusters_see_future=True), tiny_llama, 64)
    with pytest.raises(ValueError, match="causal"):
        check_causal(Canopy(cluster_size=16), tiny_llama, 64)
