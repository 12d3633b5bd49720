"""Local windows against a masked softmax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import clustered_attention, local_clustering, smyrf_clustering
from smyrf_jax.clustering.local import kept_in_windows
from tests.smyrf_jax.reference import arrays_of

B, T, N, D = 2, 37, 4, 6


@pytest.mark.parametrize("window", [1, 4, 7])
@pytest.mark.parametrize("masked", [False, True])
def test_local_windows(window, masked):
    query, key, value = arrays_of((B, T, T, N, D, 5))
    clustering = local_clustering((B, N), T, T, window=window)
    distance = jnp.arange(T)[None] - jnp.arange(T)[:, None]
    seen = ((-(window // 2) <= distance) & (distance < (window + 1) // 2))[None, None]
    mask = None
    if masked:
        mask = (jnp.arange(T)[None] + jnp.arange(B)[:, None])[:, None, None] % 5 != 0
        seen = seen & mask
    logits = jnp.einsum("btnd,bsnd->bnts", query, key) / math.sqrt(D)
    weights = jnp.where(seen, jax.nn.softmax(jnp.where(seen, logits, -1e9), axis=-1), 0)
    output = clustered_attention(query, key, value, clustering, mask, window=window)
    np.testing.assert_allclose(output, jnp.einsum("bnts,bsnv->btnv", weights, value), rtol=1e-4, atol=1e-5)


def test_window_of_no_keys():
    with pytest.raises(ValueError, match="window must be positive"):
        local_clustering((B, N), T, T, window=0)


def test_a_window_goes_with_its_own_clusters_alone():
    query, key, value = arrays_of((B, T, T, N, D, 5))
    others = (
        local_clustering((B, N), T, T, window=9),
        smyrf_clustering(query, key, rng=jax.random.key(0), num_hashes=1, cluster_size=T),
    )
    for clustering in others:
        with pytest.raises(ValueError, match="window=5 goes with the clusters of local_clustering alone"):
            clustered_attention(query, key, value, clustering, window=5)


@pytest.mark.parametrize("window", [1, 7, 64, 300])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(200, 200), (200, 150), (30, 90), (1, 1)])
def test_the_mask_of_windows(window, num_queries, num_keys):
    kept = np.random.default_rng(0).random((2, num_keys)) < 0.6
    queries, keys = local_clustering((1,), num_queries, num_keys, window=window)
    found = kept_in_windows(jnp.asarray(kept), *queries.shape[-2:], window=window)
    np.testing.assert_array_equal(found, np.pad(kept, [(0, 0), (0, 1)])[:, np.asarray(keys)[0, 0]])
