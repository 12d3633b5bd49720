"""The logits of a step, and which of them count."""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise.contract import Estimates, Inputs, Rules
from smyrf_jax.blockwise.schedule import Step, steps_of
from smyrf_jax.clustering import cluster_of_tokens
from smyrf_jax.clustering.local import in_window
from smyrf_jax.floats import finite_max, finite_min
from smyrf_jax.rows import as_rows, take_rows


class Sample:
    """The steps of a sample, and which of their logits count."""

    def __init__(self, rules: Rules, inputs: Inputs):
        query, key, clustering, without = inputs.query, inputs.key, inputs.clustering, inputs.without
        self.rules, self.scale = rules, inputs.scale
        self.num_queries, self.heads = query.shape[:2]
        self.num_keys, self.key_heads = key.shape[:2]
        self.dtype = jnp.promote_types(query.dtype, jnp.float32)
        self.low = finite_min(self.dtype)
        # An estimate that is e^44 times (float32) what a row has in all is noise; its square stays finite.
        self.high = math.log(finite_max(self.dtype)) / 2
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
        logits: Array = self.scale * self.product("lcd,lkd->lck", query, key)
        keep = (step.keys < self.num_keys * self.key_heads)[:, None, :]
        keys = step.keys // self.key_heads
        if self.rules.is_causal:
            keep &= keys[:, None, :] <= (step.queries // self.heads)[:, :, None]
        if self.rules.window is not None:
            distance = keys[:, None, :] - step.queries[:, :, None] // self.heads
            keep &= in_window(distance, self.rules.window)
        if self.clusters is not None:
            rows = step.queries, keys * self.heads + step.head
            of_query, of_key = (take_rows(*ids) for ids in zip(self.clusters, rows, strict=True))
            for earlier in range(of_query.shape[-1] - self.rules.deduplicate):
                met = of_query[:, :, None, earlier] == of_key[:, None, :, earlier]
                if earlier >= self.num_without:
                    met &= earlier - self.num_without < step.hash_round
                keep &= ~met
        return logits, keep

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


def far_rows_of(far: Estimates | None) -> FarRows | None:
    if far is None or far.query is None:
        return None
    return FarRows(as_rows(far.query), as_rows(far.key), as_rows(far.offset[..., None]))
