"""Scatterbrain and Performer as methods: positive random features, with clusters and alone."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.budget import Cost, Problem, clustered_cost, window_cost
from smyrf_jax.checks import check_even, check_positive
from smyrf_jax.clustering.smyrf import smyrf_clusters
from smyrf_jax.far_field import Features, orthogonal_projection
from smyrf_jax.floats import finite_min, float32_at_least
from smyrf_jax.methods.local import neighbours
from smyrf_jax.methods.method import ContentBased, Method, Parts
from smyrf_jax.rows import repeat_heads


@dataclasses.dataclass(frozen=True, repr=False)
class Scatterbrain(ContentBased):
    """Exact inside SMYRF's clusters or a local window, positive random features outside; each key once.

    Unbiased before it is normalised. With a window it may be causal.

    Args:
        num_hashes: R, hash rounds.
        cluster_size: C, queries a cluster.
        num_features: of each query and key; even.
        window: keys of a local window that takes the place of the hashed clusters; None: there is none.
        clusters_see_future: may be causal, though its clusters are cut from all tokens (`ContentBased`).

    Raises:
        ValueError: a number is not positive, or num_features is odd.

    Source: Scatterbrain (arXiv:2110.15343), section 4.
    """

    num_hashes: int = 2
    cluster_size: int = 64
    num_features: int = 64
    window: int | None = None
    clusters_see_future: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_positive(num_hashes=self.num_hashes, cluster_size=self.cluster_size)
        check_even(num_features=self.num_features)
        if self.window is not None:
            check_positive(window=self.window)

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        rng_clusters, rng_features = jax.random.split(rng)
        features = features_of(rng_features, self.num_features, query)
        if self.window is not None:
            return Parts(neighbours(query, key, self.window), features, window=self.window)
        clustering = smyrf_clusters(
            query, key, mask, query_mask, rng_clusters, self.num_hashes, self.cluster_size
        )
        return Parts(clustering, features, complete=True)

    def check_causal(self, num_queries: int) -> None:
        """See `Clustered`. Windows see nothing later."""
        if self.window is None:
            super().check_causal(num_queries)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the clusters, or the window, and the features."""
        if self.window is not None:
            return window_cost(problem, self.window, features=self.num_features)
        return clustered_cost(problem, self.num_hashes, self.cluster_size, features=self.num_features)

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A budget is shared by cluster_size and num_features; beside a window num_features have it."""
        if fields.get("window") is not None:
            return ({"num_features": number} for number in even_numbers(problem.num_keys))
        rounds = fields.get("num_hashes", cls.num_hashes)

        def shared(size: int) -> dict[str, Any]:
            pairs = rounds * problem.clusters(size)[1] * problem.num_queries
            features = pairs // (problem.num_queries + problem.num_keys)
            return {"cluster_size": size, "num_features": max(2, features // 2 * 2)}

        return map(shared, problem.cluster_sizes())


@dataclasses.dataclass(frozen=True)
class Performer(Method):
    """Every pair by positive random features, nothing exactly. May be causal.

    Args:
        num_features: of each query and key; even.

    Raises:
        ValueError: num_features is not positive and even.

    Source: Performer (arXiv:2009.14794), section 2.
    """

    num_features: int = 128

    def __post_init__(self) -> None:
        check_even(num_features=self.num_features)

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
        """See `Method`. Of a masked query nothing depends."""
        key, value = (repeat_heads(array, query.shape[-2]) for array in (key, value))
        features = features_of(rng, self.num_features, query)
        features.check(query.shape[-1], is_causal=is_causal, window=None)
        found = features.estimates(query, key, value, None, mask, scale=scale, is_causal=is_causal)
        logsumexp = found.logsumexp
        logsumexp = jnp.where(logsumexp > finite_min(logsumexp.dtype), logsumexp, -jnp.inf)
        return found.output.astype(value.dtype), logsumexp

    def cost_of(self, problem: Problem) -> Cost:
        """Of the features."""
        features, values = self.num_features, problem.values
        rows = [features, features, values + 1, values + 1], [features, features, values + 1]
        return problem.cost(features * (problem.num_queries + problem.num_keys), 0, *rows)

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A budget decides num_features."""
        return ({"num_features": number} for number in even_numbers(problem.num_keys))


def features_of(rng: Array, num_features: int, query: Array) -> Features:
    """Features of queries like these, drawn by rng."""
    dtype = float32_at_least(query.dtype)
    return Features(orthogonal_projection(rng, num_features // 2, query.shape[-1], dtype))


def even_numbers(largest: int) -> Iterator[int]:
    """From the largest down to 2."""
    return iter(range(max(2, largest // 2 * 2), 1, -2))
