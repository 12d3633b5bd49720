"""Exact attention: the oracle, and the choice for short sequences."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from smyrf_jax.checks import (
    check_arguments,
    empty_attention,
    is_empty,
    scale_of,
    with_positive_scale,
)
from smyrf_jax.floats import below, finite_min, float32_at_least
from smyrf_jax.padding import without_masked
from smyrf_jax.rows import repeat_heads


def dense_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | Array | None = None,
    is_causal: bool = False,
    return_residual: bool = False,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """softmax(scale * q k^T) v over all keys, with T x S logits in memory.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        mask: [*B, 1|N, 1, S], True keeps a key. A row without keys gives zeros.
        scale: of the logits, one number, which may be traced; None means 1 / sqrt(D).
        is_causal: query i sees key j <= i only, as in jax.nn.
        return_residual: return the logsumexp as well.

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also the logsumexp, [*B, T, N], in
        float32 at least, -inf in rows without keys.

    Raises:
        ValueError: shapes do not fit.
    """
    check_arguments(query, key, value, mask)
    query, scale = with_positive_scale(query, scale_of(scale, query.shape[-1]))
    query, key, value = without_masked(query, key, value, mask)
    output, logsumexp = attend_densely(query, key, value, mask, scale=scale, is_causal=is_causal)
    return (output, logsumexp) if return_residual else output


def attend_densely(
    query: Array, key: Array, value: Array, mask: Array | None, *, scale: float | Array, is_causal: bool
) -> tuple[Array, Array]:
    """`dense_attention`, unchecked: output and logsumexp.

    Keys and values are zero where they are masked, and the scale is not negative.
    """
    if is_empty(query, key):
        return empty_attention(query, value)
    weights, total, logsumexp = _softmax(query, key, mask, scale, is_causal)
    output = jnp.einsum(
        "...nts,...snv->...tnv",
        weights.astype(value.dtype),
        repeat_heads(value, query.shape[-2]),
        preferred_element_type=weights.dtype,
    )
    return (output / jnp.moveaxis(total, -3, -2)).astype(value.dtype), logsumexp


def dense_weights(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | Array | None = None,
    is_causal: bool = False,
) -> Float[Array, "*B N T S"]:
    """The weights of dense_attention, softmax(scale * q k^T), [*B, N, T, S]; rows without keys are zero.

    Arguments as in `dense_attention`. Returns float32 at least.
    """
    check_arguments(query, key, key, mask)
    query, scale = with_positive_scale(query, scale_of(scale, query.shape[-1]))
    query, key, _ = without_masked(query, key, key, mask)
    weights, total, _ = _softmax(query, key, mask, scale, is_causal)
    return weights / total


def _softmax(
    query: Array, key: Array, mask: Array | None, scale: float | Array, is_causal: bool
) -> tuple[Array, Array, Array]:
    """Weights [*B, N, T, S], their sums [*B, N, T, 1] (1 in rows without keys), and logsumexps [*B, T, N].

    The weights are e^{logits - top} for the largest logit of a row: dividing the output by their sum is
    a pass over T x V numbers, not T x S.
    """
    dtype = float32_at_least(query.dtype)
    key, scale = repeat_heads(key, query.shape[-2]), jnp.asarray(scale, dtype)
    products = jnp.einsum("...tnd,...snd->...nts", query, key, preferred_element_type=dtype)
    keep = mask
    if is_causal:
        num_queries, num_keys = products.shape[-2:]
        seen = jnp.tri(num_queries, num_keys, dtype=bool)
        seen = seen.reshape((1,) * (products.ndim - 2) + seen.shape)
        keep = seen if keep is None else keep & seen
    low = finite_min(dtype)
    if keep is not None:
        products = jnp.where(keep, products, low)
    peak = jax.lax.stop_gradient(jnp.max(products, axis=-1, keepdims=True, initial=low))
    weights = jnp.exp(below(products, peak, scale))
    if keep is not None:
        weights = jnp.where(keep, weights, 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    safe = jnp.where(total > 0, total, 1.0)
    logsumexp = jnp.where(total > 0, scale * peak + jnp.log(safe), -jnp.inf)[..., 0]
    return weights, safe, jnp.moveaxis(logsumexp, -2, -1)


def attend_one(query: Array, key: Array, value: Array, kept: Array, *, scale: float | Array) -> Array:
    """Attention [*B, 1, N, V] of one query [*B, 1, N, D] to the keys [*B, S, M, D] that are kept [S].

    Heads that share keys are queries of one head here, so that no key is repeated.
    """
    heads, shared = query.shape[-2], key.shape[-2]
    together = query.reshape(*query.shape[:-3], shared, heads // shared, query.shape[-1])
    mask = kept.reshape((1,) * (query.ndim - 1) + kept.shape)
    output, _ = attend_densely(jnp.swapaxes(together, -3, -2), key, value, mask, scale=scale, is_causal=False)
    return jnp.swapaxes(output, -3, -2).reshape(*query.shape[:-1], value.shape[-1])
