"""The plain Transformer: causal where it is a decoder, blind to padding, and its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smyrf_jax import Dense, Local, Performer, Scatterbrain, Smyrf
from transformer import plain
from transformer.plain import LanguageModel, PairClassifier, PlainConfig, SequenceClassifier, sinusoids

CONFIG = PlainConfig(11, 32, 16, 2, 2, 24, dropout=0.5)


def tokens_of(*shape):
    return np.random.default_rng(0).integers(0, 11, shape).astype(np.int32)


def made(model, *inputs):
    return jax.jit(model.init)(jax.random.key(0), *inputs)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("method", [Dense(), Performer(4), Local(8), Scatterbrain(window=4, num_features=4)])
def test_a_decoder_sees_nothing_later(method, positions):
    config = PlainConfig(11, 32, 16, 2, 2, 24, positions=positions)
    model = LanguageModel(config, method)
    tokens = tokens_of(2, 32)
    variables = made(model, tokens)
    apply = jax.jit(model.apply)
    logits = apply(variables, tokens)
    other = tokens.copy()
    other[:, 20:] = (other[:, 20:] + 3) % 11
    changed = apply(variables, other)
    np.testing.assert_allclose(changed[:, :20], logits[:, :20], atol=1e-5)
    assert np.all(np.max(np.abs(changed[:, 20:] - logits[:, 20:]), axis=(0, 2)) > 1e-3)


def test_a_decoder_refuses_clusters_of_all_tokens():
    tokens = tokens_of(1, 32)
    with pytest.raises(ValueError, match="Smyrf cannot be causal"):
        LanguageModel(CONFIG, Smyrf(2, 4)).init(jax.random.key(0), tokens)
    made(LanguageModel(CONFIG, Smyrf(2, 4, clusters_see_future=True)), tokens)


@pytest.mark.parametrize("most", [1 << 30, 11 * 16, 1])
def test_losses_are_those_of_the_logits_in_however_many_pieces(most, monkeypatch):
    monkeypatch.setattr(plain, "_LOGITS", most)
    model = LanguageModel(CONFIG)
    tokens, targets = tokens_of(2, 32), tokens_of(2, 32)[::-1].copy()
    targets[:, :5] = -1
    variables = made(model, tokens)

    def total(params):
        losses = model.apply({"params": params}, tokens, targets, method=model.losses)
        return jnp.sum(losses), losses

    (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(variables["params"])

    def expected(params):
        logits = model.apply({"params": params}, tokens)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
        losses = losses * (targets >= 0)
        return jnp.sum(losses), losses

    (_, wanted), their_gradients = jax.value_and_grad(expected, has_aux=True)(variables["params"])
    np.testing.assert_allclose(losses, wanted, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients, their_gradients)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("method", [Dense(), Smyrf(2, 8)])
def test_padding_changes_nothing(method, pooling):
    config = PlainConfig(11, 32, 16, 2, 2, 24, pooling=pooling)
    model = SequenceClassifier(config, 3, method)
    tokens = tokens_of(2, 32)
    kept = np.arange(32) < np.array([[32], [19]])
    variables = made(model, tokens, kept)
    logits = jax.jit(model.apply)(variables, tokens, kept)
    alone = model.apply(variables, tokens[1:, :19])
    np.testing.assert_allclose(logits[1:], alone, atol=1e-5)
    other = np.where(kept, tokens, 7).astype(np.int32)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, other, kept), logits, atol=1e-6)
    assert logits.shape == (2, 3)
    assert np.max(np.abs(logits[0] - logits[1])) > 1e-3


def test_two_towers_are_one():
    model = PairClassifier(PlainConfig(11, 32, 16, 2, 2, 24), 2)
    tokens = tokens_of(3, 2, 32)
    kept = np.arange(32) < np.array([[[32, 9]], [[4, 32]], [[8, 8]]]).reshape(3, 2, 1)
    variables = made(model, tokens, kept)
    logits = model.apply(variables, tokens, kept)
    swapped = model.apply(variables, tokens[:, ::-1], kept[:, ::-1])
    assert np.max(np.abs(logits - swapped)) > 1e-4
    tokens[:, 1], kept[:, 1] = tokens[:, 0], kept[:, 0]
    np.testing.assert_allclose(
        model.apply(variables, tokens, kept),
        model.apply(variables, tokens[:, ::-1], kept[:, ::-1]),
        atol=1e-6,
    )


def test_dropout_drops():
    model = LanguageModel(CONFIG)
    tokens = tokens_of(1, 32)
    variables = made(model, tokens)
    rngs = [{"dropout": jax.random.key(i)} for i in (1, 2)]
    one, two = (model.apply(variables, tokens, deterministic=False, rngs=rng) for rng in rngs)
    assert np.max(np.abs(one - two)) > 1e-2


def test_sinusoids():
    table = sinusoids(50, 6)
    assert table.shape == (50, 6)
    np.testing.assert_allclose(table[7, [0, 3]], [np.sin(7), np.cos(7)], atol=1e-6)
    np.testing.assert_allclose(table[7, 2], np.sin(7 * 10_000 ** (-2 / 3)), atol=1e-6)


def test_sizes_that_have_no_meaning_are_refused():
    for fields, message in (
        ({"positions": "rotary"}, "config.model.positions should be one of .* but is 'rotary'"),
        ({"pooling": "max"}, "config.model.pooling should be one of .* but is 'max'"),
        ({"num_heads": 3}, "num_heads should divide the width of attention, 16, but is 3"),
        ({"attention_size": 7}, "num_heads should divide the width of attention, 7, but is 2"),
    ):
        sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 8} | fields
        with pytest.raises(ValueError, match=message):
            PlainConfig(11, 32, **sizes)
    with pytest.raises(ValueError, match="tokens should be 32 at most"):
        LanguageModel(CONFIG).init(jax.random.key(0), tokens_of(1, 33))
