"""The public call: the conventions of jax.nn, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smyrf_jax
from smyrf_jax import Canopy, Dense, Smyrf, attention, smyrf_attention
from tests.smyrf_jax.reference import SHAPES, arrays_of, padding_mask


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_dense_is_that_of_jax_nn(is_causal, masked, lengths):
    query, key, value = arrays_of((2, 13, 7, 4, 4, 4))
    key, value = key[:, :, :2], value[:, :, :2]
    options = {"is_causal": is_causal, "mask": padding_mask(SHAPES[2]) if masked else None, "scale": 0.3}
    if lengths:
        options |= {"query_seq_lengths": jnp.array([13, 4]), "key_value_seq_lengths": jnp.array([6, 2])}
    expected, residual = jax.nn.dot_product_attention(query, key, value, **options, return_residual=True)
    output, logsumexp = attention(query, key, value, method=Dense(), **options, return_residual=True)
    chex.assert_trees_all_close(output, expected, rtol=1e-5, atol=1e-5)
    real = slice(0, 4 if lengths else None)
    chex.assert_trees_all_close(logsumexp[:, real], residual[:, real], rtol=1e-5, atol=1e-5)


def test_smyrf_attention_is_the_method_with_the_papers_arguments():
    arrays, mask = arrays_of(SHAPES[2]), padding_mask(SHAPES[2])
    ours = smyrf_attention(
        *arrays, mask, rng=jax.random.key(3), num_hashes=2, cluster_size=4, deduplicate=True
    )
    expected = attention(*arrays, method=Smyrf(2, 4, True), mask=mask, rng=jax.random.key(3))
    chex.assert_trees_all_equal(ours, expected)


def test_the_default_is_canopy():
    arrays = arrays_of((1, 300, 300, 1, 8, 8))
    chex.assert_trees_all_equal(
        attention(*arrays), attention(*arrays, method=Canopy(), rng=jax.random.key(0))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": jnp.zeros((2, 2, 16, 16))}, "bias is not supported.*key_value_seq_lengths"),
        ({"local_window_size": 3}, r"local_window_size is not supported.*method=Local\(window="),
        ({"method": "canopy"}, "method should be a Method such as Canopy.*'canopy'.*method_from_config"),
        ({"method": Canopy}, "method should be a Method such as"),
        ({"scale": jnp.ones(2)}, r"scale should be one real number, but got .*1., 1."),
        ({"scale": "x"}, "scale should be one real number, but got 'x'"),
        ({"scale": 1j}, "scale should be one real number, but got 1j"),
        ({"query": [[[1.0]]]}, "query should be an array, but got a list"),
        ({"mask": [True] * 16}, "mask should be an array, but got a list"),
        ({"query": jnp.zeros((2, 16, 2, 4), jnp.complex64)}, "query should be of floating.*complex64"),
        ({"value": jnp.zeros((2, 16, 2, 4), int)}, "value should be of floating-point numbers.*int32"),
        ({"key": jnp.zeros((2, 16, 2, 5))}, "one width.*5"),
        ({"value": jnp.zeros((2, 15, 2, 4))}, "key and value should differ in width only.*15"),
        ({"mask": jnp.zeros((2, 1, 16, 16), bool)}, "key-padding mask.*16, 16"),
        ({"mask": jnp.zeros((2, 1, 1, 16))}, "mask should be boolean.*float32"),
        ({"query": jnp.zeros((4, 4))}, "query should be"),
        (
            {"query_seq_lengths": jnp.array([3])},
            r"query_seq_lengths should be integers of shape \[\*B\] = \(2,\)",
        ),
        ({"key_value_seq_lengths": jnp.array([3.0, 2.0])}, "key_value_seq_lengths should be integers"),
        ({"key": jnp.zeros((2, 16, 3, 4))}, "same batch and heads"),
    ],
)
def test_bad_arguments_are_named(change, message):
    query, key, value = arrays_of(SHAPES[0])
    # Beyond the shape checks of the tests' own type hook, as a user meets it.
    attend = getattr(smyrf_jax.attention, "__wrapped__", smyrf_jax.attention)
    with pytest.raises(ValueError, match=message):
        attend(**({"query": query, "key": key, "value": value} | change))


def test_a_window_of_jax_nn_is_local():
    query, key, value = arrays_of((1, 40, 40, 2, 4, 4))
    expected = jax.nn.dot_product_attention(query, key, value, local_window_size=3)
    output = attention(query, key, value, method=smyrf_jax.Local(window=2 * 3 + 1))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
