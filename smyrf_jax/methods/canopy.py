"""Canopy: exact inside trees of clusters, means of like keys outside."""

import dataclasses
from typing import Any

from jax import Array

from smyrf_jax.budget import Budget, BudgetError, Cost, Problem, clustered_cost
from smyrf_jax.checks import check_positive, check_power_of_two
from smyrf_jax.clustering.tree import tree_clusters
from smyrf_jax.far_field import Centroids
from smyrf_jax.methods.method import ContentBased, Parts


@dataclasses.dataclass(frozen=True, repr=False)
class Canopy(ContentBased):
    """Attention in which every key counts once: exactly in shared clusters, by a mean elsewhere.

    Clusters come from balanced trees that fit the data (`tree_clustering`), and a key outside counts by the
    mean of its like in its cluster of the first tree (`Centroids`). One tree of larger clusters takes less
    time than several; several are better where attention is peaked. Means mix keys of all positions, so that
    with them it cannot be causal.

    Args:
        num_trees: R, trees.
        cluster_size: C, queries a cluster. There are L = ceil(T / C) clusters of ceil(S / L) keys.
        means_per_cluster: a power of two; 0: what lies outside does not count. They cost
            T * L * means_per_cluster pairs: double it with cluster_size as sequences grow.
        clusters_see_future: may be causal, though its clusters are cut from all tokens (`ContentBased`).

    Raises:
        ValueError: num_trees or cluster_size is not positive, or means_per_cluster is neither 0 nor a power
            of two.
    """

    num_trees: int = 1
    cluster_size: int = 128
    means_per_cluster: int = 8
    clusters_see_future: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_positive(num_trees=self.num_trees, cluster_size=self.cluster_size)
        if self.means_per_cluster != 0:
            try:
                check_power_of_two(means_per_cluster=self.means_per_cluster)
            except ValueError as error:
                raise ValueError(f"{error} (0: what lies outside does not count.)") from None

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        clustering = tree_clusters(query, key, mask, query_mask, rng, self.num_trees, self.cluster_size)
        if not self.means_per_cluster:
            return Parts(clustering, deduplicate=True, complete=True)
        return Parts(clustering, Centroids(self.means_per_cluster), complete=True)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the clusters and the means."""
        return clustered_cost(problem, self.num_trees, self.cluster_size, means=self.means_per_cluster)

    @classmethod
    def within(cls, budget: Budget, problem: Problem, fields: dict[str, Any]) -> "Canopy":
        """See `Method`. Clusters and means share a budget evenly, unless one of them is fixed."""
        if "means_per_cluster" in fields:
            return super().within(budget, problem, fields)
        found: list[Canopy] = []
        refused: BudgetError | None = None
        for power in range(problem.num_keys.bit_length()):
            means = {"means_per_cluster": 2**power}
            try:
                found.append(super().within(budget, problem, fields | means))
            except BudgetError as error:
                refused = refused or error  # of one mean: the least there is

        def unevenness(method: Canopy) -> float:
            of_means = problem.clusters(method.cluster_size)[2] * method.means_per_cluster / problem.num_keys
            return abs(method.cost_of(problem).pairs - 2 * of_means)

        if not found:
            assert refused is not None
            raise refused
        return found[-1] if "cluster_size" in fields else min(found, key=unevenness)
