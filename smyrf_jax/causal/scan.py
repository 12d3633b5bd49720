"""All queries, a few at a time, in linear memory; the backward pass attends again."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from smyrf_jax.causal.past import Leaves, Mean, Past, Sizes
from smyrf_jax.causal.step import Choice, Near, Opened, attended, choose, closed, opened_of, window_of
from smyrf_jax.sharding import is_partitioned, vary_alike

# Queries of a step on CPUs, whose caches hold what so many open.
QUERIES = 32


@dataclasses.dataclass(frozen=True)
class Rules:
    """sizes: of the past. branches, leaves: that a query opens. length: tokens.

    shared: the heads of a group open the same.
    """

    sizes: Sizes
    branches: int
    leaves: int
    length: int
    shared: bool = False


def attend_to_past(
    query: Float[Array, "A G T D"],
    key: Float[Array, "A T D"],
    value: Float[Array, "A T V"],
    kept: Bool[Array, "A T"],
    past: Past,
    rules: Rules,
) -> tuple[Float[Array, "A G T V"], Float[Array, "A G T"]]:
    """Output, and logsumexp; finite_min where a query has no key.

    A row is a sample and a key head; G query heads share it. T is a multiple of the block. Scaled queries.
    """
    arguments = vary_alike((query, key, value, kept, past), query, key, value, kept, past)
    found: tuple[Array, Array] = _attend(rules, *arguments)
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(rules: Rules, *arguments: Any) -> tuple[Array, Array]:
    found: tuple[Array, Array] = _forward(rules, *arguments)[0]
    return found


def _forward(rules: Rules, query: Array, key: Array, value: Array, kept: Array, past: Past) -> Any:
    output, logsumexp, choice = _each_row(
        functools.partial(_of_row, rules), rules, query, key, value, kept, past
    )
    return (output, logsumexp), (query, key, value, kept, past, output, logsumexp, choice)


def _backward(rules: Rules, saved: Any, to: Any) -> Any:
    query, key, value, kept, past, _, _, choice = saved
    to_query, to_key, to_value, to_past = _each_row(
        functools.partial(_row_backward, rules), rules, query, key, value, kept, past, choice, *to
    )
    return to_query, to_key, to_value, None, to_past


_attend.defvjp(_forward, _backward)


def _each_row(function: Any, rules: Rules, *arguments: Any) -> Any:
    """The function of each row: in turn on CPUs, at once elsewhere."""

    def in_turn(*arguments: Any) -> Any:
        return jax.lax.map(lambda of: function(QUERIES, *of), arguments)

    def at_once(*arguments: Any) -> Any:
        return jax.vmap(functools.partial(function, rules.sizes.block))(*arguments)

    leaves = jax.tree.leaves(arguments)
    # A loop over what jax.export knows as a symbol has no length.
    if is_partitioned(*leaves) or not isinstance(leaves[0].shape[0], int):
        return at_once(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=in_turn, default=at_once)


def _steps(size: int, shared: bool, array: Array) -> Array:
    """[G, T, ...] as [steps, C, G, ...]; not shared, as [steps, G * C, 1, ...]: C tokens of each head."""
    heads, tokens, *rest = array.shape
    array = jnp.moveaxis(array.reshape(heads, tokens // size, size, *rest), 0, 2 if shared else 1)
    return array if shared else array.reshape(tokens // size, heads * size, 1, *rest)


def _tokens(size: int, shared: bool, steps: Array) -> Array:
    """The inverse of `_steps`."""
    if not shared:
        steps = steps.reshape(len(steps), steps.shape[1] // size, size, *steps.shape[3:])
    steps = jnp.moveaxis(steps, 2 if shared else 1, 0)
    return steps.reshape(len(steps), steps.shape[1] * size, *steps.shape[3:])


def near_of(rules: Rules, key: Array, value: Array, kept: Array, first: Array, size: int, heads: int) -> Near:
    """Sinks and own block of `size` queries from the place `first` on."""
    sizes = rules.sizes
    start = first // sizes.block * sizes.block
    place = first + jnp.arange(size, dtype=jnp.int32)
    inside = start + jnp.arange(sizes.block, dtype=jnp.int32)
    own = [jax.lax.dynamic_slice_in_dim(of, start, sizes.block) for of in (key, value, kept)]
    sinks = [of[: sizes.sinks] for of in (key, value, kept)]
    keys, values, all_kept = (jnp.concatenate(of) for of in zip(sinks, own, strict=True))
    far = jnp.broadcast_to(start > 0, (size, len(sinks[0])))
    seen = jnp.concatenate([far, inside[None] <= place[:, None]], axis=1)
    seen = seen & all_kept[None]
    return Near(keys, values, seen if rules.shared else jnp.tile(seen, (heads, 1)))


def step_of(rules: Rules, own: Array, near: Near, past: Past, first: Array) -> tuple[Array, Array, Choice]:
    """Output, logsumexp and choice of scaled queries [C, G, D] of one block, from the place `first` on."""
    sizes = rules.sizes
    window = window_of(past, first // sizes.block * sizes.block, sizes, rules.length)
    choice = choose(own, near, window, past, sizes, rules.branches, rules.leaves)
    branches = window.means._replace(size=closed(window, choice))
    return (*attended(own, near, branches, opened_of(past, choice, sizes)), choice)


def _of_row(
    rules: Rules, queries: int, query: Array, key: Array, value: Array, kept: Array, past: Past
) -> tuple[Array, Array, Choice]:
    size = math.gcd(queries, rules.sizes.block)

    def step(_: None, of: tuple[Array, Array]) -> tuple[None, tuple[Array, Array, Choice]]:
        own, first = of
        near = near_of(rules, key, value, kept, first, size, len(query))
        return None, step_of(rules, own, near, past, first)

    own = _steps(size, rules.shared, query)
    firsts = size * jnp.arange(len(own), dtype=jnp.int32)
    _, (output, logsumexp, choice) = jax.lax.scan(step, vary_alike(None, query), (own, firsts))
    return (
        _tokens(size, rules.shared, output),
        _tokens(size, rules.shared, logsumexp),
        Choice(*(of.reshape(-1, of.shape[-1]) for of in choice)),
    )


def _row_backward(
    rules: Rules,
    queries: int,
    query: Array,
    key: Array,
    value: Array,
    kept: Array,
    past: Past,
    choice: Choice,
    to_output: Array,
    to_logsumexp: Array,
) -> tuple[Array, Array, Array, Past]:
    size, sizes = math.gcd(queries, rules.sizes.block), rules.sizes

    def step(sums: Any, of: Any) -> tuple[Any, Array]:
        own, first, choice, *to = of
        start = first // sizes.block * sizes.block
        near = near_of(rules, key, value, kept, first, size, len(query))
        window = window_of(past, start, sizes, rules.length)
        opened = opened_of(past, choice, sizes)
        open_sizes = closed(window, choice)

        def of_vectors(own: Array, *vectors: Any) -> tuple[Array, Array]:
            of_near, of_branches, of_means, of_leaves = vectors
            return attended(
                own,
                near._replace(keys=of_near[0], values=of_near[1]),
                Mean(of_branches[0], of_branches[1], open_sizes),
                Opened(
                    Mean(of_means[0], of_means[1], opened.means.size),
                    Leaves(of_leaves[0], of_leaves[1], opened.leaves.filled),
                ),
            )

        vectors = (near[:2], window.means[:2], opened.means[:2], opened.leaves[:2])
        to_own, *gradients = jax.vjp(of_vectors, own, *vectors)[1](tuple(to))
        return _added(sums, gradients, start, choice, rules), to_own

    own, *to = (_steps(size, rules.shared, of) for of in (query, to_output, to_logsumexp))
    choice = Choice(*(of.reshape(len(own), -1, of.shape[-1]) for of in choice))
    firsts = size * jnp.arange(len(own), dtype=jnp.int32)
    zeros = jax.tree.map(jnp.zeros_like, (key, value, *(of[:2] for of in past)))
    zeros = vary_alike(zeros, query, to_output)
    sums, to_query = jax.lax.scan(step, zeros, (own, firsts, choice, *to))
    to_key, to_value, leaves, leaf_means, branch_means = sums
    found = Past(
        Leaves(leaves[0], leaves[1], None),  # type: ignore[arg-type]  # of booleans
        Mean(leaf_means[0], leaf_means[1], jnp.zeros_like(past.leaf_means.size)),
        Mean(branch_means[0], branch_means[1], jnp.zeros_like(past.branch_means.size)),
    )
    return _tokens(size, rules.shared, to_query), to_key, to_value, found


def _added(sums: Any, gradients: Any, start: Array, choice: Choice, rules: Rules) -> Any:
    """Sums of gradients of keys and values, of leaves, and of their means, with those of a step."""
    sizes = rules.sizes
    to_near, to_branches, to_means, to_leaves = gradients
    *tokens, leaves, leaf_means, branch_means = sums
    number, first = sizes.trees(rules.length), sizes.first_branches(rules.length)
    sinks = min(sizes.sinks, len(tokens[0]))

    def near(total: Array, of: Array) -> Array:
        total = total.at[:sinks].add(of[:sinks])
        return _add_slice(total, of[sinks:], start)

    def windows(total: Array, of: Array) -> Array:
        done = 0
        for level, size in enumerate(sizes.levels):
            last = level + 1 == len(sizes.levels)
            count = number[level] * size // sizes.branch if last else sizes.levels[level + 1] // sizes.branch
            begin = 0 if last else start // sizes.levels[level + 1] * count
            total = _add_slice(total, of[done : done + count], first[level] + begin)
            done += count
        return total

    def means(total: Array, of: Array) -> Array:
        def of_branches(array: Array) -> Array:
            width = array.shape[-1]
            return array.reshape(math.prod(array.shape[:-1]) // sizes.leaves, sizes.leaves, width)

        return _scattered(of_branches(total), choice.branches, of_branches(of)).reshape(total.shape)

    def chosen(total: Array, of: Array) -> Array:
        return _scattered(total, choice.leaves, of.reshape(choice.leaves.size, *total.shape[1:]))

    pairs = (
        (near, tokens, to_near),
        (chosen, leaves, to_leaves),
        (means, leaf_means, to_means),
        (windows, branch_means, to_branches),
    )
    added = [tuple(map(add, total, of)) for add, total, of in pairs]
    return (*added[0], *added[1:])


def _add_slice(total: Array, of: Array, begin: Any) -> Array:
    old = jax.lax.dynamic_slice_in_dim(total, begin, len(of))
    return jax.lax.dynamic_update_slice_in_dim(total, old + of, begin, 0)


def _scattered(total: Array, places: Array, of: Array) -> Array:
    """With `of` added at places [C, R]; -1: nowhere."""
    places = jnp.where(places < 0, len(total), places).reshape(-1)
    return total.at[places].add(of, mode="drop")
