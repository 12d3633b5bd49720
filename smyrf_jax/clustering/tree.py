"""Balanced clusters by repeated halving along directions that fit queries and keys."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from smyrf_jax.checks import check_arguments, check_positive
from smyrf_jax.clustering.clustering import Clustering
from smyrf_jax.clustering.halving import halves, power_step
from smyrf_jax.rows import centred, kept_keys, repeat_heads, take_rows

# Coordinates in which the tree is built, of each round: with 12, as much attention is captured on
# pretrained attention as with all of them.
COORDINATES = 12


def tree_clustering(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_trees: int,
    cluster_size: int,
) -> Clustering:
    """Clusters from a balanced tree: queries and keys of a node are halved at their own medians.

    Every node has a direction of its own: a random one that went through the second moments of the
    node's keys and of its queries, which is a step of power iteration for their cross-covariance. All of
    it happens in a few coordinates, found in the same way from all queries and keys; so the vectors
    are read once, and each level reads and sorts little. Any L: a node that has an odd number of
    clusters gives one more of them to its second half. No gradient flows through the clusters.

    Arguments, results and errors as of `smyrf_clustering`; a tree is a round. The keys' mean does not matter.
    """
    check_arguments(query, key, key, mask)
    check_positive(num_trees=num_trees, cluster_size=cluster_size)
    return tree_clusters(query, repeat_heads(key, query.shape[-2]), mask, rng, num_trees, cluster_size)


def tree_clusters(
    query: Array, key: Array, mask: Array | None, rng: Array, num_trees: int, cluster_size: int
) -> Clustering:
    """`tree_clustering`, unchecked, of as many key heads as query heads."""
    batch, heads = query.shape[:-3], query.shape[-2]
    rows = math.prod(batch) * heads
    dtype = jnp.promote_types(query.dtype, jnp.float32)

    def by_row(vectors: Array) -> Array:
        vectors = jnp.moveaxis(jax.lax.stop_gradient(vectors), -2, -3)
        return vectors.reshape(rows, *vectors.shape[-2:]).astype(dtype)

    queries, keys = by_row(query), by_row(key)
    kept = None if mask is None else kept_keys(mask, key).reshape(rows, mask.shape[-1])
    num_clusters = max(1, -(-queries.shape[1] // cluster_size))
    orders = _orders(queries, keys, kept, rng, num_trees, num_clusters)
    return Clustering(*(order.reshape(*batch, heads, *order.shape[1:]) for order in orders))


# Compiled as one, also where nobody else does: it is many small steps.
@functools.partial(jax.jit, static_argnums=(4, 5))
def _orders(
    queries: Float[Array, "A T D"],
    keys: Float[Array, "A S D"],
    kept: Bool[Array, "A S"] | None,
    rng: Key[Array, ""],
    rounds: int,
    num_clusters: int,
) -> list[Int[Array, "A R L C"]]:
    """The orders of queries and of keys."""
    depth = (num_clusters - 1).bit_length()
    basis_rng, node_rng = jax.random.split(rng)
    coordinates = _in_coordinates(queries, keys, kept, basis_rng, rounds)
    sides = [_root(coordinates[0], None), _root(coordinates[1], kept)]
    for level in range(depth):
        directions = _directions(sides, jax.random.fold_in(node_rng, level), rounds)
        bounds = _bounds(level + 1, num_clusters)
        sides = [
            _split(side, along, bounds, num_clusters) for side, along in zip(sides, directions, strict=True)
        ]
    # Nodes of the last level have one cluster or none.
    filled = np.flatnonzero(np.diff(_bounds(depth, num_clusters)))
    orders = [side.tokens[:, filled, :] for side in sides]
    return [order.reshape(len(queries), rounds, *order.shape[1:]) for order in orders]


class _Side(NamedTuple):
    """The queries, or the keys, of a level's nodes. A tree is a row and a round, with the rounds inside.

    coordinates: [trees, T, P], of all tokens.
    tokens: [trees, nodes, m] int32; T marks an empty slot, after all others.
    kept: [trees], how many tokens there are in all.
    """

    coordinates: Array
    tokens: Array
    kept: Array


def _in_coordinates(
    queries: Array, keys: Array, kept: Array | None, rng: Key[Array, ""], rounds: int
) -> list[Float[Array, "trees T P"]]:
    """Centred queries and keys [A, T, D] in R sets of coordinates."""
    queries, keys = centred(queries, None), centred(keys, kept)
    width = queries.shape[-1]
    start = jax.random.normal(rng, (rounds, width, min(COORDINATES, width)), queries.dtype)
    moments = [jnp.einsum("atd,ate->ade", side, side) for side in (queries, keys)]
    # The size of the moments does not matter, and could overflow.
    moments = [moment / jnp.maximum(_trace(moment), 1e-30) for moment in moments]
    found = jnp.einsum("ade,aef,rfp->ardp", *moments, start)
    basis = jnp.linalg.qr(found)[0]
    coordinates = [jnp.einsum("atd,ardp->artp", side, basis) for side in (queries, keys)]
    trees = len(queries) * rounds
    return [side.reshape(trees, *side.shape[2:]) for side in coordinates]


def _trace(moment: Array) -> Array:
    return jnp.trace(moment, axis1=-2, axis2=-1)[..., None, None]


def _root(coordinates: Float[Array, "trees T P"], kept: Bool[Array, "A T"] | None) -> _Side:
    trees, length, _ = coordinates.shape
    if kept is None:
        tokens = jnp.arange(length, dtype=jnp.int32)[None]
        count = jnp.full(trees, length, jnp.int32)
    else:
        kept = jnp.repeat(kept, trees // len(kept), axis=0)
        tokens = jnp.sort(jnp.where(kept, jnp.arange(length, dtype=jnp.int32)[None], length), axis=-1)
        count = jnp.sum(kept, axis=-1, dtype=jnp.int32)
    return _Side(coordinates, jnp.broadcast_to(tokens, (trees, length))[:, None], count)


def _bounds(level: int, num_clusters: int) -> Int[np.ndarray, " bounds"]:
    """[nodes + 1], the first cluster of each of a level's 2^level nodes, and L."""
    bounds: np.ndarray[Any, Any] = np.arange(2**level + 1) * num_clusters // 2**level
    return bounds


def _directions(sides: list[_Side], rng: Key[Array, ""], rounds: int) -> list[Float[Array, "trees n m"]]:
    """Where the queries and the keys lie along their nodes' directions."""
    trees, nodes, _ = sides[0].tokens.shape
    width, dtype = sides[0].coordinates.shape[-1], sides[0].coordinates.dtype
    direction = jax.random.normal(rng, (rounds, nodes, width), dtype)
    direction = jnp.tile(direction, (trees // rounds, 1, 1))
    rows = [jax.vmap(take_rows)(side.coordinates, side.tokens) for side in sides]
    for own, side in zip(reversed(rows), reversed(sides), strict=True):
        count = jnp.sum(side.tokens < side.coordinates.shape[1], axis=-1, dtype=jnp.int32)
        direction = power_step(own, direction, count)
    return [jnp.einsum("anmp,anp->anm", own, direction) for own in rows]


def _split(
    side: _Side, along: Float[Array, "trees n m"], bounds: Int[np.ndarray, " bounds"], num_clusters: int
) -> _Side:
    """The nodes of the next level, which begin with the clusters `bounds`."""
    length = side.coordinates.shape[1]
    # The clusters before each bound have these tokens: clusters differ by one token at most.
    share, extra = jnp.divmod(side.kept[:, None], num_clusters)
    starts = jnp.asarray(bounds, jnp.int32)[None]
    places = starts * share + jnp.minimum(starts, extra)
    first = jnp.diff(places, axis=-1)[:, ::2]
    size = min(int(np.max(np.diff(bounds))) * -(-length // num_clusters), along.shape[-1])
    return side._replace(tokens=halves(side.tokens, along, first, size=size, length=length))
