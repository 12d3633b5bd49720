"""Exact attention in the signature of smyrf_attention: the oracle, and the choice for short sequences."""

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.attention import check_arguments, finite_min


def dense_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S N D"],
    value: Float[Array, "*B S N V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""] | None = None,
    scale: float | None = None,
) -> Float[Array, "*B T N V"]:
    """softmax(scale * q k^T) v over all keys, with T x S logits in memory.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, N, D].
        value: [*B, S, N, V].
        mask: [*B, 1|N, 1, S], True keeps a key. A row without keys gives zeros.
        rng: taken and not used, so that dense and clustered attention can be exchanged.
        scale: of the logits; None means 1 / sqrt(D).

    Returns:
        [*B, T, N, V] in the dtype of value.

    Raises:
        ValueError: shapes do not fit.
    """
    check_arguments(query, key, value, mask)
    del rng
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    logits = scale * jnp.einsum("...tnd,...snd->...nts", query, key, preferred_element_type=dtype)
    keep = jnp.ones((1,) * logits.ndim, bool) if mask is None else mask
    logits = jnp.where(keep, logits, finite_min(dtype))
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True, initial=finite_min(dtype)))
    weights = jnp.where(keep, weights, 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights /= jnp.where(total > 0, total, 1.0)
    output = jnp.einsum(
        "...nts,...snv->...tnv", weights.astype(value.dtype), value, preferred_element_type=dtype
    )
    return output.astype(value.dtype)
