"""Rows of tokens: taken in an order, multiplied, averaged; heads repeated."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from smyrf_jax.floats import float32_at_least


def take_rows(tokens: Num[Array, "T *A"] | Bool[Array, "T *A"], order: Int[Array, "*L C"]) -> Array:
    """Rows of tokens [T, ...] in an order; zeros (False) in empty slots."""
    return tokens.at[order].get(mode="fill", fill_value=0)


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
