"""Arrays on meshes: over which axes they vary in shard_map, and shards of an explicit mesh one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

# A part of a PartitionSpec: the axes that one axis of an array lies over.
_Axes = Any


def vary_alike(tree: Any, *like: Any) -> Any:
    """The arrays of `tree`, varying over all axes that those of `like` vary over.

    shard_map asks for it of loops' first values, and of what a custom VJP takes: an array that is the same on
    all devices then gets the sum of its gradients. Does nothing elsewhere.
    """
    axes = frozenset().union(*(_axes(leaf) for leaf in jax.tree.leaves(like)))

    def vary(array: Any) -> Any:
        missing = tuple(sorted(axes - _axes(array)))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(vary, tree)


def is_partitioned(*arrays: Any) -> bool:
    """Whether arrays lie on a mesh whose axes are not all manual, as they are in shard_map and pmap."""
    for array in arrays:
        mesh = jax.typeof(array).sharding.mesh
        for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True):
            if size > 1 and kind != jax.sharding.AxisType.Manual:
                return True
    return False


def result_like(shape: tuple[int, ...], dtype: Any, array: Array) -> jax.ShapeDtypeStruct:
    """What a kernel returns that varies over the axes that `array` varies over."""
    kind = getattr(jax.typeof(array), "manual_axis_type", None)
    options = {} if kind is None else {"manual_axis_type": kind}
    return jax.ShapeDtypeStruct(shape, dtype, **options)  # type: ignore[no-untyped-call]


def _axes(array: Any) -> frozenset[str]:
    # Not an attribute of every version of JAX: without it, shard_map itself names what it misses.
    kind = getattr(jax.typeof(array), "manual_axis_type", None)
    return frozenset() if kind is None else kind.varying


def over_shards(
    attend: Callable[..., tuple[Array, Array]],
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    query_mask: Array | None,
    *others: Any,
) -> tuple[Array, Array]:
    """attend(...), on each shard by itself where batch or heads lie over axes of an explicit mesh.

    In an explicit mesh every operation has to say how its result lies, which sorting and gathering of tokens
    do not. Samples and heads do not need each other, so that shards need not know. Tokens and widths that are
    sharded are gathered first. Where axes are of the kind Auto, the compiler finds all this out by itself.

    attend: of query, key, value, mask, query_mask, *others -> output [*B, T, N, V], logsumexp [*B, T, N].
    others: arrays that are the same on all devices.
    """
    mesh = _explicit_mesh(query, key, value)
    if mesh is None:
        return attend(query, key, value, mask, query_mask, *others)
    lying = [_spec(array) for array in (query, key, value)]
    batch = [_first(spec[axis] for spec in lying) for axis in range(query.ndim - 3)]
    heads = _first(spec[-2] for spec in lying)
    if key.shape[-2] % _size(mesh, heads):
        key, value = (_reshard(array, *batch, None, None, None) for array in (key, value))
        repeats = query.shape[-2] // key.shape[-2]
        key, value = (jnp.repeat(array, repeats, axis=-2) for array in (key, value))
    alike = query_mask is mask

    def of_mask(mask: Array | None) -> Any:
        if mask is None:
            return None
        return _reshard(
            mask,
            *(axes if size > 1 else None for axes, size in zip((*batch, heads), mask.shape, strict=False)),
        )

    def of_shard(query: Array, key: Array, value: Array, mask: Any, query_mask: Any, *others: Any) -> Any:
        return attend(query, key, value, mask, mask if alike else query_mask, *others)

    tokens = [_reshard(array, *batch, None, heads, None) for array in (query, key, value)]
    masks = [of_mask(mask), None if alike else of_mask(query_mask)]
    everywhere = [_reshard(array) for array in others]
    arguments = *tokens, *masks, *everywhere
    found: tuple[Array, Array] = jax.shard_map(
        of_shard,
        mesh=mesh,
        in_specs=tuple(None if array is None else jax.typeof(array).sharding.spec for array in arguments),
        out_specs=(_partition(*batch, None, heads, None), _partition(*batch, None, heads)),
        axis_names={name for axes in (*batch, heads) for name in _names(axes)},
    )(*arguments)
    return found


def _partition(*axes: _Axes) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


def _reshard(array: Array, *axes: _Axes) -> Array:
    resharded: Array = jax.sharding.reshard(array, _partition(*axes))  # type: ignore[no-untyped-call]
    return resharded


def _explicit_mesh(*arrays: Array) -> Any:
    """The mesh over whose explicit axes one of the arrays is sharded."""
    for array in arrays:
        sharding = jax.typeof(array).sharding
        if any(axes is not None for axes in _spec(array)):
            return sharding.mesh
    return None


def _spec(array: Array) -> tuple[_Axes, ...]:
    """Of each axis of an array, the explicit axes of a mesh that it lies over."""
    spec = tuple(jax.typeof(array).sharding.spec)
    return spec + (None,) * (array.ndim - len(spec))


def _first(axes: Any) -> _Axes:
    return next((of for of in axes if of is not None), None)


def _names(axes: _Axes) -> tuple[str, ...]:
    return () if axes is None else axes if isinstance(axes, tuple) else (axes,)


def _size(mesh: Any, axes: _Axes) -> int:
    size = 1
    for name in _names(axes):
        size *= mesh.shape[name]
    return size
