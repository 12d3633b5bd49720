"""What the loop over clusters is given."""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax import Array

from smyrf_jax.clustering import Clustering


class Rules(NamedTuple):
    """Which logits count, and how much: what is known before the loop is traced.

    is_causal: query i sees keys up to i only.
    deduplicate: pairs that met in an earlier round are left out.
    samples: how many are mapped over; they share a step's logits.
    window: query i sees the keys j with -(window // 2) <= j - i < (window + 1) // 2 only.
    """

    is_causal: bool = False
    deduplicate: bool = False
    samples: int = 1
    window: int | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimates:
    """Estimates of every pair's weight, for the pairs that share no cluster.

    The weight of query i and key j is e^(offset_i + key_offset_j + query_i . key_j), or
    e^(offset_i + key_offset_j) * (query_i . key_j) where the estimate is linear.

    output: [*B, T, N, V], logsumexp: [*B, T, N]: attention with the estimates of all keys, float32 at least.
    query: [*B, T, N, F], key: [*B, S, N, F], offset: [*B, T, N], key_offset: [*B, S, N], or None for zeros:
        what the estimate of one pair is made of.
    linear: see above.
    met: of the attention's rounds, the first ones whose pairs output and logsumexp leave out. Where those are
        all, they are None.
    """

    output: Any
    logsumexp: Any
    query: Any
    key: Any
    offset: Any
    key_offset: Any = None
    linear: bool = dataclasses.field(default=False, metadata={"static": True})
    met: int = dataclasses.field(default=0, metadata={"static": True})


class Inputs(NamedTuple):
    """What the loop reads, of one sample.

    query: [T, N, D], key: [S, M, D], value: [S, M, V]; M divides N.
    scale: [], of the logits, float32 at least; not negative.
    clustering: orders [N, R, L, C] and [N, R, L, K].
    without: clusters whose pairs are left out.
    far: estimates of the pairs that share no cluster; then a pair must be met once at most (deduplicate, or
        one round).
    """

    query: Array
    key: Array
    value: Array
    scale: Array
    clustering: Clustering
    without: Clustering | None = None
    far: Estimates | None = None
