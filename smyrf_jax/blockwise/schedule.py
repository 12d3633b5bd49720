"""Clusters cut into the steps of the loop: which rows each step reads."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from smyrf_jax.clustering import Clustering

# Logits of one step, in all samples; and the queries that a cluster is not cut below, or twice its keys if
# those are fewer: its keys would be gathered too often.
LOGITS_A_STEP = 2**19
QUERIES_A_STEP = 1024


class Step(NamedTuple):
    """Some clusters of one hash round, of all heads, so that a query is among a head's once at most.

    queries: [N, clusters, C], T in empty slots.
    keys: [N, clusters, K], S in empty slots.
    hash_round: [].
    """

    queries: Array
    keys: Array
    hash_round: Array


def fewest_queries(num_keys: int) -> int:
    """Queries that a cluster of so many keys is not cut below."""
    return min(QUERIES_A_STEP, max(1, 2 * num_keys))


def steps_of(clustering: Clustering, num_queries: int, num_keys: int, samples: int) -> Step:
    """The clusters of a sample, a few a step; the steps are stacked along the first axis.

    A step has clusters of every head: where heads lie on several devices, each has a part of every step.
    """
    queries, keys = clustering
    heads, rounds, num_clusters, size = queries.shape
    pairs = max(1, samples * heads * size * keys.shape[-1])
    pieces = max(1, min(-(-pairs // LOGITS_A_STEP), size // fewest_queries(keys.shape[-1])))
    piece = -(-size // pieces)
    queries = _filled_up(queries, pieces * piece, num_queries)
    queries = queries.reshape(heads, rounds, num_clusters * pieces, piece)
    keys = jnp.repeat(keys, pieces, axis=2)

    total = num_clusters * pieces
    fewest = -(-total // max(1, LOGITS_A_STEP * pieces // pairs))
    # Some more steps, if that fills the last one better.
    num_steps = min(range(fewest, min(2 * fewest, total) + 1), key=lambda steps: -(-total // steps) * steps)
    a_step = -(-total // num_steps)

    def cut(order: Array, empty: int) -> Array:
        order = jnp.swapaxes(_filled_up(jnp.swapaxes(order, -1, -2), num_steps * a_step, empty), -1, -2)
        order = order.reshape(heads, rounds * num_steps, a_step, order.shape[-1])
        return jnp.moveaxis(order, 1, 0)

    hash_round = jnp.repeat(jnp.arange(rounds, dtype=jnp.int32), num_steps)
    return Step(cut(queries, num_queries), cut(keys, num_keys), hash_round)


def _filled_up(order: Array, length: int, empty: int) -> Array:
    """The last axis made longer."""
    widths = [(0, 0)] * (order.ndim - 1) + [(0, length - order.shape[-1])]
    return jnp.pad(order, widths, constant_values=empty)
