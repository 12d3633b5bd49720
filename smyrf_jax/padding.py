"""What is padding: masks of lengths, and arrays without what masks hide."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from smyrf_jax.checks import check_lengths
from smyrf_jax.rows import repeat_heads


def mask_of_lengths(name: str, lengths: Any, array: Float[Array, "*B T N D"]) -> Bool[Array, "*B 1 1 T"]:
    """True at the tokens of `array` before each of the lengths. Raises ValueError unless these are [*B]."""
    lengths = jnp.asarray(lengths)
    check_lengths(name, lengths, array.shape[:-3])
    shape = (*array.shape[:-3], 1, 1, array.shape[-3])
    positions = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    before: Array = positions < lengths.astype(jnp.int32)[..., None, None, None]
    return before


def both(first: Array | None, second: Array | None) -> Array | None:
    """What both masks keep; None keeps all."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def of_tokens(mask: Bool[Array, "*#B #N 1 T"]) -> Bool[Array, "*#B T #N 1"]:
    """A mask as it lies beside queries, keys or values [*B, T, N, D]."""
    return jnp.moveaxis(mask, -1, -3)


def without_masked(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None,
    query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
) -> tuple[Array, Array, Array]:
    """Query, key and value with zeros where they are masked.

    No garbage there, a NaN even, reaches an output or a gradient: 0 * NaN is NaN, so that a weight of zero is
    not enough. Where heads that share keys have masks of their own, each gets keys of its own.
    """
    if query_mask is not None:
        query = jnp.where(of_tokens(query_mask), query, jnp.zeros((), query.dtype))
    if mask is not None:
        if mask.shape[-3] != 1:
            key, value = (repeat_heads(array, query.shape[-2]) for array in (key, value))
        kept = of_tokens(mask)
        key, value = (jnp.where(kept, array, jnp.zeros((), array.dtype)) for array in (key, value))
    return query, key, value
