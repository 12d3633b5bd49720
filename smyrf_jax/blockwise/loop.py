"""The loop over clusters, with a backward pass of its own: logits exist for one step at a time.

What shaped it, by profile on two CPU cores (12 heads of 4096 tokens, 2 rounds of 64 x 64 clusters, width
64; 4 heads of 16,384, 4 rounds of 128 x 128):

- Gathered rows come from random places of arrays that no cache holds: some 2.8 ms for 12 MB, five times
  what reading in order takes, and as much as a product of the same step. So nothing is gathered twice in
  a step, and tokens are read where they lie: rows of [T, N, D] are as long as those of [N, T, D], and
  without transposing the first case takes 0.7 of the time. Heads are a batch of the gather (as fast as
  rows of [T * N, D]), so that compilers see that no head needs another's tokens.
- Steps of 1 to 2 MB of logits stay in the cache. Steps eight times larger, and whole rounds, were up
  to twice as slow; so were steps of single small clusters. Large clusters are cut by their queries.
- Merging into a running output costs what keeping every round's output and inverting the orders
  costs, and needs memory for one output only. Scatters cost half of what gathers do.
- On TPUs a gathered or scattered row costs the same up to 128 numbers (by the compiler's estimate 15 and
  24 ns on v3) and takes their memory, so what is read and written at the same places shares rows there:
  output and logsumexp, keys and values, and what the backward pass reads of each query. On CPUs that takes
  a quarter of the time more, for copies of the parts, so that arrays stay apart.
- XLA's product of a transposed [C, K] with [C, D] was twelve times slower than the one that yields its
  transpose [D, K], which is small.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise.contract import Estimates, Inputs, Rules
from smyrf_jax.blockwise.logits import FarRows, Sample, far_rows_of
from smyrf_jax.blockwise.schedule import Step
from smyrf_jax.floats import below, float32_at_least
from smyrf_jax.rows import add_tokens, inner_products, put_tokens, take_tokens
from smyrf_jax.sharding import vary_alike


def _packed(arrays: Sequence[Array], together: bool) -> list[Array]:
    """Arrays whose rows are read and written at the same places, side by side in one if together."""
    if not together:
        return list(arrays)
    dtypes = {array.dtype for array in arrays}
    dtype = dtypes.pop() if len(dtypes) == 1 else float32_at_least(max(dtypes, key=lambda of: of.itemsize))
    return [jnp.concatenate([array.astype(dtype) for array in arrays], axis=-1)]


def _unpacked(
    packed: Sequence[Array], like: Sequence[Array], together: bool, dtype: jnp.dtype | None = None
) -> list[Array]:
    """What was packed, in the widths of `like`, and in its dtypes if no other is given."""
    if together:
        ends = itertools.accumulate(array.shape[-1] for array in like[:-1])
        packed = jnp.split(packed[0], list(ends), axis=-1)
    return [array.astype(dtype or original.dtype) for array, original in zip(packed, like, strict=True)]


def _taken(packed: Sequence[Array], order: Array, like: Sequence[Array], together: bool) -> list[Array]:
    return _unpacked([take_tokens(array, order) for array in packed], like, together)


def _attend(rules: Rules, together: bool, inputs: Inputs) -> tuple[Array, Array]:
    """Output and logsumexp."""
    sample = Sample(rules, inputs)
    query, key, value, far = inputs.query, inputs.key, inputs.value, inputs.far
    scale, dtype, low = sample.scale, sample.dtype, sample.low
    far_rows = far_rows_of(far)

    def step(state: list[Array], step: Step) -> tuple[list[Array], None]:
        products, keep = sample.logits(step, take_tokens(query, step.queries), take_tokens(key, step.keys))
        before, logsumexp = _taken(state, step.queries, nothing, together)
        peak = jnp.max(jnp.where(keep, products, low), axis=-1, initial=low, keepdims=True)
        largest = jnp.where(peak > low, jnp.maximum(scale * peak, low), low)  # the scale may be 0
        leads = largest >= logsumexp
        top = jnp.where(leads, largest, logsumexp)
        behind = jnp.where(leads, 0.0, jnp.minimum(largest - logsumexp, 0.0))
        weights = jnp.exp(jnp.where(keep, below(products, peak, scale) + behind, low))
        if far is not None and far_rows is not None:
            # A pair that is met counts exactly, and no more by its estimate.
            estimated = keep & (step.hash_round >= far.met)
            weights -= jnp.where(estimated, sample.estimates(step, far_rows, far.linear, top)[0], 0.0)
        carried = jnp.where(leads, jnp.minimum(logsumexp - largest, 0.0), 0.0)
        carried = jnp.exp(jnp.where(logsumexp > low, carried, low))
        total = jnp.sum(weights, axis=-1, keepdims=True) + carried
        safe = jnp.where(total > 0, total, 1.0)
        weights = weights.astype(value.dtype)
        output = sample.product("nlck,nlkv->nlcv", weights, take_tokens(value, step.keys))
        # Where nothing is left, as there are no keys or as estimates of huge logits are noise, all stays.
        some = total > 0
        merged = (
            jnp.where(some, (carried * before + output) / safe, before),
            jnp.where(some, top + jnp.log(safe), logsumexp),
        )
        rows = zip(state, _packed(merged, together), strict=True)
        return [put_tokens(array, step.queries, row) for array, row in rows], None

    shape = query.shape[:2]
    nothing = jnp.zeros((*shape, value.shape[-1]), dtype), jnp.full((*shape, 1), low, dtype)
    if far is not None:
        nothing = far.output.astype(dtype), far.logsumexp[..., None].astype(dtype)
    state, _ = jax.lax.scan(step, vary_alike(_packed(nothing, together), query), sample.steps)
    output, logsumexp = _unpacked(state, nothing, together)
    return output.astype(value.dtype), logsumexp[..., 0]


def _gradients(
    rules: Rules,
    together: bool,
    inputs: Inputs,
    results: tuple[Array, Array],
    of_results: tuple[Array, Array],
) -> tuple[Array, Array, Array, Array, Estimates | None]:
    """Gradients of query, key, value, scale and the estimates, from those of output and logsumexp."""
    sample = Sample(rules, inputs)
    query, key, value, far = inputs.query, inputs.key, inputs.value, inputs.far
    scale, dtype, low = sample.scale, sample.dtype, sample.low
    output, logsumexp = results
    # d logits = weights * (d output . value - shift)
    shift = inner_products(of_results[0], output, dtype) - of_results[1]
    # Rows without keys have no weights; zero keeps their differences finite.
    found = jnp.where(logsumexp > low, logsumexp, 0.0)
    of_queries = (of_results[0], found[..., None], shift[..., None])
    per_query, per_key = _packed(of_queries, together), _packed((key, value), together)
    far_rows = far_rows_of(far)

    def step(state: tuple[Array, list[Array], Any], step: Step) -> tuple[Any, None]:
        its_query = take_tokens(query, step.queries)
        its_output, its_logsumexp, its_shift = _taken(per_query, step.queries, of_queries, together)
        its_key, its_value = _taken(per_key, step.keys, (key, value), together)
        products, keep = sample.logits(step, its_query, its_key)
        exponent = jnp.where(keep, scale * products - its_logsumexp, low)
        # Never above 0, but by rounding; for logits of 1e9 that may be 30.
        weights = jnp.exp(exponent - jax.lax.stop_gradient(jnp.maximum(exponent, 0.0)))
        of_weights = sample.product("nlcv,nlkv->nlck", its_output, its_value) - its_shift
        of_logits = (weights * of_weights).astype(query.dtype)
        to_far = state[2]
        if far is not None and far_rows is not None:
            found = sample.estimates(step, far_rows, far.linear, its_logsumexp)
            estimates, factor, far_query, far_key = found
            estimated = keep & (step.hash_round >= far.met)
            estimates = jnp.where(estimated, estimates, 0.0)
            weights -= estimates
            of_exponent = -estimates * of_weights
            of_product = jnp.where(estimated, -factor * of_weights, 0.0).astype(far_key.dtype)
            to_far_key = sample.product("nlck,nlcf->nlfk", of_product, far_query)
            to_far = FarRows(
                add_tokens(
                    to_far.query, step.queries, sample.product("nlck,nlkf->nlcf", of_product, far_key)
                ),
                add_tokens(to_far.key, step.keys, jnp.swapaxes(to_far_key, -1, -2)),
                add_tokens(to_far.offset, step.queries, jnp.sum(of_exponent, axis=-1, keepdims=True)),
                None
                if to_far.key_offset is None
                else add_tokens(to_far.key_offset, step.keys, jnp.sum(of_exponent, axis=-2)[..., None]),
            )
        to_query = sample.product("nlck,nlkd->nlcd", of_logits, its_key)
        to_key = sample.product("nlck,nlcd->nldk", of_logits, its_query)
        to_value = sample.product("nlck,nlcv->nlvk", weights.astype(value.dtype), its_output)
        to_keys = _packed([jnp.swapaxes(array, -1, -2) for array in (to_key, to_value)], together)
        rows = zip(state[1], to_keys, strict=True)
        return (
            add_tokens(state[0], step.queries, to_query),
            [add_tokens(array, step.keys, row) for array, row in rows],
            to_far,
        ), None

    def zeros(arrays: Any) -> Any:
        return jax.tree.map(lambda array: jnp.zeros(array.shape, dtype), arrays)

    state = zeros((query, per_key, far_rows))
    (to_query, to_keys, to_far), _ = jax.lax.scan(step, vary_alike(state, query), sample.steps)
    # Of scale * query . key: the sums so far lack the scale.
    to_scale = jnp.sum(inner_products(query, to_query, dtype)).astype(scale.dtype)
    to_key, to_value = _unpacked(to_keys, [key, value], together, dtype)
    of_far = None
    if far is not None:
        part = jnp.exp(jnp.minimum(jnp.where(far.logsumexp > low, far.logsumexp - found, low), sample.high))
        part = part.astype(dtype)
        to_output = part[..., None] * of_results[0].astype(dtype)
        to_logsumexp = part * (inner_products(of_results[0], far.output, dtype) - shift)
        to_rows = {} if to_far is None else to_far._asdict()
        all_to = dataclasses.replace(far, output=to_output, logsumexp=to_logsumexp, **to_rows)
        of_far = jax.tree.map(lambda to, array: to.reshape(array.shape).astype(array.dtype), all_to, far)
    to_query, to_key = scale * to_query, scale * to_key
    return (
        to_query.astype(query.dtype),
        to_key.astype(key.dtype),
        to_value.astype(value.dtype),
        to_scale,
        of_far,
    )


def _by_platform(function: Callable[..., Any], rules: Rules, *arguments: Any) -> Any:
    """function(rules, together, ...), rows together but on CPUs."""
    choices = [functools.partial(function, rules, together) for together in (False, True)]
    return jax.lax.platform_dependent(*arguments, cpu=choices[0], default=choices[1])


def blockwise_attention(rules: Rules, inputs: Inputs) -> tuple[Array, Array]:
    """clustered_attention of one sample: output [T, N, V] and logsumexp [T, N].

    The logsumexp is finite_min in rows without keys. Reverse mode only: the backward pass takes the
    inputs, the output and its logsumexp, and computes the logits anew.
    """
    return _blockwise_attention(rules, vary_alike(inputs, inputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise_attention(rules: Rules, inputs: Inputs) -> tuple[Array, Array]:
    results: tuple[Array, Array] = _by_platform(_attend, rules, inputs)
    return results


def _forward(rules: Rules, inputs: Inputs) -> tuple[tuple[Array, Array], Any]:
    results = _blockwise_attention(rules, inputs)
    return results, (inputs, results)


def _backward(rules: Rules, residuals: Any, of_results: tuple[Array, Array]) -> tuple[Inputs]:
    of_query, of_key, of_value, of_scale, of_far = _by_platform(_gradients, rules, *residuals, of_results)
    no_gradient: Any = None  # of the orders
    return (Inputs(of_query, of_key, of_value, of_scale, no_gradient, no_gradient, of_far),)


_blockwise_attention.defvjp(_forward, _backward)
