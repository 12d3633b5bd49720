"""How many clusters tokens are spread over, and how many slots a cluster has."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

# Key slots of a cluster, in parts of what it would have without padding, where keys are not padded as queries
# are: a sample with more keys a query than this gets more clusters than it would alone.
SLACK = 4


class Balance(NamedTuple):
    """Clusters of equal sizes.

    num_clusters: L.
    query_size, key_size: slots of a cluster.
    num_queries, num_keys: [*B, N] int32, tokens that are kept; None: all.
    num_filled: [*B, N] int32, clusters that have tokens, the first ones; None: all.
    """

    num_clusters: int
    query_size: int
    key_size: int
    num_queries: Array | None
    num_keys: Array | None
    num_filled: Array | None


def balance_of(
    shape: tuple[int, ...],
    num_queries: int,
    num_keys: int,
    mask: Bool[Array, "*#B #N 1 S"] | None,
    query_mask: Bool[Array, "*#B #N 1 T"] | None,
    cluster_size: int,
) -> Balance:
    """ceil(T / C) clusters of what is kept, for T kept queries: as many as the sample would have alone.

    Where query_mask is the same array as mask, as in self-attention, a cluster has at most C keys. Elsewhere
    there is no such bound: a cluster has room for SLACK times what it needs without padding, and what has
    more keys than fit is spread over more clusters.

    Args:
        shape: *B and N.
        num_queries: T.
        num_keys: S.
        mask: True keeps a key.
        query_mask: True keeps a query.
        cluster_size: C.
    """
    # No queries still make one (empty) cluster, so that no shape is zero by accident.
    num_clusters = max(1, -(-num_queries // cluster_size))
    query_size, key_size = min(cluster_size, num_queries), -(-num_keys // num_clusters)
    kept_keys = None if mask is None else _count(mask, shape)
    if query_mask is None:
        return Balance(num_clusters, query_size, key_size, None, kept_keys, None)
    key_size = query_size if query_mask is mask else min(num_keys, SLACK * max(cluster_size, key_size))
    kept_queries = _count(query_mask, shape)
    num_filled = jnp.maximum(1, -(-kept_queries // cluster_size))
    if query_mask is not mask and key_size:
        num_filled = jnp.maximum(num_filled, -(-(num_keys if kept_keys is None else kept_keys) // key_size))
    return Balance(num_clusters, query_size, key_size, kept_queries, kept_keys, num_filled)


def _count(mask: Array, shape: tuple[int, ...]) -> Int[Array, "*B N"]:
    return jnp.broadcast_to(jnp.sum(mask[..., 0, :], axis=-1, dtype=jnp.int32), shape)
