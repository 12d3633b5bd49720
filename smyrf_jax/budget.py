"""What an attention costs, and the hash rounds and cluster size that a budget allows."""

import math
from typing import Any, NamedTuple

import numpy as np

from smyrf_jax.arguments import check_means
from smyrf_jax.steps import LOGITS_A_STEP, QUERIES_A_STEP

# Time of clustered attention on CPUs, forward and backward, in units of a query-key pair of dense attention:
# of a pair in a cluster, and of hashing, sorting, gathering and merging a query or key in a round.
# Measured by benchmarks/speed.py --crossover between 128 and 1024 tokens.
_TIME_OF_A_PAIR = 0.21
_TIME_OF_A_ROW = 27.0


class Cost(NamedTuple):
    """Settings of clustered attention, and what they cost beside dense attention.

    num_hashes: R.
    cluster_size: C.
    pairs: query-key pairs whose logits are computed, as a part of T * S. The papers' "memory".
    memory: bytes of temporary memory, forward and backward.
    memory_of_dense: the same as a part of what dense attention takes.
    means_per_cluster: of the keys outside the clusters; 0 where they do not count.
    """

    num_hashes: int
    cluster_size: int
    pairs: float
    memory: int
    memory_of_dense: float
    means_per_cluster: int = 0

    @property
    def settings(self) -> dict[str, int]:
        """The arguments of smyrf_attention, or with means of canopy_attention."""
        settings = {"num_hashes": self.num_hashes, "cluster_size": self.cluster_size}
        return settings | ({"means_per_cluster": self.means_per_cluster} if self.means_per_cluster else {})

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={number}" for name, number in self.settings.items())
        return (
            f"{settings}: {self.pairs:.2%} of the pairs; "
            f"{self.memory / 1e6:,.1f} MB, {self.memory_of_dense:.2%} of dense attention's memory"
        )


def cost(
    num_queries: int,
    num_keys: int,
    *,
    num_hashes: int,
    cluster_size: int,
    width: int,
    value_width: int | None = None,
    heads: int = 1,
    batch: int = 1,
    dtype: Any = np.float32,
    lanes: int = 1,
    means_per_cluster: int = 0,
) -> Cost:
    """What smyrf_attention costs with given settings, or canopy_attention (with means_per_cluster).

    Memory is counted, not measured: the rows of each token that the backward pass reads and adds up, in
    float32, and two arrays of the logits of a step; of dense attention, two arrays of T x S logits.
    benchmarks/memory.py puts it beside what compilers allocate.

    Args:
        num_queries: T.
        num_keys: S.
        num_hashes: R.
        cluster_size: C.
        width: D.
        value_width: V; None means D.
        heads: N.
        batch: of one device.
        dtype: of query, key and value.
        lanes: the last axis takes the memory of a multiple of so many numbers: 1 on CPUs, 128 on TPUs.
        means_per_cluster: keys outside the clusters count by so many means of each: as many pairs for each
            query, and with several rounds rows of their own. 0: they do not count.

    Returns:
        The cost.

    Raises:
        ValueError: a number is not positive.
    """
    value_width = width if value_width is None else value_width
    numbers = {
        "num_queries": num_queries,
        "num_keys": num_keys,
        "num_hashes": num_hashes,
        "cluster_size": cluster_size,
        "width": width,
        "value_width": value_width,
        "heads": heads,
        "batch": batch,
        "lanes": lanes,
    }
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be positive, got {name}={number}.")
    if means_per_cluster:
        check_means(means_per_cluster)
    cluster_size, keys_a_cluster, num_clusters = _clusters(num_queries, num_keys, cluster_size)
    pairs = num_hashes * num_clusters * cluster_size * keys_a_cluster

    def row(*widths: int, itemsize: int = 4) -> int:
        return sum(-(-width // lanes) * lanes * itemsize for width in widths)

    of_query = row(value_width + 1, value_width + 2, width)
    if means_per_cluster:
        pairs += num_queries * num_clusters * means_per_cluster
        of_query += row(value_width + 1, value_width + 1)
        if num_hashes > 1:
            of_query += row(width, width)
    of_key = row(width + value_width) + row(width + value_width, itemsize=np.dtype(dtype).itemsize)
    if means_per_cluster and num_hashes > 1:
        of_key += row(width, width)
    piece = batch * min(cluster_size, QUERIES_A_STEP) * keys_a_cluster
    step = min(max(LOGITS_A_STEP, piece), batch * heads * num_clusters * cluster_size * keys_a_cluster)
    memory = batch * heads * (num_queries * of_query + num_keys * of_key) + 2 * 4 * step
    dense = 2 * 4 * batch * heads * num_queries * num_keys
    part = pairs / (num_queries * num_keys)
    return Cost(num_hashes, cluster_size, part, memory, memory / dense, means_per_cluster)


def budget(
    num_queries: int,
    num_keys: int,
    *,
    width: int,
    pairs: float | None = None,
    memory: float | None = None,
    num_hashes: int = 4,
    means: bool = False,
    **others: Any,
) -> Cost:
    """The largest clusters whose cost stays within a part of dense attention's.

    With means (canopy_attention; take num_hashes=1) clusters and means share the cost evenly. Give a part
    of dense attention's pairs, of its memory, or both. This operation's memory depends little on its
    settings, so that pairs (time) are what there is to choose; with memory alone, half of the pairs
    are allowed, as with more dense attention is the better choice.

    Args:
        num_queries: T.
        num_keys: S.
        width: D.
        pairs: of T * S, 0 to 1.
        memory: of dense attention's, above 0.
        num_hashes: R.
        means: whether keys outside the clusters count by means; the number of means is chosen too.
        **others: value_width, heads, batch, dtype and lanes, as in `cost`.

    Returns:
        The settings, `num_hashes` and `cluster_size`, with what they cost.

    Raises:
        ValueError: neither or a senseless budget is given, or no settings are within it; the message says
            what the smallest cost.
    """
    if pairs is None and memory is None:
        raise ValueError("Give pairs or memory, as a part of what dense attention takes.")
    for name, part in (("pairs", pairs), ("memory", memory)):
        if part is not None and part <= 0:
            raise ValueError(f"{name} must be positive, got {name}={part}.")
    pairs_allowed = 0.5 if pairs is None else pairs
    memory_allowed = math.inf if memory is None else memory
    if num_hashes < 1:
        raise ValueError(f"num_hashes must be positive, got num_hashes={num_hashes}.")
    tried, within = [], []
    means_tried = [2**power for power in range(num_keys.bit_length())] if means else [0]
    for means_per_cluster in means_tried:
        for num_clusters in range(1, num_queries + 1):
            setting = {
                "cluster_size": -(-num_queries // num_clusters),
                "means_per_cluster": means_per_cluster,
            }
            found = cost(num_queries, num_keys, width=width, num_hashes=num_hashes, **setting, **others)
            tried.append(found)
            if found.pairs <= pairs_allowed and found.memory_of_dense <= memory_allowed:
                within.append(found)
                break
            if num_clusters * means_per_cluster > num_keys:
                break  # as many means as keys

    def of_means(found: Cost) -> float:
        return -(-num_queries // found.cluster_size) * found.means_per_cluster / num_keys

    if within:
        return min(within, key=lambda found: abs(found.pairs - 2 * of_means(found)))
    smallest = min(tried, key=lambda found: found.pairs)
    raise ValueError(
        f"No cluster_size is within pairs={pairs_allowed:.2%} and memory={memory_allowed:.2%} of dense "
        f"attention's with num_hashes={num_hashes}; the least is {smallest}. For sequences this short, "
        "take fewer hash rounds or dense attention."
    )


def dense_is_faster(num_queries: int, num_keys: int, *, num_hashes: int, cluster_size: int) -> bool:
    """Whether dense attention takes less time than clustered attention, by measurements on CPUs."""
    cluster_size, keys_a_cluster, num_clusters = _clusters(num_queries, num_keys, cluster_size)
    pairs = num_clusters * cluster_size * keys_a_cluster
    clustered = num_hashes * (_TIME_OF_A_PAIR * pairs + _TIME_OF_A_ROW * (num_queries + num_keys))
    return num_queries * num_keys <= clustered


def _clusters(num_queries: int, num_keys: int, cluster_size: int) -> tuple[int, int, int]:
    """Queries and keys a cluster, and clusters."""
    cluster_size = max(1, min(cluster_size, num_queries))
    num_clusters = max(1, -(-num_queries // cluster_size))
    return cluster_size, -(-num_keys // num_clusters), num_clusters
