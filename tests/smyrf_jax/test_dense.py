"""The oracle against jax.nn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import dense_attention
from smyrf_jax.dense import dense_weights
from tests.smyrf_jax.reference import SHAPES, arrays_of, padding_mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_dense_attention_is_that_of_jax_nn(masked, is_causal):
    batch, length, num_keys, heads, width, _ = SHAPES[2]
    shape = (batch, length, num_keys, heads, width, width)  # jax.nn wants V = D
    arrays = arrays_of(shape)
    mask = padding_mask(shape) if masked else None
    expected = jax.nn.dot_product_attention(*arrays, mask=mask, is_causal=is_causal, return_residual=True)
    output = dense_attention(*arrays, mask, is_causal=is_causal, return_residual=True)
    chex.assert_trees_all_close(output, expected, rtol=1e-5, atol=1e-5)


def test_the_weights_are_those_of_the_output():
    query, key, value = arrays_of(SHAPES[2])
    mask = padding_mask(SHAPES[2]).at[1].set(False)
    weights = dense_weights(query, key, mask, is_causal=True)
    output = dense_attention(query, key, value, mask, is_causal=True)
    chex.assert_trees_all_close(jnp.einsum("bnts,bsnv->btnv", weights, value), output, rtol=1e-5, atol=1e-6)
    sums = jnp.sum(weights[0], axis=-1)
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert jnp.all((weights[0] > 0) == (jnp.arange(7)[None] <= jnp.arange(13)[:, None])[None])
    np.testing.assert_array_equal(weights[1], 0)
