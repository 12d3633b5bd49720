"""The past as trees of like keys: leaves of a few keys, branches of a few leaves, and their means."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from smyrf_jax.clustering.clustering import cluster_of_places, places_of
from smyrf_jax.clustering.halving import halve_clusters
from smyrf_jax.clustering.sets import LEVELS
from smyrf_jax.floats import finite_min
from smyrf_jax.rows import sums_of_pieces
from smyrf_jax.sharding import vary_alike


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How the past is cut; each a multiple of the one before.

    leaf: keys of a leaf. branch: keys of a branch. levels: keys of a tree, of each level: those of a block
    first. sinks: first tokens, which are in no tree.
    """

    leaf: int
    branch: int
    levels: tuple[int, ...]
    sinks: int

    @property
    def block(self) -> int:
        """Queries of a block, which see each other exactly."""
        return self.levels[0]

    @property
    def leaves(self) -> int:
        """Of a branch."""
        return self.branch // self.leaf

    def of_length(self, length: int) -> "Sizes":
        """With the levels alone of which a tree is in the past of one of so many tokens."""
        used = tuple(size for size in self.levels if size < length)
        return dataclasses.replace(self, levels=used or self.levels[:1])

    def trees(self, length: int) -> tuple[int, ...]:
        """Trees of each level, filled up so that those of a larger tree are all there."""
        larger = (*self.levels[1:], self.levels[-1])
        return tuple(
            -(-length // above) * (above // size) for size, above in zip(self.levels, larger, strict=True)
        )

    def first_branches(self, length: int) -> tuple[int, ...]:
        """Where the branches of each level begin, and their number."""
        firsts = [0]
        for number, size in zip(self.trees(length), self.levels, strict=True):
            firsts.append(firsts[-1] + number * (size // self.branch))
        return tuple(firsts)


class Leaves(NamedTuple):
    """Keys and values, sorted into leaves: [P, K, D], [P, K, V], and which slots are filled, [P, K]."""

    keys: Array
    values: Array
    filled: Array


class Mean(NamedTuple):
    """Means of keys and values, and the log of how many they are of: [P, D], [P, V], [P].

    Of none, the size is finite_min / 4, which counts for nothing.
    """

    keys: Array
    values: Array
    size: Array


class Past(NamedTuple):
    """The trees of all levels, one level after the other; the leaves of a branch lie side by side."""

    leaves: Leaves
    leaf_means: Mean
    branch_means: Mean


def past_of(
    key: Float[Array, "A T D"], value: Float[Array, "A T V"], kept: Bool[Array, "A T"], sizes: Sizes
) -> Past:
    """The trees of A rows of T tokens, each level's side by side; differentiable, their cuts are not."""
    levels = [
        leaves_of(key, value, kept, 0, size, number, sizes)
        for size, number in zip(sizes.levels, sizes.trees(key.shape[1]), strict=True)
    ]
    leaves = Leaves(*(jnp.concatenate(of, axis=1) for of in zip(*levels, strict=True)))
    return with_means(leaves, sizes)


def with_means(leaves: Leaves, sizes: Sizes) -> Past:
    """The leaves [A, P, ...], and the means of leaves and branches."""
    counts = jnp.sum(leaves.filled, axis=-1)
    sums = [jnp.sum(of, axis=-2) for of in (leaves.keys, leaves.values)]

    def of_branches(array: Array) -> Array:
        return jnp.sum(_cut(array, sizes.leaves), axis=2)

    keys, values = map(of_branches, sums)
    return Past(leaves, _mean(sums[0], sums[1], counts), _mean(keys, values, of_branches(counts)))


def _cut(array: Array, size: int) -> Array:
    """[A, P, ...] as [A, P / size, size, ...]."""
    return array.reshape(array.shape[0], array.shape[1] // size, size, *array.shape[2:])


def _mean(keys: Array, values: Array, counts: Array) -> Mean:
    some = jnp.maximum(counts, 1).astype(keys.dtype)
    size = jnp.where(counts > 0, jnp.log(some), finite_min(keys.dtype) / 4)
    return Mean(keys / some[..., None], values / some[..., None], size)


def leaves_of(
    key: Array, value: Array, kept: Array, begin: Any, size: int, number: int, sizes: Sizes
) -> Leaves:
    """The leaves of `number` trees of `size` tokens each; `begin` came before these tokens."""
    rows, length, _ = key.shape
    place = jnp.arange(number * size, dtype=jnp.int32)
    filled = (begin + place >= sizes.sinks) & (place < length)
    filled = filled[None] & jnp.pad(kept, [(0, 0), (0, number * size - length)])
    # Empty slots last.
    order = jnp.sort(
        jnp.broadcast_to(jnp.where(filled, place[None], length), (rows, number * size)).reshape(
            rows, number, size
        )
    )
    times = (size // sizes.leaf).bit_length() - 1
    # So many levels at once as TPU kernels halve.
    while times:
        once = -(-times // -(-times // LEVELS))
        order = halve_clusters(key, order, times=once)
        times -= once
    order = order.reshape(rows, -1, sizes.leaf)
    slots = order.reshape(rows, -1, 1)
    place_of = cluster_of_places(places_of(slots, length), slots)
    vectors = tuple(vary_alike((key, value), key, order))
    keys, values = sums_of_pieces(vectors, slots, vary_alike(place_of, key))
    return Leaves(
        keys.reshape(*order.shape, key.shape[-1]),
        values.reshape(*order.shape, value.shape[-1]),
        order < length,
    )
