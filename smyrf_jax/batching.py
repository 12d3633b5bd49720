"""Functions of arrays with one batch axis, under vmap."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

# Groups that are written out one after the other: slices for a loop, and joining its results, are copies.
UNROLLED = 4


def with_merged_batch(function: Callable[..., Any], axes: int = 0) -> Callable[..., Any]:
    """A function of arrays with one batch axis as one of arrays with `axes` of them.

    Where it is mapped over another axis, by vmap, that becomes one more batch axis: the function sees all
    samples at once. It has no derivative.
    """

    @jax.custom_batching.custom_vmap
    def merged(*arguments: Any) -> Any:
        shape = jax.tree.leaves(arguments)[0].shape[:axes]
        one = jax.tree.map(lambda array: array.reshape(math.prod(shape), *array.shape[axes:]), arguments)
        return jax.tree.map(lambda array: array.reshape(*shape, *array.shape[1:]), function(*one))

    @merged.def_vmap
    def _(size: int, in_batched: Any, *arguments: Any) -> Any:
        def along(batched: bool, array: Array) -> Array:
            return array if batched else jnp.broadcast_to(array[None], (size, *array.shape))

        arguments = jax.tree.map(along, tuple(in_batched), arguments)
        found = with_merged_batch(function, axes + 1)(*arguments)
        return found, jax.tree.map(lambda _: True, found)

    return merged


def in_groups(function: Callable[..., Any], number: int, most: int, *arrays: Any) -> Any:
    """function of all arrays, in equal groups of at most so many of a number at a time.

    arrays: the first axis of each is a multiple of the number, and so are those of the results. All at a time
    where the number is a symbol, as in jax.export.
    """
    if not isinstance(number, int):
        return function(*arrays)
    group = max(size for size in range(1, number + 1) if size <= max(1, most) and number % size == 0)
    if group == number:
        return function(*arrays)
    groups = number // group

    if groups <= UNROLLED:
        parts = one_after_another(function, groups, *arrays)
        return jax.tree.map(lambda *of: jnp.concatenate(of), *parts)

    def cut(array: Array) -> Array:
        return array.reshape(groups, array.shape[0] // groups, *array.shape[1:])

    found = jax.lax.map(lambda some: function(*some), jax.tree.map(cut, arrays))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), found)


def one_after_another(function: Callable[..., Any], groups: int, *arrays: Any) -> list[Any]:
    """What function makes of each of equal groups of arrays, along their first axes, in this order.

    Left to itself, a compiler cuts the arrays for all groups before the first one, and keeps all parts.
    """
    parts: list[Any] = []
    for index in range(groups):
        start = jnp.int32(index)
        if parts:
            leaves, tree = jax.tree.flatten(parts[-1])
            some = min(range(len(leaves)), key=lambda leaf: leaves[leaf].size)
            both = (start, leaves[some])
            start, leaves[some] = jax.lax.optimization_barrier(both)  # type: ignore[no-untyped-call]
            parts[-1] = jax.tree.unflatten(tree, leaves)

        def part(array: Array, start: Array = start) -> Array:
            size = array.shape[0] // groups
            return jax.lax.dynamic_slice_in_dim(array, start * size, size)

        parts.append(function(*jax.tree.map(part, arrays)))
    return parts
