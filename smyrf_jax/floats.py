"""Limits of floating-point numbers."""

import jax.numpy as jnp


def finite_min(dtype: jnp.dtype) -> float:
    """Stands for -inf in logits. Finite: a row without keys would give NaN."""
    return -finite_max(dtype) / 2


def finite_max(dtype: jnp.dtype) -> float:
    """The largest number."""
    return float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]


def smallest_normal(dtype: jnp.dtype) -> float:
    """The smallest positive number of full precision."""
    return float(jnp.finfo(dtype).smallest_normal)  # type: ignore[no-untyped-call]
