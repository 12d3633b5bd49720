"""What estimates outside the clusters are tried on."""

import jax
import jax.numpy as jnp
import numpy as np

from smyrf_jax import tree_clustering

B, T, S, N, D, V = 2, 37, 41, 4, 6, 5


def arrays(num_keys=S, key_heads=N):
    rng = np.random.default_rng(0)
    shapes = (B, T, N, D), (B, num_keys, key_heads, D), (B, num_keys, key_heads, V)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def some_keys(num_keys=S):
    return jnp.asarray(np.random.default_rng(1).random((B, 1, 1, num_keys)) < 0.7)


def cluster(query, key, mask=None, rounds=3):
    return tree_clustering(query, key, mask, rng=jax.random.key(0), num_trees=rounds, cluster_size=8)
