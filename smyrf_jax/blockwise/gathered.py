"""Attention by gathers alone: tokens are gathered into clusters, attended, and gathered back.

What accelerators run. What shaped it, by the final schedule of the TPU's compiler:

- A scatter costs 130 cycles a row, a gather 1.7 to 2 if its source lies in vector memory. So a permutation
  is undone by a gather in the inverse order, and rounds are summed in the order of the tokens.
- A row costs the same up to 128 words. So what is read at the same places shares rows (`packing`).
- v3 has 16 MB of vector memory. So a step has a few heads of a few samples, whose tokens fit, and one round.
- Passes over rows of all rounds cost as much as gathers. So nothing is stacked or copied between a gather,
  the blocks of the clusters and the gather back, unless rows are so many that they come in parts; rounds are
  merged in one pass.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise.block import logsumexp_of
from smyrf_jax.blockwise.contract import Estimates, Inputs, Means, Rules, gradients_like
from smyrf_jax.blockwise.means import OfMeans
from smyrf_jax.blockwise.packing import layout_of
from smyrf_jax.blockwise.plan import Plan
from smyrf_jax.blockwise.spread import Taken
from smyrf_jax.blockwise.tiles import Sides
from smyrf_jax.floats import finite_max

# Rows of a round's clusters, in parts, and where each token has its own.
_Found = tuple[Sequence[Array], Array]


def attend(kernel: bool | None, rules: Rules, inputs: Inputs) -> tuple[Array, Array]:
    """Output and logsumexp [B, T, N, V] and [B, T, N] of inputs with one batch axis."""
    plan = Plan(kernel, rules, inputs)
    far, values = inputs.far, plan.values
    means = None if plan.means is None else OfMeans(plan, plan.means)
    queries, keys = plan.queries(), plan.keys()
    rows_of_far = None
    if far is not None and means is None:
        logsumexp = far.logsumexp[..., None].astype(plan.dtype)
        some = (logsumexp > plan.low).astype(plan.dtype)
        parts = [some * far.output.astype(plan.dtype), some, logsumexp]
        rows_of_far = plan.by_unit(jnp.concatenate(parts, axis=-1))
    layouts = layout_of(queries), layout_of(keys)
    floor = {} if plan.far is None else {"floor": jnp.zeros((), plan.dtype)[None]}
    near_layout = layout_of(queries | floor)

    def step(
        queries: Any,
        keys: Any,
        query_order: Array,
        key_order: Array,
        places: Array,
        rows_of_far: Any,
        rows_of_means: Any,
    ) -> tuple[Array, Array]:
        heads, _, clusters, size = query_order.shape
        rows = plan.packed_rows(queries, layouts[0])
        if means is not None:
            rows_of_far = means.attend(layouts[0], rows, rows_of_means)
        if plan.far is not None:
            # What estimates are measured by: the logsumexp of all of them.
            floor = logsumexp_of(*jnp.split(rows_of_far[..., values:], 2, axis=-1))
            rows = plan.packed_rows(queries | {"floor": floor}, near_layout)
        sources = plan.sources(0, rows), plan.sources(1, plan.packed_rows(keys, layouts[1]))
        sides = Sides((near_layout, layouts[1]), (sources[0][1].words, sources[1][1].words))
        as_packed = plan.packed(heads * clusters * size, values + 2, plan.tiles.queries)

        attend_clusters = functools.partial(plan.attend_clusters, values=values, packed=as_packed)

        def one(index: Array, query_order: Array, key_order: Array, places: Array) -> _Found:
            orders = query_order, key_order
            rows = plan.of_clusters(attend_clusters, sides, sources, index, *orders, as_packed.pieces)
            return rows, places

        def merging(dtype: Any, *first: Array) -> Callable[..., Any]:
            def merged(state: Array | None, found: list[_Found]) -> Any:
                rows, places = zip(*found, strict=True)

                def of_tokens(places: Sequence[Array], before: Sequence[Array]) -> Any:
                    taken = [
                        plan.returned(of, as_packed, its, size) for of, its in zip(rows, places, strict=True)
                    ]
                    return plan.merge_rounds(
                        [*(Taken((of,), None) for of in before), *taken],
                        values=values,
                        words=as_packed.words,
                        has_far=bool(first),
                        dtype=dtype,
                    )

                return plan.over_tokens(of_tokens, places, first if state is None else (*first, state))

            return merged

        last = merging(inputs.value.dtype, *(() if rows_of_far is None else (rows_of_far,)))
        orders = query_order, key_order, places
        results: tuple[Array, Array] = plan.over_rounds(one, merging(None), last, orders)
        return results

    words = max(near_layout.words, layouts[1].words, values + 2)
    orders = plan.query_order, plan.key_order, plan.query_places
    rows_of_means = None if means is None else means.rows
    output, logsumexp = plan.over_units(step, words, queries, keys, *orders, rows_of_far, rows_of_means)
    return _tokens_first(output, plan), _tokens_first(logsumexp, plan)


def _tokens_first(array: Array, plan: Plan) -> Array:
    """[B * N, T, ...] as [B, T, N, ...]."""
    return jnp.swapaxes(array.reshape(plan.batch, -1, *array.shape[1:]), 1, 2)


def gradients(
    kernel: bool | None,
    rules: Rules,
    inputs: Inputs,
    results: tuple[Array, Array],
    of_results: tuple[Array, Array],
) -> tuple[Array, Array, Array, Array, Estimates | None]:
    """Gradients of query, key, value, scale and the estimates, from those of output and logsumexp."""
    plan = Plan(kernel, rules, inputs)
    rules = plan.rules
    dtype, low, far = plan.dtype, plan.low, plan.far
    output, logsumexp = results
    # d logits = weights * (d output . value - shift)
    shift = _inner(of_results[0], output, dtype) - of_results[1]
    # Rows without keys have no weights; zero keeps their differences finite.
    found = jnp.where(logsumexp > low, logsumexp, 0.0)
    queries, keys = plan.queries(), plan.keys()
    queries["of_output"] = plan.by_unit(of_results[0])
    queries["of_rows"] = plan.by_unit(jnp.stack([found, shift], axis=-1))
    layouts = layout_of(queries), layout_of(keys)
    query_widths, key_widths = [plan.widths[0]], list(plan.widths)
    if far is not None:
        features = far.query.shape[-1]
        query_widths += [features, 1]
        key_widths += [features] if far.key_offset is None else [features, 1]
    means = None if plan.means is None else OfMeans(plan, plan.means)
    key_places = plan.key_places()

    def step(
        queries: Any,
        keys: Any,
        query_order: Array,
        key_order: Array,
        places: Array,
        key_places: Array,
        rows_of_means: Any,
    ) -> tuple[Array, Array, Array | None]:
        heads, _, clusters, size = query_order.shape
        num_slots = heads * clusters * size, heads * clusters * key_order.shape[-1]
        rows = plan.packed_rows(queries, layouts[0])
        sources = plan.sources(0, rows), plan.sources(1, plan.packed_rows(keys, layouts[1]))
        sides = Sides(layouts, (sources[0][1].words, sources[1][1].words))
        as_packed = (
            plan.packed(num_slots[0], sum(query_widths), plan.tiles.queries),
            plan.packed(num_slots[1], sum(key_widths), plan.tiles.keys),
        )

        of_clusters = functools.partial(
            plan.gradients_of_clusters, widths=(query_widths, key_widths), packed=as_packed
        )

        def one(
            index: Array, query_order: Array, key_order: Array, places: Array, key_places: Array
        ) -> tuple[_Found, _Found]:
            orders = query_order, key_order
            parts = plan.of_clusters(of_clusters, sides, sources, index, *orders, as_packed[0].pieces)
            to_query, to_key = zip(*parts, strict=True)
            return (to_query, places[:, :, None]), (to_key, jnp.swapaxes(key_places, 1, 2))

        def summed(
            state: tuple[Array, Array] | None,
            found: Sequence[tuple[_Found, _Found]],
        ) -> tuple[Array, Array]:
            of_queries, of_keys = zip(*found, strict=True)
            before: Any = (None, None) if state is None else state
            return (
                plan.summed(before[0], of_queries, as_packed[0], query_widths, size),
                plan.summed(before[1], of_keys, as_packed[1], key_widths, key_order.shape[-1], plan.rep),
            )

        orders = query_order, key_order, places, key_places
        to_queries, to_keys = plan.over_rounds(one, summed, summed, orders)
        if means is None:
            return to_queries, to_keys, None
        of_queries, of_means = means.gradients(layouts[0], rows, rows_of_means)
        more = jnp.pad(of_queries, [(0, 0), (0, 0), (0, sum(query_widths[1:]))])
        return to_queries + more, to_keys, of_means

    words = max(layouts[0].words, layouts[1].words, sum(key_widths), sum(query_widths))
    orders = plan.query_order, plan.key_order, plan.query_places, key_places
    rows_of_means = None if means is None else means.rows
    to_queries, to_keys, to_means = plan.over_units(step, words, queries, keys, *orders, rows_of_means)
    to_queries, to_keys = _tokens_first(to_queries, plan), _tokens_first(to_keys, plan)
    to_query, *to_far_query = _split(to_queries, query_widths)
    to_key, to_value, *to_far_key = _split(to_keys, key_widths)
    to_query, to_key = to_query[..., : plan.width], to_key[..., : plan.width]
    if plan.own_heads and plan.key_heads != plan.heads:
        grouped = (*to_key.shape[:2], plan.key_heads, plan.heads // plan.key_heads, -1)
        to_key, to_value = (jnp.sum(of.reshape(grouped), axis=3) for of in (to_key, to_value))
    to_scale = jnp.sum(_inner(inputs.query, to_query, dtype), axis=(1, 2)).astype(inputs.scale.dtype)
    of_far = None
    if inputs.far is not None:
        of_far = _of_far(inputs.far, found, shift, of_results[0], low, dtype, to_far_query, to_far_key)
        if means is not None:
            to_means = to_means.reshape(plan.batch, plan.heads, *to_means.shape[1:])
            of_far = dataclasses.replace(
                of_far, means=Means(to_means[..., : key_widths[0]], to_means[..., key_widths[0] :], None)
            )
        of_far = gradients_like(of_far, inputs.far)
    to_query = inputs.scale.astype(dtype).reshape(-1, 1, 1, 1) * to_query
    return (
        to_query.astype(inputs.query.dtype),
        to_key.astype(inputs.key.dtype),
        to_value.astype(inputs.value.dtype),
        to_scale,
        of_far,
    )


def _of_far(
    far: Estimates,
    logsumexp: Array,
    shift: Array,
    of_output: Array,
    low: float,
    dtype: jnp.dtype,
    of_query: list[Array],
    of_key: list[Array],
) -> Estimates:
    rows: dict[str, Any] = {}
    if of_query:
        rows = {"query": of_query[0], "offset": of_query[1], "key": of_key[0]}
        if len(of_key) > 1:
            rows["key_offset"] = of_key[1]
    if far.means is None:
        high = math.log(finite_max(dtype)) / 2
        part = jnp.exp(jnp.minimum(jnp.where(far.logsumexp > low, far.logsumexp - logsumexp, low), high))
        part = part.astype(dtype)
        rows["output"] = part[..., None] * of_output.astype(dtype)
        rows["logsumexp"] = part * (_inner(of_output, far.output, dtype) - shift)
    return dataclasses.replace(far, **rows)


def _inner(first: Array, second: Array, dtype: jnp.dtype) -> Array:
    """first . second along the last axis."""
    return jnp.sum(first.astype(dtype) * second.astype(dtype), axis=-1)


def _split(array: Array, widths: list[int]) -> list[Array]:
    found, start = [], 0
    for width in widths:
        found.append(array[..., start : start + width])
        start += width
    return found
