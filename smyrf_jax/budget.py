"""What an attention costs, counted, and the settings that a budget allows."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from smyrf_jax.blockwise.schedule import LOGITS_A_STEP, fewest_queries
from smyrf_jax.checks import check_positive

# Time of clustered attention, forward and backward, in units of a query-key pair of dense attention by XLA:
# of a pair in a cluster, and of hashing, sorting, gathering and merging a query or key in a round. On CPUs
# measured by benchmarks/speed.py --crossover between 128 and 1,024 tokens; on TPUs by benchmarks/tpu.py, from
# the compiler's schedule for v5e: pairs are so cheap in kernels that gathered rows are all that counts.
TIMES = {"cpu": (0.21, 27.0), "tpu": (0.0, 250.0)}


class Cost(NamedTuple):
    """What an attention costs beside dense attention.

    Attributes:
        pairs: query-key pairs, as a part of T * S: the papers' "memory". Of clusters all that are computed,
            of a local window those inside it (up to three times as many are computed). A mean counts as a
            key, a feature of a query or of a key as a pair. Of causal attention a part of the pairs j <= i:
            of clusters as many are hidden as of all pairs.
        memory: bytes of temporary memory, forward and backward, counted and not measured.
        memory_of_dense: the same as a part of what dense attention takes.
    """

    pairs: float
    memory: int
    memory_of_dense: float

    def __str__(self) -> str:
        return (
            f"{self.pairs:.2%} of the pairs; {self.memory / 1e6:,.1f} MB, "
            f"{self.memory_of_dense:.2%} of dense attention's memory"
        )


@dataclasses.dataclass(frozen=True)
class Problem:
    """The sizes of an attention.

    Args:
        num_queries, num_keys: T, S.
        width, value_width: D, V; None means D.
        heads: N.
        batch: of one device.
        dtype: of query, key and value.
        lanes: the last axis takes the memory of a multiple of so many numbers: 1 on CPUs, 128 on TPUs.
        is_causal: query i sees key j <= i only.

    Raises:
        ValueError: a number is not positive.
    """

    num_queries: int
    num_keys: int
    width: int = 64
    value_width: int | None = None
    heads: int = 1
    batch: int = 1
    dtype: Any = np.float32
    lanes: int = 1
    is_causal: bool = False

    def __post_init__(self) -> None:
        numbers = {name: number for name, number in vars(self).items() if name not in ("dtype", "is_causal")}
        check_positive(**(numbers | {"value_width": self.values}))

    @property
    def values(self) -> int:
        """V."""
        return self.width if self.value_width is None else self.value_width

    @property
    def pairs(self) -> int:
        """Of dense attention."""
        return self.seen(self.num_keys) if self.is_causal else self.num_queries * self.num_keys

    def seen(self, keys: int) -> int:
        """The pairs of causal attention to the last `keys` keys, a query's own included."""
        keys = min(keys, self.num_keys)
        rising = min(keys, self.num_queries)
        return rising * (rising + 1) // 2 + (self.num_queries - rising) * keys

    def clusters(self, cluster_size: int) -> tuple[int, int, int]:
        """Queries and keys a cluster, and clusters."""
        size = min(cluster_size, self.num_queries)
        num_clusters = -(-self.num_queries // size)
        return size, -(-self.num_keys // num_clusters), num_clusters

    def cluster_sizes(self) -> Iterator[int]:
        """All sizes that differ in their number of clusters, from the largest down."""
        found = 0
        for num_clusters in range(1, self.num_queries + 1):
            size = -(-self.num_queries // num_clusters)
            if size != found:
                found = size
                yield size

    def cost(
        self,
        pairs: int | float,
        step: int,
        of_query: Sequence[int] = (),
        of_key: Sequence[int] = (),
    ) -> Cost:
        """What `pairs` in all cost, of one head and sample.

        The memory: the rows of each token that the backward pass reads and adds up, in float32, and two
        arrays of the logits of a step. Of dense attention, two arrays of T x S logits. benchmarks/memory.py
        puts it beside what compilers allocate.

        step: logits of a step, of all heads and samples.
        of_query, of_key: widths of the rows of a query, and of a key.
        """
        rows = self.num_queries * self.row(*of_query) + self.num_keys * self.row(*of_key)
        if of_key:  # gathered keys and values lie beside the sums of their gradients
            rows += self.num_keys * self.row(self.width + self.values, itemsize=np.dtype(self.dtype).itemsize)
        memory = self.batch * self.heads * rows + 2 * 4 * step
        dense = 2 * 4 * self.batch * self.heads * self.num_queries * self.num_keys
        return Cost(pairs / self.pairs, memory, memory / dense)

    def row(self, *widths: int, itemsize: int = 4) -> int:
        """Bytes of rows of these widths."""
        return sum(-(-width // self.lanes) * self.lanes * itemsize for width in widths)

    def step(self, size: int, keys: int, num_clusters: int) -> int:
        """Logits of a step of the loop over clusters of `size` queries and `keys` keys."""
        piece = self.batch * min(size, fewest_queries(keys)) * keys
        return min(max(LOGITS_A_STEP, piece), self.batch * self.heads * num_clusters * size * keys)


M = TypeVar("M")


class BudgetError(ValueError):
    """No settings are within a budget."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """A part of dense attention's pairs, of its memory, or both.

    This operation's memory depends little on its settings, so that pairs (time) are what there is to choose;
    with memory alone, half of the pairs are allowed, as with more dense attention is the better choice.

    Raises:
        ValueError: neither is given, or one is not above 0.
    """

    pairs: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        if self.pairs is None and self.memory is None:
            raise ValueError("Give pairs or memory, as a part of what dense attention takes.")
        for name, part in vars(self).items():
            if part is not None and not part > 0:
                raise ValueError(f"{name} must be positive, got {name}={part}.")

    def allows(self, cost: Cost) -> bool:
        """Whether the cost is within."""
        pairs = 0.5 if self.pairs is None else self.pairs
        memory = math.inf if self.memory is None else self.memory
        return cost.pairs <= pairs and cost.memory_of_dense <= memory

    def _size(self, cost: Cost) -> float:
        """What is budgeted."""
        return cost.memory_of_dense if self.pairs is None else cost.pairs

    def first(self, methods: Iterable[M], cost_of: Callable[[M], Cost]) -> M:
        """The first of the methods whose cost is within.

        Raises:
            BudgetError: none is; the message says what the least costs.
        """
        least: tuple[Cost, M] | None = None
        for method in methods:
            cost = cost_of(method)
            if self.allows(cost):
                return method
            if least is None or self._size(cost) < self._size(least[0]):
                least = cost, method
        assert least is not None
        parts = [f"{name}={part:.2%}" for name, part in vars(self).items() if part is not None]
        raise BudgetError(
            f"No settings are within {' and '.join(parts)} of dense attention's; the least is "
            f"{least[1]}: {least[0]}. Allow more, fix other fields, or take Dense()."
        )


def clustered_cost(
    problem: Problem, rounds: int, cluster_size: int, *, means: int = 0, features: int = 0
) -> Cost:
    """What clusters cost, with means a cluster or features of each token outside."""
    size, keys, num_clusters = problem.clusters(cluster_size)
    width, values = problem.width, problem.values
    pairs: int | float = rounds * num_clusters * size * keys
    pairs *= problem.pairs / (problem.num_queries * problem.num_keys)
    of_query, of_key = [values + 1, values + 2, width], [width + values]
    if means or features:  # an output and a logsumexp to begin with, and their gradients
        of_query += [values + 1, values + 1]
    if means:
        pairs += problem.num_queries * num_clusters * means
        if rounds > 1:  # the estimate of a pair wants the query again and the key's mean, and their gradients
            of_query += [width, width]
            of_key += [width, width]
    if features:
        pairs += features * (problem.num_queries + problem.num_keys)
        of_query += [features, features, 1, 1]
        of_key += [features, features]
    return problem.cost(pairs, problem.step(size, keys, num_clusters), of_query, of_key)


def window_cost(problem: Problem, window: int, *, features: int = 0) -> Cost:
    """What local windows cost, with features outside. Pairs that a window hides do not count."""
    size = min(max(window, 64), problem.num_queries)
    count = clustered_cost(problem, 1, size, features=features)
    pairs = problem.num_queries * min(window, problem.num_keys)
    if problem.is_causal:
        pairs = problem.seen(window // 2 + 1)
    pairs += features * (problem.num_queries + problem.num_keys)
    return count._replace(pairs=pairs / problem.pairs)


def dense_is_faster(
    num_queries: int, num_keys: int, *, num_hashes: int, cluster_size: int, platform: str = "cpu"
) -> bool:
    """Whether dense attention takes less time than SMYRF's, by what was measured: see `TIMES`."""
    if not num_queries or not num_keys:
        return True
    size, keys, num_clusters = Problem(num_queries, num_keys).clusters(cluster_size)
    of_pair, of_row = TIMES[platform]
    clustered = of_pair * num_clusters * size * keys + of_row * (num_queries + num_keys)
    return num_queries * num_keys <= num_hashes * clustered
