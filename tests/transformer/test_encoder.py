"""What must hold of an encoder whatever the method: padding, tables, arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smyrf_jax
from smyrf_jax import Canopy, Dense, Local, Performer, Scatterbrain, Smyrf
from smyrf_jax.methods.comparators import HyperAttention, Reformer, Routing
from transformer.encoder import Encoder, EncoderConfig, attention_by_layer, check_inputs

METHODS = [
    Dense(),
    Smyrf(num_hashes=2, cluster_size=4),
    Canopy(num_trees=2, cluster_size=4, means_per_cluster=1),
    Scatterbrain(num_hashes=2, cluster_size=4, num_features=8),
    Performer(num_features=8),
    Local(window=5),
    Reformer(num_hashes=2, cluster_size=4),
    Routing(cluster_size=4),
    HyperAttention(num_hashes=2, cluster_size=4),
]
PAD = 1
BERT = EncoderConfig(30, 16, 2, 2, 24, 40)
ROBERTA = EncoderConfig(30, 16, 2, 2, 24, 40, model_type="roberta", type_vocab_size=1, pad_token_id=PAD)


@functools.cache
def params_of(config):
    """Random parameters, large enough that attention is not flat."""
    params = Encoder(config).init(jax.random.key(0), jnp.full((1, 4), 5))["params"]
    leaves, tree = jax.tree.flatten(params)
    rngs = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten(
        [leaf + 0.5 * jax.random.normal(rng, leaf.shape) for leaf, rng in zip(leaves, rngs, strict=True)]
    )


def encode(config, method, *inputs):
    run = jax.jit(lambda params, *inputs: Encoder(config, method).apply({"params": params}, *inputs))
    return run(params_of(config), *inputs)


@pytest.mark.parametrize(
    ("config", "method"),
    [(BERT, METHODS[1]), *((ROBERTA, method) for method in METHODS)],
    ids=lambda value: value.model_type if isinstance(value, EncoderConfig) else type(value).__name__,
)
def test_a_padded_text_is_what_it_is_alone(config, method):
    """Padded on the right, and for RoBERTa, whose positions count tokens, on the left too."""
    rng, width = np.random.default_rng(0), 16
    texts = [rng.integers(2, 30, length) for length in (13, 9)]
    rows = [(text, np.arange(width) < len(text)) for text in texts]
    if config is ROBERTA:
        rows += [(text, kept[::-1]) for text, kept in rows]
    tokens, kept = np.full((len(rows), width), PAD), np.array([places for _, places in rows])
    tokens[kept] = np.concatenate([text for text, _ in rows])
    padded = encode(config, method, tokens, kept)
    alone = [encode(config, method, text[None]) for text in texts] * 2
    for i, expected in enumerate(alone[: len(rows)]):
        np.testing.assert_allclose(padded.tokens[i, kept[i]], expected.tokens[0], atol=2e-4)
        np.testing.assert_allclose(padded.first[i], expected.first[0], atol=2e-4)
        np.testing.assert_allclose(padded.pooled[i], expected.pooled[0], atol=2e-4)
    assert np.all(np.isfinite(padded.tokens))


def test_one_array_masks_keys_and_queries(monkeypatch):
    params_of(BERT)  # initialising attends too
    seen = []

    def attention(*arrays, mask, query_mask, **options):
        seen.append((mask, query_mask))
        return smyrf_jax.dense.dense_attention(*arrays, mask)

    monkeypatch.setattr(smyrf_jax, "attention", attention)
    tokens = np.full((2, 6), 5)
    encode(BERT, Dense(), tokens, np.arange(6)[None] < np.array([6, 3])[:, None])
    encode(BERT, Dense(), tokens)
    assert len(seen) == 4
    assert all(mask is query_mask for mask, query_mask in seen)
    assert seen[0][0].shape == (2, 1, 1, 6)
    assert seen[-1] == (None, None)


def test_what_is_in_no_table_is_named():
    tokens, types = np.full((2, 3), 5), np.zeros((2, 3), int)
    apply = functools.partial(Encoder(ROBERTA).apply, {"params": params_of(ROBERTA)})
    for wrong in (np.array([[5, 30, 5], [5, -1, 30]]), jnp.array([[5, 30, 5], [5, -1, 30]])):
        with pytest.raises(
            ValueError, match=r"tokens should be 0 .. 29, .* vocab_size is 30, but got -1, 30"
        ):
            apply(wrong)
    with pytest.raises(ValueError, match=r"token_types should be 0 .. 0, .* type_vocab_size is 1, but got 1"):
        apply(tokens, None, types + 1)
    with pytest.raises(ValueError, match=r"but got 30, 31, 32, 33, 34, \.\.\."):
        check_inputs(BERT, np.arange(40)[None])
    for fault in ({"kept": np.ones((2, 4), bool)}, {"token_types": np.zeros((1, 3), int)}):
        (name,) = fault
        with pytest.raises(ValueError, match=rf"{name} should be \(2, 3\) as tokens are, but is"):
            check_inputs(BERT, tokens, **fault)
    with pytest.raises(ValueError, match=r"kept should be boolean \(True keeps a token\), but is int64"):
        check_inputs(BERT, tokens, types)
    with pytest.raises(ValueError, match=r"tokens should be \[B, T\], but got shape \(3,\)"):
        check_inputs(BERT, tokens[0])


@pytest.mark.parametrize("config", [BERT, ROBERTA])
def test_under_jit_what_is_in_no_table_is_nan(config):
    """Nobody knows the values there; never are they another token's."""
    tokens, types = np.full((6, 3), 5), np.zeros((6, 3), int)
    tokens[1, 1], tokens[2, 0], tokens[3, 2] = 30, -1, -30
    types[4, 1], types[5, 0] = config.type_vocab_size, -1
    found = encode(config, Dense(), tokens, np.ones((6, 3), bool), types).tokens
    broken = np.isnan(found).any(axis=(1, 2))
    np.testing.assert_array_equal(broken, [False, True, True, True, True, True])


def test_attentions_that_are_none_are_refused():
    plain = getattr(attention_by_layer, "__wrapped__", attention_by_layer)
    assert plain(Dense(), 2) == plain([Dense(), Dense()], 2) == (Dense(), Dense())
    # Six letters are no six methods.
    for wrong, shown in (("canopy", "'canopy'"), (Canopy, "Canopy"), (None, "None"), ([Dense(), 3], "3")):
        with pytest.raises(ValueError, match=rf"attention should be a Method .*{shown}.*method_from_config"):
            plain(wrong, 6)
