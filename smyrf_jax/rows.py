"""Rows of tokens: taken in an order, multiplied, averaged; heads repeated."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from smyrf_jax.batching import in_groups, with_merged_batch
from smyrf_jax.chips import row_bytes, source_bytes
from smyrf_jax.floats import float32_at_least
from smyrf_jax.sharding import is_partitioned


def take_rows(tokens: Num[Array, "T *A"] | Bool[Array, "T *A"], order: Int[Array, "*L C"]) -> Array:
    """Rows of tokens [T, ...] in an order; zeros (False) in empty slots."""
    return tokens.at[order].get(mode="fill", fill_value=0)


def take_rows_of_each(
    tokens: Num[Array, "A T W"], order: Int[Array, "A *L C"], *, empty: bool = True
) -> Num[Array, "A *L C W"]:
    """`take_rows` of each of A; on accelerators of so few at a time that their tokens fit vector memory.

    Has no derivative. empty: some slots may be empty.
    """
    if is_partitioned(tokens, order):  # samples and heads stay where they are
        return jax.vmap(take_rows)(tokens, order)
    taken: Array = with_merged_batch(functools.partial(_take_rows_of_each, empty))(tokens, order)
    return taken


def _take_rows_of_each(empty: bool, tokens: Array, order: Array) -> Array:
    """[B, A, T, W], [B, A, ...]."""
    shape = *order.shape, tokens.shape[-1]

    def at_once(tokens: Array, order: Array) -> Array:
        return jax.vmap(jax.vmap(take_rows))(tokens, order)

    def grouped(tokens: Array, order: Array) -> Array:
        length, width = tokens.shape[2:]
        tokens, order = (array.reshape(-1, *array.shape[2:]) for array in (tokens, order))

        def group(tokens: Array, order: Array) -> Array:
            number = jax.lax.broadcasted_iota(jnp.int32, order.shape, 0)
            source, index = tokens.reshape(-1, width), number * length + order
            if empty:
                source = jnp.pad(source, [(0, 8), (0, 0)])
                index = jnp.where(order < length, index, tokens.shape[0] * length)
            return source.at[index].get(mode="promise_in_bounds")

        row = row_bytes(width, tokens.dtype.itemsize)
        found: Array = in_groups(group, tokens.shape[0], source_bytes() // (length * row), tokens, order)
        return found.reshape(shape)

    if 0 in (*tokens.shape, *order.shape):
        return jnp.zeros(shape, tokens.dtype)
    found: Array = jax.lax.platform_dependent(tokens, order, cpu=at_once, default=grouped)
    return found


@jax.custom_vjp
def sums_of_pieces(
    vectors: tuple[Float[Array, "A T _"], ...], order: Int[Array, "A P C"], piece: Int[Array, "A T"]
) -> tuple[Float[Array, "A P _"], ...]:
    """Sums of the vectors of each of P pieces. Its derivative is `of_its_piece`: gathers both, no scatter.

    Args:
        vectors: of T tokens, one or several of each.
        order: the tokens of each piece; T marks an empty slot. A token is in one piece at most.
        piece: of each token, the inverse; -1: none.
    """
    return _side_by_side(lambda rows: jnp.sum(take_rows_of_each(rows, order), axis=-2), vectors)


@jax.custom_vjp
def of_its_piece(
    vectors: tuple[Float[Array, "A P _"], ...], order: Int[Array, "A P C"], piece: Int[Array, "A T"]
) -> tuple[Float[Array, "A T _"], ...]:
    """For each token the vectors of its piece, zeros if it has none. See `sums_of_pieces`."""

    def rows_of(rows: Array) -> Array:
        return take_rows_of_each(rows, jnp.where(piece < 0, rows.shape[1], piece))

    return _side_by_side(rows_of, vectors)


def _side_by_side(function: Callable[[Array], Array], vectors: tuple[Array, ...]) -> tuple[Array, ...]:
    """function of each; on accelerators of all as one: a row costs the same up to 128 numbers."""

    def one_by_one(*vectors: Array) -> tuple[Array, ...]:
        return tuple(map(function, vectors))

    def joined(*vectors: Array) -> tuple[Array, ...]:
        ends = itertools.accumulate(of.shape[-1] for of in vectors)
        found = function(jnp.concatenate(vectors, axis=-1))
        return tuple(jnp.split(found, list(ends)[:-1], axis=-1))

    if len(vectors) == 1:
        return one_by_one(*vectors)
    found: tuple[Array, ...] = jax.lax.platform_dependent(*vectors, cpu=one_by_one, default=joined)
    return found


def _define_derivatives() -> None:
    for function, derivative in ((sums_of_pieces, of_its_piece), (of_its_piece, sums_of_pieces)):

        def forward(vectors: Any, *of: Array, function: Any = function) -> tuple[Any, tuple[Array, ...]]:
            return function(vectors, *of), of

        def backward(of: tuple[Array, ...], to: Any, derivative: Any = derivative) -> tuple[Any, None, None]:
            return derivative(to, *of), None, None

        function.defvjp(forward, backward)


_define_derivatives()


def take_tokens(
    tokens: Num[Array, "T M A"] | Bool[Array, "T M A"], order: Int[Array, "N *L C"]
) -> Num[Array, "N *L C A"] | Bool[Array, "N *L C A"]:
    """For each of N heads the rows of its tokens in an order; zeros (False) in empty slots.

    N / M neighbouring heads share the tokens of one. The tokens are read where they lie.
    """
    slots = order.reshape(tokens.shape[1], math.prod(order.shape) // tokens.shape[1], 1)
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(2,),
        collapsed_slice_dims=(0,),
        start_index_map=(0,),
        operand_batching_dims=(1,),
        start_indices_batching_dims=(0,),
    )
    sizes = (1, 1, tokens.shape[-1])
    rows = jax.lax.gather(tokens, slots, numbers, sizes, mode="fill", fill_value=0)
    return rows.reshape(*order.shape, tokens.shape[-1])


def put_tokens(
    tokens: Num[Array, "T M A"], order: Int[Array, "N *L C"], rows: Num[Array, "N *L C A"]
) -> Num[Array, "T M A"]:
    """The tokens with rows put in their places; the inverse of `take_tokens`. No place may come twice."""
    return _scattered(jax.lax.scatter, tokens, order, rows)


def add_tokens(
    tokens: Num[Array, "T M A"], order: Int[Array, "N *L C"], rows: Num[Array, "N *L C A"]
) -> Num[Array, "T M A"]:
    """The tokens with rows added in their places."""
    return _scattered(jax.lax.scatter_add, tokens, order, rows)


def _scattered(scatter: Callable[..., Array], tokens: Array, order: Array, rows: Array) -> Array:
    heads, width = tokens.shape[1:]
    slots = order.reshape(heads, math.prod(order.shape) // heads, 1)
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(2,),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )
    return scatter(tokens, slots, rows.reshape(*slots.shape[:2], width), numbers, mode="drop")


def repeat_heads(array: Float[Array, "*B S M D"], num_heads: int) -> Float[Array, "*B S N D"]:
    """Each of the M key heads for the N / M query heads that share it."""
    return jnp.repeat(array, num_heads // array.shape[-2], axis=-2)


def kept_tokens(mask: Bool[Array, "*#B #N 1 T"], tokens: Float[Array, "*B T N D"]) -> Bool[Array, "*B N T"]:
    """The mask of these tokens, for each head."""
    return jnp.broadcast_to(mask[..., 0, :], (*tokens.shape[:-3], tokens.shape[-2], tokens.shape[-3]))


def inner_products(first: Float[Array, "*A D"], second: Float[Array, "*A D"], dtype: jnp.dtype) -> Array:
    """first . second along the last axis, [...]."""
    # As a product with ones: XLA's sums along rows took 30 ms and more on CPUs here, instead of 1.
    ones = jnp.ones(first.shape[-1], dtype)
    return jnp.dot(first.astype(dtype) * second.astype(dtype), ones, precision=jax.lax.Precision.HIGHEST)


def masked_mean(vectors: Float[Array, "*A T D"], kept: Bool[Array, "*A T"] | None) -> Float[Array, "*A 1 D"]:
    """The mean over the tokens that are kept (None: all), in float32 at least; zero where none is."""
    vectors = vectors.astype(float32_at_least(vectors.dtype))
    if kept is None:
        return jnp.sum(vectors, axis=-2, keepdims=True) / max(1, vectors.shape[-2])
    count = jnp.sum(kept, axis=-1)[..., None, None].astype(vectors.dtype)
    total = jnp.sum(jnp.where(kept[..., None], vectors, 0), axis=-2, keepdims=True)
    return total / jnp.maximum(count, 1)


def centred(vectors: Float[Array, "*A T D"], kept: Bool[Array, "*A T"] | None) -> Float[Array, "*A T D"]:
    """The vectors without the mean of those that are kept, in float32 at least; zeros for the others."""
    mean = masked_mean(vectors, kept)
    moved = vectors.astype(mean.dtype) - mean
    return moved if kept is None else jnp.where(kept[..., None], moved, 0)


def sorted_along(*arrays: Num[Array, "*A T"], num_keys: int = 1) -> tuple[Array, ...]:
    """Arrays sorted along the last axis by the first num_keys of them, stable. Has no derivative.

    All samples as one matrix: a TPU fills the eight rows of a register with the last axis but one, however
    short that is.
    """

    if is_partitioned(*arrays):  # samples and heads stay where they are
        in_place: Any = jax.lax.sort(arrays, num_keys=num_keys, is_stable=len(arrays) > num_keys)
        return tuple(in_place)

    def of_batch(*arrays: Array) -> tuple[Array, ...]:
        shape = arrays[0].shape
        rows = [array.reshape(math.prod(shape[:-1]), shape[-1]) for array in arrays]
        # One array has no order of equal numbers to keep, and keeping it would cost a second one.
        found = jax.lax.sort(rows, dimension=-1, num_keys=num_keys, is_stable=len(rows) > num_keys)
        return tuple(array.reshape(shape) for array in found)

    found: tuple[Array, ...] = with_merged_batch(of_batch)(*arrays)
    return found
