"""Exact attention as a method."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jax import Array

from smyrf_jax.budget import Cost, Problem
from smyrf_jax.dense import attend_densely
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

    def cost_of(self, problem: Problem) -> Cost:
        """All pairs, and their logits."""
        step = problem.batch * problem.heads * problem.num_queries * problem.num_keys
        return problem.cost(problem.pairs, step)

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """There is nothing to choose."""
        yield {}
