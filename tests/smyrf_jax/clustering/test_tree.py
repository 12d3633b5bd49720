"""Trees of clusters: balanced, complete, and better fitted than sorted hashes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Canopy, Smyrf, tree_clustering
from smyrf_jax.diagnostics import captured_mass

SIZES = {"num_trees": 2, "cluster_size": 8}


def vectors(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def build(query, key, mask=None, **changes):
    return jax.jit(lambda *arrays: tree_clustering(*arrays, rng=jax.random.key(1), **(SIZES | changes)))(
        query, key, mask
    )


@pytest.mark.parametrize(
    ("num_queries", "num_keys"), [(64, 64), (37, 41), (90, 20), (8, 8), (3, 50)]
)  # L = 8, 5, 12, 1, 1
def test_each_token_is_in_one_cluster_and_clusters_are_balanced(num_queries, num_keys):
    clustering = build(vectors(2, num_queries, 3, 4), vectors(2, num_keys, 3, 4, seed=1))
    num_clusters = -(-num_queries // 8)
    for order, length in zip(clustering, (num_queries, num_keys), strict=True):
        chex.assert_shape(order, (2, 3, 2, num_clusters, -(-length // num_clusters)))
        rows = np.asarray(order).reshape(12, num_clusters, -1)
        for row in rows:
            assert sorted(row[row < length]) == list(range(length))
            sizes = np.sum(row < length, axis=-1)
            assert sizes.max() - sizes.min() <= 1
        assert np.all(rows <= length)


def test_masked_keys_take_no_slot():
    query, key = vectors(2, 40, 2, 4), vectors(2, 30, 2, 4, seed=1)
    mask = jnp.asarray(np.random.default_rng(0).random((2, 1, 1, 30)) < 0.6).at[1].set(False)
    clustering = build(query, key, mask)
    for row, kept in zip(np.asarray(clustering.key_order), np.asarray(mask), strict=True):
        for order in row.reshape(4, 5, -1):
            assert sorted(order[order < 30]) == list(np.flatnonzero(kept[0, 0]))
            sizes = np.sum(order < 30, axis=-1)
            assert sizes.max() - sizes.min() <= 1
    # What a masked key is does not matter.
    moved = jnp.where(mask[:, 0, 0, :, None, None], key, 1e3)
    chex.assert_trees_all_equal(build(query, moved, mask), clustering)


def test_the_mean_of_the_keys_and_heads_and_samples_do_not_matter():
    query, key = vectors(2, 40, 2, 4), vectors(2, 40, 2, 4, seed=1)
    clustering = build(query, key)
    chex.assert_trees_all_equal(build(query, key + 0.5), clustering)
    one = build(query[1:, :, 1:], key[1:, :, 1:])
    chex.assert_trees_all_equal(one, jax.tree.map(lambda order: order[1:, 1:], clustering))


def test_key_heads_are_shared():
    query, key = vectors(1, 40, 4, 4), vectors(1, 40, 2, 4, seed=1)
    repeated = build(query, jnp.repeat(key, 2, axis=2))
    chex.assert_trees_all_equal(build(query, key), repeated)


def test_a_tree_captures_more_than_sorted_hashes():
    """On queries and keys around shared centres."""
    centres = 3 * vectors(16, 8)
    places = jax.random.randint(jax.random.key(2), (2, 1, 128, 2), 0, 16)
    query, key = (centres[of] + 0.3 * vectors(1, 128, 2, 8, seed=3 + i) for i, of in enumerate(places))
    mass = [
        float(jnp.mean(captured_mass(query, key, method)))
        for method in (Smyrf(2, 8), Canopy(2, 8, means_per_cluster=0))
    ]
    assert mass[1] > mass[0] + 0.1


def test_no_gradient_and_no_nan():
    query = key = jnp.ones((1, 20, 1, 4))  # all alike
    clustering = build(query, key)
    assert sorted(np.asarray(clustering.key_order[0, 0, 0]).ravel()[:21].tolist())[:20] == list(range(20))
    gradient = jax.grad(
        lambda query: jnp.sum(
            captured_mass(query, key, tree_clustering(query, key, rng=jax.random.key(0), **SIZES))
        )
    )(vectors(1, 20, 1, 4))
    chex.assert_tree_all_finite(gradient)


def test_settings_are_checked():
    query = vectors(1, 8, 1, 4)
    with pytest.raises(ValueError, match="cluster_size"):
        build(query, query, cluster_size=0)
