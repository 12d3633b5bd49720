"""A local window as a method."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jax import Array

from smyrf_jax.budget import Cost, Problem, window_cost
from smyrf_jax.checks import check_positive
from smyrf_jax.clustering import Clustering, local_clustering
from smyrf_jax.dense import attend_one
from smyrf_jax.methods.dense import with_room, with_token
from smyrf_jax.methods.method import Clustered, Parts


def neighbours(query: Array, key: Array, window: int) -> Clustering:
    """Clusters for a local window of these queries and keys [*B, T, N, D]."""
    shape = (*query.shape[:-3], query.shape[-2])
    return local_clustering(shape, query.shape[-3], key.shape[-3], window=window)


@dataclasses.dataclass(frozen=True)
class Local(Clustered):
    """Each query with the keys around its own place; may be causal.

    Args:
        window: query i sees the keys j with -(window // 2) <= j - i < (window + 1) // 2.

    Raises:
        ValueError: window is not positive.
    """

    window: int = 128

    def __post_init__(self) -> None:
        check_positive(window=self.window)

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`. The rng does not matter."""
        return Parts(neighbours(query, key, self.window), window=self.window)

    def prefill_cache(
        self, key: Array, value: Array, *, length: int, scale: float | Array, rng: Array
    ) -> tuple[Array, Array]:
        """The keys and values [*B, W, M, D] of the window's past half: token j lies in slot j mod W.

        W = window // 2 + 1, or length if that is less.
        """
        size = min(length, self.window // 2 + 1)
        return _last(key, size), _last(value, size)

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
        size = state[0].shape[-3]
        keys, values = (with_token(*arrays, place % size) for arrays in zip(state, (key, value), strict=True))
        kept = jnp.arange(size) <= place  # slots are filled in order, and then again
        return attend_one(query, keys, values, kept, scale=scale), (keys, values)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the window."""
        return window_cost(problem, self.window)

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A budget decides window."""
        all_pairs = 2 * max(problem.num_queries, problem.num_keys) - 1
        return ({"window": keys} for keys in range(all_pairs, 0, -1))


def _last(tokens: Array, size: int) -> Array:
    """The last `size` of the tokens [*B, T, M, D], token j in slot j mod size; zeros where there are less."""
    count = tokens.shape[-3]
    if count <= size:
        return with_room(tokens, size)
    return jnp.roll(tokens[..., count - size :, :, :], count % size, axis=-3)
