"""Orders are permutations, clusters are balanced, masked keys take no slot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import cluster_of_tokens, sort_clustering
from smyrf_jax.clustering.sorting import _equal_runs


@pytest.mark.parametrize(
    ("num_queries", "num_keys", "cluster_size"),
    [(16, 16, 4), (16, 4, 4), (13, 7, 4), (7, 13, 3), (5, 5, 9), (3, 1, 1), (0, 4, 4), (4, 0, 2)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_every_token_has_one_slot_and_clusters_are_balanced(num_queries, num_keys, cluster_size, masked):
    rngs = jax.random.split(jax.random.key(0), 3)
    query_hash = jax.random.normal(rngs[0], (2, 3, 2, num_queries))
    key_hash = jax.random.normal(rngs[1], (2, 3, 2, num_keys))
    mask = jax.random.bernoulli(rngs[2], 0.6, (2, 1, 1, num_keys)) if masked else None
    sort = jax.jit(functools.partial(sort_clustering, cluster_size=cluster_size))
    clustering = sort(query_hash, key_hash, mask)
    num_clusters = max(1, -(-num_queries // cluster_size))
    assert clustering.query_order.shape[-2] == clustering.key_order.shape[-2] == num_clusters
    assert clustering.key_order.shape[-1] == -(-num_keys // num_clusters)
    for sample in range(2):
        kept = np.arange(num_keys) if mask is None else np.flatnonzero(mask[sample, 0, 0])
        check_rows(clustering.query_order[sample], query_hash[sample], np.arange(num_queries))
        check_rows(clustering.key_order[sample], key_hash[sample], kept)


def check_rows(orders, hashes, kept):
    length = hashes.shape[-1]
    clusters = cluster_of_tokens(orders, length)
    for rows in np.ndindex(hashes.shape[:-1]):
        order, row, cluster = (np.asarray(array)[rows] for array in (orders, hashes, clusters))
        tokens = [[token for token in run if token != length] for run in order.tolist()]
        assert sorted(sum(tokens, [])) == kept.tolist()
        sizes = [len(run) for run in tokens]
        assert max(sizes) - min(sizes) <= 1
        values = row[sum(tokens, [])]
        assert np.all(np.diff(values) >= 0)
        for index, run in enumerate(tokens):
            assert np.all(cluster[run] == index)
        assert np.all(cluster[np.setdiff1d(np.arange(length), kept)] == -1)


def test_a_cluster_size_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="cluster_size=0"):
        sort_clustering(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1, 4)), cluster_size=0)


def test_equal_and_infinite_hashes_are_sorted_as_argsort_does():
    hashes = jnp.asarray([[[0.0, -0.0, jnp.inf, -1e-40, 3.0, -jnp.inf, 3.0, -2.5]]])
    expected = np.argsort(np.where(np.abs(hashes) < 1e-38, 0, hashes), axis=-1, kind="stable")
    clustering = sort_clustering(hashes, hashes, cluster_size=2)
    for order in clustering:
        np.testing.assert_array_equal(order.reshape(1, 1, 8), expected)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("length", "clusters", "size"), [(37, 5, 8), (64, 4, 16), (1, 1, 8), (90, 7, 16)])
def test_runs_are_the_same_where_places_are_found_by_sorting(length, clusters, size, counted, monkeypatch):
    """As accelerators find them."""
    rng = np.random.default_rng(0)
    order = jnp.asarray(rng.permuted(np.tile(np.arange(length), (3, 2, 2, 1)), axis=-1))
    filled = jnp.asarray(rng.integers(1, clusters + 1, (3, 2))) if counted else None
    kept = (
        None
        if filled is None
        else jnp.minimum(jnp.asarray(rng.integers(0, length + 1, (3, 2))), filled * size)
    )
    expected = _equal_runs(order, clusters, size, kept, filled)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *of, cpu, default: default(*of))
    np.testing.assert_array_equal(_equal_runs(order, clusters, size, kept, filled), expected)
