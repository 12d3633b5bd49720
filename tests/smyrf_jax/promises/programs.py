"""What is compiled: attention with its gradients, plainly and through JAX's transformations."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from smyrf_jax import CausalCanopy, attention
from tests.smyrf_jax.promises.problems import DIFFERENTIATED, Problem


def attend(method: Any, problem: Problem, is_causal: bool = False) -> tuple[Array, Array]:
    """Output and logsumexp."""
    masks = {"mask": problem.kept, "query_mask": problem.kept_queries}
    if problem.kept_queries is None and problem.query.shape[-3] == problem.key.shape[-3]:
        masks["query_mask"] = problem.kept
    return attention(
        problem.query,
        problem.key,
        problem.value,
        method=method,
        rng=jax.random.key(5),
        scale=problem.scale,
        is_causal=is_causal or isinstance(method, CausalCanopy),
        return_residual=True,
        **masks,
    )


def pulled(method: Any, problem: Problem, is_causal: bool = False) -> tuple[Any, dict[str, Array]]:
    """(output, logsumexp), and the gradients."""

    def attended(of: dict[str, Array]) -> tuple[Array, Array]:
        return attend(method, problem._replace(**of), is_causal)

    results, pull = jax.vjp(attended, {name: getattr(problem, name) for name in DIFFERENTIATED})
    return results, *pull((problem.to_output, problem.to_logsumexp))


run = jax.jit(pulled, static_argnums=(0, 2))


@functools.partial(jax.jit, static_argnums=0)
def run_each(method: Any, problem: Problem) -> Any:
    """`run` by vmap over the samples: the gradient of the scale is one of each."""
    return jax.vmap(functools.partial(pulled, method), in_axes=(Problem(0, 0, 0, None, 0, 0, 0),))(problem)


@functools.partial(jax.jit, static_argnums=0)
def run_layers(method: Any, problem: Problem) -> Any:
    """A scan over two layers, of half the scale in the second, each of them computed anew backward."""

    def stack(of: dict[str, Array]) -> Array:
        @jax.checkpoint
        def layer(tokens: Array, scale: Array) -> tuple[Array, None]:
            inner = problem._replace(**of | {"query": tokens, "scale": scale})
            return tokens + attend(method, inner)[0], None

        return jax.lax.scan(layer, of["query"], jnp.stack([of["scale"], of["scale"] / 2]))[0]

    output, pull = jax.vjp(stack, {name: getattr(problem, name) for name in DIFFERENTIATED})
    return output, *pull(problem.to_output)


@functools.partial(jax.jit, static_argnums=0)
def run_lengths(
    method: Any, query: Array, key: Array, value: Array, scale: Array, lengths: Array
) -> tuple[Array, Array]:
    """Output and logsumexp, by one array of lengths."""
    return attention(
        query,
        key,
        value,
        method=method,
        rng=jax.random.key(5),
        scale=scale,
        is_causal=isinstance(method, CausalCanopy),
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        return_residual=True,
    )


def shardings(mesh: Any, axes: tuple[str, ...]) -> Problem:
    """How a problem lies on a mesh with axes "batch" and "heads"."""
    batch, heads = (name if name in axes else None for name in ("batch", "heads"))
    tokens, kept = PartitionSpec(batch, None, heads, None), PartitionSpec(batch, None, None, None)
    specs = Problem(
        tokens, tokens, tokens, PartitionSpec(), tokens, PartitionSpec(batch, None, heads), kept, None
    )
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def specs(tree: Any) -> Any:
    """The partition specs of shardings."""
    return jax.tree.map(lambda sharding: sharding.spec, tree)


def mesh_of(axes: tuple[str, ...], kind: AxisType) -> Any:
    """Two devices an axis."""
    devices = jax.devices()[: 2 ** len(axes)]
    return jax.make_mesh((2,) * len(axes), axes, axis_types=(kind,) * len(axes), devices=devices)


def run_on_mesh(method: Any, problem: Problem, axes: tuple[str, ...], kind: AxisType) -> tuple[Any, str]:
    """`run` of a problem that is sharded over axes, and the compiled program's text."""
    mesh = mesh_of(axes, kind)
    placed = jax.device_put(problem, shardings(mesh, axes))
    explicit = jax.set_mesh(mesh) if kind == AxisType.Explicit else contextlib.nullcontext()
    with explicit:
        compiled = jax.jit(functools.partial(pulled, method)).lower(placed).compile()
        return compiled(placed), compiled.as_text()


def run_mapped(method: Any, problem: Problem) -> Any:
    """`run` by shard_map over batch and heads."""
    axes = ("batch", "heads")
    mesh = mesh_of(axes, AxisType.Auto)
    given = specs(shardings(mesh, axes))
    gradients = {name: getattr(given, name) for name in DIFFERENTIATED}
    mapped = jax.shard_map(
        functools.partial(pulled, method),
        mesh=mesh,
        in_specs=(given,),
        out_specs=((given.to_output, given.to_logsumexp), gradients),
    )
    return jax.jit(mapped)(problem)


@contextlib.contextmanager
def untyped() -> Iterator[None]:
    """Without the tests' own type hook, which knows no symbolic sizes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def exported(program: Callable[..., Any], arguments: Any, batch: str) -> Callable[..., Any]:
    """A program of arrays, exported for a batch of this size, written, and read again."""
    (size,) = jax.export.symbolic_shape(batch)

    def kind(array: Array) -> Any:
        return jax.ShapeDtypeStruct((size, *array.shape[1:]) if array.ndim else (), array.dtype)

    with untyped():
        found = jax.export.export(jax.jit(program))(*jax.tree.map(kind, arguments))
    return jax.jit(jax.export.deserialize(bytearray(found.serialize())).call)
