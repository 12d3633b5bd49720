"""Asymmetric maps of queries and keys that turn large inner products into small distances."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from smyrf_jax.floats import float32_at_least


def xbox_plus(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S N D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
) -> tuple[Float[Array, "*B T N D+2"], Float[Array, "*B S N D+2"]]:
    """Maps queries and keys to one sphere, on which the nearest key has the largest inner product.

    F(q) = [q; 0; sqrt(M_Q^2 + M_K^2 - |q|^2)] and G(k) = [k; sqrt(M_Q^2 + M_K^2 - |k|^2); 0], so that
    |F(q) - G(k)|^2 = 2 (M_Q^2 + M_K^2 - q.k). M_Q and M_K are the largest norms in one (batch, head) row.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, N, D].
        mask: [*B, 1|N, 1, S], True keeps a key. A key that is masked has no part in M_K.

    Returns:
        F(query) [*B, T, N, D + 2] and G(key) [*B, S, N, D + 2], in float32 at least.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """
    dtype = float32_at_least(query.dtype)
    query, key = query.astype(dtype), key.astype(dtype)
    query_norm = jnp.sum(query**2, axis=-1, keepdims=True)
    key_norm = jnp.sum(key**2, axis=-1, keepdims=True)
    if mask is not None:
        key_norm = jnp.where(jnp.moveaxis(mask, -1, -3), key_norm, 0.0)
    radius = jnp.max(query_norm, axis=-3, keepdims=True, initial=0.0)
    radius += jnp.max(key_norm, axis=-3, keepdims=True, initial=0.0)
    # The clip covers masked keys, which may be longer than M_K, and rounding.
    query_rest = jnp.sqrt(jnp.maximum(radius - query_norm, 0.0))
    key_rest = jnp.sqrt(jnp.maximum(radius - key_norm, 0.0))
    mapped_query = jnp.concatenate([query, jnp.zeros_like(query_rest), query_rest], axis=-1)
    mapped_key = jnp.concatenate([key, key_rest, jnp.zeros_like(key_rest)], axis=-1)
    return mapped_query, mapped_key
