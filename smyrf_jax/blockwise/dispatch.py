"""Which implementation attends: one contract, with a backward pass of its own."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax import Array

from smyrf_jax.batching import with_merged_batch
from smyrf_jax.blockwise import gathered, loop
from smyrf_jax.blockwise.contract import Inputs, Rules
from smyrf_jax.floats import float32_at_least
from smyrf_jax.platforms import Call, by_platform, result
from smyrf_jax.sharding import is_partitioned, vary_alike

Implementation = Literal["loop", "gather", "pallas"]


def check_implementation(implementation: Any) -> None:
    """Raises ValueError unless it is None or an `Implementation`."""
    if implementation is not None and implementation not in get_args(Implementation):
        raise ValueError(
            f"implementation should be None or one of {list(get_args(Implementation))}, "
            f"but got {implementation!r}."
        )


def blockwise_attention(rules: Rules, inputs: Inputs) -> tuple[Array, Array]:
    """clustered_attention of one sample: output [T, N, V] and logsumexp [T, N].

    The logsumexp is finite_min in rows without keys. Reverse mode only: the backward pass takes the
    inputs, the output and its logsumexp, and computes the logits again.
    """
    return _blockwise_attention(rules, vary_alike(inputs, inputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise_attention(rules: Rules, inputs: Inputs) -> tuple[Array, Array]:
    length, heads, _ = inputs.query.shape
    logsumexp = result((length, heads), float32_at_least(inputs.query.dtype))
    output = result((length, heads, inputs.value.shape[-1]), inputs.value.dtype)
    results: tuple[Array, Array] = _run(rules, loop.attend, gathered.attend, (output, logsumexp), inputs)
    return results


def _forward(rules: Rules, inputs: Inputs) -> tuple[tuple[Array, Array], Any]:
    results = _blockwise_attention(rules, inputs)
    return results, (inputs, results)


def _backward(rules: Rules, residuals: Any, of_results: tuple[Array, Array]) -> tuple[Inputs]:
    of_query, of_key, of_value, of_scale, of_far = _gradients(rules, *residuals, of_results)
    no_gradient: Any = None  # of the orders
    return (Inputs(of_query, of_key, of_value, of_scale, no_gradient, no_gradient, of_far),)


_blockwise_attention.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(rules: Rules, *arguments: Any) -> Any:
    """Of query, key, value, scale and far, from inputs, results and the gradients of results."""
    inputs: Inputs = arguments[0]
    far = inputs.far
    if far is not None and far.means is not None:
        far = dataclasses.replace(far, means=far.means._replace(cluster=None))
    like = inputs.query, inputs.key, inputs.value, inputs.scale, far
    return _run(rules, loop.gradients, gathered.gradients, like, *arguments)


def _gradients_forward(rules: Rules, *arguments: Any) -> tuple[Any, Any]:
    return _gradients(rules, *arguments), arguments


def _gradients_backward(rules: Rules, arguments: Any, of_results: Any) -> Any:
    # Kernels have no derivative; second ones are the loop's.
    return jax.vjp(functools.partial(loop.gradients, rules), *arguments)[1](of_results)


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _by_gathers(function: Callable[..., Any], kernel: bool | None, rules: Rules, *arguments: Any) -> Any:
    """function of samples, all at once."""
    return with_merged_batch(functools.partial(function, kernel, rules))(*arguments)


def _run(
    rules: Rules, by_loop: Callable[..., Any], by_gathers: Callable[..., Any], like: Any, *arguments: Any
) -> Any:
    """The implementation that the rules name, or the fastest of the platform that the program is for.

    The loop, where arrays lie over automatic or explicit axes of a mesh, and not all of them are manual.
    like: what it returns.
    """

    def gathers(kernel: bool | None) -> Call:
        return Call(_by_gathers, (by_gathers, kernel, rules))

    looped = Call(by_loop, (rules,))
    inputs: Inputs = arguments[0]
    if rules.implementation == "loop" or 0 in (inputs.query.shape[-1], inputs.value.shape[-1]):
        return by_loop(rules, *arguments)  # rows of no words are none
    if rules.implementation is None and is_partitioned(*jax.tree.leaves(arguments)):
        # Compilers cannot partition kernels, nor gathers of all heads as one; the loop they can.
        return by_loop(rules, *arguments)
    if rules.implementation == "gather":
        return _by_gathers(by_gathers, False, rules, *arguments)
    if rules.implementation == "pallas":
        interpreted = gathers(None)
        # What is too wide for a TPU's kernels takes the default.
        others = gathers(False) if inputs.query.dtype.itemsize == 8 else interpreted
        return by_platform(like, *arguments, cpu=interpreted, tpu=gathers(True), default=others)
    return by_platform(like, *arguments, cpu=looped, tpu=gathers(True), default=gathers(False))
