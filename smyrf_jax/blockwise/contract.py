"""What the loop over clusters is given."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.clustering import Clustering


class Rules(NamedTuple):
    """Which logits count, and how much: what is known before the loop is traced.

    is_causal: query i sees keys up to i only.
    deduplicate: pairs that met in an earlier round are left out.
    samples: how many are mapped over; they share a step's logits.
    window: query i sees the keys j with -(window // 2) <= j - i < (window + 1) // 2 only; clusters are those
        of `local_clustering`.
    complete: every query and every key is in one cluster of each round.
    implementation: "loop", "gather" or "pallas"; None: the fastest of the platform that a program is for.
    """

    is_causal: bool = False
    deduplicate: bool = False
    samples: int = 1
    window: int | None = None
    complete: bool = False
    implementation: str | None = None


class Means(NamedTuple):
    """Keys that all queries attend, but those of one cluster of the first round.

    key: [*B, N, P, D + 1], with what is added to the logits as the last coordinate; float32 at least.
    value: [*B, N, P, V], likewise.
    cluster: [*B, N, P] int32, whose queries leave the key out; -2: nobody's.
    """

    key: Any
    value: Any
    cluster: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimates:
    """Estimates of every pair's weight, for the pairs that share no cluster.

    The weight of query i and key j is e^(offset_i + key_offset_j + query_i . key_j), or
    e^(offset_i + key_offset_j) * (query_i . key_j) where the estimate is linear.

    output: [*B, T, N, V], logsumexp: [*B, T, N]: attention with the estimates of all keys, float32 at least;
        None where means are given.
    means: whose attention that is.
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
    means: Means | None = None
    linear: bool = dataclasses.field(default=False, metadata={"static": True})
    met: int = dataclasses.field(default=0, metadata={"static": True})


def gradients_like(gradients: Estimates, far: Estimates) -> Estimates:
    """The gradients in the shapes and dtypes of the estimates; integers have none."""
    if far.means is not None:
        far = dataclasses.replace(far, means=far.means._replace(cluster=None))
    like: Estimates = jax.tree.map(
        lambda to, array: to.reshape(array.shape).astype(array.dtype), gradients, far
    )
    return like


def one_cluster(heads: int, num_queries: int, num_keys: int) -> Clustering:
    """All tokens in one cluster."""
    every = (jnp.arange(length, dtype=jnp.int32) for length in (num_queries, num_keys))
    return Clustering(*(jnp.broadcast_to(tokens, (heads, 1, 1, len(tokens))) for tokens in every))


class Inputs(NamedTuple):
    """What the loop reads, of one sample.

    query: [T, N, D], key: [S, M, D], value: [S, M, V]; M divides N.
    scale: [], of the logits, float32 at least; not negative.
    clustering: orders [N, R, L, C] and [N, R, L, K]; None: all tokens share one cluster.
    without: numbers [N, T] of queries and [N, S] of keys, not negative or -1 and -2; pairs of one number are
        left out.
    far: estimates of the pairs that share no cluster; then a pair must be met once at most (deduplicate, or
        one round).
    """

    query: Array
    key: Array
    value: Array
    scale: Array
    clustering: Clustering | None
    without: tuple[Array, Array] | None = None
    far: Estimates | None = None
