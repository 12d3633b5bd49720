"""Clusters cut into the steps of the loop: which rows each step reads."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from smyrf_jax.clustering import Clustering

# Logits of one step, in all samples; and the queries that a cluster is not cut below, lest its keys are
# gathered too often.
LOGITS_A_STEP = 2**19
QUERIES_A_STEP = 1024


class Step(NamedTuple):
    """Some clusters of one hash round, so that a query is among them once at most.

    queries: [clusters, C], rows of [T * N, ...], past the end for empty slots.
    keys: [clusters, K], rows of [S * M, ...], past the end for empty slots.
    head: [clusters, 1], the query head.
    hash_round: [].
    """

    queries: Array
    keys: Array
    head: Array
    hash_round: Array


def steps_of(clustering: Clustering, num_queries: int, num_keys: int, key_heads: int, samples: int) -> Step:
    """The clusters of a sample, a few a step; the steps are stacked along the first axis."""
    heads, rounds, num_clusters, size = clustering.query_order.shape
    head = jnp.arange(heads, dtype=jnp.int32)[:, None, None, None]
    queries = clustering.query_order * heads + head
    keys = clustering.key_order * key_heads + head // (heads // key_heads)

    pairs = max(1, samples * size * keys.shape[-1])
    pieces = max(1, min(-(-pairs // LOGITS_A_STEP), size // QUERIES_A_STEP))
    piece = -(-size // pieces)
    empty = num_queries * heads, num_keys * key_heads
    queries = jnp.pad(queries, ((0, 0),) * 3 + ((0, pieces * piece - size),), constant_values=empty[0])
    queries = queries.reshape(heads, rounds, num_clusters * pieces, piece)
    keys = jnp.repeat(keys, pieces, axis=2)

    total = heads * num_clusters * pieces
    num_steps = -(-total // max(1, LOGITS_A_STEP * pieces // pairs))
    a_step = -(-total // num_steps)

    def cut(array: Array, empty: int) -> Array:
        array = jnp.moveaxis(array, 1, 0).reshape(rounds, total, array.shape[-1])
        array = jnp.pad(array, ((0, 0), (0, num_steps * a_step - total), (0, 0)), constant_values=empty)
        return array.reshape(rounds * num_steps, a_step, array.shape[-1])

    head = jnp.broadcast_to(head, (*queries.shape[:-1], 1))
    hash_round = jnp.repeat(jnp.arange(rounds), num_steps)
    return Step(cut(queries, empty[0]), cut(keys, empty[1]), cut(head, 0), hash_round)
