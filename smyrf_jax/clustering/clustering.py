"""Which tokens share a cluster: what every way to cluster returns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int


class Clustering(NamedTuple):
    """Which tokens share a cluster, in each hash round.

    query_order: [*B, N, R, L, C] int32, the queries of cluster l of round r; T marks an empty slot.
    key_order: [*B, N, R, L, K] int32, the keys of the same cluster; S marks an empty slot. K is ceil(S / L),
        but where queries are padded (C for self-attention).
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
    num_clusters, size = order.shape[-2:]
    clusters = jnp.repeat(jnp.arange(num_clusters, dtype=jnp.int32), size)

    def scatter(row: Array) -> Array:
        return jnp.full(length, -1, jnp.int32).at[row.reshape(clusters.shape)].set(clusters, mode="drop")

    for _ in order.shape[:-2]:
        scatter = jax.vmap(scatter)
    return scatter(order)
