"""Local windows against a masked softmax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import clustered_attention, local_clustering
from tests.smyrf_jax.reference import arrays_of

B, T, N, D = 2, 37, 4, 6


@pytest.mark.parametrize("window", [1, 4, 7])
def test_local_windows(window):
    query, key, value = arrays_of((B, T, T, N, D, 5))
    clustering = local_clustering((B, N), T, T, window=window)
    distance = jnp.arange(T)[None] - jnp.arange(T)[:, None]
    inside = (-(window // 2) <= distance) & (distance < (window + 1) // 2)
    logits = jnp.einsum("btnd,bsnd->bnts", query, key) / math.sqrt(D)
    weights = jax.nn.softmax(jnp.where(inside[None, None], logits, -jnp.inf), axis=-1)
    output = clustered_attention(query, key, value, clustering, window=window)
    np.testing.assert_allclose(output, jnp.einsum("bnts,bsnv->btnv", weights, value), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="window must be positive"):
        local_clustering((B, N), T, T, window=0)
