"""Clusters of neighbours in the sequence."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from smyrf_jax.checks import check_positive
from smyrf_jax.clustering.clustering import Clustering


def in_window(distance: Int[Array, "*A"], window: int) -> Bool[Array, "*A"]:
    """Whether query i sees key j, for distance j - i: -(window // 2) <= j - i < (window + 1) // 2."""
    return (-(window // 2) <= distance) & (distance < (window + 1) // 2)


def local_clustering(shape: tuple[int, ...], num_queries: int, num_keys: int, *, window: int) -> Clustering:
    """One round in which each query meets the keys of its window, for clustered_attention(window=window).

    Runs of queries share the keys of all their windows, so that a key is in several clusters of the round.

    Args:
        shape: *B and N.
        num_queries: T.
        num_keys: S.
        window: keys that a query sees, in the middle of which is its own place.

    Raises:
        ValueError: window is not positive.
    """
    check_positive(window=window)
    size = min(max(window, 64), max(1, num_queries))
    num_clusters = max(1, -(-num_queries // size))
    first = jnp.arange(num_clusters, dtype=jnp.int32)[:, None] * size
    queries = first + jnp.arange(size, dtype=jnp.int32)[None]
    keys = first - window // 2 + jnp.arange(size + window - 1, dtype=jnp.int32)[None]
    queries = jnp.where(queries < num_queries, queries, num_queries)
    keys = jnp.where((keys >= 0) & (keys < num_keys), keys, num_keys)
    return Clustering(*(jnp.broadcast_to(order, (*shape, 1, *order.shape)) for order in (queries, keys)))
