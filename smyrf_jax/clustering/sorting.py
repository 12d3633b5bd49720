"""Hash values to balanced clusters, by sorting."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

from smyrf_jax.checks import check_positive
from smyrf_jax.clustering.clustering import Clustering
from smyrf_jax.sharding import vary_alike


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
    check_positive(cluster_size=cluster_size)
    return sorted_clusters(query_hash, key_hash, mask, cluster_size)


def sorted_clusters(query_hash: Array, key_hash: Array, mask: Array | None, cluster_size: int) -> Clustering:
    """`sort_clustering`, unchecked."""
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


SIGN = np.uint32(2**31)


def ordered_bits(values: Float[Array, "*A"]) -> UInt32[Array, "*A"]:
    """Integers in the order of float32 numbers; equal for 0 and -0."""
    # Numbers are ordered as their bits are, once those of negative ones are inverted, and the sign of others.
    bits = jax.lax.bitcast_convert_type(values + 0.0, jnp.uint32)
    return jnp.where(bits >= SIGN, ~bits, bits | SIGN)


def ascending(values: Float[Array, "*A T"]) -> Int[Array, "*A T"]:
    """jnp.argsort along the last axis.

    On CPUs XLA sorts one array of integers five times faster than pairs, so value and index go into one.
    """
    index = vary_alike(jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1), values)

    def pairs(values: Array, index: Array) -> Array:
        return jax.lax.sort((values, index), dimension=-1, num_keys=1)[1]

    def packed(values: Array, index: Array) -> Array:
        signed = jax.lax.bitcast_convert_type(ordered_bits(values) ^ SIGN, jnp.int32)
        with jax.enable_x64(True):
            both = jax.lax.shift_left(signed.astype(jnp.int64), jnp.int64(32)) | index.astype(jnp.int64)
            ordered = jax.lax.sort(both, dimension=-1, is_stable=False)
            return jax.lax.bitwise_and(ordered, jnp.int64(2**32 - 1)).astype(jnp.int32)

    if values.dtype != jnp.float32 or values.size == 0:
        return pairs(values, index)
    order: Array = jax.lax.platform_dependent(values, index, cpu=packed, default=pairs)
    return order


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
