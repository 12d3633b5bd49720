"""SMYRF as a method."""

import dataclasses

from jax import Array

from smyrf_jax.budget import Cost, Problem, clustered_cost
from smyrf_jax.checks import check_positive
from smyrf_jax.clustering.smyrf import smyrf_clusters
from smyrf_jax.methods.method import ContentBased, Parts


@dataclasses.dataclass(frozen=True, repr=False)
class Smyrf(ContentBased):
    """Attention inside clusters of sorted asymmetric hashes; what lies outside does not count.

    With a cluster_size of T or more there is one cluster, and the result is dense attention for any rng.

    Args:
        num_hashes: R, hash rounds.
        cluster_size: C, queries a cluster. There are L = ceil(T / C) clusters of ceil(S / L) keys.
        deduplicate: each key counts once, in however many rounds it is met.
        clusters_see_future: may be causal, though its clusters are cut from all tokens (`ContentBased`).

    Raises:
        ValueError: num_hashes or cluster_size is not positive.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """

    num_hashes: int = 4
    cluster_size: int = 64
    deduplicate: bool = False
    clusters_see_future: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_positive(num_hashes=self.num_hashes, cluster_size=self.cluster_size)

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        clustering = smyrf_clusters(query, key, mask, query_mask, rng, self.num_hashes, self.cluster_size)
        return Parts(clustering, deduplicate=self.deduplicate, complete=True)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the clusters."""
        return clustered_cost(problem, self.num_hashes, self.cluster_size)
