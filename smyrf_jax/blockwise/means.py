"""The means of a far field: keys that all queries attend, as they are, in their order."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise.block import Settings
from smyrf_jax.blockwise.contract import Means, Rules
from smyrf_jax.blockwise.packing import Layout, layout_of, packed
from smyrf_jax.blockwise.plan import Plan
from smyrf_jax.blockwise.spread import Packed, Taken
from smyrf_jax.blockwise.tiles import Sides, tiles_of


class OfMeans:
    """Attention of a plan's queries to the means of its far field."""

    def __init__(self, plan: Plan, means: Means):
        self.plan = plan
        num_means = means.key.shape[-2]
        # Of a mean's key, value and cluster.
        tiles = tiles_of(1, plan.num_queries, num_means, sum(plan.widths) + 1)
        self.tiles = tiles._replace(clusters=1)
        self.filled = -(-num_means // tiles.keys) * tiles.keys
        self.num_means = num_means
        self.settings = Settings(
            Rules(),
            num_means,
            masked=self.filled != num_means,
            num_ids=1,
            first_id=plan.settings.num_ids,
            num_without=1,
        )
        ids = means.cluster[..., None].astype(plan.dtype)
        columns = {"key": means.key, "value": means.value, "ids": ids}
        columns = {name: plan.by_head(array) for name, array in columns.items()}
        self.layout = layout_of(columns)
        missing = self.filled - num_means
        self.rows = jnp.pad(packed(columns, self.layout), [(0, 0), (0, missing), (0, 0)])

    def _arguments(self, layout: Layout, queries: Array, means: Array) -> tuple[Any, ...]:
        """Of rows [heads, T, words] of queries and [heads, P, words] of means."""
        missing = -queries.shape[1] % self.tiles.queries
        queries = jnp.pad(queries, [(0, 0), (0, missing), (0, 0)])
        position = None
        if self.settings.masked:
            position = jnp.arange(self.filled, dtype=jnp.int32)[None, None]
            position = jnp.broadcast_to(position, (queries.shape[0], 1, self.filled))
        sides = Sides((layout, self.layout), (layout.words, self.layout.words))
        rows = Taken((queries,), None), Taken((means,), None)
        return self.settings, sides, self.tiles, jnp.int32(0), *rows, position

    def _packed(self, words: int, size: int) -> Packed:
        return Packed(words, 1, size, 1, 0)

    def attend(self, layout: Layout, queries: Array, means: Array) -> Array:
        """Rows [heads, T, V + 2] of numerator, total and top."""
        values = self.plan.values
        packed = self._packed(values + 2, self.tiles.queries)
        arguments = self._arguments(layout, queries, means)
        rows: Array = self.plan.attend_clusters(*arguments, values=values, packed=packed)
        return rows[:, : queries.shape[1]]

    def gradients(self, layout: Layout, queries: Array, means: Array) -> tuple[Array, Array]:
        """Of queries [heads, T, D + 1] and of means [heads, P, D + 1 + V]."""
        widths = [self.plan.widths[0]], list(self.plan.widths)
        packed = tuple(
            self._packed(sum(of), size)
            for of, size in zip(widths, (self.tiles.queries, self.tiles.keys), strict=True)
        )
        arguments = self._arguments(layout, queries, means)
        to_queries, to_means = self.plan.gradients_of_clusters(*arguments, widths=widths, packed=packed)
        return to_queries[:, : queries.shape[1]], to_means[:, : self.num_means]
