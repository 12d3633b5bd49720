"""Sets of tokens that are halved several times at once, as TPU kernels do it."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from smyrf_jax.clustering.halving_kernel import CHUNK, EMPTY, NO_TOKEN, TOKEN_BITS, halve
from smyrf_jax.rows import sorted_along
from smyrf_jax.sharding import result_like, vary_alike

# Levels of a call, at most: each one costs as much as all before it.
LEVELS = 5
# Tokens of a set, and words of a step, at most: 6 MB, which vector memory holds twice.
RESIDENT = 2**16
WORDS = 3 * 2**19
# Words of a token beside its coordinates.
OTHERS = 6
# Coordinates of a side, in a step of several sets.
STEP = 2**18
# And of the rows that the nodes of a level begin with, where these are rows of their own.
ROWS = 3 * 2**20


class Sets(NamedTuple):
    """Sets of tokens that are halved, all of them at once: the queries, or the keys, of some nodes.

    coordinates: [G, P, m] float32; zeros in empty slots.
    tokens: [G, m] int32; 2^24 - 1 and more marks an empty slot.
    first: [G, 2^levels - 1] int32, how many tokens the first half of each node gets: the root, its children,
        their children.
    sizes: [G, 2^levels] int32, how many tokens the nodes of the last level get.
    """

    coordinates: Float[Array, "G P m"]
    tokens: Int[Array, "G m"]
    first: Int[Array, "G inner"]
    sizes: Int[Array, "G leaves"]


def sets_of(
    rows: Float[Array, "G m P"],
    tokens: Int[Array, "G m"],
    length: int,
    first: Int[Array, "G inner"],
    sizes: Int[Array, "G leaves"],
) -> Sets:
    """Sets of tokens, `length` marking empty slots, and of the coordinates of each."""
    coordinates = jnp.swapaxes(rows, 1, 2).astype(jnp.float32)
    return Sets(coordinates, jnp.where(tokens < length, tokens, NO_TOKEN), first, sizes)


def fits(num_coordinates: int, slots: Sequence[int], lengths: Sequence[int]) -> bool:
    """Whether sets of so many slots, of queries and of keys, can be halved at once. lengths: all tokens."""
    if min(num_coordinates, *slots) <= 0 or max(lengths) >= NO_TOKEN:
        return False
    return max(slots) <= RESIDENT and sum(slots) * (num_coordinates + OTHERS) <= WORDS


def halved(
    sides: Sequence[Sets],
    starts: Float[Array, "G inner P"] | None,
    *,
    levels: int,
    size: Sequence[int],
    spare: Sequence[int],
    length: Sequence[int],
    interpret: bool = False,
) -> list[Int[Array, "G leaves size"]]:
    """Cuts each set in 2^levels, by halving it, and its halves, along directions of their own.

    A node's direction: its start, or the lowest of its tokens if starts is None, after a step of power
    iteration for the second moments of the last side, then of the side before it.

    Args:
        sides: queries and keys, or one of them alone.
        starts: of each node.
        levels: how often to halve.
        size: of each side, slots of a node of the last level.
        spare: of each side, how many of them may be empty.
        length: of each side, what marks an empty slot of the result.
        interpret: run the kernel on any platform.

    Returns:
        Of each side the tokens of the nodes of the last level, in their order, empty slots last.
    """
    keys = _numbered(sides, starts, levels, interpret)
    return [
        _in_nodes(key, of.sizes, at_most, empty, marks)
        for key, of, at_most, empty, marks in zip(keys, sides, size, spare, length, strict=True)
    ]


def _in_nodes(key: Array, sizes: Array, size: int, spare: int, length: int) -> Array:
    """Tokens [G, leaves, size] of [G, m] numbers of leaves and tokens."""
    groups, leaves = sizes.shape
    if spare:
        leaf, slot = (jax.lax.broadcasted_iota(jnp.int32, (groups, leaves, spare), axis) for axis in (1, 2))
        leaf = jnp.where(slot < (size - sizes)[..., None], leaf, EMPTY)
        fillers = (leaf << TOKEN_BITS) | NO_TOKEN
        key = jnp.concatenate([key, fillers.reshape(groups, leaves * spare)], axis=1)
    (key,) = sorted_along(key)
    tokens = key[:, : leaves * size] & NO_TOKEN
    return jnp.minimum(tokens, length).reshape(groups, leaves, size)


class _Shape(NamedTuple):
    """Of an array of tokens: a set is a row, or (whole) eight rows are a set."""

    rows: int
    columns: int
    whole: bool

    def of_sets(self, array: Array, empty: int) -> Array:
        """[..., G, m] as [..., rows, columns]."""
        slots = self.columns * (8 if self.whole else 1)
        rows = self.rows // 8 if self.whole else self.rows
        widths = [(0, rows - array.shape[-2]), (0, slots - array.shape[-1])]
        array = jnp.pad(array, [(0, 0)] * (array.ndim - 2) + widths, constant_values=empty)
        return array.reshape(*array.shape[:-2], self.rows, self.columns)


def _numbered(sides: Sequence[Sets], starts: Array | None, levels: int, interpret: bool) -> list[Array]:
    """[G, m], the number of its node of the last level, and the token, as one integer."""
    groups, width = sides[0].coordinates.shape[:2]
    longest = max(-(-of.tokens.shape[1] // 128) * 128 for of in sides)
    slots = sum(of.tokens.shape[1] for of in sides)
    whole = groups < 8 or 8 * slots * (width + OTHERS) > WORDS
    most = min(CHUNK, STEP // width)
    if starts is None:
        most = min(most, ROWS // (width << levels))
    block = 8 if whole else min(-(-groups // 8) * 8, max(8, most // longest // 8 * 8))
    steps = groups if whole else -(-groups // block)
    shapes = [
        _Shape(steps * block, -(-of.tokens.shape[1] // (1024 if whole else 128)) * 128, whole) for of in sides
    ]
    spare = 0 if whole else steps * block - groups
    sets = 1 if whole else block

    def of_steps(array: Array) -> Array:
        """[..., G, A] as [steps, ..., sets, A]."""
        array = jnp.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, spare), (0, 0)])
        array = array.reshape(*array.shape[:-2], steps, sets, array.shape[-1])
        return jnp.moveaxis(array, -3, 0)

    arrays: list[Array] = []
    specs: list[Any] = []

    def operand(array: Array, shape: tuple[int, ...], index: Callable[[Any], tuple[Any, ...]]) -> None:
        arrays.append(array)
        specs.append(pl.BlockSpec(shape, index))

    for of, shape in zip(sides, shapes, strict=True):
        rows = shape.of_sets(jnp.swapaxes(of.coordinates, 0, 1), 0)
        operand(rows, (width, block, shape.columns), lambda step: (0, step, 0))
        operand(shape.of_sets(of.tokens, NO_TOKEN), (block, shape.columns), lambda step: (step, 0))
        first = of_steps(of.first.astype(jnp.float32))
        operand(first, (1, *first.shape[1:]), lambda step: (step, 0, 0))
    if starts is not None:
        starts = of_steps(jnp.swapaxes(starts, 0, 1))
        operand(starts, (1, *starts.shape[1:]), lambda step: (step, 0, 0, 0))
    arguments = vary_alike(arrays, *arrays)
    scratch = [pltpu.VMEM((block, shape.columns), jnp.int32) for shape in shapes for _ in ("node", "bits")]
    found = pl.pallas_call(
        functools.partial(halve, levels, len(sides), whole, starts is not None),
        grid=(steps,),
        in_specs=specs,
        out_specs=[pl.BlockSpec((block, shape.columns), lambda step: (step, 0)) for shape in shapes],
        out_shape=[result_like(shape[:2], jnp.int32, arguments[0]) for shape in shapes],
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="halve",
    )(*arguments)
    return [
        key.reshape(-1, math.prod(key.shape) // (shape.rows // (8 if whole else 1)))[
            :groups, : of.tokens.shape[1]
        ]
        for key, shape, of in zip(found, shapes, sides, strict=True)
    ]
