"""Means of clusters: keys that are in no cluster, and keys that are in several."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Centroids, cluster_of_tokens, clustered_attention, local_clustering
from smyrf_jax.diagnostics import shared_cluster
from smyrf_jax.methods import Routing
from tests.smyrf_jax.far_field.problem import B, D, N, S, T, arrays, cluster, some_keys

pytestmark = pytest.mark.usefixtures("float64")


def left_out(rounds):
    """Clusters of 5 x 8 slots in which the keys past 30 are in none; and past 20 in the first round."""
    query, key, _ = arrays()
    clustering = cluster(query, key, rounds=rounds)
    limit = jnp.where(jnp.arange(rounds) < 1, 20, 30)[None, None, :, None, None]
    order = jnp.sort(jnp.where(clustering.key_order < limit, clustering.key_order, S), axis=-1)
    return clustering._replace(key_order=order)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_keys_in_no_cluster_count_once_by_their_mean(rounds, masked):
    query, key, value = arrays()
    mask = some_keys() if masked else None
    clustering = left_out(rounds)
    found = clustered_attention(
        query, key, value, clustering, mask, far_field=Centroids(1), return_residual=True
    )
    kept = jnp.ones((B, N, S), bool) if mask is None else jnp.broadcast_to(mask[:, :, 0], (B, N, S))
    of_key = cluster_of_tokens(clustering.key_order[:, :, 0], S)
    # Those in none, and five clusters.
    own = (of_key[..., None] == jnp.arange(-1, 5)[None, None, None]) & kept[..., None]
    count = jnp.maximum(jnp.sum(own, axis=2), 1)[..., None]
    mean = jnp.einsum("bnsl,bsnd->bnld", own, key) / count
    logits = jnp.einsum("btnd,bnld->bntl", query, mean) / math.sqrt(D)
    estimate = jnp.exp(jnp.take_along_axis(logits, (of_key + 1)[:, :, None, :], axis=-1))
    exact = jnp.exp(jnp.einsum("btnd,bsnd->bnts", query, key) / math.sqrt(D))
    weights = kept[:, :, None] * jnp.where(shared_cluster(clustering, T, S), exact, estimate)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    expected = jnp.einsum("bnts,bsnv->btnv", weights / total, value)
    np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found[1], jnp.moveaxis(jnp.log(total[..., 0]), 1, 2), rtol=1e-9)


def test_clusters_of_routing_count_every_key_once():
    query, key, value = arrays()
    clustering = Routing(8).clustering(query, key)
    none = 0 * query  # each weight is one
    _, logsumexp = clustered_attention(
        none, key, value, clustering, far_field=Centroids(), return_residual=True
    )
    np.testing.assert_allclose(logsumexp, math.log(S), rtol=1e-9)


@pytest.mark.parametrize("num_keys", [S, 90])
def test_keys_that_clusters_share_count_once(num_keys):
    query, key, value = arrays(num_keys)
    none = 0 * query  # each weight is one
    clustering = cluster(query, key)
    keys = clustering.key_order
    doubled = clustering._replace(key_order=jnp.concatenate([keys, jnp.roll(keys, 1, axis=-2)], axis=-1))
    for shared in (local_clustering((B, N), T, num_keys, window=5), doubled):
        for far in (Centroids(), None):
            _, logsumexp = clustered_attention(
                none, key, value, shared, far_field=far, deduplicate=True, return_residual=True
            )
            if far is not None:
                np.testing.assert_allclose(logsumexp, math.log(num_keys), rtol=1e-9)
    assert jnp.max(logsumexp) <= math.log(num_keys) + 1e-9
