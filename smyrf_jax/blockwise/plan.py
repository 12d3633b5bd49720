"""How attention by gathers is cut into steps, and what the rows of tokens hold."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.batching import UNROLLED, one_after_another
from smyrf_jax.blockwise import kernels, xla
from smyrf_jax.blockwise.block import Settings
from smyrf_jax.blockwise.contract import Inputs, Rules, one_cluster
from smyrf_jax.blockwise.packing import Layout, packed
from smyrf_jax.blockwise.spread import (
    Packed,
    Spread,
    Taken,
    chosen,
    packed_of,
    sources_of,
    spread_of,
    take,
    take_back,
)
from smyrf_jax.blockwise.steps import Steps
from smyrf_jax.blockwise.tiles import Sides, tiles_of
from smyrf_jax.checks import known_product
from smyrf_jax.clustering.clustering import cluster_of_places, places_of
from smyrf_jax.clustering.local import local_places
from smyrf_jax.floats import finite_min, float32_at_least


class Plan(Steps):
    """How the heads of all samples are cut into steps, and what their rows hold."""

    def __init__(self, kernel: bool | None, rules: Rules, inputs: Inputs):
        """kernel: whether blocks are TPU kernels; None: kernels that are interpreted."""
        # What jax.export knows as a symbol is no size of a grid.
        self.kernel = kernel if isinstance(inputs.query.shape[0], int) else False
        self.rules, self.inputs = rules, inputs
        query, key, value = inputs.query, inputs.key, inputs.value
        self.batch, self.num_queries, self.heads, self.width = query.shape
        _, self.num_keys, self.key_heads, self.values = value.shape
        self.dtype = float32_at_least(query.dtype)
        self.low = finite_min(self.dtype)
        self.whole = inputs.clustering is None
        clustering = inputs.clustering
        if clustering is None:
            clustering = one_cluster(self.heads, self.num_queries, self.num_keys)
            clustering = jax.tree.map(
                lambda order: jnp.broadcast_to(order[None], (self.batch, *order.shape)), clustering
            )
            rules = self.rules = rules._replace(complete=True)
        self.keys_a_cluster = clustering.key_order.shape[-1]
        far = inputs.far
        self.far = far if far is not None and far.query is not None else None
        self.means = None if far is None else far.means
        if (
            inputs.without or rules.deduplicate or self.far is not None or self.means
        ):  # then each query head has keys of its own
            key, value = (jnp.repeat(array, self.heads // self.key_heads, axis=2) for array in (key, value))
            self.own_heads = True
        else:
            self.own_heads = False
        units = key.shape[2]
        self.rep = self.heads // units
        self.units = self.batch * units
        self.key, self.value = self.by_unit(key), self.by_unit(value)
        query_order, key_order = (self.by_head(order) for order in clustering)
        self.size = query_order.shape[-1]
        shape = query_order.shape
        self.rounds, self.num_clusters = shape[1:3]
        features = 0 if self.far is None else self.far.query.shape[-1]
        self.tiles = tiles_of(
            known_product((shape[0], self.num_clusters)),
            shape[-1],
            key_order.shape[-1],
            self.width + self.values + features,
        )
        full = rules.complete and key_order.shape[-1] * self.num_clusters == self.num_keys
        self.query_order = _filled_up(query_order, self.tiles.queries, self.num_queries)
        self.key_order = _filled_up(key_order, self.tiles.keys, self.num_keys)
        if self.whole:
            self.query_places = self.query_order[:, :, 0, : self.num_queries]
        elif rules.window is None:
            self.query_places = places_of(self.query_order, self.num_queries, complete=rules.complete)
        else:
            self.query_places = self._local_places(self.query_order, self.num_queries, self.size, 0)[:, :, 0]
        self.settings = Settings(
            rules,
            self.num_keys,
            masked=not full or self.key_order.shape != key_order.shape,
            num_ids=(inputs.without is not None) + (self.rounds - 1 if rules.deduplicate else 0),
            num_without=int(inputs.without is not None),
            far=self.far is not None,
            linear=far is not None and far.linear,
            met=0 if far is None else far.met,
        )
        self.ids = self._ids() if self.settings.num_ids else None
        # Columns of what is multiplied: of means, one more is added.
        self.widths = self.width + (self.means is not None), self.values

    def _own_cluster(self) -> Array:
        """[heads, T, 1], of each query in the first round."""
        return cluster_of_places(self.query_places[:, 0], self.query_order[:, 0])[..., None]

    def key_places(self) -> Array:
        """[heads, R, P, S]: of each key, P times."""
        if self.whole:
            return self.key_order[..., : self.num_keys]
        if self.rules.window is None:
            return places_of(self.key_order, self.num_keys, complete=self.rules.complete)[:, :, None]
        before = self.rules.window // 2
        return self._local_places(self.key_order, self.num_keys, self.keys_a_cluster, before)

    def _local_places(self, order: Array, length: int, keys: int, before: int) -> Array:
        places = local_places(
            length, order.shape[-1], self.num_clusters, size=self.size, keys=keys, before=before
        )
        return jnp.broadcast_to(places, (*order.shape[:2], *places.shape))

    def _ids(self) -> tuple[Array, Array]:
        """Whose pairs are left out, [heads, T, E] and [heads, S, E]: see `Settings`."""
        found = []
        if self.inputs.without is not None:
            found.append([self.by_head(of)[:, None] for of in self.inputs.without])
        if self.rules.deduplicate:
            of_query = cluster_of_places(self.query_places, self.query_order)
            places = places_of(self.key_order, self.num_keys, complete=self.rules.complete)
            of_key = cluster_of_places(places, self.key_order)
            # No cluster is not a cluster that two tokens could share: -1 of a query is -2 of a key.
            found.append([of[:, :-1] for of in (of_query, jnp.where(of_key < 0, -2, of_key))])
        of_query, of_key = (
            jnp.swapaxes(jnp.concatenate(of, axis=1), 1, 2).astype(self.dtype)
            for of in zip(*found, strict=True)
        )
        return of_query, of_key

    def by_head(self, array: Array) -> Array:
        """[B, N, ...] as [B * N, ...]."""
        return array.reshape(-1, *array.shape[2:])

    def by_unit(self, array: Array) -> Array:
        """[B, T, N, ...] as [B * N, T, ...]."""
        return self.by_head(jnp.swapaxes(array, 1, 2))

    def queries(self) -> dict[str, Array]:
        """Columns of both passes."""
        scale = self.inputs.scale.astype(self.dtype).reshape(-1, 1, 1, 1)
        found = {"query": self.by_unit(scale * self.inputs.query.astype(self.dtype))}
        if self.means is not None:
            # What is added to the logits of means is their last coordinate; that of keys is 0.
            found["query"] = jnp.pad(found["query"], [(0, 0), (0, 0), (0, 1)], constant_values=1)
        if self.settings.queries_have_positions:
            position = jnp.arange(self.num_queries, dtype=self.dtype)[None, :, None]
            found["position"] = jnp.broadcast_to(position, (*found["query"].shape[:2], 1))
        ids = [] if self.ids is None else [self.ids[0]]
        if self.means is not None:
            ids.append(self._own_cluster().astype(self.dtype))
        if ids:
            found["ids"] = jnp.concatenate(ids, axis=-1)
        if self.far is not None:
            found["features"] = self.by_unit(self.far.query)
            found["offset"] = self.by_unit(self.far.offset[..., None])
        return found

    def keys(self) -> dict[str, Array]:
        found = {"key": self.key, "value": self.value}
        if self.means is not None:
            found["key"] = jnp.pad(found["key"], [(0, 0), (0, 0), (0, 1)])
        if self.ids is not None:
            found["ids"] = self.ids[1]
        if self.far is not None:
            found["features"] = self.by_unit(self.far.key)
            if self.far.key_offset is not None:
                found["offset"] = self.by_unit(self.far.key_offset[..., None])
        return found

    def spread(self, length: int, words: int) -> Spread:
        """How rows of so many tokens are spread over sources of gathers."""
        if self.kernel is False or self.whole:
            return Spread(length, words, 1, 1)
        return spread_of(length, words, self.dtype.itemsize)

    def packed(self, slots: int, words: int, block: int) -> Packed:
        if self.kernel is False or self.whole:
            return Packed(words, 1, block, 1, slots)
        return packed_of(slots, words, block, self.dtype.itemsize)

    def sources(self, side: int, rows: Array) -> tuple[list[Array], Spread]:
        """Rows of all heads of a step, and an empty one where some slot is empty. side: 0 queries, 1 keys."""
        rows = rows.reshape(-1, rows.shape[-1])
        no_empty = self.rules.complete and self.num_clusters * self.query_order.shape[-1] == self.num_queries
        empty = (self.settings.masked if side else not no_empty) or (
            self.num_clusters % self.tiles.clusters != 0
        )
        spread = self.spread(rows.shape[0], rows.shape[-1])
        return sources_of(rows, spread, empty), spread

    def packed_rows(self, columns: dict[str, Array], layout: Layout) -> Array:
        """Columns [heads, T, ...] as rows of words."""
        rows: Array = self.over_tokens(lambda columns: packed(columns, layout), columns)
        return rows

    def of_clusters(
        self,
        function: Callable[..., Any],
        sides: Sides,
        sources: Any,
        index: Array,
        query_order: Array,
        key_order: Array,
        pieces: int,
    ) -> list[Any]:
        """What a function makes of the rows of a round's clusters, in parts.

        pieces: into how many parts results are cut; then clusters are too, if that comes out even.
        """
        pieces = max(pieces, sources[0][1].pieces)

        def of_some(query_order: Array, key_order: Array) -> Any:
            return function(
                self.settings,
                sides,
                self.tiles,
                index,
                self.gathered(sources[0], query_order, self.num_queries, 1),
                self.gathered(sources[1], key_order, self.num_keys, self.rep),
                self.positions(key_order),
            )

        heads, clusters, _ = query_order.shape
        one = isinstance(heads, int) and heads == 1
        if not one or pieces > UNROLLED or clusters % (pieces * self.tiles.clusters):
            return [of_some(query_order, key_order)]
        return one_after_another(
            lambda *orders: of_some(*(of[None] for of in orders)), pieces, query_order[0], key_order[0]
        )

    def gathered(self, sources: tuple[list[Array], Spread], order: Array, length: int, rep: int) -> Taken:
        """Rows of [n, C] slots, for orders [g * rep, L, C]."""
        heads = order.shape[0] // rep
        spare = -(order.shape[0] * order.shape[1]) % self.tiles.clusters
        if self.whole:  # in order, as they are
            rows = sources[0][0][: heads * length].reshape(heads, length, -1)
            rows = jnp.repeat(rows, rep, axis=0) if rep > 1 else rows
            return Taken((jnp.pad(rows, [(0, spare), (0, order.shape[-1] - length), (0, 0)]),), None)
        unit = jax.lax.broadcasted_iota(jnp.int32, order.shape, 0) // rep
        index = jnp.where(order < length, unit * length + order, heads * length)
        index = index.reshape(-1, order.shape[-1])
        index = jnp.pad(index, [(0, spare), (0, 0)], constant_values=heads * length)
        return take(*sources, index)

    def returned(self, rows: Sequence[Array], packed: Packed, places: Array, size: int) -> Taken:
        """Of rows [n, C], as packed and in parts, those of each token [g * rep, ..., T]; zeros where none is.

        places: of tokens, in L * C.
        """
        if self.whole:
            (whole,) = rows
            whole = whole[: places.shape[0], : places.shape[-1]]
            return Taken((whole if places.ndim == 2 else whole[:, None],), None)
        slots = self.num_clusters * size
        head = jax.lax.broadcasted_iota(jnp.int32, places.shape, 0)
        taken = take_back(rows, packed, head * slots + jnp.minimum(places, slots - 1))
        if self.rules.complete:
            return taken
        there = places < slots
        if taken.place is not None:
            return taken._replace(place=jnp.where(there[..., None, :], taken.place, -1))
        return Taken((jnp.where(there[..., None], taken.rows[0], 0),), None)

    def summed(
        self,
        state: Array | None,
        found: Sequence[tuple[Sequence[Array], Array]],
        packed: Packed,
        widths: list[int],
        size: int,
        rep: int = 1,
    ) -> Array:
        """A state [g, T, words] and the rows of each of its tokens, summed.

        found: rows [n, C], as packed and in parts, and where each token has its own, [g * rep, T, P].
        size: slots of a cluster.
        """
        words = sum(widths)
        rows, places = zip(*found, strict=True)

        def joined(array: Array) -> Array:
            return array.reshape(array.shape[0] // rep, rep * array.shape[1], *array.shape[2:])

        def of_tokens(places: Sequence[Array], before: Sequence[Array]) -> Array:
            parts = list(before)
            for of, its in zip(rows, places, strict=True):
                taken = self.returned(of, packed, jnp.swapaxes(its, 1, 2), size)
                taken = jax.tree.map(joined, taken)
                place = None if taken.place is None else jnp.swapaxes(taken.place, -1, -2)
                of_places = chosen(list(taken.rows), place, words, packed.words)
                parts += [of_places[:, index] for index in range(of_places.shape[1])]
            total: Array = sum(parts[1:], parts[0])
            return total

        whole: Array = self.over_tokens(of_tokens, places, () if state is None else (state,))
        return whole

    @property
    def attend_clusters(self) -> Callable[..., Any]:
        if self.kernel is False:
            return xla.attend_clusters
        return functools.partial(kernels.attend_clusters, interpret=self.kernel is None)

    @property
    def gradients_of_clusters(self) -> Callable[..., Any]:
        if self.kernel is False:
            return xla.gradients_of_clusters
        return functools.partial(kernels.gradients_of_clusters, interpret=self.kernel is None)

    @property
    def merge_rounds(self) -> Callable[..., Any]:
        if self.kernel is False:
            return xla.merge_rounds
        return functools.partial(kernels.merge_rounds, interpret=self.kernel is None)

    def positions(self, order: Array) -> Array | None:
        """Key orders [g * rep, L, K] as [n, 1, K]."""
        if not self.settings.keys_have_positions:
            return None
        spare = -(order.shape[0] * order.shape[1]) % self.tiles.clusters
        rows = order.reshape(-1, 1, order.shape[-1])
        return jnp.pad(rows, [(0, spare), (0, 0), (0, 0)], constant_values=self.num_keys)


def _filled_up(order: Array, multiple: int, empty: int) -> Array:
    widths = [(0, 0)] * (order.ndim - 1) + [(0, -order.shape[-1] % multiple)]
    return jnp.pad(order, widths, constant_values=empty)
