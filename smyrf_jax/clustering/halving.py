"""Halving of many small sets at once: the step that balanced trees are made of."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from smyrf_jax.batching import with_merged_batch
from smyrf_jax.clustering.sets import LEVELS, fits, halved, sets_of
from smyrf_jax.clustering.sorting import SIGN, ordered_bits
from smyrf_jax.floats import float32_at_least
from smyrf_jax.platforms import Call, by_platform, result
from smyrf_jax.rows import sorted_along, take_rows_of_each
from smyrf_jax.sharding import is_partitioned, vary_alike


def halves(
    tokens: Int[Array, "A n m"],
    along: Float[Array, "A n m"],
    first: Int[Array, "A n"],
    *,
    size: int,
    length: int,
) -> Int[Array, "A halves size"]:
    """Cuts each node's tokens in two: those that lie first along a direction, and the others.

    Of equal places the earlier slot comes first; float32 decides. On CPUs the median is found by bisection
    of its bits, counting, which takes about half the time of a sort.

    Args:
        tokens: of n nodes; `length` marks an empty slot, after all others.
        along: where each token lies.
        first: how many tokens the first half of each node gets.
        size: slots of a half, at least as many as it gets tokens.
        length: see tokens.

    Returns:
        The tokens of the children, two of a node side by side; in no particular order.
    """
    if tokens.size == 0:
        return jnp.full((tokens.shape[0], 2 * tokens.shape[1], size), length, jnp.int32)
    count = jnp.sum(tokens < length, axis=-1, dtype=jnp.int32)

    def by_counting(tokens: Array, along: Array, first: Array, count: Array) -> Array:
        return _by_counting(tokens, along, first, size, length)

    def by_sorting(tokens: Array, along: Array, first: Array, count: Array) -> Array:
        return _by_sorting(tokens, along, first, count, size, length)

    arguments = tokens, along.astype(jnp.float32), first, count
    halved: Array = jax.lax.platform_dependent(*arguments, cpu=by_counting, default=by_sorting)
    return halved


def _by_sorting(
    tokens: Array, along: Array, first: Array, count: Array, size: int, length: int
) -> Int[Array, "A halves size"]:
    along = jnp.where(tokens < length, along, jnp.inf)
    # Tokens are carried along: on TPUs to take numbers by their places costs five times as much as a sort.
    tokens = sorted_along(ordered_bits(along), tokens)[1]
    slots = tokens.shape[-1]
    tokens = jnp.pad(tokens, [(0, 0), (0, 0), (0, max(0, 2 * size - slots))], constant_values=length)
    slot = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 2)
    ones = jnp.where(slot < first[..., None], tokens, length)[..., :size]
    others = jnp.where(slot < (count - first)[..., None], _shifted(tokens, first), length)[..., :size]
    return jnp.stack([ones, others], axis=2).reshape(len(tokens), -1, size)


def _shifted(rows: Array, by: Array) -> Array:
    """Rows [A, n, m] moved to the left by [A, n] places, around the end."""
    for bit in range(rows.shape[-1].bit_length()):
        moved = jnp.roll(rows, -(2**bit), axis=-1)
        rows = jnp.where(((by >> bit) & 1 == 1)[..., None], moved, rows)
    return rows


def _by_counting(
    tokens: Array, along: Array, first: Array, size: int, length: int
) -> Int[Array, "A halves size"]:
    filled = tokens < length
    bits = jnp.where(filled, ordered_bits(along), jnp.uint32(2**32 - 1))
    wanted = first[..., None]

    def larger(step: Array, median: Array) -> Array:
        """Sets a bit, from the highest on, if no more than is wanted lies below."""
        raised = median | (SIGN >> step.astype(jnp.uint32))
        below = jnp.sum(bits < raised, axis=-1, keepdims=True, dtype=jnp.int32)
        return jnp.where(below <= wanted, raised, median)

    start = vary_alike(jnp.zeros(wanted.shape, jnp.uint32), bits)
    median = jax.lax.fori_loop(0, 32, larger, start)
    chosen = bits < median
    left = wanted - jnp.sum(chosen, axis=-1, keepdims=True, dtype=jnp.int32)
    alike = bits == median
    chosen |= alike & (jnp.cumsum(alike, axis=-1, dtype=jnp.int32) <= left)
    before = jnp.cumsum(chosen, axis=-1, dtype=jnp.int32)
    slot = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 2)
    node = jax.lax.broadcasted_iota(jnp.int32, tokens.shape[:2], 1)[..., None]
    places = 2 * size * node + jnp.where(chosen, before - 1, size + slot - before)
    places = jnp.where(filled, places, 2 * size * tokens.shape[1]).reshape(len(tokens), -1)

    def placed(places: Array, tokens: Array) -> Array:
        empty = jnp.full(2 * size * node.shape[1], length, jnp.int32)
        return empty.at[places].set(tokens, mode="drop")

    rows = jax.vmap(placed)(places, tokens.reshape(places.shape))
    return rows.reshape(len(tokens), -1, size)


def halve_clusters(
    vectors: Float[Array, "A T D"], order: Int[Array, "A L C"], *, times: int, complete: bool = False
) -> Int[Array, "A pieces size"]:
    """Cuts each cluster into 2^times pieces of like vectors, whose sizes differ by one at most.

    Each piece is halved along its own direction: what one step of power iteration makes of the vector of its
    lowest token (on CPUs of its first, which is the same where the tokens of clusters come in their order).
    No gradient flows through the pieces.

    Args:
        vectors: of all tokens.
        order: of the tokens of L clusters; T marks an empty slot, after all others.
        times: how often.
        complete: every token is in a cluster.

    Returns:
        [A, L * 2^times, ceil(C / 2^times)], the pieces of a cluster side by side.
    """
    vectors = jax.lax.stop_gradient(vectors).astype(float32_at_least(vectors.dtype))
    (clusters, slots), width = order.shape[1:], vectors.shape[-1]
    if (
        is_partitioned(vectors, order)
        or not 0 < times <= LEVELS
        or not fits(width, [slots], [vectors.shape[1]])
    ):
        return _pieces_by_levels(times, complete, vectors, order)
    like = result((len(order), clusters * 2**times, -(-slots // 2**times)), jnp.int32)
    by_levels = Call(_pieces_by_levels, (times, complete))
    by_kernel = Call(pieces_by_kernel, (times, complete))
    pieces: Array = by_platform(like, vectors, order, cpu=by_levels, tpu=by_kernel, default=by_levels)
    return pieces


def _pieces_by_levels(times: int, complete: bool, vectors: Array, order: Array) -> Array:
    length = vectors.shape[1]
    for _ in range(times):
        empty = not complete or order.shape[1] * order.shape[2] != length
        rows = take_rows_of_each(vectors, order, empty=empty)
        count = jnp.sum(order < length, axis=-1, dtype=jnp.int32)
        start: Array = jax.lax.platform_dependent(rows, order, cpu=_first_row, default=_lowest_row)
        direction = power_step(rows, start, count)
        order = halves(
            order,
            jnp.einsum("alcd,ald->alc", rows, direction),
            -(-count // 2),
            size=-(-order.shape[-1] // 2),
            length=length,
        )
    return order


def _first_row(rows: Array, order: Array) -> Array:
    return rows[..., 0, :]


def _lowest_row(rows: Array, order: Array) -> Array:
    """The row of each piece's lowest token: sorting along a direction has moved it."""
    lowest = order == jnp.min(order, axis=-1, keepdims=True)
    return jnp.sum(jnp.where(lowest[..., None], rows, 0), axis=-2)  # empty pieces: rows of zeros


def pieces_by_kernel(
    times: int, complete: bool, vectors: Array, order: Array, *, interpret: bool = False
) -> Int[Array, "A pieces size"]:
    """`halve_clusters` by a TPU kernel: a piece's first vector is that of its lowest token."""
    (clusters, slots), length = order.shape[1:], vectors.shape[1]
    full = complete and clusters * slots == length
    rows = take_rows_of_each(vectors, order, empty=not full)
    counts = [jnp.sum(order < length, axis=-1, dtype=jnp.int32).reshape(-1, 1)]
    for _ in range(times):
        both = jnp.stack([-(-counts[-1] // 2), counts[-1] // 2], axis=-1)
        counts.append(both.reshape(len(both), -1))
    size = -(-slots // 2**times)
    sets = sets_of(
        rows.reshape(-1, slots, rows.shape[-1]),
        order.reshape(-1, slots),
        length,
        jnp.concatenate([of[:, ::2] for of in counts[1:]], axis=1),
        counts[-1],
    )
    halve = functools.partial(
        halved,
        levels=times,
        size=[size],
        spare=[size - slots // 2**times if full else size],
        length=[length],
        interpret=interpret,
    )
    (pieces,) = with_merged_batch(halve, 1)([sets], None)
    return jnp.reshape(pieces, (len(order), -1, size))


def power_step(
    rows: Float[Array, "A n m D"], direction: Float[Array, "A n D"], count: Int[Array, "A n"]
) -> Float[Array, "A n D"]:
    """The second moments of each node's rows times a direction, scaled to a largest entry of about 1.

    Rows that are all alike have none, and rounding decides: any direction is as good then.

    Moments about the mean, (rows - mean)^T (rows - mean) direction, by one product of the rows as they are.

    Args:
        rows: of n nodes; zeros in empty slots.
        direction: of each node.
        count: rows that are not empty.
    """
    # Highest: what is subtracted below may be most of it, and bfloat16 products would leave noise.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    along = product("anmd,and->anm", rows, direction)
    sums = product("ankm,anmd->ankd", jnp.stack([along, jnp.ones_like(along)], axis=-2), rows)
    total = jnp.sum(sums[..., 1, :] * direction, axis=-1, keepdims=True)
    stretched = sums[..., 0, :] - sums[..., 1, :] * (
        total / jnp.maximum(count, 1)[..., None].astype(rows.dtype)
    )
    largest = jnp.max(jnp.abs(stretched), axis=-1, keepdims=True, initial=0)
    return stretched / jnp.where(largest > 0, largest, 1.0)
