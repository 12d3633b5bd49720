"""Hash values to balanced clusters, by sorting."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

from smyrf_jax.checks import check_positive
from smyrf_jax.clustering.balance import Balance, balance_of
from smyrf_jax.clustering.clustering import Clustering
from smyrf_jax.rows import sorted_along
from smyrf_jax.sharding import is_partitioned, vary_alike


def sort_clustering(
    query_hash: Float[Array, "*B N R T"],
    key_hash: Float[Array, "*B N R S"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    cluster_size: int,
    query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
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
        query_mask: [*B, 1|N, 1, T], True keeps a query.

    Returns:
        The clusters of each round.

    Raises:
        ValueError: cluster_size is not positive.

    Source: SMYRF (arXiv:2010.05315), section 3 (adaptive balanced clusters).
    """
    check_positive(cluster_size=cluster_size)
    shape, lengths = query_hash.shape[:-2], (query_hash.shape[-1], key_hash.shape[-1])
    balance = balance_of(shape, *lengths, mask, query_mask, cluster_size)
    return sorted_clusters(query_hash, key_hash, mask, query_mask, balance)


def sorted_clusters(
    query_hash: Array, key_hash: Array, mask: Array | None, query_mask: Array | None, balance: Balance
) -> Clustering:
    """`sort_clustering`, unchecked, into clusters of a balance."""

    def runs(hashes: Array, kept: Array | None, size: int, count: Array | None) -> Array:
        if kept is not None:
            hashes = jnp.where(kept, hashes, jnp.array(jnp.inf, hashes.dtype))
        return _equal_runs(ascending(hashes), balance.num_clusters, size, count, balance.num_filled)

    return Clustering(
        runs(query_hash, query_mask, balance.query_size, balance.num_queries),
        runs(key_hash, mask, balance.key_size, balance.num_keys),
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
        # Comparing integers costs a TPU half of what comparing floats does.
        bits = ordered_bits(values) if values.dtype == jnp.float32 else values
        return sorted_along(bits, index)[1]

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
    order: Int[Array, "*B N R T"],
    num_clusters: int,
    size: int,
    num_kept: Int[Array, "*B N"] | None,
    num_filled: Int[Array, "*B N"] | None,
) -> Int[Array, "*B N R L C"]:
    """Cuts the first num_kept (all, if None) of `order` into runs whose lengths differ by one at most.

    There are num_filled runs (num_clusters, if None); those after them are empty.
    """
    length, order = order.shape[-1], order.astype(jnp.int32)
    if length == 0 or (num_kept is None and num_filled is None and length == num_clusters * size):
        return order.reshape(*order.shape[:-1], num_clusters, size)

    def of_round(count: Array | None, otherwise: int) -> Array:
        return jnp.full((1,) * order.ndim, otherwise, jnp.int32) if count is None else count[..., None, None]

    filled = of_round(num_filled, num_clusters)
    share, extra = jnp.divmod(of_round(num_kept, length), filled)
    clusters = (1,) * (order.ndim - 1) + (num_clusters,)
    cluster = jax.lax.broadcasted_iota(jnp.int32, clusters, len(clusters) - 1)
    start = cluster * share + jnp.minimum(cluster, extra)
    run = jnp.where(cluster < filled, share + (cluster < extra).astype(jnp.int32), 0)
    shape = (*order.shape[:-1], num_clusters, size)
    slot = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    there = slot < run[..., None]

    def by_places(order: Array) -> Array:
        places = (start[..., None] + slot).reshape(*order.shape[:-1], num_clusters * size)
        tokens = jnp.take_along_axis(order, places, axis=-1, mode="clip").reshape(shape)
        return jnp.where(there, tokens, length)

    def by_sorting(order: Array) -> Array:
        # A TPU takes numbers from places one by one, at seventy cycles each. Sorted by the slot that each of
        # them has, together with the slots that nobody has, they fall into place.
        number = jax.lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1)
        longer = extra * (share + 1)  # numbers in runs that are longer by one
        of_longer = jnp.divmod(number, share + 1)
        of_other = jnp.divmod(number - longer, jnp.maximum(share, 1))
        its = jnp.where(number < longer, of_longer[0], extra + of_other[0])
        its_slot = its * size + jnp.where(number < longer, of_longer[1], of_other[1])
        none = num_clusters * size
        its_slot = jnp.where(number < longer + (filled - extra) * share, its_slot, none)
        every = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 2) * size + slot
        empty = jnp.where(there, none, every).reshape(*order.shape[:-1], none)
        slots = jnp.concatenate([its_slot, empty], axis=-1)
        tokens = jnp.concatenate([order, jnp.full_like(empty, length)], axis=-1)
        return sorted_along(slots, tokens, num_keys=2)[1][..., :none].reshape(shape)

    if is_partitioned(order):
        return by_places(order)
    tokens: Array = jax.lax.platform_dependent(order, cpu=by_places, default=by_sorting)
    return tokens
