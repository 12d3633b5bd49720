"""Random features against their closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import orthogonal_projection
from smyrf_jax.far_field import positive_features

D = 6


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_features_are_unbiased_with_the_variance_of_the_closed_form():
    x, y = (0.5 * jnp.asarray(np.random.default_rng(7).normal(size=D)) for _ in range(2))
    x = x.at[0].add(0.4)
    rows, draws = 4, 40_000
    gaussian = jax.random.normal(jax.random.key(3), (draws, rows, D), jnp.float64)

    def estimate(projection):
        (fx, sx), (fy, sy) = (positive_features(vector, projection) for vector in (x, y))
        return jnp.sum(fx * fy) * jnp.exp(sx + sy)

    found = np.asarray(jax.vmap(estimate)(gaussian))
    kernel = float(jnp.exp(x @ y))
    # A row gives e^{-(|x|^2+|y|^2)/2} cosh(w.z) with z = x + y; E cosh^2(w.z) = (1 + e^{2|z|^2}) / 2.
    z = float(jnp.sum((x + y) ** 2))
    factor = math.exp(-float(x @ x + y @ y))
    variance = (factor * (1 + math.exp(2 * z)) / 2 - kernel**2) / rows
    np.testing.assert_allclose(found.mean(), kernel, atol=4 * math.sqrt(variance / draws))
    np.testing.assert_allclose(found.var(), variance, rtol=0.1)


def test_an_orthogonal_projection_is_gaussian_row_by_row():
    draws = jax.vmap(lambda rng: orthogonal_projection(rng, 7, 4))(jax.random.split(jax.random.key(0), 4000))
    assert draws.shape == (4000, 7, 4)
    inner = np.einsum("bid,bjd->bij", draws, draws)
    np.testing.assert_allclose(inner[:, 0, 1:4], 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(inner[:, range(7), range(7)]), 4, rtol=0.02)
    np.testing.assert_allclose(np.mean(np.asarray(draws) ** 2, axis=(0, 1)), 1, rtol=0.05)
