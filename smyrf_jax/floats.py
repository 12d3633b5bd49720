"""Limits of floating-point numbers."""

import jax
import jax.numpy as jnp
from jax import Array


def below(products: Array, peak: Array, scale: Array) -> Array:
    """scale * (products - peak), for the largest of the products: 0 where they are it, and never above.

    A compiler that multiplies and subtracts at once, a * b - c, rounds once instead of twice. Then a product
    less itself is not 0, and for logits of 1e9 that makes an exponent of 30. So the largest is taken off
    before the scale is multiplied, and where products are as large they are not subtracted.
    """
    exponent = scale * (products - peak)
    above = jnp.where(products < peak, jnp.maximum(exponent, 0.0), exponent)
    return exponent - jax.lax.stop_gradient(above)


def float32_at_least(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of logits and sums: float32, and float64 for float64."""
    found: jnp.dtype = jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
    return found


def finite_min(dtype: jnp.dtype) -> float:
    """Stands for -inf in logits. Finite: a row without keys would give NaN."""
    return -finite_max(dtype) / 2


def finite_max(dtype: jnp.dtype) -> float:
    """The largest number."""
    return float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]


def smallest_normal(dtype: jnp.dtype) -> float:
    """The smallest positive number of full precision."""
    return float(jnp.finfo(dtype).smallest_normal)  # type: ignore[no-untyped-call]
