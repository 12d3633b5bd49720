"""The steps of attention by gathers: some heads, some tokens, one round at a time, by what memory holds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import layout

from smyrf_jax.batching import in_groups, one_after_another
from smyrf_jax.chips import LANES, row_bytes, source_bytes
from smyrf_jax.platforms import is_exported

# Bytes of the rows of all rounds, above which rounds are taken one by one.
ROUNDS_BYTES = 9 * 2**23
# Bytes of the rows of one head, above which they are gathered, and gathered back, in parts: that is slower.
PART_BYTES = 2**24
# Bytes of the rows of a step where there is no vector memory that they have to fit.
BYTES_WITHOUT_KERNELS = 2**28
PARTS = 8


class Steps:
    """What is known of a plan's sizes, and how functions of its arrays are taken step by step.

    kernel: whether blocks are TPU kernels; None: kernels that are interpreted.
    whole: all tokens are in one cluster.
    units: key heads of all samples; rep: query heads of each.
    """

    kernel: bool | None
    whole: bool
    dtype: Any
    units: Any
    rep: int
    num_queries: int
    num_keys: int
    width: int
    values: int
    rounds: int
    num_clusters: int
    query_order: Array

    def over_units(self, function: Callable[..., Any], words: int, *arrays: Any) -> Any:
        """function of a few units at a time, whose rows of so many words fit the source of a gather.

        arrays: [units * rep, ...] and [units, ...].
        """
        row = row_bytes(words, self.dtype.itemsize)
        bytes_of_unit = max(self.rep * self.num_queries, self.num_keys) * row
        if not isinstance(self.units, int):
            return function(*arrays)
        most = BYTES_WITHOUT_KERNELS if self.kernel is False else source_bytes()
        of_rounds = ROUNDS_BYTES // (self.rounds * bytes_of_unit)
        most = min(most // bytes_of_unit, max(1, of_rounds))

        def compact(*arrays: Any) -> Any:
            return self._compact(function(*self._compact(arrays)))

        return in_groups(compact, self.units, most, *self._compact(arrays))

    def _compact(self, arrays: Any) -> Any:
        """Arrays [units, T, W] with tokens side by side: with columns there, memory is filled up to 128."""
        if self.kernel is not True or is_exported():
            return arrays

        def turned(array: Array) -> Array:
            narrow = array.ndim == 3 and array.shape[-1] <= LANES // 2
            if not narrow or not jnp.issubdtype(array.dtype, jnp.floating):
                return array
            found: Array = layout.with_layout_constraint(array, layout.Layout((0, 2, 1)))  # type: ignore[no-untyped-call]
            return found

        return jax.tree.map(turned, arrays)

    def over_tokens(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """function of arrays [heads, T, ...], of some tokens at a time where their rows are large."""
        heads, length = jax.tree.leaves(arrays)[0].shape[:2]
        parts = self._parts(heads, length)
        if parts == 1:
            return function(*arrays)

        def of_one(*some: Any) -> Any:
            return jax.tree.map(lambda of: of[0], function(*jax.tree.map(lambda of: of[None], some)))

        found = one_after_another(of_one, parts, *jax.tree.map(lambda of: of[0], arrays))
        return jax.tree.map(lambda *of: jnp.concatenate(of)[None], *found)

    def _parts(self, heads: Any, rows: Any) -> int:
        """Into how many parts the rows of one head are cut.

        One, where vector memory holds them, or where the head is one of many, whose arrays are larger.
        """
        row = row_bytes(1, self.dtype.itemsize)
        known = isinstance(rows, int) and isinstance(heads, int)
        if self.whole or not known or heads > 1 or self.units >= PARTS:
            return 1
        if rows * row <= max(PART_BYTES, source_bytes()):
            return 1
        return max(of for of in range(1, PARTS + 1) if rows % of == 0)

    def unrolled(self, heads: int, words: int) -> bool:
        """Whether a step has rows for all rounds."""
        row = row_bytes(words, self.dtype.itemsize)
        rows = heads * self.rounds * self.num_clusters * self.query_order.shape[-1]
        few = not isinstance(rows, int) or rows * row <= ROUNDS_BYTES
        return self.rounds == 1 or (self.rounds <= 4 and few)

    def over_rounds(
        self, step: Callable[..., Any], merge: Callable[..., Any], last: Callable[..., Any], orders: Any
    ) -> Any:
        """last(None, what step(round, its orders) gives for all rounds), or after what merge makes of some.

        merge and last: of a state or None, and of what some rounds give.
        """
        heads = orders[0].shape[0]
        if self.unrolled(heads, max(self.width, self.values + 2)):
            found = [
                step(jnp.int32(index), *(None if of is None else of[:, index] for of in orders))
                for index in range(self.rounds)
            ]
            return last(None, found)

        def scanned(state: Any, inputs: Any) -> tuple[Any, None]:
            return self._compact(merge(state, [step(inputs[0], *inputs[1])])), None

        moved = tuple(None if of is None else jnp.swapaxes(of, 0, 1) for of in orders)
        first = step(jnp.int32(0), *jax.tree.map(lambda of: of[0], moved))
        state = self._compact(merge(None, [first]))
        middle = jax.tree.map(lambda of: of[1:-1], (jnp.arange(self.rounds, dtype=jnp.int32), moved))
        state, _ = jax.lax.scan(scanned, state, middle)
        return last(state, [step(jnp.int32(self.rounds - 1), *jax.tree.map(lambda of: of[-1], moved))])
