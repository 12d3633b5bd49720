"""Exact attention in the signature of smyrf_attention: the oracle, and the choice for short sequences."""

import math

import jax
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
    weights, total, logsumexp = _softmax(query, key, mask, scale, is_causal)
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    output = jnp.einsum(
        "...nts,...snv->...tnv",
        weights.astype(value.dtype),
        value,
        preferred_element_type=weights.dtype,
    )
    output = (output / jnp.moveaxis(total, -3, -2)).astype(value.dtype)
    return (output, logsumexp) if return_residual else output


def dense_weights(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
) -> Float[Array, "*B N T S"]:
    """The weights of dense_attention, softmax(scale * q k^T), [*B, N, T, S]; rows without keys are zero.

    Arguments as in `dense_attention`. Returns float32 at least.
    """
    check_arguments(query, key, key, mask)
    weights, total, _ = _softmax(query, key, mask, scale, is_causal)
    return weights / total


def _softmax(
    query: Array, key: Array, mask: Array | None, scale: float | None, is_causal: bool
) -> tuple[Array, Array, Array]:
    """Weights [*B, N, T, S], their sums [*B, N, T, 1] (1 in rows without keys), and logsumexps [*B, T, N].

    The weights are e^{logits - top} for the largest logit of a row: dividing the output by their sum is
    a pass over T x V numbers, not T x S.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    key = jnp.repeat(key, query.shape[-2] // key.shape[-2], axis=-2)
    logits = scale * jnp.einsum("...tnd,...snd->...nts", query, key, preferred_element_type=dtype)
    keep = mask
    if is_causal:
        num_queries, num_keys = logits.shape[-2:]
        seen = jnp.tri(num_queries, num_keys, num_keys - num_queries, dtype=bool)
        seen = seen.reshape((1,) * (logits.ndim - 2) + seen.shape)
        keep = seen if keep is None else keep & seen
    low = finite_min(dtype)
    if keep is not None:
        logits = jnp.where(keep, logits, low)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=low))
    weights = jnp.exp(logits - top)
    if keep is not None:
        weights = jnp.where(keep, weights, 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    safe = jnp.where(total > 0, total, 1.0)
    logsumexp = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)[..., 0]
    return weights, safe, jnp.moveaxis(logsumexp, -2, -1)
