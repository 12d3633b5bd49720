"""Balanced clusters by repeated halving along directions that fit queries and keys."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.arguments import check_arguments, check_settings
from smyrf_jax.clustering import Clustering, ascending

# Coordinates in which the tree is built, of each round: with 12, as much attention is captured on
# pretrained attention as with all of them.
COORDINATES = 12


def tree_clustering(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
) -> Clustering:
    """Clusters from a balanced tree: queries and keys of a node are halved at their own medians.

    Every node has a direction of its own: a random one that went through the second moments of the
    node's keys and of its queries, which is a step of power iteration for their cross-covariance. All of
    it happens in a few coordinates, found in the same way from all queries and keys; so the vectors
    are read once, and each level reads and sorts little. Any L: a node that has an odd number of
    clusters gives one more of them to its second half. No gradient flows through the clusters.

    Arguments, results and errors as of `smyrf_clustering`; the keys' mean does not matter.
    """
    check_arguments(query, key, key, mask)
    check_settings(num_hashes, cluster_size)
    key = jnp.repeat(key, query.shape[-2] // key.shape[-2], axis=-2)
    batch, heads = query.shape[:-3], query.shape[-2]
    rows = math.prod(batch) * heads
    dtype = jnp.promote_types(query.dtype, jnp.float32)

    def by_row(vectors: Array) -> Array:
        vectors = jnp.moveaxis(jax.lax.stop_gradient(vectors), -2, -3)
        return vectors.reshape(rows, *vectors.shape[-2:]).astype(dtype)

    queries, keys = by_row(query), by_row(key)
    kept = None
    if mask is not None:
        shape = (*batch, heads, mask.shape[-1])
        kept = jnp.broadcast_to(mask[..., 0, :], shape).reshape(rows, mask.shape[-1])
    num_clusters = max(1, -(-queries.shape[1] // cluster_size))
    orders = _orders(queries, keys, kept, rng, num_hashes, num_clusters)
    return Clustering(*(order.reshape(*batch, heads, *order.shape[1:]) for order in orders))


# Compiled as one, also where nobody else does: it is many small steps.
@functools.partial(jax.jit, static_argnums=(4, 5))
def _orders(
    queries: Float[Array, "A T D"],
    keys: Float[Array, "A S D"],
    kept: Bool[Array, "A S"] | None,
    rng: Key[Array, ""],
    num_hashes: int,
    num_clusters: int,
) -> list[Array]:
    """The orders [A, R, L, C] of queries and of keys."""
    depth = (num_clusters - 1).bit_length()
    basis_rng, node_rng = jax.random.split(rng)
    queries, keys = _in_coordinates(queries, keys, kept, basis_rng, num_hashes)
    sides = [_root(queries, None), _root(keys, kept)]
    for level in range(depth):
        sides = _split(sides, jax.random.fold_in(node_rng, level), level, num_clusters)
    # Nodes of the last level have one cluster or none.
    filled = np.flatnonzero(np.diff(_bounds(depth, num_clusters)))
    return [side.tokens[:, :, filled, :] for side in sides]


class _Side(NamedTuple):
    """The queries, or the keys, of a level's nodes.

    coordinates: [A, R, T, P], of all tokens.
    tokens: [A, R, nodes, m] int32; T marks an empty slot, after all others.
    kept: [A, R], how many tokens there are in all.
    """

    coordinates: Array
    tokens: Array
    kept: Array


def _in_coordinates(
    queries: Array, keys: Array, kept: Array | None, rng: Key[Array, ""], rounds: int
) -> tuple[Array, Array]:
    """Centred queries and keys [A, T, D] in R sets of coordinates [A, R, T, P]."""
    queries, keys = _centred(queries, None), _centred(keys, kept)
    width = queries.shape[-1]
    start = jax.random.normal(rng, (rounds, width, min(COORDINATES, width)), queries.dtype)
    moments = [jnp.einsum("atd,ate->ade", side, side) for side in (queries, keys)]
    # The size of the moments does not matter, and could overflow.
    moments = [moment / jnp.maximum(_trace(moment), 1e-30) for moment in moments]
    found = jnp.einsum("ade,aef,rfp->ardp", *moments, start)
    basis = jnp.linalg.qr(found)[0]
    return jnp.einsum("atd,ardp->artp", queries, basis), jnp.einsum("atd,ardp->artp", keys, basis)


def _trace(moment: Array) -> Array:
    return jnp.trace(moment, axis1=-2, axis2=-1)[..., None, None]


def _centred(vectors: Array, kept: Array | None) -> Array:
    if kept is None:
        kept = jnp.ones(vectors.shape[:2], bool)
    weight = kept[..., None].astype(vectors.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1)
    return weight * (vectors - jnp.sum(weight * vectors, axis=1, keepdims=True) / count)


def _root(coordinates: Array, kept: Array | None) -> _Side:
    rows, rounds, length, _ = coordinates.shape
    if kept is None:
        tokens = jnp.arange(length, dtype=jnp.int32)
        count = jnp.full((rows, rounds), length, jnp.int32)
    else:
        tokens = jnp.where(kept, jnp.arange(length, dtype=jnp.int32)[None], length)
        tokens = jnp.sort(tokens, axis=-1)[:, None, None, :]
        count = jnp.sum(kept, axis=-1, dtype=jnp.int32)[:, None] * jnp.ones((1, rounds), jnp.int32)
    return _Side(coordinates, jnp.broadcast_to(tokens, (rows, rounds, 1, length)), count)


def _bounds(level: int, num_clusters: int) -> np.ndarray:
    """[nodes + 1], the first cluster of each of a level's 2^level nodes, and L."""
    return np.arange(2**level + 1) * num_clusters // 2**level


def _split(sides: list[_Side], rng: Key[Array, ""], level: int, num_clusters: int) -> list[_Side]:
    """The nodes of the next level."""
    rows, rounds, nodes, _ = sides[0].tokens.shape
    vectors = []
    for side in sides:
        own = jax.vmap(jax.vmap(lambda rows, order: rows.at[order].get(mode="fill", fill_value=0)))(
            side.coordinates, side.tokens
        )
        filled = side.tokens < side.coordinates.shape[2]
        count = jnp.maximum(jnp.sum(filled, axis=-1), 1)[..., None, None].astype(own.dtype)
        mean = jnp.sum(own, axis=-2, keepdims=True) / count
        vectors.append(jnp.where(filled[..., None], own - mean, 0.0))
    direction = jax.random.normal(rng, (rounds, nodes, vectors[0].shape[-1]), vectors[0].dtype)
    direction = jnp.broadcast_to(direction[None], (rows, *direction.shape))
    for own in reversed(vectors):
        along = jnp.einsum("arnmp,arnp->arnm", own, direction)
        direction = jnp.einsum("arnmp,arnm->arnp", own, along)
        largest = jnp.max(jnp.abs(direction), axis=-1, keepdims=True)
        direction = direction / jnp.where(largest > 0, largest, 1.0)
    bounds = _bounds(level + 1, num_clusters)
    return [
        _halves(side, jnp.einsum("arnmp,arnp->arnm", own, direction), bounds, num_clusters)
        for side, own in zip(sides, vectors, strict=True)
    ]


def _halves(side: _Side, along: Float[Array, "A R n m"], bounds: np.ndarray, num_clusters: int) -> _Side:
    """Tokens of each node, sorted by where they are along its direction, cut at the children's bounds."""
    length, nodes = side.coordinates.shape[2], along.shape[2]
    along = jnp.where(side.tokens < length, along, jnp.inf)
    tokens = jnp.take_along_axis(side.tokens, ascending(along), axis=-1)
    # The clusters before each bound have these tokens: clusters differ by one token at most.
    share, extra = jnp.divmod(side.kept[..., None], num_clusters)
    firsts = jnp.asarray(bounds, jnp.int32)[None, None]
    places = firsts * share + jnp.minimum(firsts, extra)
    starts = places[..., :-1].reshape(*side.kept.shape, nodes, 2)
    starts = starts - starts[..., :1]
    count = jnp.diff(places, axis=-1).reshape(*side.kept.shape, nodes, 2)
    largest = int(np.max(np.diff(bounds))) * -(-length // num_clusters)
    slot = jnp.arange(min(largest, along.shape[-1]), dtype=jnp.int32)[None, None, None, None]
    found = (starts[..., None] + slot).reshape(*along.shape[:3], -1)
    halves = jnp.take_along_axis(tokens, found, axis=-1, mode="clip")
    halves = halves.reshape(*along.shape[:2], 2 * nodes, slot.shape[-1])
    filled = slot[0] < count.reshape(*along.shape[:2], 2 * nodes, 1)
    return side._replace(tokens=jnp.where(filled, halves, length))
