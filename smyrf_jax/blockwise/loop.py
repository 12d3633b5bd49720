"""The loop over clusters that CPUs run: logits exist for one step at a time.

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
- XLA's product of a transposed [C, K] with [C, D] was twelve times slower than the one that yields its
  transpose [D, K], which is small.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise.contract import Estimates, Inputs, Means, Rules, gradients_like
from smyrf_jax.blockwise.logits import FarRows, Sample, far_rows_of
from smyrf_jax.blockwise.schedule import Step
from smyrf_jax.clustering import cluster_of_tokens
from smyrf_jax.floats import below, float32_at_least
from smyrf_jax.rows import add_tokens, inner_products, put_tokens, take_tokens
from smyrf_jax.sharding import vary_alike


def attend(rules: Rules, inputs: Inputs) -> tuple[Array, Array]:
    """Output and logsumexp."""
    sample = Sample(rules, inputs)
    query, key, value, far = inputs.query, inputs.key, inputs.value, inputs.far
    scale, dtype, low = sample.scale, sample.dtype, sample.low
    far_rows = far_rows_of(far)
    if far is not None and far.means is not None:
        output, logsumexp = attend(Rules(samples=rules.samples), _of_means(inputs, far.means))
        found = logsumexp > low / 8  # that of empty means alone is lower
        far = dataclasses.replace(
            far,
            output=jnp.where(found[..., None], output, 0.0),
            logsumexp=jnp.where(found, logsumexp, low),
        )

    def step(state: tuple[Array, Array], step: Step) -> tuple[tuple[Array, Array], None]:
        products, keep = sample.logits(step, take_tokens(query, step.queries), take_tokens(key, step.keys))
        before, logsumexp = (take_tokens(array, step.queries) for array in state)
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
        return (
            put_tokens(state[0], step.queries, merged[0]),
            put_tokens(state[1], step.queries, merged[1]),
        ), None

    shape = query.shape[:2]
    nothing = jnp.zeros((*shape, value.shape[-1]), dtype), jnp.full((*shape, 1), low, dtype)
    if far is not None:
        nothing = far.output.astype(dtype), far.logsumexp[..., None].astype(dtype)
    (output, logsumexp), _ = jax.lax.scan(step, vary_alike(nothing, query), sample.steps)
    return output.astype(value.dtype), logsumexp[..., 0]


def _of_means(inputs: Inputs, means: Means) -> Inputs:
    """The attention of the means."""
    query, dtype = inputs.query, float32_at_least(inputs.query.dtype)
    query = inputs.scale.astype(dtype) * query.astype(dtype)
    query = jnp.concatenate([query, jnp.ones((*query.shape[:-1], 1), dtype)], axis=-1)
    assert inputs.clustering is not None
    own = cluster_of_tokens(inputs.clustering.query_order[:, 0], len(query))
    keys = jnp.swapaxes(means.key, 0, 1), jnp.swapaxes(means.value, 0, 1)
    return Inputs(query, *keys, jnp.ones((), dtype), None, without=(own, means.cluster))


def gradients(
    rules: Rules,
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
    per_query = of_results[0], found[..., None], shift[..., None]
    far_rows = far_rows_of(far)

    def step(state: Any, step: Step) -> tuple[Any, None]:
        to_query, to_key, to_value, to_far = state
        its_query = take_tokens(query, step.queries)
        its_output, its_logsumexp, its_shift = (take_tokens(array, step.queries) for array in per_query)
        its_key, its_value = (take_tokens(array, step.keys) for array in (key, value))
        products, keep = sample.logits(step, its_query, its_key)
        exponent = jnp.where(keep, scale * products - its_logsumexp, low)
        # Never above 0, but by rounding; for logits of 1e9 that may be 30.
        weights = jnp.exp(exponent - jax.lax.stop_gradient(jnp.maximum(exponent, 0.0)))
        of_weights = sample.product("nlcv,nlkv->nlck", its_output, its_value) - its_shift
        of_logits = (weights * of_weights).astype(query.dtype)
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
        of_query = sample.product("nlck,nlkd->nlcd", of_logits, its_key)
        of_key = sample.product("nlck,nlcd->nldk", of_logits, its_query)
        of_value = sample.product("nlck,nlcv->nlvk", weights.astype(value.dtype), its_output)
        return (
            add_tokens(to_query, step.queries, of_query),
            add_tokens(to_key, step.keys, jnp.swapaxes(of_key, -1, -2)),
            add_tokens(to_value, step.keys, jnp.swapaxes(of_value, -1, -2)),
            to_far,
        ), None

    def zeros(arrays: Any) -> Any:
        return jax.tree.map(lambda array: jnp.zeros(array.shape, dtype), arrays)

    state = zeros((query, key, value, far_rows))
    (to_query, to_key, to_value, to_far), _ = jax.lax.scan(step, vary_alike(state, query), sample.steps)
    # Of scale * query . key: the sums so far lack the scale.
    to_scale = jnp.sum(inner_products(query, to_query, dtype)).astype(scale.dtype)
    of_far = None
    if far is not None and far.means is not None:
        of_means = gradients(Rules(samples=rules.samples), _of_means(inputs, far.means), results, of_results)
        of_query = of_means[0][..., :-1]
        to_query += of_query  # its scale follows below
        to_scale += jnp.sum(inner_products(query, of_query, dtype)).astype(scale.dtype)
        means = Means(jnp.swapaxes(of_means[1], 0, 1), jnp.swapaxes(of_means[2], 0, 1), None)
        rows = {} if to_far is None else to_far._asdict()
        of_far = gradients_like(dataclasses.replace(far, means=means, **rows), far)
    elif far is not None:
        part = jnp.exp(jnp.minimum(jnp.where(far.logsumexp > low, far.logsumexp - found, low), sample.high))
        part = part.astype(dtype)
        to_output = part[..., None] * of_results[0].astype(dtype)
        to_logsumexp = part * (inner_products(of_results[0], far.output, dtype) - shift)
        to_rows = {} if to_far is None else to_far._asdict()
        all_to = dataclasses.replace(far, output=to_output, logsumexp=to_logsumexp, **to_rows)
        of_far = gradients_like(all_to, far)
    to_query, to_key = scale * to_query, scale * to_key
    return (
        to_query.astype(query.dtype),
        to_key.astype(key.dtype),
        to_value.astype(value.dtype),
        to_scale,
        of_far,
    )
