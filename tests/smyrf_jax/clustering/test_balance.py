"""How many clusters padded tokens are spread over, and that each has a slot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax.clustering import smyrf_clustering, tree_clustering
from smyrf_jax.clustering.balance import SLACK, balance_of
from smyrf_jax.clustering.nodes import Nodes
from tests.smyrf_jax.reference import arrays_of


def first(length, *counts):
    return jnp.arange(length)[None, None, None] < jnp.array(counts)[:, None, None, None]


def test_what_is_kept_gets_as_many_clusters_as_it_would_have_alone():
    kept = first(40, 40, 21, 8, 0)
    balance = balance_of((4, 2), 40, 40, kept, kept, 8)
    assert (balance.num_clusters, balance.query_size, balance.key_size) == (5, 8, 8)
    np.testing.assert_array_equal(balance.num_filled, np.repeat([[5], [3], [1], [1]], 2, axis=1))
    whole = balance_of((4, 2), 40, 24, None, None, 8)
    assert whole == (5, 8, 5, None, None, None)


def test_many_keys_for_few_queries_get_more_clusters_and_no_key_is_lost():
    queries, keys = first(80, 80, 5, 1), first(400, 100, 400, 10)
    balance = balance_of((3, 1), 80, 400, keys, queries, 8)
    assert balance.key_size == SLACK * 40
    np.testing.assert_array_equal(balance.num_filled[:, 0], [10, 3, 1])


@pytest.mark.parametrize("cluster", [smyrf_clustering, tree_clustering])
@pytest.mark.parametrize("same", [False, True])
def test_each_token_that_is_kept_has_one_slot_in_the_first_clusters(cluster, same):
    query, key = arrays_of((3, 53, 53, 2, 4, 4))[:2]
    kept = jax.random.bernoulli(
        jax.random.key(1), jnp.array([1.0, 0.6, 0.1])[:, None, None, None], (3, 1, 1, 53)
    )
    query_mask = kept if same else first(53, 53, 30, 1)
    name = "num_hashes" if cluster is smyrf_clustering else "num_trees"
    options = {"rng": jax.random.key(0), name: 2, "cluster_size": 7, "query_mask": query_mask}
    found = cluster(query, key, kept, **options)
    for order, mask in zip(found, (query_mask, kept), strict=True):
        for sample in range(3):
            expected = np.flatnonzero(mask[sample, 0, 0])
            for clusters in np.asarray(order)[sample].reshape(4, *order.shape[-2:]):
                np.testing.assert_array_equal(np.sort(clusters[clusters < 53]), expected)
                sizes = np.sum(clusters < 53, axis=-1)
                filled = np.sum(np.cumsum(sizes[::-1]) > 0) if mask is query_mask else None
                if filled is not None:
                    assert filled <= -(-len(expected) // 7) or not same
                    assert np.ptp(sizes[:filled]) <= 1


def test_nodes_of_fewer_clusters_begin_where_those_of_a_smaller_tree_do():
    for level in range(6):
        found = Nodes(40, jnp.arange(1, 41, dtype=jnp.int32)).clusters(level)
        expected = np.concatenate([Nodes(number, None).clusters(level) for number in range(1, 41)])
        np.testing.assert_array_equal(found, expected)
