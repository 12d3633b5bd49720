"""The distance identity of the asymmetric transform."""

import jax
import jax.numpy as jnp
import numpy as np

from smyrf_jax import xbox_plus


def test_distances_are_inner_products():
    rngs = jax.random.split(jax.random.key(0))
    query = jax.random.normal(rngs[0], (2, 6, 3, 4))
    key = 3 * jax.random.normal(rngs[1], (2, 5, 3, 4))
    mapped_query, mapped_key = (jnp.moveaxis(x, 2, 1) for x in xbox_plus(query, key))
    distance = jnp.sum((mapped_query[:, :, :, None] - mapped_key[:, :, None]) ** 2, axis=-1)
    radius = sum(jnp.max(jnp.sum(x**2, -1), axis=1) for x in (query, key))  # [B, N]
    inner = jnp.einsum("btnd,bsnd->bnts", query, key)
    np.testing.assert_allclose(distance, 2 * (radius[..., None, None] - inner), rtol=1e-4)
