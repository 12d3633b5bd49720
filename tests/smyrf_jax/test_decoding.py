"""Token by token is what all at once is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Canopy, Dense, Local, attention
from smyrf_jax.decoding import prefill, step


def arrays_of(length, heads=4, shared=2, dtype=jnp.float32, batch=(2,)):
    rngs = jax.random.split(jax.random.key(0), 3)
    shapes = [(heads, 8), (shared, 8), (shared, 6)]
    return [
        jax.random.normal(rng, (*batch, length, *shape), dtype)
        for rng, shape in zip(rngs, shapes, strict=True)
    ]


METHODS = [Dense(), Local(window=1), Local(window=6), Local(window=200)]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("prompt", [0, 5, 20])
def test_steps_are_causal_attention(method, prompt):
    arrays = arrays_of(21)
    expected = attention(*arrays, method=method, is_causal=True, scale=0.7)
    options = {"method": method, "scale": 0.7}
    output, cache = prefill(*(array[:, :prompt] for array in arrays), length=21, **options)
    np.testing.assert_allclose(output, expected[:, :prompt], atol=1e-5)
    one = jax.jit(functools.partial(step, **options))
    for place in range(prompt, 21):
        assert int(cache.length) == place
        output, cache = one(*(array[:, place : place + 1] for array in arrays), cache)
        np.testing.assert_allclose(output, expected[:, place : place + 1], atol=1e-5)


@pytest.mark.parametrize("method", [Dense(), Local(window=6)], ids=str)
@pytest.mark.parametrize(("batch", "heads", "shared"), [((), 3, 3), ((2, 2), 6, 1)])
def test_a_scan_over_any_batch_and_heads(method, batch, heads, shared):
    arrays = arrays_of(12, heads, shared, batch=batch)
    scale = jnp.asarray(-0.5)  # a negative one, that may be traced
    expected = attention(*arrays, method=method, is_causal=True, scale=scale)

    @jax.jit
    def all_of(arrays, scale):
        axis = len(batch)
        _, cache = prefill(*(array[..., :2, :, :] for array in arrays), method=method, length=12, scale=scale)

        def one(cache, tokens):
            tokens = (jnp.expand_dims(token, axis) for token in tokens)
            output, cache = step(*tokens, cache, method=method, scale=scale)
            return cache, jnp.squeeze(output, axis)

        later = tuple(jnp.moveaxis(array, axis, 0)[2:] for array in arrays)
        return jnp.moveaxis(jax.lax.scan(one, cache, later)[1], 0, axis)

    np.testing.assert_allclose(all_of(arrays, scale), expected[..., 2:, :, :], atol=1e-5)


def test_half_precision_stays():
    arrays = arrays_of(9, dtype=jnp.bfloat16)
    expected = attention(*arrays, method=Dense(), is_causal=True)
    _, cache = prefill(*(array[:, :8] for array in arrays), method=Dense(), length=9)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(cache.state))
    output, _ = step(*(array[:, 8:] for array in arrays), cache, method=Dense())
    assert output.dtype == jnp.bfloat16
    np.testing.assert_allclose(output.astype(float), expected[:, 8:].astype(float), atol=2e-2)


def test_a_window_keeps_its_past_half_alone():
    arrays = arrays_of(40)
    _, cache = prefill(*arrays, method=Local(window=6), length=1000)
    assert [leaf.shape for leaf in cache.state] == [(2, 4, 2, 8), (2, 4, 2, 6)]
    _, cache = prefill(*arrays, method=Dense(), length=1000)
    assert [leaf.shape for leaf in cache.state] == [(2, 1000, 2, 8), (2, 1000, 2, 6)]


@pytest.mark.parametrize("method", [Dense(), Local(window=4)], ids=str)
def test_a_full_cache_takes_no_more(method):
    arrays = arrays_of(7)
    token = [array[:, :1] for array in arrays]
    _, cache = prefill(*arrays, method=method, length=8)
    _, cache = step(*token, cache, method=method)
    with pytest.raises(ValueError, match="room for length=8 tokens, and is full"):
        step(*token, cache, method=method)
    one = jax.jit(functools.partial(step, method=method))
    for _ in range(2):  # it stays full
        output, cache = one(*token, cache)
        assert np.all(np.isnan(output))


def test_what_cannot_be_is_refused():
    arrays = arrays_of(5)
    with pytest.raises(ValueError, match="length=4 tokens have no room for a prompt of 5"):
        prefill(*arrays, method=Dense(), length=4)
    with pytest.raises(ValueError, match="length must be positive"):
        prefill(*arrays, method=Dense(), length=0)
    with pytest.raises(ValueError, match="query and key should be of the same tokens"):
        prefill(arrays[0][:, :4], *arrays[1:], method=Dense(), length=5)
    with pytest.raises(ValueError, match="Canopy cannot decode token by token: take Dense, Local or"):
        prefill(*arrays, method=Canopy(), length=8)
    _, cache = prefill(*arrays, method=Dense(), length=8)
    with pytest.raises(ValueError, match="a step is of one token"):
        step(*arrays, cache, method=Dense())
    with pytest.raises(ValueError, match="Canopy cannot decode token by token"):
        step(*(array[:, :1] for array in arrays), cache, method=Canopy())
