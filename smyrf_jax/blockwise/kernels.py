"""The blocks of gathered clusters as TPU kernels: logits stay in the chip's vector memory.

Values are computed in float32 there, which v3 asks for; matrix products round them to bfloat16, as XLA's do,
unless `jax.default_matmul_precision` says otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from smyrf_jax.blockwise.block import (
    Keys,
    Queries,
    Settings,
    backward,
    divided,
    forward,
    kept_where_noise,
    logsumexp_of,
    merged,
)
from smyrf_jax.blockwise.packing import unpacked
from smyrf_jax.blockwise.spread import Packed, Taken, beside, chosen
from smyrf_jax.blockwise.tiles import BLOCK, Operands, Sides, Tiles, column_of
from smyrf_jax.sharding import result_like, vary_alike


def _rows_of(
    refs: dict[str, Any], name: str, cluster: Any, start: int, size: int, words: int, total: int
) -> Array:
    """The words of the tokens of a block."""
    window = slice(start, start + size)
    place = refs.get(f"{name}_place")
    pieces = [refs[of][cluster, window] for of in refs if of.startswith(name) and of[len(name) :].isdigit()]
    where = None if place is None else column_of(place[cluster, :, window])
    rows: Array = chosen(pieces, where, words, total)
    return rows


def _queries(sides: Sides, tiles: Tiles, refs: dict[str, Any], cluster: Any) -> Queries:
    layout = sides.layouts[0]
    rows = _rows_of(refs, "queries", cluster, 0, tiles.queries, layout.words, sides.words[0])
    return Queries(**unpacked(rows, layout))


def _keys(sides: Sides, tiles: Tiles, refs: dict[str, Any], cluster: Any, start: int) -> Keys:
    layout = sides.layouts[1]
    rows = _rows_of(refs, "keys", cluster, start, tiles.chunk, layout.words, sides.words[1])
    columns = unpacked(rows, layout)
    # What is a column in a row of words is a row beside logits.
    turned = {name: columns.pop(name).T for name in ("ids", "offset") if name in columns}
    position = refs["position"][cluster, :, start : start + tiles.chunk] if "position" in refs else None
    return Keys(**columns, **turned, position=position)


def _operands(
    tiles: Tiles,
    hash_round: Array,
    queries: Taken,
    keys: Taken,
    position: Array | None,
    of_queries: Callable[..., Any],
    of_keys: Callable[..., Any],
) -> Operands:
    found = Operands(tiles.clusters)
    found.scalar("hash_round", hash_round)
    found.taken("queries", queries, tiles.queries, of_queries)
    found.taken("keys", keys, tiles.keys, of_keys)
    if position is not None:
        found.row("position", position, tiles.keys, of_keys)
    return found


def _call(
    kernel: Callable[..., None],
    operands: Operands,
    grid: tuple[int, ...],
    outputs: Sequence[tuple[tuple[int, ...], Any, Any]],
    scratch: Sequence[tuple[int, ...]],
    dtype: Any,
    interpret: bool,
    name: str,
) -> Any:
    arguments = vary_alike(operands.arrays, *operands.arrays)
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=operands.specs,
        out_specs=[spec for _, _, spec in outputs],
        out_shape=[result_like(shape, of, arguments[0]) for shape, of, _ in outputs],
        scratch_shapes=[pltpu.VMEM(shape, dtype) for shape in scratch],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        interpret=interpret,
        name=name,
    )(*arguments)


def _for_each(clusters: int, body: Callable[[Any], None]) -> None:
    """body of each cluster of a step: traced once, unrolled when it is compiled."""
    if clusters == 1:
        body(0)
        return

    def step(cluster: Any, _: Any) -> None:
        body(cluster)

    jax.lax.fori_loop(0, clusters, step, None, unroll=True)


def _sum_into(place: Any, part: Array, first: Array) -> None:
    """Sets a reference in the first step, adds to it in later ones."""

    @pl.when(first)
    def _() -> None:
        place[...] = part

    @pl.when(jnp.logical_not(first))
    def _() -> None:
        place[...] += part


def attend_clusters(
    settings: Settings,
    sides: Sides,
    tiles: Tiles,
    hash_round: Array,
    queries: Taken,
    keys: Taken,
    position: Array | None,
    *,
    values: int,
    packed: Packed,
    interpret: bool,
) -> Array:
    """Rows of numerator, total and top [n, C, V + 2], as packed, of gathered rows of [n, C] and [n, K]."""
    n, size = queries.rows[0].shape[:2]
    grid = (n // tiles.clusters, size // tiles.queries, keys.rows[0].shape[1] // tiles.keys)
    operands = _operands(tiles, hash_round, queries, keys, position, lambda i, j: i, lambda i, j: j)
    dtype = sides.layouts[0].number

    def kernel(*refs: Any) -> None:
        inputs, (output, *scratch) = operands.named(refs)
        hash_round = inputs["hash_round"][0, 0]
        step, last = pl.program_id(2), pl.num_programs(2) - 1

        def of_cluster(cluster: Any) -> None:
            its_queries = _queries(sides, tiles, inputs, cluster)
            found = [
                forward(settings, its_queries, _keys(sides, tiles, inputs, cluster, start), hash_round).rows
                for start in range(0, tiles.keys, tiles.chunk)
            ]
            rows = found[0] if len(found) == 1 else merged(*found)
            if not scratch:
                output[cluster] = beside(rows, packed.groups, packed.words)
                return
            (carried,) = scratch

            @pl.when(step == 0)
            def _(rows: Array = rows, carried: Any = carried) -> None:
                carried[...] = rows

            @pl.when(step > 0)
            def _(rows: Array = rows, carried: Any = carried) -> None:
                carried[...] = merged(carried[...], rows)

            @pl.when(step == last)
            def _(cluster: Any = cluster, carried: Any = carried) -> None:
                output[cluster] = beside(carried[...], packed.groups, packed.words)

        _for_each(tiles.clusters, of_cluster)

    shape = (n, size // packed.groups, packed.words * packed.groups)
    block = (tiles.clusters, tiles.queries // packed.groups, shape[2])
    outputs = [(shape, dtype, pl.BlockSpec(block, lambda c, i, j: (c, i, 0)))]
    scratch = [(tiles.queries, values + 2)] if grid[2] > 1 else []
    rows: Array = _call(kernel, operands, grid, outputs, scratch, dtype, interpret, "attend_clusters")[0]
    return rows


def gradients_of_clusters(
    settings: Settings,
    sides: Sides,
    tiles: Tiles,
    hash_round: Array,
    queries: Taken,
    keys: Taken,
    position: Array | None,
    *,
    widths: tuple[list[int], list[int]],
    packed: tuple[Packed, Packed],
    interpret: bool,
) -> tuple[Array, Array]:
    """Rows of the gradients of queries and of keys, of these widths side by side, as packed."""
    n, size = queries.rows[0].shape[:2]
    num_keys = keys.rows[0].shape[1]
    steps = size // tiles.queries, num_keys // tiles.keys
    dtype = sides.layouts[0].number
    sums = (tiles.clusters, sum(-(-width // 8) * 8 for width in widths[1]), tiles.keys)

    def run(of_queries: bool, of_keys: bool, name: str) -> Any:
        """Keys outside and queries inside; the other way round for gradients of queries alone."""
        keys_outside = of_keys

        def query_block(i: Any, j: Any) -> Any:
            return j if keys_outside else i

        def key_block(i: Any, j: Any) -> Any:
            return i if keys_outside else j

        operands = _operands(tiles, hash_round, queries, keys, position, query_block, key_block)

        def kernel(*refs: Any) -> None:
            inputs, rest = operands.named(refs)
            outputs, scratch = list(rest[: of_queries + of_keys]), list(rest[of_queries + of_keys :])
            to_queries = outputs.pop(0) if of_queries else None
            to_keys = outputs.pop(0) if of_keys else None
            hash_round = inputs["hash_round"][0, 0]
            step, last = pl.program_id(2), pl.num_programs(2) - 1

            def of_cluster(cluster: Any) -> None:
                its_queries = _queries(sides, tiles, inputs, cluster)
                of_query: list[Array] = []
                for start in range(0, tiles.keys, tiles.chunk):
                    its_keys = _keys(sides, tiles, inputs, cluster, start)
                    both = backward(settings, its_queries, its_keys, hash_round)
                    parts = [[part for part in of if part is not None] for of in both]
                    of_query = (
                        [a + b for a, b in zip(of_query, parts[0], strict=True)] if of_query else parts[0]
                    )
                    if to_keys is not None:
                        row = 0
                        for part in parts[1]:
                            rows = slice(row, row + part.shape[0])
                            place = scratch[0].at[cluster, rows, start : start + tiles.chunk]
                            _sum_into(place, part, step == 0)
                            row += -(-part.shape[0] // 8) * 8
                if to_queries is not None and to_keys is not None:
                    rows_of_queries = jnp.concatenate(of_query, axis=1)
                    to_queries[cluster] = beside(rows_of_queries, packed[0].groups, packed[0].words)
                elif to_queries is not None:
                    _sum_into(scratch[0], jnp.concatenate(of_query, axis=1), step == 0)

                    @pl.when(step == last)
                    def _(cluster: Any = cluster) -> None:
                        to_queries[cluster] = beside(scratch[0][...], packed[0].groups, packed[0].words)

                if to_keys is not None:

                    @pl.when(step == last)
                    def _(cluster: Any = cluster) -> None:
                        turned = scratch[0][cluster].T
                        parts, row = [], 0
                        for width in widths[1]:
                            parts.append(turned[:, row : row + width])
                            row += -(-width // 8) * 8
                        rows_of_keys = jnp.concatenate(parts, axis=1)
                        to_keys[cluster] = beside(rows_of_keys, packed[1].groups, packed[1].words)

            _for_each(tiles.clusters, of_cluster)

        outputs = []
        for asked, side, length, tile, block in (
            (of_queries, packed[0], size, tiles.queries, query_block),
            (of_keys, packed[1], num_keys, tiles.keys, key_block),
        ):
            if asked:
                columns = side.words * side.groups
                spec = pl.BlockSpec(
                    (tiles.clusters, tile // side.groups, columns),
                    lambda c, i, j, block=block: (c, block(i, j), 0),
                )
                outputs.append(((n, length // side.groups, columns), dtype, spec))
        scratch = [sums] if of_keys else [(tiles.queries, sum(widths[0]))]
        grid = (n // tiles.clusters, *(steps[::-1] if keys_outside else steps))
        return _call(kernel, operands, grid, outputs, scratch, dtype, interpret, name)

    if steps[1] == 1:
        both: tuple[Array, Array] = run(True, True, "gradients_of_clusters")
        return both
    (to_keys,) = run(False, True, "gradients_of_keys")
    (to_queries,) = run(True, False, "gradients_of_queries")
    return to_queries, to_keys


def merge_rounds(
    rounds: list[Taken],
    *,
    values: int,
    words: int,
    has_far: bool,
    dtype: Any,
    interpret: bool,
) -> Any:
    """Output [A, T, V] and logsumexp [A, T] of the rows of rounds [A, T, V + 2].

    has_far: the first is a far field's.
    dtype: None: not divided, as rows [A, T, V + 2] for further rounds.
    """
    first = rounds[0].rows[0]
    heads, length = first.shape[:2]
    tile = length if length <= BLOCK else BLOCK
    operands = Operands(1)
    for index, of_round in enumerate(rounds):
        operands.taken(f"round{index}_", of_round, tile, lambda i, j: i)
    number = first.dtype
    stored = number if dtype == jnp.float16 else dtype  # which kernels cannot write

    def kernel(*refs: Any) -> None:
        inputs, outputs = operands.named(refs)
        found = [
            _rows_of(inputs, f"round{index}_", 0, 0, tile, values + 2, words) for index in range(len(rounds))
        ]
        rows = merged(*found)
        if dtype is None:
            outputs[0][0] = rows
            return
        rows = kept_where_noise(rows, found[0]) if has_far else rows
        outputs[0][0] = divided(rows).astype(stored)
        turned = rows.T
        outputs[1][0] = logsumexp_of(turned[values : values + 1], turned[values + 1 :])

    grid = (heads, -(-length // tile), 1)
    if dtype is None:
        shape = (heads, length, values + 2)
        outputs = [(shape, number, pl.BlockSpec((1, tile, values + 2), lambda c, i, j: (c, i, 0)))]
        (found,) = _call(kernel, operands, grid, outputs, [], number, interpret, "merge_rounds")
        return found
    outputs = [
        ((heads, length, values), stored, pl.BlockSpec((1, tile, values), lambda c, i, j: (c, i, 0))),
        ((heads, 1, length), number, pl.BlockSpec((1, 1, tile), lambda c, i, j: (c, 0, i))),
    ]
    output, logsumexp = _call(kernel, operands, grid, outputs, [], number, interpret, "merge_rounds")
    return output.astype(dtype), logsumexp[:, 0]
