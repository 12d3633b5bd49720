"""The loop over clusters, with a backward pass of its own: logits exist for one step at a time.

What shaped it, by profile on two CPU cores (12 heads of 4096 tokens, 2 rounds of 64 x 64 clusters, width
64; 4 heads of 16,384, 4 rounds of 128 x 128):

- Gathered rows come from random places of arrays that no cache holds: some 2.8 ms for 12 MB, five times
  what reading in order takes, and as much as a product of the same step. So nothing is gathered twice in
  a step, and tokens are read where they lie: rows of [T, N, D] are as long as those of [N, T, D], and
  without transposing the first case takes 0.7 of the time.
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

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from smyrf_jax.clustering import Clustering, cluster_of_tokens
from smyrf_jax.merging import finite_min
from smyrf_jax.varying import vary_alike

# Logits of one step, in all samples; and the queries that a cluster is not cut below, lest its keys are
# gathered too often.
LOGITS_A_STEP = 2**19
QUERIES_A_STEP = 1024


def take_rows(tokens: Array, order: Int[Array, "*L C"]) -> Array:
    """Rows of tokens [T, ...] in an order; zeros (False) in empty slots."""
    return tokens.at[order].get(mode="fill", fill_value=0)


def inner_products(first: Array, second: Array, dtype: jnp.dtype) -> Array:
    """first . second along the last axis, [...]."""
    # As a product with ones: XLA's sums along rows took 30 ms and more on CPUs here, instead of 1.
    ones = jnp.ones(first.shape[-1], dtype)
    return jnp.dot(first.astype(dtype) * second.astype(dtype), ones, precision=jax.lax.Precision.HIGHEST)


class Rules(NamedTuple):
    """Which logits count, and how much: what blockwise_attention knows before it is traced.

    scale: of the logits.
    is_causal: query i sees keys up to i + S - T only.
    deduplicate: pairs that met in an earlier round are left out.
    samples: how many are mapped over; they share a step's logits.
    """

    scale: float
    is_causal: bool
    deduplicate: bool
    samples: int


class _Step(NamedTuple):
    """Some clusters of one hash round, so that a query is among them once at most.

    queries: [clusters, C], rows of [T * N, ...], past the end for empty slots.
    keys: [clusters, K], rows of [S * M, ...], past the end for empty slots.
    head: [clusters, 1], the query head.
    hash_round: [].
    """

    queries: Array
    keys: Array
    head: Array
    hash_round: Array


def _steps(clustering: Clustering, num_queries: int, num_keys: int, key_heads: int, samples: int) -> _Step:
    """The clusters of a sample, a few a step; the steps are stacked along the first axis."""
    heads, rounds, num_clusters, size = clustering.query_order.shape
    head = jnp.arange(heads, dtype=jnp.int32)[:, None, None, None]
    queries = clustering.query_order * heads + head
    keys = clustering.key_order * key_heads + head // (heads // key_heads)

    pairs = max(1, samples * size * keys.shape[-1])
    pieces = max(1, min(-(-pairs // LOGITS_A_STEP), size // QUERIES_A_STEP))
    piece = -(-size // pieces)
    empty = num_queries * heads, num_keys * key_heads
    queries = jnp.pad(queries, ((0, 0),) * 3 + ((0, pieces * piece - size),), constant_values=empty[0])
    queries = queries.reshape(heads, rounds, num_clusters * pieces, piece)
    keys = jnp.repeat(keys, pieces, axis=2)

    total = heads * num_clusters * pieces
    num_steps = -(-total // max(1, LOGITS_A_STEP * pieces // pairs))
    a_step = -(-total // num_steps)

    def cut(array: Array, empty: int) -> Array:
        array = jnp.moveaxis(array, 1, 0).reshape(rounds, total, array.shape[-1])
        array = jnp.pad(array, ((0, 0), (0, num_steps * a_step - total), (0, 0)), constant_values=empty)
        return array.reshape(rounds * num_steps, a_step, array.shape[-1])

    head = jnp.broadcast_to(head, (*queries.shape[:-1], 1))
    hash_round = jnp.repeat(jnp.arange(rounds), num_steps)
    return _Step(cut(queries, empty[0]), cut(keys, empty[1]), cut(head, 0), hash_round)


class _Sample:
    """The steps of a sample, and which of their logits count."""

    def __init__(self, rules: Rules, query: Array, key: Array, clustering: Clustering):
        self.rules = rules
        self.num_queries, self.heads = query.shape[:2]
        self.num_keys, self.key_heads = key.shape[:2]
        self.dtype = jnp.promote_types(query.dtype, jnp.float32)
        self.low = finite_min(self.dtype)
        self.product = functools.partial(jnp.einsum, preferred_element_type=self.dtype)
        self.steps = _steps(clustering, self.num_queries, self.num_keys, self.key_heads, rules.samples)
        self.clusters = None
        if rules.deduplicate:
            of_query = cluster_of_tokens(clustering.query_order, self.num_queries)  # [N, R, T]
            of_key = cluster_of_tokens(clustering.key_order, self.num_keys)  # [N, R, S]
            # No cluster is not a cluster that two tokens could share: -1 of a query is -2 of a key.
            of_key = jnp.where(of_key < 0, -2, of_key)
            self.clusters = tuple(_as_rows(jnp.moveaxis(ids, -1, 0)) for ids in (of_query, of_key))

    def logits(self, step: _Step, query: Array, key: Array) -> tuple[Array, Array]:
        """Logits [clusters, C, K] of gathered queries and keys, and which of them count."""
        logits = self.product("lcd,lkd->lck", query, key)
        keep = (step.keys < self.num_keys * self.key_heads)[:, None, :]
        keys = step.keys // self.key_heads
        if self.rules.is_causal:
            own = step.queries // self.heads + (self.num_keys - self.num_queries)
            keep &= keys[:, None, :] <= own[:, :, None]
        if self.clusters is not None:
            rows = step.queries, keys * self.heads + step.head
            of_query, of_key = (take_rows(*ids) for ids in zip(self.clusters, rows, strict=True))
            for earlier in range(of_query.shape[-1] - 1):
                met = of_query[:, :, None, earlier] == of_key[:, None, :, earlier]
                keep &= ~(met & (earlier < step.hash_round))
        return self.rules.scale * logits, keep


def _as_rows(array: Array) -> Array:
    """[T, N, ...] as [T * N, ...]."""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _packed(arrays: Sequence[Array], together: bool) -> list[Array]:
    """Arrays whose rows are read and written at the same places, side by side in one if together."""
    return [jnp.concatenate(arrays, axis=-1)] if together else list(arrays)


def _unpacked(packed: Sequence[Array], like: Sequence[Array], together: bool) -> list[Array]:
    """What was packed, in the widths and dtypes of `like`."""
    if together:
        ends = itertools.accumulate(array.shape[-1] for array in like[:-1])
        packed = jnp.split(packed[0], list(ends), axis=-1)
    return [array.astype(original.dtype) for array, original in zip(packed, like, strict=True)]


def _taken(packed: Sequence[Array], order: Array, like: Sequence[Array], together: bool) -> list[Array]:
    return _unpacked([take_rows(array, order) for array in packed], like, together)


def _attend(
    rules: Rules, together: bool, query: Array, key: Array, value: Array, clustering: Clustering
) -> tuple[Array, Array]:
    sample = _Sample(rules, query, key, clustering)
    dtype, low = sample.dtype, sample.low
    queries, keys, values = (_as_rows(array) for array in (query, key, value))

    def step(state: list[Array], step: _Step):
        logits, keep = sample.logits(step, take_rows(queries, step.queries), take_rows(keys, step.keys))
        before, logsumexp = _taken(state, step.queries, nothing, together)
        top = jnp.max(jnp.where(keep, logits, low), axis=-1, initial=low, keepdims=True)
        top = jax.lax.stop_gradient(jnp.maximum(top, logsumexp))
        # exp(low) is 0, without an infinity that a second derivative would meet.
        weights = jnp.exp(jnp.where(keep, logits - top, low))
        carried = jnp.exp(jnp.where(logsumexp > low, logsumexp - top, low))
        total = jnp.sum(weights, axis=-1, keepdims=True) + carried
        safe = jnp.where(total > 0, total, 1.0)
        weights = weights.astype(value.dtype)
        output = sample.product("lck,lkv->lcv", weights, take_rows(values, step.keys))
        merged = (carried * before + output) / safe, jnp.where(total > 0, top + jnp.log(safe), low)
        rows = zip(state, _packed(merged, together), strict=True)
        return [array.at[step.queries].set(row, mode="drop") for array, row in rows], None

    nothing = jnp.zeros((len(queries), value.shape[-1]), dtype), jnp.full((len(queries), 1), low, dtype)
    state, _ = jax.lax.scan(step, vary_alike(_packed(nothing, together), queries), sample.steps)
    output, logsumexp = _unpacked(state, nothing, together)
    lengths = query.shape[:2]
    return output.astype(value.dtype).reshape(*lengths, value.shape[-1]), logsumexp.reshape(lengths)


def _gradients(
    rules: Rules,
    together: bool,
    arrays: tuple[Array, Array, Array],
    clustering: Clustering,
    results: tuple[Array, Array],
    of_results: tuple[Array, Array],
) -> tuple[Array, Array, Array]:
    """Gradients of query, key and value from those of output and logsumexp."""
    sample = _Sample(rules, *arrays[:2], clustering)
    dtype, low = sample.dtype, sample.low
    output, logsumexp = results
    # d logits = weights * (d output . value - shift)
    shift = inner_products(of_results[0], output, dtype) - of_results[1]
    # Rows without keys have no weights; zero keeps their differences finite.
    found = jnp.where(logsumexp > low, logsumexp, 0.0)
    queries, keys, values = (_as_rows(array) for array in arrays)
    of_queries = tuple(_as_rows(array) for array in (of_results[0], found[..., None], shift[..., None]))
    per_query, per_key = _packed(of_queries, together), _packed((keys, values), together)

    def step(state: tuple[Array, list[Array]], step: _Step):
        its_query = take_rows(queries, step.queries)
        its_output, its_logsumexp, its_shift = _taken(per_query, step.queries, of_queries, together)
        its_key, its_value = _taken(per_key, step.keys, (keys, values), together)
        logits, keep = sample.logits(step, its_query, its_key)
        weights = jnp.exp(jnp.where(keep, logits - its_logsumexp, low))
        of_logits = weights * (sample.product("lcv,lkv->lck", its_output, its_value) - its_shift)
        of_logits = (rules.scale * of_logits).astype(queries.dtype)
        to_query = sample.product("lck,lkd->lcd", of_logits, its_key)
        to_key = sample.product("lck,lcd->ldk", of_logits, its_query)
        to_value = sample.product("lck,lcv->lvk", weights.astype(values.dtype), its_output)
        to_keys = _packed([jnp.swapaxes(array, 1, 2) for array in (to_key, to_value)], together)
        rows = zip(state[1], to_keys, strict=True)
        return (
            state[0].at[step.queries].add(to_query, mode="drop"),
            [array.at[step.keys].add(row, mode="drop") for array, row in rows],
        ), None

    state = jnp.zeros(queries.shape, dtype), [jnp.zeros(array.shape, dtype) for array in per_key]
    (to_query, to_keys), _ = jax.lax.scan(step, vary_alike(state, queries), sample.steps)
    summed = to_query.astype(queries.dtype), *_unpacked(to_keys, (keys, values), together)
    to_query, to_key, to_value = (to.reshape(array.shape) for to, array in zip(summed, arrays, strict=True))
    return to_query, to_key, to_value


def _by_platform(function: Callable[..., Any], rules: Rules, *arguments: Any) -> Any:
    """function(rules, together, ...), rows together but on CPUs."""
    choices = [functools.partial(function, rules, together) for together in (False, True)]
    return jax.lax.platform_dependent(*arguments, cpu=choices[0], default=choices[1])


def blockwise_attention(
    rules: Rules, query: Array, key: Array, value: Array, clustering: Clustering
) -> tuple[Array, Array]:
    """clustered_attention of one sample: [T, N, D], [S, M, D], [S, M, V], orders -> [T, N, V], [T, N].

    The logsumexp is finite_min in rows without keys. Reverse mode only: the backward pass takes the
    inputs, the output and its logsumexp, and computes the logits anew.
    """
    arrays = query, key, value, clustering
    return _blockwise_attention(rules, *vary_alike(arrays, arrays))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise_attention(
    rules: Rules, query: Array, key: Array, value: Array, clustering: Clustering
) -> tuple[Array, Array]:
    return _by_platform(_attend, rules, query, key, value, clustering)


def _forward(rules: Rules, query: Array, key: Array, value: Array, clustering: Clustering):
    results = _blockwise_attention(rules, query, key, value, clustering)
    return results, ((query, key, value), clustering, results)


def _backward(rules: Rules, residuals, of_results):
    return *_by_platform(_gradients, rules, *residuals, of_results), None


_blockwise_attention.defvjp(_forward, _backward)
