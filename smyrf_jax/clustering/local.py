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
    num_clusters, size, slots = local_sizes(num_queries, window)
    first = jnp.arange(num_clusters, dtype=jnp.int32)[:, None] * size
    queries = first + jnp.arange(size, dtype=jnp.int32)[None]
    keys = first - window // 2 + jnp.arange(slots, dtype=jnp.int32)[None]
    queries = jnp.where(queries < num_queries, queries, num_queries)
    keys = jnp.where((keys >= 0) & (keys < num_keys), keys, num_keys)
    return Clustering(*(jnp.broadcast_to(order, (*shape, 1, *order.shape)) for order in (queries, keys)))


def local_sizes(num_queries: int, window: int) -> tuple[int, int, int]:
    """Clusters of `local_clustering`, and slots of queries and of keys that each has."""
    size = min(max(window, 64), max(1, num_queries))
    return max(1, -(-num_queries // size)), size, size + window - 1


def kept_in_windows(
    kept: Bool[Array, "*A S"], num_clusters: int, size: int, *, window: int
) -> Bool[Array, "*A L K"]:
    """Whether the keys of each slot of `local_clustering` are kept. Runs of the mask: nothing is looked up.

    num_clusters: L.
    size: queries a cluster.
    """
    slots = size + window - 1
    before, length = window // 2, kept.shape[-1]
    runs = -(-slots // size)
    after = max(0, (num_clusters + runs - 1) * size - before - length)
    padded = jnp.pad(kept, [(0, 0)] * (kept.ndim - 1) + [(before, after)])
    parts = [
        padded[..., run * size : (run + num_clusters) * size].reshape(*kept.shape[:-1], num_clusters, size)
        for run in range(runs)
    ]
    return jnp.concatenate(parts, axis=-1)[..., :slots]


def local_places(
    length: int, slots: int, num_clusters: int, *, size: int, keys: int, before: int
) -> Int[Array, "P T"]:
    """The slots that each token has in `local_clustering`, of num_clusters * slots, which stands for none.

    Args:
        length: T or S.
        slots: of a cluster, with empty ones at its end.
        num_clusters: L.
        size: queries a cluster.
        keys: tokens a cluster.
        before: how many of them come before the cluster's first query.
    """
    token = jnp.arange(length, dtype=jnp.int32) + before
    found = []
    for earlier in range(-(-keys // max(1, size))):
        cluster = token // max(1, size) - earlier
        slot = token - cluster * size
        there = (cluster >= 0) & (cluster < num_clusters) & (slot < keys)
        found.append(jnp.where(there, cluster * slots + slot, num_clusters * slots))
    return jnp.stack(found)
