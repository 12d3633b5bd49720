"""Predictions in pieces are those of all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

TOKENS = np.random.default_rng(0).integers(0, 64, (3, 24))


def test_predictions_are_of_the_next_tokens(tiny_llama, monkeypatch):
    model, params, _ = tiny_llama
    monkeypatch.setattr("transformer.next_tokens._PIECE", 7)  # four pieces, the last one with padding
    found = model.apply({"params": params}, TOKENS, method="predictions")
    logits = model.apply({"params": params}, TOKENS)[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:])
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5, atol=1e-6)
    likeliest = TOKENS.copy()
    likeliest[:, 5] = np.argmax(logits[:, 4], axis=-1)
    hits = model.apply({"params": params}, likeliest, method="predictions").hits
    assert np.all(hits[:, 4])
    np.testing.assert_array_equal(found.hits, np.argmax(logits, axis=-1) == TOKENS[:, 1:])
    kept = np.ones(TOKENS.shape, bool)
    kept[0, :4] = kept[1, 20:] = False
    padded = model.apply({"params": params}, TOKENS, kept, method="predictions")
    assert np.all(padded.losses[0, :4] == 0)
    assert np.all(padded.losses[1, 19:] == 0)
    assert not np.any(padded.hits[0, :4])
    np.testing.assert_allclose(padded.losses[1, :19], losses[1, :19], rtol=1e-5, atol=1e-6)


def test_gradients_of_predictions_are_those_of_the_logits(tiny_llama):
    model, params, _ = tiny_llama

    @jax.jit
    @jax.grad
    def in_pieces(params):
        return jnp.mean(model.apply({"params": params}, TOKENS, method="predictions").losses)

    @jax.jit
    @jax.grad
    def at_once(params):
        logits = model.apply({"params": params}, TOKENS)[:, :-1]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:]))

    for ours, theirs in zip(*(jax.tree.leaves(of(params)) for of in (in_pieces, at_once)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
