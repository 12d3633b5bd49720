"""Exact attention as a method."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.budget import Cost, Problem
from smyrf_jax.dense import attend_densely, attend_one
from smyrf_jax.methods.method import Method


@dataclasses.dataclass(frozen=True)
class Dense(Method):
    """softmax(scale * q k^T) v over all keys, with T x S logits in memory: exact."""

    def attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        *,
        rng: Array,
        scale: float | Array,
        is_causal: bool,
        query_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """See `Method`. The rng does not matter."""
        return attend_densely(query, key, value, mask, scale=scale, is_causal=is_causal)

    def prefill_cache(
        self, key: Array, value: Array, *, length: int, scale: float | Array, rng: Array
    ) -> tuple[Array, Array]:
        """All keys and values, [*B, length, M, D] and [*B, length, M, V]."""
        return with_room(key, length), with_room(value, length)

    def decode_step(
        self,
        query: Array,
        key: Array,
        value: Array,
        state: tuple[Array, Array],
        *,
        place: Array,
        scale: float | Array,
        rng: Array,
    ) -> tuple[Array, tuple[Array, Array]]:
        """See `Method`."""
        keys, values = (with_token(*arrays, place) for arrays in zip(state, (key, value), strict=True))
        kept = jnp.arange(keys.shape[-3]) <= place
        return attend_one(query, keys, values, kept, scale=scale), (keys, values)

    def cost_of(self, problem: Problem) -> Cost:
        """All pairs, and their logits."""
        step = problem.batch * problem.heads * problem.num_queries * problem.num_keys
        return problem.cost(problem.pairs, step)

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """There is nothing to choose."""
        yield {}


def with_room(tokens: Array, length: int) -> Array:
    """Tokens [*B, T, M, D] with zeros behind them: [*B, length, M, D]."""
    widths = [(0, 0)] * tokens.ndim
    widths[-3] = (0, length - tokens.shape[-3])
    return jnp.pad(tokens, widths)


def with_token(tokens: Array, token: Array, place: Array) -> Array:
    """Tokens [*B, T, M, D] with one [*B, 1, M, D] at a place."""
    return jax.lax.dynamic_update_slice_in_dim(tokens, token.astype(tokens.dtype), place, tokens.ndim - 3)
