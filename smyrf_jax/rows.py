"""Rows of tokens: taken in an order, multiplied, averaged; heads repeated."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Num


def take_rows(tokens: Num[Array, "T *A"] | Bool[Array, "T *A"], order: Int[Array, "*L C"]) -> Array:
    """Rows of tokens [T, ...] in an order; zeros (False) in empty slots."""
    return tokens.at[order].get(mode="fill", fill_value=0)


def as_rows(array: Array) -> Array:
    """[T, N, ...] as [T * N, ...]."""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def repeat_heads(array: Float[Array, "*B S M D"], num_heads: int) -> Float[Array, "*B S N D"]:
    """Each of the M key heads for the N / M query heads that share it."""
    return jnp.repeat(array, num_heads // array.shape[-2], axis=-2)


def kept_keys(mask: Bool[Array, "*#B #N 1 S"], key: Float[Array, "*B S N D"]) -> Bool[Array, "*B N S"]:
    """The mask of these keys, for each head."""
    return jnp.broadcast_to(mask[..., 0, :], (*key.shape[:-3], key.shape[-2], key.shape[-3]))


def inner_products(first: Float[Array, "*A D"], second: Float[Array, "*A D"], dtype: jnp.dtype) -> Array:
    """first . second along the last axis, [...]."""
    # As a product with ones: XLA's sums along rows took 30 ms and more on CPUs here, instead of 1.
    ones = jnp.ones(first.shape[-1], dtype)
    return jnp.dot(first.astype(dtype) * second.astype(dtype), ones, precision=jax.lax.Precision.HIGHEST)


def masked_mean(vectors: Float[Array, "*A T D"], kept: Bool[Array, "*A T"] | None) -> Float[Array, "*A 1 D"]:
    """The mean over the tokens that are kept (None: all), in float32 at least; zero where none is."""
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    if kept is None:
        return jnp.sum(vectors, axis=-2, keepdims=True) / max(1, vectors.shape[-2])
    count = jnp.sum(kept, axis=-1)[..., None, None].astype(vectors.dtype)
    total = jnp.sum(jnp.where(kept[..., None], vectors, 0), axis=-2, keepdims=True)
    return total / jnp.maximum(count, 1)


def centred(vectors: Float[Array, "*A T D"], kept: Bool[Array, "*A T"] | None) -> Float[Array, "*A T D"]:
    """The vectors without the mean of those that are kept, in float32 at least; zeros for the others."""
    moved = vectors - masked_mean(vectors, kept)
    return moved if kept is None else jnp.where(kept[..., None], moved, 0)
