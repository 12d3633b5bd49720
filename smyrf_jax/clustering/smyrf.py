"""SMYRF's clusters: the paper's links in one call."""

import jax
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.checks import check_arguments, check_positive
from smyrf_jax.clustering.balance import balance_of
from smyrf_jax.clustering.clustering import Clustering
from smyrf_jax.clustering.hashing import e2lsh, gaussian_directions
from smyrf_jax.clustering.sorting import sorted_clusters
from smyrf_jax.clustering.transforms import xbox_plus
from smyrf_jax.padding import without_masked
from smyrf_jax.rows import repeat_heads


def smyrf_clustering(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
    query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
) -> Clustering:
    """SMYRF's clusters: xbox_plus, e2lsh, sort_clustering. No gradient flows through them.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        mask: [*B, 1|N, 1, S], True keeps a key; masked keys take no slot.
        rng: typed key.
        num_hashes: R.
        cluster_size: C, queries a cluster.
        query_mask: [*B, 1|N, 1, T], True keeps a query; others take no slot. Where it is the same array as
            mask, clusters have fewer key slots.

    Returns:
        L = ceil(T / C) clusters of each round.

    Raises:
        ValueError: shapes do not fit, or a setting is not positive.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """
    check_arguments(query, key, key, mask, query_mask)
    check_positive(num_hashes=num_hashes, cluster_size=cluster_size)
    query, key, _ = without_masked(query, key, key, mask, query_mask)
    key = repeat_heads(key, query.shape[-2])
    return smyrf_clusters(query, key, mask, query_mask, rng, num_hashes, cluster_size)


def smyrf_clusters(
    query: Array,
    key: Array,
    mask: Array | None,
    query_mask: Array | None,
    rng: Array,
    num_hashes: int,
    cluster_size: int,
) -> Clustering:
    """`smyrf_clustering`, unchecked, of as many key heads as query heads, zero where they are masked."""
    shape = (*query.shape[:-3], query.shape[-2])
    balance = balance_of(shape, query.shape[-3], key.shape[-3], mask, query_mask, cluster_size)
    mapped = xbox_plus(*jax.lax.stop_gradient((query, key)), mask)
    directions = gaussian_directions(rng, num_hashes, mapped[0].shape[-1], mapped[0].dtype)
    query_hash, key_hash = (e2lsh(vectors, directions) for vectors in mapped)
    return sorted_clusters(query_hash, key_hash, mask, query_mask, balance)
