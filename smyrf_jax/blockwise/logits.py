"""The logits of a step, and which of them count."""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise.contract import Estimates, Inputs, Rules, one_cluster
from smyrf_jax.blockwise.schedule import Step, steps_of
from smyrf_jax.clustering import cluster_of_tokens
from smyrf_jax.clustering.local import in_window
from smyrf_jax.floats import finite_max, finite_min, float32_at_least
from smyrf_jax.rows import take_tokens


class Sample:
    """The steps of a sample, and which of their logits count."""

    def __init__(self, rules: Rules, inputs: Inputs):
        query, key, clustering = inputs.query, inputs.key, inputs.clustering
        self.rules, self.scale = rules, inputs.scale
        self.num_queries, self.num_keys = query.shape[0], key.shape[0]
        self.dtype = float32_at_least(query.dtype)
        self.low = finite_min(self.dtype)
        # An estimate that is e^44 times (float32) what a row has in all is noise; its square stays finite.
        self.high = math.log(finite_max(self.dtype)) / 2
        self.product = functools.partial(jnp.einsum, preferred_element_type=self.dtype)
        if clustering is None:
            clustering = one_cluster(query.shape[1], self.num_queries, self.num_keys)
        self.steps = steps_of(clustering, self.num_queries, self.num_keys, rules.samples)
        # Whose pairs are left out: those of `without` in any case, those of a round once it is over.
        self.num_without = 0 if inputs.without is None else 1
        ids = [] if inputs.without is None else [tuple(of[:, None] for of in inputs.without)]
        if rules.deduplicate:
            of_query = cluster_of_tokens(clustering.query_order, self.num_queries)  # [N, R, T]
            of_key = cluster_of_tokens(clustering.key_order, self.num_keys)  # [N, R, S]
            # No cluster is not a cluster that two tokens could share: -1 of a query is -2 of a key.
            ids.append((of_query, jnp.where(of_key < 0, -2, of_key)))
        self.clusters = None
        if ids:
            both = (jnp.concatenate(of, axis=1) for of in zip(*ids, strict=True))
            self.clusters = tuple(jnp.transpose(of, (2, 0, 1)) for of in both)  # [T, N, R]

    def logits(self, step: Step, query: Array, key: Array) -> tuple[Array, Array]:
        """query . key, [N, clusters, C, K], of gathered queries and keys, and which of them count."""
        products: Array = self.product("nlcd,nlkd->nlck", query, key)
        keys, queries = step.keys[..., None, :], step.queries[..., :, None]
        keep = keys < self.num_keys
        if self.rules.is_causal:
            keep &= keys <= queries
        if self.rules.window is not None:
            keep &= in_window(keys - queries, self.rules.window)
        if self.clusters is not None:
            rows = step.queries, step.keys
            of_query, of_key = (take_tokens(*ids) for ids in zip(self.clusters, rows, strict=True))
            for earlier in range(of_query.shape[-1] - self.rules.deduplicate):
                met = of_query[..., :, None, earlier] == of_key[..., None, :, earlier]
                if earlier >= self.num_without:
                    met &= earlier - self.num_without < step.hash_round
                keep &= ~met
        return products, keep

    def estimates(
        self, step: Step, far: "FarRows", linear: bool, top: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Estimates of gathered pairs over e^top, [N, clusters, C, K], and what they are made of.

        That is: the factor of the features' products, and the features.
        """
        query, key = take_tokens(far.query, step.queries), take_tokens(far.key, step.keys)
        found = self.product("nlcf,nlkf->nlck", query, key)
        exponent = take_tokens(far.offset, step.queries) - top
        if far.key_offset is not None:
            exponent += jnp.swapaxes(take_tokens(far.key_offset, step.keys), -1, -2)
        if linear:
            factor = jnp.exp(jnp.minimum(exponent, self.high))
            return factor * found, factor, query, key
        estimates = jnp.exp(jnp.minimum(found + exponent, self.high))
        return estimates, estimates, query, key


class FarRows(NamedTuple):
    """What the estimates of a far field are made of: [T, N, F], [S, N, F], [T, N, 1], [S, N, 1] or None."""

    query: Array
    key: Array
    offset: Array
    key_offset: Array | None


def far_rows_of(far: Estimates | None) -> FarRows | None:
    if far is None or far.query is None:
        return None
    key_offset = None if far.key_offset is None else far.key_offset[..., None]
    return FarRows(far.query, far.key, far.offset[..., None], key_offset)
