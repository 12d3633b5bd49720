"""What every estimate of what lies outside the clusters has in common."""

import abc
from typing import Any

from jax import Array

from smyrf_jax.blockwise import Estimates
from smyrf_jax.clustering import Clustering


class FarField(abc.ABC):
    """A way to estimate the weights of pairs that share no cluster.

    It says how, and holds no queries, clusters, mask or scale: `clustered_attention` hands its own to it,
    so that they cannot be others.
    """

    @abc.abstractmethod
    def check(self, width: int, *, is_causal: bool, window: int | None) -> None:
        """Raises ValueError unless it can estimate what such an attention leaves out. width: D."""

    @abc.abstractmethod
    def estimates(
        self,
        query: Array,
        key: Array,
        value: Array,
        clustering: Clustering,
        mask: Array | None,
        *,
        scale: Any,
        is_causal: bool,
        complete: bool = False,
        every_token: bool = False,
    ) -> Estimates:
        """The estimates of all pairs: [*B, T, N, D], [*B, S, N, D], [*B, S, N, V], as many key heads.

        The scale is not negative, and keys and values are zero where they are masked.

        clustering: with the slots of masked keys empty. complete: no key that is kept is in no cluster of the
        first round, and empty slots come last. every_token: all queries and keys are in a cluster of each
        round.
        """
