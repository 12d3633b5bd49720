"""Balanced clusters by repeated halving along directions that fit queries and keys."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from smyrf_jax.batching import with_merged_batch
from smyrf_jax.checks import check_arguments, check_positive
from smyrf_jax.clustering import sets
from smyrf_jax.clustering.balance import balance_of
from smyrf_jax.clustering.clustering import Clustering
from smyrf_jax.clustering.halving import halves, power_step
from smyrf_jax.clustering.nodes import Nodes
from smyrf_jax.floats import float32_at_least
from smyrf_jax.padding import without_masked
from smyrf_jax.platforms import Call, by_platform, result
from smyrf_jax.rows import centred, kept_tokens, repeat_heads, take_rows_of_each
from smyrf_jax.sharding import is_partitioned

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
    basis_rng, node_rng = jax.random.split(rng)
    kept = kept_queries, kept_keys
    coordinates = _in_coordinates((queries, keys), kept, basis_rng, rounds)
    if num_filled is not None:
        num_filled = jnp.repeat(num_filled, rounds)
    nodes = Nodes(sizes[0], num_filled)
    sides = [
        _root(of, mask, rounds, size) for of, mask, size in zip(coordinates, kept, sizes[1:], strict=True)
    ]
    arguments = nodes, sides, _starts(node_rng, rounds, coordinates[0], nodes.depth)
    if is_partitioned(*jax.tree.leaves(arguments)):
        tokens = _grown(False, *arguments)
    else:
        by_levels = Call(_grown, (False,))
        like = [_leaves_like(nodes, side) for side in sides]
        tokens = by_platform(like, *arguments, cpu=by_levels, tpu=Call(_grown, (True,)), default=by_levels)
    orders = [nodes.leaves(of, side.length) for of, side in zip(tokens, sides, strict=True)]
    return [order.reshape(len(queries), rounds, *order.shape[1:]) for order in orders]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Side:
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
    size: int = dataclasses.field(metadata={"static": True})
    masked: bool = dataclasses.field(metadata={"static": True})

    @property
    def length(self) -> int:
        return self.coordinates.shape[1]

    def rows(self) -> Float[Array, "trees nodes m P"]:
        """The coordinates of the nodes' tokens; zeros in empty slots."""
        nodes, slots = self.tokens.shape[1:]
        empty = self.masked or nodes * slots > self.length
        return take_rows_of_each(self.coordinates, self.tokens, empty=empty)


def _leaves_like(nodes: Nodes, side: _Side) -> jax.ShapeDtypeStruct:
    trees, _, slots = side.tokens.shape
    if nodes.depth:
        slots = min(nodes.slots(nodes.depth, side.length, side.size), slots)
    return result((trees, 2**nodes.depth, slots), jnp.int32)


def _grown(kernel: bool | None, nodes: Nodes, sides: list[_Side], starts: Array) -> list[Array]:
    """The tokens of the nodes of the last level.

    kernel: whether TPU kernels halve several levels at once, where they fit; None: interpreted ones.
    """
    level = 0
    while level < nodes.depth:
        slots = [side.tokens.shape[2] for side in sides]
        width = sides[0].coordinates.shape[-1]
        if kernel is not False and sets.fits(width, slots, [side.length for side in sides]):
            # Equal shares of the levels that are left.
            stages = -(-(nodes.depth - level) // sets.LEVELS)
            levels = -(-(nodes.depth - level) // stages)
            sides = _several_levels(nodes, sides, starts, level, levels, interpret=kernel is None)
        else:
            levels = 1
            sides = _one_level(nodes, sides, starts, level)
        level += levels
    return [side.tokens for side in sides]


def _starts(
    rng: Key[Array, ""], rounds: int, coordinates: Float[Array, "trees T P"], depth: int
) -> Float[Array, "trees inner P"]:
    """The directions that the nodes of all levels begin with, the same for each sample and head."""
    trees, _, width = coordinates.shape
    found = [jnp.zeros((rounds, 0, width), coordinates.dtype)]
    for level in range(depth):
        shape = (rounds, 2**level, width)
        found.append(jax.random.normal(jax.random.fold_in(rng, level), shape, coordinates.dtype))
    return jnp.tile(jnp.concatenate(found, axis=1), (trees // rounds, 1, 1))


def _of_level(starts: Array, level: int) -> Float[Array, "trees n P"]:
    return starts[:, 2**level - 1 : 2 ** (level + 1) - 1]


def _one_level(nodes: Nodes, sides: list[_Side], starts: Array, level: int) -> list[_Side]:
    direction = _of_level(starts, level)
    rows = [side.rows() for side in sides]
    for own, side in zip(reversed(rows), reversed(sides), strict=True):
        count = jnp.sum(side.tokens < side.length, axis=-1, dtype=jnp.int32)
        direction = power_step(own, direction, count)
    found = []
    for own, side in zip(rows, sides, strict=True):
        along = jnp.einsum("anmp,anp->anm", own, direction)
        first = nodes.tokens(level + 1, side.kept)[:, ::2]
        size = min(nodes.slots(level + 1, side.length, side.size), along.shape[-1])
        tokens = halves(side.tokens, along, first, size=size, length=side.length)
        found.append(dataclasses.replace(side, tokens=tokens))
    return found


def _several_levels(
    nodes: Nodes, sides: list[_Side], starts: Array, level: int, levels: int, *, interpret: bool
) -> list[_Side]:
    """`_one_level` so many times, by a kernel; the tokens of a node come in another order."""
    trees, groups, _ = sides[0].tokens.shape

    def of_groups(array: Array) -> Array:
        """Of nodes of a later level [trees, nodes, ...] as [trees * groups, nodes of a group, ...]."""
        array = jnp.broadcast_to(array, (trees, *array.shape[1:]))
        return array.reshape(trees * groups, -1, *array.shape[2:])

    def of_levels(arrays: list[Array]) -> Array:
        return jnp.concatenate([of_groups(array) for array in arrays], axis=1)

    some = range(level, level + levels)
    halved_sets, sizes, spare = [], [], []
    for side in sides:
        # The root's tokens are all of them, in order.
        rows = side.coordinates if level == 0 and not side.masked else side.rows()
        tokens = side.tokens.reshape(trees * groups, -1)
        last = nodes.tokens(level + levels, side.kept)
        sizes.append(min(nodes.slots(level + levels, side.length, side.size), tokens.shape[1]))
        spare.append(nodes.spare(level + levels, side.length, sizes[-1], masked=side.masked))
        halved_sets.append(
            sets.sets_of(
                rows.reshape(*tokens.shape, -1),
                tokens,
                side.length,
                of_levels([nodes.tokens(at + 1, side.kept)[:, ::2] for at in some]),
                of_groups(last),
            )
        )
    of_inner = of_levels([_of_level(starts, at) for at in some]).astype(jnp.float32)
    halve = functools.partial(
        sets.halved,
        levels=levels,
        size=sizes,
        spare=spare,
        length=[side.length for side in sides],
        interpret=interpret,
    )
    found = with_merged_batch(halve, 1)(halved_sets, of_inner)
    return [
        dataclasses.replace(side, tokens=tokens.reshape(trees, -1, tokens.shape[-1]))
        for side, tokens in zip(sides, found, strict=True)
    ]


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
