"""Functions of which a program holds the one for its platform, and the others are not even traced."""

import contextvars
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from smyrf_jax import chips
from smyrf_jax.sharding import vary_alike

_exported: contextvars.ContextVar[bool] = contextvars.ContextVar("exported", default=False)


def is_exported() -> bool:
    """Whether what is being traced is for jax.export, which knows few of the compiler's extensions."""
    return _exported.get()


def result(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """What a call returns."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


class Call(NamedTuple):
    """A function of arrays, after what is known before: what is equal is compiled once.

    statics: its first arguments, hashable.
    """

    function: Any
    statics: tuple[Any, ...] = ()


def by_platform(like: Any, *arguments: Any, cpu: Call, tpu: Call, default: Call) -> Any:
    """What the call gives that is for the platform which a program is compiled for. Has no derivative.

    As of `jax.lax.platform_dependent`, which traces all of them though: kernels would cost a program for CPUs
    seconds. Here a call is traced when the program is lowered. vmap maps over the calls.

    like: what each call returns: arrays of its shapes and dtypes, or what `result` makes.
    """
    arguments = vary_alike(arguments, arguments)
    leaves, tree = jax.tree.flatten(arguments)
    results, out_tree = jax.tree.flatten(like)
    found = _by_platform.bind(
        *leaves,
        calls=(("cpu", cpu), ("tpu", tpu), ("", default)),
        tree=tree,
        results=tuple((result.shape, result.dtype) for result in results),
        mapped=(),
        # What the context says here counts, though calls are traced later.
        chip=chips.of_program(),
        precision=_CONFIG.jax_default_matmul_precision,
        x64=_CONFIG.jax_enable_x64,
    )
    return jax.tree.unflatten(out_tree, found)


_CONFIG: Any = jax.config
_by_platform: Any = Primitive("by_platform")
_by_platform.multiple_results = True
_PARAMETERS = ("calls", "tree", "results", "mapped", "chip", "precision", "x64")


def _types(*types: Any, results: Any, **_: Any) -> list[Any]:
    like = types[0]

    def of_result(shape: Any, dtype: Any) -> Any:
        spec: Any = PartitionSpec(*[None] * len(shape))  # type: ignore[no-untyped-call]
        sharding = like.sharding.update(spec=spec)
        return like.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)

    return [of_result(*of) for of in results]


_by_platform.def_abstract_eval(_types)


def _bind(*leaves: ArrayLike, **parameters: Any) -> list[Array]:
    found: list[Array] = _by_platform.bind(*leaves, **parameters)
    return found


_compiled = jax.jit(_bind, static_argnames=_PARAMETERS)


def _mapped(leaves: Any, axes: Any, *, results: Any, mapped: Any, **parameters: Any) -> Any:
    size = next(leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    leaves = [
        leaf if axis is None else jax.numpy.moveaxis(leaf, axis, 0)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    found = _by_platform.bind(
        *leaves,
        results=tuple(((size, *shape), dtype) for shape, dtype in results),
        mapped=(*mapped, tuple(None if axis is None else 0 for axis in axes)),
        **parameters,
    )
    return found, [0] * len(found)


batching.primitive_batchers[_by_platform] = _mapped


def _run(
    platform: str,
    *leaves: Any,
    calls: Any,
    tree: Any,
    mapped: Any,
    chip: str,
    precision: Any,
    x64: bool,
    **_: Any,
) -> list[Any]:
    if any(not isinstance(size, int) for leaf in leaves for size in leaf.shape):
        # What jax.export knows as a symbol is no grid's size.
        platform = platform if platform == "cpu" else ""
    if platform == "tpu":
        # Mosaic's kernels know no numbers of 64 bits. Where arrays have none, no constant does either.
        wide = any(leaf.dtype.itemsize == 8 for leaf in leaves)
        platform, x64 = ("", x64) if wide else (platform, False)
    call: Call = dict(calls)[platform]

    def function(*leaves: ArrayLike) -> list[Any]:
        return jax.tree.leaves(call.function(*call.statics, *jax.tree.unflatten(tree, leaves)))

    for axes in mapped:
        function = jax.vmap(function, in_axes=axes)
    with chips.compiling_for(chip), jax.default_matmul_precision(precision), jax.enable_x64(x64):
        return function(*leaves)


def _run_now(*leaves: ArrayLike, **parameters: Any) -> list[Array]:
    """Outside jit: as one program, unless jax.disable_jit forbids it."""
    if not _CONFIG.jax_disable_jit:
        found: list[Array] = _compiled(*leaves, **parameters)
        return found
    platform = jax.default_backend()
    return _run(platform if platform in ("cpu", "tpu") else "", *leaves, **parameters)


_by_platform.def_impl(_run_now)


def _lowering(platform: str) -> Any:
    def run(*leaves: ArrayLike, **parameters: Any) -> list[Any]:
        return _run(platform, *leaves, **parameters)

    lower = mlir.lower_fun(run)

    def rule(context: Any, *operands: Any, **parameters: Any) -> Any:
        token = _exported.set(context.module_context.lowering_parameters.for_export)
        try:
            return lower(context, *operands, **parameters)
        finally:
            _exported.reset(token)

    return rule


for _platform in ("cpu", "tpu", ""):
    mlir.register_lowering(_by_platform, _lowering(_platform), platform=_platform or None)
