"""Hash values to balanced clusters."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from smyrf_jax.arguments import check_arguments, check_settings
from smyrf_jax.hashing import e2lsh, gaussian_directions
from smyrf_jax.transforms import xbox_plus
from smyrf_jax.varying import vary_alike


class Clustering(NamedTuple):
    """Which tokens share a cluster, in each hash round.

    query_order: [*B, N, R, L, C] int32, the queries of cluster l of round r; T marks an empty slot.
    key_order: [*B, N, R, L, ceil(S / L)] int32, the keys of the same cluster; S marks an empty slot.
    """

    query_order: Int[Array, "*B N R L C"]
    key_order: Int[Array, "*B N R L K"]


def smyrf_clustering(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
) -> Clustering:
    """SMYRF's clusters: xbox_plus, e2lsh, sort_clustering. No gradient flows through them.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        mask: [*B, 1|N, 1, S], True keeps a key; masked keys take no slot.
        rng: typed key.
        num_hashes: R.
        cluster_size: C, queries a cluster.

    Returns:
        L = ceil(T / C) clusters of each round.

    Raises:
        ValueError: shapes do not fit, or a setting is not positive.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """
    check_arguments(query, key, key, mask)
    check_settings(num_hashes, cluster_size)
    key = jnp.repeat(key, query.shape[-2] // key.shape[-2], axis=-2)
    mapped = xbox_plus(*jax.lax.stop_gradient((query, key)), mask)
    directions = gaussian_directions(rng, num_hashes, mapped[0].shape[-1], mapped[0].dtype)
    query_hash, key_hash = (e2lsh(vectors, directions) for vectors in mapped)
    return sort_clustering(query_hash, key_hash, mask, cluster_size=cluster_size)


def sort_clustering(
    query_hash: Float[Array, "*B N R T"],
    key_hash: Float[Array, "*B N R S"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    cluster_size: int,
) -> Clustering:
    """Assigns queries and keys to L = ceil(T / cluster_size) equal clusters by sorting hash values.

    Queries and keys are sorted separately; cluster l is the l-th run of the sorted queries with the
    l-th run of the sorted keys. Runs differ in length by one token at most, so that lengths which L
    does not divide are spread over all clusters. Masked keys take no slot.

    Args:
        query_hash: [*B, N, R, T].
        key_hash: [*B, N, R, S].
        mask: [*B, 1|N, 1, S], True keeps a key.
        cluster_size: C, queries a cluster; a cluster holds ceil(S / L) keys.

    Returns:
        The clusters of each round.

    Raises:
        ValueError: cluster_size is not positive.

    Source: SMYRF (arXiv:2010.05315), section 3 (adaptive balanced clusters).
    """
    if cluster_size < 1:
        raise ValueError(f"cluster_size must be positive, got cluster_size={cluster_size}.")
    num_queries, num_keys = query_hash.shape[-1], key_hash.shape[-1]
    # No queries still make one (empty) cluster, so that no shape is zero by accident.
    num_clusters = max(1, -(-num_queries // cluster_size))
    if mask is not None:
        key_hash = jnp.where(mask, key_hash, jnp.inf)
        num_kept = jnp.sum(mask, axis=-1, dtype=jnp.int32)  # [*B, 1|N, 1]
        num_kept = jnp.broadcast_to(num_kept, key_hash.shape[:-1])
    else:
        num_kept = None
    return Clustering(
        _equal_runs(ascending(query_hash), num_clusters, min(cluster_size, num_queries)),
        _equal_runs(ascending(key_hash), num_clusters, -(-num_keys // num_clusters), num_kept),
    )


def local_clustering(shape: tuple[int, ...], num_queries: int, num_keys: int, *, window: int) -> Clustering:
    """One round in which each query meets the keys of its window, for clustered_attention(window=window).

    Runs of queries share the keys of all their windows, so that a key is in several clusters.

    Args:
        shape: *B and N.
        num_queries: T.
        num_keys: S.
        window: keys that a query sees, in the middle of which is its own place.

    Raises:
        ValueError: window is not positive.
    """
    if window < 1:
        raise ValueError(f"window must be positive, got window={window}.")
    size = min(max(window, 64), max(1, num_queries))
    num_clusters = max(1, -(-num_queries // size))
    first = jnp.arange(num_clusters, dtype=jnp.int32)[:, None] * size
    queries = first + jnp.arange(size, dtype=jnp.int32)[None]
    keys = first - window // 2 + jnp.arange(size + window - 1, dtype=jnp.int32)[None]
    queries = jnp.where(queries < num_queries, queries, num_queries)
    keys = jnp.where((keys >= 0) & (keys < num_keys), keys, num_keys)
    return Clustering(*(jnp.broadcast_to(order, (*shape, 1, *order.shape)) for order in (queries, keys)))


def ascending(values: Float[Array, "*A T"]) -> Int[Array, "*A T"]:
    """jnp.argsort along the last axis.

    On CPUs XLA sorts one array of integers five times faster than pairs, so value and index go into
    one: float32 numbers are ordered as their bits are, once those of negative numbers are inverted.
    """
    index = vary_alike(jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1), values)

    def pairs(values: Array, index: Array) -> Array:
        return jax.lax.sort((values, index), dimension=-1, num_keys=1)[1]

    def packed(values: Array, index: Array) -> Array:
        # Adding zero turns -0 into 0, which pairs holds equal.
        bits = jax.lax.bitcast_convert_type(values + 0.0, jnp.int32)
        bits = jnp.where(bits < 0, bits ^ jnp.int32(2**31 - 1), bits)
        with jax.enable_x64(True):
            both = jax.lax.shift_left(bits.astype(jnp.int64), jnp.int64(32)) | index.astype(jnp.int64)
            ordered = jax.lax.sort(both, dimension=-1, is_stable=False)
            return jax.lax.bitwise_and(ordered, jnp.int64(2**32 - 1)).astype(jnp.int32)

    if values.dtype != jnp.float32 or values.size == 0:
        return pairs(values, index)
    return jax.lax.platform_dependent(values, index, cpu=packed, default=pairs)


def _equal_runs(
    order: Int[Array, "*A T"],
    num_clusters: int,
    size: int,
    num_kept: Int[Array, "*A"] | None = None,
) -> Int[Array, "*A L C"]:
    """Cuts the first num_kept (all, if None) of `order` into runs whose lengths differ by one at most."""
    length, order = order.shape[-1], order.astype(jnp.int32)
    if length == 0 or (num_kept is None and length == num_clusters * size):
        return order.reshape(*order.shape[:-1], num_clusters, size)
    if num_kept is None:
        num_kept = jnp.full(order.shape[:-1], length, jnp.int32)
    shape = (*num_kept.shape, num_clusters)
    share, extra = jnp.divmod(num_kept[..., None], num_clusters)
    cluster = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    start = cluster * share + jnp.minimum(cluster, extra)
    run = share + (cluster < extra)
    slot = jax.lax.broadcasted_iota(jnp.int32, (*shape, size), len(shape))
    places = (start[..., None] + slot).reshape(*num_kept.shape, num_clusters * size)
    tokens = jnp.take_along_axis(order, places, axis=-1, mode="clip").reshape(slot.shape)
    return jnp.where(slot < run[..., None], tokens, length)


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
