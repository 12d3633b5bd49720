"""Balanced clusters by repeated halving along directions that fit queries and keys."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from smyrf_jax.checks import check_arguments, check_positive
from smyrf_jax.clustering.balance import balance_of
from smyrf_jax.clustering.clustering import Clustering
from smyrf_jax.clustering.halving import halves, power_step
from smyrf_jax.floats import float32_at_least
from smyrf_jax.padding import without_masked
from smyrf_jax.rows import centred, kept_tokens, repeat_heads, take_rows_of_each

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
    query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
) -> Clustering:
    """Clusters from a balanced tree: queries and keys of a node are halved at their own medians.

    Every node has a direction of its own: a random one that went through the second moments of the
    node's keys and of its queries, which is a step of power iteration for their cross-covariance. All of
    it happens in a few coordinates, found in the same way from all queries and keys; so the vectors
    are read once, and each level reads and sorts little. Any L: a node that has an odd number of
    clusters gives one more of them to its second half. No gradient flows through the clusters.

    Arguments, results and errors as of `smyrf_clustering`; a tree is a round. The keys' mean does not matter.
    """
    check_arguments(query, key, key, mask, query_mask)
    check_positive(num_trees=num_trees, cluster_size=cluster_size)
    query, key, _ = without_masked(query, key, key, mask, query_mask)
    key = repeat_heads(key, query.shape[-2])
    return tree_clusters(query, key, mask, query_mask, rng, num_trees, cluster_size)


def tree_clusters(
    query: Array,
    key: Array,
    mask: Array | None,
    query_mask: Array | None,
    rng: Array,
    num_trees: int,
    cluster_size: int,
) -> Clustering:
    """`tree_clustering`, unchecked, of as many key heads as query heads, zero where they are masked."""
    shape = (*query.shape[:-3], query.shape[-2])
    balance = balance_of(shape, query.shape[-3], key.shape[-3], mask, query_mask, cluster_size)
    if balance.num_filled is not None and balance.num_clusters > 2**16:
        raise ValueError(
            f"{balance.num_clusters} clusters of padded queries are too many for a tree: make cluster_size "
            f"larger than {cluster_size}, or leave query_mask out."
        )
    dtype = float32_at_least(query.dtype)

    def of_heads(vectors: Array) -> Array:
        return jnp.moveaxis(jax.lax.stop_gradient(vectors), -2, -3).astype(dtype)

    kept = [None if of is None else kept_tokens(of, side) for of, side in ((query_mask, query), (mask, key))]
    # What differs from sample to sample; of the others the sizes alone are known to the tree.
    arrays = (of_heads(query), of_heads(key), *kept, balance.num_filled)
    sizes = (balance.num_clusters, balance.query_size, balance.key_size)
    tree = functools.partial(_orders, num_trees, sizes, rng)
    for _ in shape[:-1]:
        tree = jax.vmap(tree)
    return Clustering(*tree(*arrays))


# Compiled as one, also where nobody else does: it is many small steps.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _orders(
    rounds: int,
    sizes: tuple[int, int, int],
    rng: Key[Array, ""],
    queries: Float[Array, "N T D"],
    keys: Float[Array, "N S D"],
    kept_queries: Bool[Array, "N T"] | None,
    kept_keys: Bool[Array, "N S"] | None,
    num_filled: Int[Array, " N"] | None,
) -> list[Int[Array, "N R L C"]]:
    """The orders of queries and of keys. sizes: L, and the slots of a cluster."""
    num_clusters = sizes[0]
    depth = (num_clusters - 1).bit_length()
    basis_rng, node_rng = jax.random.split(rng)
    kept = kept_queries, kept_keys
    coordinates = _in_coordinates((queries, keys), kept, basis_rng, rounds)
    sides = [
        _root(of, mask, rounds, size) for of, mask, size in zip(coordinates, kept, sizes[1:], strict=True)
    ]
    if num_filled is not None:
        num_filled = jnp.repeat(num_filled, rounds)[:, None]
    for level in range(depth):
        directions = _directions(sides, jax.random.fold_in(node_rng, level), rounds)
        bounds = _bounds(level + 1, num_clusters, num_filled)
        sides = [
            _split(side, along, bounds, num_clusters, num_filled)
            for side, along in zip(sides, directions, strict=True)
        ]
    # Nodes of the last level have one cluster or none.
    bounds = _bounds(depth, num_clusters, num_filled)
    orders = [_leaves(side, bounds, num_clusters) for side in sides]
    return [order.reshape(len(queries), rounds, *order.shape[1:]) for order in orders]


def _leaves(side: "_Side", bounds: Any, num_clusters: int) -> Int[Array, "trees L C"]:
    """The tokens of the nodes that have a cluster, in the order of the clusters."""
    if isinstance(bounds, np.ndarray):
        return side.tokens[:, np.flatnonzero(np.diff(bounds[0])), :]
    length, nodes = side.coordinates.shape[1], bounds.shape[-1] - 1

    def of_tree(tokens: Array, bounds: Array) -> Array:
        cluster = jnp.where(jnp.diff(bounds) > 0, bounds[:-1], num_clusters)
        node = jnp.full(num_clusters, nodes, jnp.int32)
        node = node.at[cluster].set(jnp.arange(nodes, dtype=jnp.int32), mode="drop")
        return tokens.at[node].get(mode="fill", fill_value=length)

    leaves: Array = jax.vmap(of_tree)(side.tokens, bounds)
    return leaves


class _Side(NamedTuple):
    """The queries, or the keys, of a level's nodes. A tree is a row and a round, with the rounds inside.

    coordinates: [trees, T, P], of all tokens.
    tokens: [trees, nodes, m] int32; T marks an empty slot, after all others.
    kept: [trees], how many tokens there are in all.
    size: of a cluster, at most.
    masked: some tokens are left out.
    """

    coordinates: Array
    tokens: Array
    kept: Array
    size: int
    masked: bool


def _in_coordinates(
    sides: tuple[Array, Array],
    kept: tuple[Array | None, Array | None],
    rng: Key[Array, ""],
    rounds: int,
) -> list[Float[Array, "trees T P"]]:
    """Centred queries and keys [N, T, D] in R sets of coordinates."""
    centred_sides = [centred(side, mask) for side, mask in zip(sides, kept, strict=True)]
    width, dtype = sides[0].shape[-1], sides[0].dtype
    start = jax.random.normal(rng, (rounds, width, min(COORDINATES, width)), dtype)
    moments = [jnp.einsum("atd,ate->ade", side, side) for side in centred_sides]
    # The size of the moments does not matter, and could overflow.
    moments = [moment / jnp.maximum(_trace(moment), 1e-30) for moment in moments]
    found = jnp.einsum("ade,aef,rfp->ardp", *moments, start)
    # Few tokens span less than these coordinates; what the others are is to be decided by the draw, not by
    # rounding.
    largest = jnp.max(jnp.abs(found), axis=(-2, -1), keepdims=True, initial=0)
    found += 1e-3 * jnp.where(largest > 0, largest, 1.0) * start[None]
    basis = jnp.linalg.qr(found)[0] if width else found
    coordinates = [jnp.einsum("atd,ardp->artp", side, basis) for side in centred_sides]
    trees = len(sides[0]) * rounds
    return [side.reshape(trees, *side.shape[2:]) for side in coordinates]


def _trace(moment: Array) -> Array:
    return jnp.trace(moment, axis1=-2, axis2=-1)[..., None, None]


def _root(
    coordinates: Float[Array, "trees T P"], kept: Bool[Array, "N T"] | None, rounds: int, size: int
) -> _Side:
    trees, length, _ = coordinates.shape
    if kept is None:
        tokens = jnp.arange(length, dtype=jnp.int32)[None]
        count = jnp.full(trees, length, jnp.int32)
    else:
        kept = jnp.repeat(kept, rounds, axis=0)
        tokens = jnp.sort(jnp.where(kept, jnp.arange(length, dtype=jnp.int32)[None], length), axis=-1)
        count = jnp.sum(kept, axis=-1, dtype=jnp.int32)
    return _Side(
        coordinates, jnp.broadcast_to(tokens, (trees, length))[:, None], count, size, kept is not None
    )


def _bounds(level: int, num_clusters: int, num_filled: Array | None) -> Any:
    """[trees or 1, nodes + 1], the first cluster of each of a level's 2^level nodes, and L.

    That is floor(node * L / 2^level), for L filled clusters if it is not None. A node of one cluster gives it
    to one of its children, and none to the other.
    """
    if num_filled is None:
        return np.arange(2**level + 1)[None] * num_clusters // 2**level
    nodes = jnp.arange(2**level + 1, dtype=jnp.uint32)[None]
    filled = num_filled.astype(jnp.uint32)
    # In two parts, lest the product overflows.
    whole, rest = filled >> level, filled & (2**level - 1)
    return (nodes * whole + ((nodes * rest) >> level)).astype(jnp.int32)


def _directions(sides: list[_Side], rng: Key[Array, ""], rounds: int) -> list[Float[Array, "trees n m"]]:
    """Where the queries and the keys lie along their nodes' directions."""
    trees, nodes, _ = sides[0].tokens.shape
    width, dtype = sides[0].coordinates.shape[-1], sides[0].coordinates.dtype
    direction = jax.random.normal(rng, (rounds, nodes, width), dtype)
    direction = jnp.tile(direction, (trees // rounds, 1, 1))
    rows = [
        take_rows_of_each(
            side.coordinates,
            side.tokens,
            empty=side.masked or nodes * side.tokens.shape[2] > side.coordinates.shape[1],
        )
        for side in sides
    ]
    for own, side in zip(reversed(rows), reversed(sides), strict=True):
        count = jnp.sum(side.tokens < side.coordinates.shape[1], axis=-1, dtype=jnp.int32)
        direction = power_step(own, direction, count)
    return [jnp.einsum("anmp,anp->anm", own, direction) for own in rows]


def _split(
    side: _Side, along: Float[Array, "trees n m"], bounds: Any, num_clusters: int, num_filled: Array | None
) -> _Side:
    """The nodes of the next level, which begin with the clusters `bounds`."""
    length = side.coordinates.shape[1]
    # The clusters before each bound have these tokens: clusters differ by one token at most.
    share, extra = jnp.divmod(side.kept[:, None], num_clusters if num_filled is None else num_filled)
    starts = jnp.asarray(bounds, jnp.int32)
    places = starts * share + jnp.minimum(starts, extra)
    first = jnp.diff(places, axis=-1)[:, ::2]
    # Tokens of a node at most: of all clusters, or of as few as there may be.
    filled = np.arange(num_clusters if num_filled is None else 1, num_clusters + 1)
    clusters = -(-filled // (bounds.shape[-1] - 1))
    most = int(np.max(clusters * np.minimum(-(-length // filled), side.size)))
    size = min(most, along.shape[-1])
    return side._replace(tokens=halves(side.tokens, along, first, size=size, length=length))
