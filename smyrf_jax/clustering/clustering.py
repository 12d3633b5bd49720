"""Which tokens share a cluster: what every way to cluster returns."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from smyrf_jax.rows import sorted_along


class Clustering(NamedTuple):
    """Which tokens share a cluster, in each hash round.

    A query is in one cluster of a round at most, and so is a key but in `local_clustering`, whose clusters
    share keys and hold more than ceil(S / L).

    Attributes:
        query_order: [*B, N, R, L, C] int32, the queries of cluster l of round r; T marks an empty slot.
        key_order: [*B, N, R, L, K] int32, the keys of the same cluster; S marks an empty slot. K is
            ceil(S / L), but where queries are padded (C for self-attention).
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
    return cluster_of_places(places_of(order, length), order)


def cluster_of_places(places: Int[Array, "*A T"], order: Int[Array, "*A L C"]) -> Int[Array, "*A T"]:
    """`cluster_of_tokens` from `places_of`."""
    num_clusters, size = order.shape[-2:]
    return jnp.where(places < num_clusters * size, places // max(1, size), -1)


def places_of(order: Int[Array, "*A L C"], length: int, *, complete: bool = False) -> Int[Array, "*A T"]:
    """The slot that each token is in, of all L * C slots of a round.

    By sorting: on TPUs a scatter costs as much as sorting seventy times as many numbers. CPUs scatter.

    Args:
        order: [..., L, C] token indices; `length` marks an empty slot. A token has one slot at most.
        length: T or S.
        complete: every token has a slot.

    Returns:
        [..., length] int32, and L * C for a token that has no slot.
    """
    slots = order.shape[-2] * order.shape[-1]
    order = order.reshape(*order.shape[:-2], slots)
    if not length or not slots or order.size == 0:
        return jnp.full((*order.shape[:-1], length), slots, jnp.int32)

    def by_scatter(order: Array) -> Array:
        def scatter(row: Array) -> Array:
            return (
                jnp.full(length, slots, jnp.int32)
                .at[row]
                .set(jnp.arange(slots, dtype=jnp.int32), mode="drop")
            )

        for _ in order.shape[:-1]:
            scatter = jax.vmap(scatter)
        return scatter(order)

    by_sorts = functools.partial(places_by_sorting, length=length, complete=complete)
    places: Array = jax.lax.platform_dependent(order, cpu=by_scatter, default=by_sorts)
    return places


def places_by_sorting(order: Int[Array, "*A Q"], length: int, complete: bool) -> Int[Array, "*A T"]:
    """`places_of` of [..., L * C] slots."""
    slots = order.shape[-1]
    slot = jax.lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1)
    if complete:
        return _sorted_pairs(order, slot, slots, length)[1][..., :length]
    # Every token once more, in a slot after all others; of a token's slots the first one counts.
    shape = (*order.shape[:-1], length)
    every = jax.lax.broadcasted_iota(jnp.int32, shape, order.ndim - 1)
    tokens = jnp.concatenate([order, every], axis=-1)
    slot = jnp.concatenate([slot, jnp.full_like(every, slots)], axis=-1)
    tokens, slot = _sorted_pairs(tokens, slot, slots, length)
    return _sorted_pairs(_first_of_each(tokens, length), slot, slots, length)[1][..., :length]


def first_slots(order: Int[Array, "*A Q"], length: int) -> Int[Array, "*A Q"]:
    """The order with each token in the first of its slots alone; `length` marks an empty slot."""
    slots = order.shape[-1]
    if not slots or order.size == 0:
        return order
    slot = jax.lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1)
    tokens, slot = _sorted_pairs(order, slot, slots, length)
    return _sorted_pairs(slot, _first_of_each(tokens, length), length, slots)[1]


def _first_of_each(tokens: Array, length: int) -> Array:
    """Sorted tokens, with `length` in place of those that are like the one before."""
    before = jnp.pad(tokens[..., :-1], [(0, 0)] * (tokens.ndim - 1) + [(1, 0)], constant_values=-1)
    return jnp.where(tokens != before, tokens, length)


def _sorted_pairs(tokens: Array, slot: Array, slots: int, length: int) -> tuple[Array, Array]:
    """Tokens 0 .. length and slots 0 .. slots, sorted by both: as one number, if it has room for them."""
    bits = slots.bit_length()
    if (length + 1) << bits <= 2**32:
        both = (tokens.astype(jnp.uint32) << bits) | slot.astype(jnp.uint32)
        (both,) = sorted_along(both)
        return (both >> bits).astype(jnp.int32), (both & (2**bits - 1)).astype(jnp.int32)
    tokens, slot = sorted_along(tokens, slot, num_keys=2)
    return tokens, slot
