"""The steps of the loop over clusters: which rows they read, and which logits count."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from smyrf_jax.clustering import Clustering, cluster_of_tokens
from smyrf_jax.merging import finite_min

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FarField:
    """An estimate of every pair's weight, for the pairs that share no cluster.

    The weight of query i and key j is e^(offset_i + query_i . key_j), or e^offset_i * (query_i . key_j)
    where the estimate is linear.

    output: [*B, T, N, V], logsumexp: [*B, T, N]: attention with the estimates of all keys, float32 at least.
    query: [*B, T, N, F], key: [*B, S, N, F], offset: [*B, T, N]: what the estimate of one pair is made of.
    linear: see above.
    is_causal: the estimates of keys after a query are left out.
    met: of the attention's rounds, the first ones whose pairs output and logsumexp leave out. Where those are
        all, query, key and offset are None.
    """

    output: Any
    logsumexp: Any
    query: Any
    key: Any
    offset: Any
    linear: bool = dataclasses.field(default=False, metadata={"static": True})
    is_causal: bool = dataclasses.field(default=False, metadata={"static": True})
    met: int = dataclasses.field(default=0, metadata={"static": True})


class Rules(NamedTuple):
    """Which logits count, and how much: what blockwise_attention knows before it is traced.

    scale: of the logits.
    is_causal: query i sees keys up to i + S - T only.
    deduplicate: pairs that met in an earlier round are left out.
    samples: how many are mapped over; they share a step's logits.
    window: query i sees the keys j with -(window // 2) <= j - i < (window + 1) // 2 only.
    """

    scale: float
    is_causal: bool
    deduplicate: bool
    samples: int
    window: int | None = None


class Step(NamedTuple):
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


def steps_of(clustering: Clustering, num_queries: int, num_keys: int, key_heads: int, samples: int) -> Step:
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
    return Step(cut(queries, empty[0]), cut(keys, empty[1]), cut(head, 0), hash_round)


class Sample:
    """The steps of a sample, and which of their logits count."""

    def __init__(
        self, rules: Rules, query: Array, key: Array, clustering: Clustering, without: Clustering | None
    ):
        self.rules = rules
        self.num_queries, self.heads = query.shape[:2]
        self.num_keys, self.key_heads = key.shape[:2]
        self.dtype = jnp.promote_types(query.dtype, jnp.float32)
        self.low = finite_min(self.dtype)
        # An estimate that is e^44 times (float32) what a row has in all is noise; its square stays finite.
        self.high = math.log(float(jnp.finfo(self.dtype).max)) / 2
        self.product = functools.partial(jnp.einsum, preferred_element_type=self.dtype)
        self.steps = steps_of(clustering, self.num_queries, self.num_keys, self.key_heads, rules.samples)
        # Rounds whose pairs are left out: those of `without` in any case, others once they are over.
        rounds = [of for of in (without, clustering if rules.deduplicate else None) if of is not None]
        self.num_without = 0 if without is None else without.query_order.shape[1]
        self.clusters = None
        if rounds:
            of_query = [cluster_of_tokens(of.query_order, self.num_queries) for of in rounds]  # [N, R, T]
            of_key = [cluster_of_tokens(of.key_order, self.num_keys) for of in rounds]  # [N, R, S]
            # No cluster is not a cluster that two tokens could share: -1 of a query is -2 of a key.
            of_key = [jnp.where(ids < 0, -2, ids) for ids in of_key]
            both = (jnp.concatenate(ids, axis=1) for ids in (of_query, of_key))
            self.clusters = tuple(as_rows(jnp.moveaxis(ids, -1, 0)) for ids in both)

    def logits(self, step: Step, query: Array, key: Array) -> tuple[Array, Array]:
        """Logits [clusters, C, K] of gathered queries and keys, and which of them count."""
        logits = self.product("lcd,lkd->lck", query, key)
        keep = (step.keys < self.num_keys * self.key_heads)[:, None, :]
        keys = step.keys // self.key_heads
        if self.rules.is_causal:
            own = step.queries // self.heads + (self.num_keys - self.num_queries)
            keep &= keys[:, None, :] <= own[:, :, None]
        if self.rules.window is not None:
            distance = keys[:, None, :] - step.queries[:, :, None] // self.heads
            keep &= (-(self.rules.window // 2) <= distance) & (distance < (self.rules.window + 1) // 2)
        if self.clusters is not None:
            rows = step.queries, keys * self.heads + step.head
            of_query, of_key = (take_rows(*ids) for ids in zip(self.clusters, rows, strict=True))
            for earlier in range(of_query.shape[-1] - self.rules.deduplicate):
                met = of_query[:, :, None, earlier] == of_key[:, None, :, earlier]
                if earlier >= self.num_without:
                    met &= earlier - self.num_without < step.hash_round
                keep &= ~met
        return self.rules.scale * logits, keep

    def far_keys(self, step: Step) -> Array:
        """The step's keys as rows of [S * N, ...], [clusters, K]."""
        return step.keys // self.key_heads * self.heads + step.head

    def estimates(self, step: Step, far: "FarRows", linear: bool, top: Array) -> tuple[Array, Array, Array]:
        """Estimates of gathered pairs over e^top, [clusters, C, K], and the features they are made of."""
        query, key = take_rows(far.query, step.queries), take_rows(far.key, self.far_keys(step))
        found = self.product("lcf,lkf->lck", query, key)
        if linear:
            return self.factor(step, far, top) * found, query, key
        return jnp.exp(jnp.minimum(found + take_rows(far.offset, step.queries) - top, self.high)), query, key

    def factor(self, step: Step, far: "FarRows", top: Array) -> Array:
        """e^(offset - top) of gathered queries, [clusters, C, 1]."""
        return jnp.exp(jnp.minimum(take_rows(far.offset, step.queries) - top, self.high))


class FarRows(NamedTuple):
    """The features of a far field, a row each: [T * N, F], [S * N, F], [T * N, 1]."""

    query: Array
    key: Array
    offset: Array


def far_rows_of(far: FarField | None) -> FarRows | None:
    if far is None or far.query is None:
        return None
    return FarRows(as_rows(far.query), as_rows(far.key), as_rows(far.offset[..., None]))


def as_rows(array: Array) -> Array:
    """[T, N, ...] as [T * N, ...]."""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
