"""Exact attention in the signature of smyrf_attention: the oracle, and the choice for short sequences."""

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.arguments import check_arguments
from smyrf_jax.merging import finite_min


def dense_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    return_residual: bool = False,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """softmax(scale * q k^T) v over all keys, with T x S logits in memory.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        mask: [*B, 1|N, 1, S], True keeps a key. A row without keys gives zeros.
        rng: taken and not used, so that dense and clustered attention can be exchanged.
        scale: of the logits; None means 1 / sqrt(D).
        is_causal: query i sees key j <= i + S - T only.
        return_residual: return the logsumexp as well.

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also the logsumexp, [*B, T, N], in
        float32 at least, -inf in rows without keys.

    Raises:
        ValueError: shapes do not fit.
    """
    check_arguments(query, key, value, mask)
    del rng
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    key, value = (jnp.repeat(array, query.shape[-2] // key.shape[-2], axis=-2) for array in (key, value))
    logits = scale * jnp.einsum("...tnd,...snd->...nts", query, key, preferred_element_type=dtype)
    keep = jnp.ones((1,) * logits.ndim, bool) if mask is None else mask
    if is_causal:
        num_queries, num_keys = logits.shape[-2:]
        seen = jnp.tri(num_queries, num_keys, num_keys - num_queries, dtype=bool)
        keep = keep & seen.reshape((1,) * (logits.ndim - 2) + seen.shape)
    low = finite_min(dtype)
    logits = jnp.where(keep, logits, low)
    top = jnp.max(logits, axis=-1, keepdims=True, initial=low)
    weights = jnp.where(keep, jnp.exp(logits - top), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    safe = jnp.where(total > 0, total, 1.0)
    output = jnp.einsum(
        "...nts,...snv->...tnv", (weights / safe).astype(value.dtype), value, preferred_element_type=dtype
    ).astype(value.dtype)
    if not return_residual:
        return output
    logsumexp = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)[..., 0]
    return output, jnp.moveaxis(logsumexp, -2, -1)
