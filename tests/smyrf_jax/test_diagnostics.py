"""Diagnostics on attentions whose numbers are known."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Clustering, Local, dense_attention
from smyrf_jax.dense import dense_weights
from smyrf_jax.diagnostics import (
    attention_entropy,
    attention_error,
    captured_mass,
    largest_keys_attention,
    optimal_clustering,
    shared_cluster,
    singular_values,
)
from tests.smyrf_jax.reference import SHAPES, arrays_of, cluster, padding_mask


def test_error_is_relative_and_by_row():
    exact = arrays_of(SHAPES[0])[2].at[:, :, 1].set(0)
    error = attention_error(exact.at[0, :, 0].multiply(1.5), exact)
    np.testing.assert_allclose(error, [[0.5, 0.0], [0.0, 0.0]], rtol=1e-6)


def test_captured_mass_is_the_mass_of_the_pairs_that_met():
    shape = SHAPES[2]
    query, key, _ = arrays_of(shape)
    mask = padding_mask(shape)
    everything = cluster(query, key, mask, cluster_size=13)
    np.testing.assert_allclose(captured_mass(query, key, everything, mask), 1.0, rtol=1e-6)
    # Values that are one-hot in the key make the weights visible.
    one_hot = jnp.broadcast_to(jnp.eye(7)[:, None], (2, 7, 2, 7))
    weights = dense_attention(query, key, one_hot, mask)  # [B, T, N, S]
    clustering = cluster(query, key, mask)
    met = jnp.moveaxis(shared_cluster(clustering, 13, 7), 2, 1)
    expected = jnp.sum(weights * met, axis=-1)
    chex.assert_trees_all_close(captured_mass(query, key, clustering, mask), expected, rtol=1e-5)
    assert 0 < jnp.min(jnp.mean(expected, axis=1)) < jnp.max(jnp.mean(expected, axis=1)) < 1


def test_captured_mass_of_a_window_is_that_of_the_window():
    query, key, _ = arrays_of((1, 100, 100, 2, 4, 4))
    mass = captured_mass(query, key, Local(9))
    weights = dense_weights(query, key)
    distance = jnp.abs(jnp.arange(100)[None] - jnp.arange(100)[:, None])
    expected = jnp.moveaxis(jnp.sum(jnp.where(distance[None, None] <= 4, weights, 0), axis=-1), -1, -2)
    chex.assert_trees_all_close(mass, expected, rtol=1e-5)


def test_the_oracle_takes_the_largest_keys():
    query, key, value = arrays_of((2, 20, 30, 4, 4, 5))
    key, value = key[:, :, :2], value[:, :, :2]
    weights = dense_weights(query, key)
    least = -jnp.sort(-weights, axis=-1)[..., 6:7]
    kept = jnp.where(weights >= least, weights, 0)
    kept /= jnp.sum(kept, axis=-1, keepdims=True)
    expected = jnp.einsum("bnts,bsnv->btnv", kept, jnp.repeat(value, 2, axis=2))
    chex.assert_trees_all_close(
        largest_keys_attention(query, key, value, count=7), expected, rtol=1e-4, atol=1e-6
    )


def test_entropy_of_equal_keys_is_their_logarithm():
    query = arrays_of(SHAPES[2])[0]
    mask = padding_mask(SHAPES[2])  # 7 keys and 3
    entropy = attention_entropy(query, jnp.ones((2, 7, 2, 4)), mask)
    np.testing.assert_allclose(entropy[0], np.log(7), rtol=1e-5)
    np.testing.assert_allclose(entropy[1], np.log(3), rtol=1e-5)
    certain = attention_entropy(query, query * 1e4)
    assert jnp.min(certain) >= 0
    assert jnp.all(jnp.isfinite(certain))


def test_singular_values_tell_the_rank():
    query = arrays_of(SHAPES[0])[0]
    values = singular_values(query, jnp.ones((2, 16, 2, 4)))  # every row is uniform: rank one
    np.testing.assert_allclose(values[..., 0], 1.0, rtol=1e-5)
    np.testing.assert_allclose(values[..., 1:], 0.0, atol=1e-6)


def test_the_optimal_clustering_finds_planted_clusters_and_is_never_beaten():
    centres = 4 * jnp.eye(3, 5)
    order = np.random.default_rng(0).permutation(9)
    query, key = centres[order % 3], centres[np.roll(order, 4) % 3]
    clustering, mass = optimal_clustering(query, key, cluster_size=3, scale=1.0)
    of_query = [{int(order[i]) % 3 for i in row} for row in clustering.query_order[0, 0]]
    of_key = [{int(np.roll(order, 4)[j]) % 3 for j in row} for row in clustering.key_order[0, 0]]
    assert of_query == of_key
    assert all(len(group) == 1 for group in of_query)
    assert mass > 0.99

    query, key = (array[0, :, 0] for array in arrays_of((1, 8, 12, 1, 4, 4))[:2])
    clustering, mass = optimal_clustering(query, key, cluster_size=4)
    captured = captured_mass(query[:, None], key[:, None], clustering)
    np.testing.assert_allclose(jnp.mean(captured), mass, rtol=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(200):
        orders = (rng.permutation(n).reshape(1, 1, 2, n // 2).astype(np.int32) for n in (8, 12))
        other = captured_mass(query[:, None], key[:, None], Clustering(*map(jnp.asarray, orders)))
        assert jnp.mean(other) <= mass + 1e-6


@pytest.mark.parametrize(
    ("length", "size", "message"),
    [(8, 3, "cluster_size should divide 8 queries.*cluster_size=3"), (20, 2, "Take fewer queries")],
)
def test_what_cannot_be_enumerated_is_refused(length, size, message):
    with pytest.raises(ValueError, match=message):
        optimal_clustering(jnp.zeros((length, 2)), jnp.zeros((length, 2)), cluster_size=size)
