"""Which tokens share a cluster: what every way to cluster returns."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int


class Clustering(NamedTuple):
    """Which tokens share a cluster, in each hash round.

    query_order: [*B, N, R, L, C] int32, the queries of cluster l of round r; T marks an empty slot.
    key_order: [*B, N, R, L, ceil(S / L)] int32, the keys of the same cluster; S marks an empty slot.
    A query is in one cluster of a round at most, and so is a key but in `local_clustering`, whose clusters
    share keys and hold more than ceil(S / L).
    """

    query_order: Int[Array, "*B N R L C"]
    key_order: Int[Array, "*B N R L K"]


def cluster_of_tokens(order: Int[Array, "*A L C"], length: int) -> Int[Array, "*A T"]:
    """The cluster that each token is in: the inverse of an order.

    Args:
        order: [..., L, C] token indices, as in `Clustering`; `length` marks an empty slot.
        length: T or S.

    Returns:
        [..., length] int32, and -1 for a token that is in no cluster.
    """
    batch, (num_clusters, size) = order.shape[:-2], order.shape[-2:]
    clusters = jnp.repeat(jnp.arange(num_clusters, dtype=jnp.int32), size)

    def scatter(row: Array) -> Array:
        return jnp.full(length, -1, jnp.int32).at[row].set(clusters, mode="drop")

    rows = jax.vmap(scatter)(order.reshape(math.prod(batch), num_clusters * size))
    return rows.reshape(*batch, length)
