"""Which implementation attends: one contract, with a backward pass of its own."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax import Array

from smyrf_jax.batching import with_merged_batch
from smyrf_jax.blockwise import gathered, loop
from smyrf_jax.blockwise.contract import Inputs, Rules
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
    inputs, the output and its logsumexp, and computes the logits anew.
    """
    return _blockwise_attention(rules, vary_alike(inputs, inputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise_attention(rules: Rules, inputs: Inputs) -> tuple[Array, Array]:
    results: tuple[Array, Array] = _run(rules, loop.attend, gathered.attend, inputs)
    return results


def _forward(rules: Rules, inputs: Inputs) -> tuple[tuple[Array, Array], Any]:
    results = _blockwise_attention(rules, inputs)
    return results, (inputs, results)


def _backward(rules: Rules, residuals: Any, of_results: tuple[Array, Array]) -> tuple[Inputs]:
    of_query, of_key, of_value, of_scale, of_far = _run(
        rules, loop.gradients, gathered.gradients, *residuals, of_results
    )
    no_gradient: Any = None  # of the orders
    return (Inputs(of_query, of_key, of_value, of_scale, no_gradient, no_gradient, of_far),)


_blockwise_attention.defvjp(_forward, _backward)


def _by_gathers(function: Callable[..., Any], kernel: bool | None, rules: Rules) -> Callable[..., Any]:
    """function of samples, whose own gradients are those of the loop: kernels have none."""
    merged = with_merged_batch(functools.partial(function, kernel, rules))
    if function is not gathered.gradients:
        return merged

    @jax.custom_vjp
    def of_sample(*arguments: Any) -> Any:
        return merged(*arguments)

    def forward(*arguments: Any) -> Any:
        return merged(*arguments), arguments

    def backward(arguments: Any, of_results: Any) -> Any:
        return jax.vjp(functools.partial(loop.gradients, rules), *arguments)[1](of_results)

    of_sample.defvjp(forward, backward)
    return of_sample


def _run(rules: Rules, by_loop: Callable[..., Any], by_gathers: Callable[..., Any], *arguments: Any) -> Any:
    """The implementation that the rules name, or the fastest of the platform that the program is for.

    The loop, where arrays lie over automatic or explicit axes of a mesh, and none of them is manual yet.
    """

    def gathers(kernel: bool | None) -> Callable[..., Any]:
        return _by_gathers(by_gathers, kernel, rules)

    def looped(*arguments: Any) -> Any:
        return by_loop(rules, *arguments)

    inputs: Inputs = arguments[0]
    if rules.implementation == "loop" or 0 in (inputs.query.shape[-1], inputs.value.shape[-1]):
        return looped(*arguments)  # rows of no words are none
    if rules.implementation is None and is_partitioned(*jax.tree.leaves(arguments)):
        # Compilers cannot partition kernels, nor gathers of all heads as one; the loop they can.
        return looped(*arguments)
    if rules.implementation == "gather":
        return gathers(False)(*arguments)
    if rules.implementation == "pallas":
        return jax.lax.platform_dependent(*arguments, tpu=gathers(True), default=gathers(None))
    return jax.lax.platform_dependent(*arguments, cpu=looped, tpu=gathers(True), default=gathers(False))
