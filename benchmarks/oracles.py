"""The best that attention's weights allow, as if it were found for free: few keys, a low rank, and both."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.dense import dense_weights

# Weights [T, S] from query and key [T, 1, D], a scale and a random key.
Estimate = Callable[[Array, Array, Array, Array], Array]
_OVERSAMPLED, _ROUNDS = 16, 3


def oracle(keys: int, rank: int) -> Estimate:
    """So many of the largest weights of each query, and a matrix of a rank for the rest, by turns.

    With keys alone they are normalised. Source of the turns: GoDec (Zhou, Tao, ICML 2011).
    """

    def estimate(query: Array, key: Array, scale: Array, rng: Array) -> Array:
        weights = dense_weights(query, key, scale=scale)[0]
        if not rank:
            kept = _largest(weights, keys)
            return kept / jnp.sum(kept, axis=1, keepdims=True)
        if not keys:
            return _of_rank(weights, rank, rng)
        low = jnp.zeros_like(weights)
        for rng_round in jax.random.split(rng, _ROUNDS):
            sparse = _largest(weights - low, keys)
            low = _of_rank(weights - sparse, rank, rng_round)
        return _largest(weights - low, keys) + low

    return estimate


def _largest(matrix: Array, count: int) -> Array:
    """The `count` numbers of each row whose size is largest, and zeros."""
    size = jnp.abs(matrix)
    return jnp.where(size >= jax.lax.top_k(size, count)[0][:, -1:], matrix, 0.0)


def _of_rank(matrix: Array, rank: int, rng: Array) -> Array:
    """The nearest matrix of a rank, up to some per cent of its error: subspace iteration."""
    # Products of tiny numbers are denormal, with which CPUs are slow.
    size = jnp.maximum(jnp.max(jnp.abs(matrix)), 1e-30)
    matrix = jnp.where(jnp.abs(matrix) > 1e-7 * size, matrix / size, 0.0)
    basis = matrix @ jax.random.normal(rng, (matrix.shape[1], rank + _OVERSAMPLED))
    for _ in range(2):
        basis = matrix @ (matrix.T @ jnp.linalg.qr(basis)[0])
    basis = jnp.linalg.qr(basis)[0]
    inner = basis.T @ matrix
    left = basis @ jnp.linalg.eigh(inner @ inner.T)[1][:, -rank:]
    return size * (left @ (left.T @ matrix))
