"""How clusters are cut into the steps of a kernel's grid, and what a step is given."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from smyrf_jax.blockwise.packing import Layout
from smyrf_jax.blockwise.spread import Taken
from smyrf_jax.chips import LANES

# Queries and keys of a product: what fits, with its logits, into 16 MB of vector memory several times.
BLOCK = 512
# Keys that lie in vector memory at once, and rows of small clusters in one step of the grid.
RESIDENT = 1024
ROWS_A_STEP = 512
# Kernels are unrolled over them.
CLUSTERS_A_STEP = 16


class Tiles(NamedTuple):
    """How clusters [n, C, K] are cut into steps of a grid.

    clusters: of a step; n is a multiple.
    queries: of a step; C is a multiple.
    keys: of a step; K is a multiple.
    chunk: keys of a product; keys is a multiple.
    """

    clusters: int
    queries: int
    keys: int
    chunk: int


def _cut(length: int, most: int) -> int:
    """The size of equal pieces, none larger than `most`.

    One is of whole registers of bfloat16, 16 rows. Several are of whole lanes, since numbers lie in rows too,
    and of a size that wastes the least.
    """
    if length <= most:
        return -(-length // 16) * 16
    return min(range(most, 0, -LANES), key=lambda size: -(-length // size) * size)


def tiles_of(num_clusters: int, queries: int, keys: int, words: int = LANES) -> Tiles:
    """The tiles of clusters, whose numbers of queries and keys are to be filled up to multiples.

    words: of a token's rows: the wider, the fewer of them lie in vector memory.
    """
    lanes = -(-words // LANES)
    most = BLOCK if lanes <= 4 else BLOCK // 2
    block = _cut(queries, most)
    chunk = _cut(keys, most)
    chunks = -(-keys // chunk)
    most = max(1, RESIDENT // lanes // chunk)
    resident = chunk * max(number for number in range(1, min(most, chunks) + 1) if chunks % number == 0)
    clusters = 1
    if block >= queries and chunk >= keys:
        clusters = max(1, min(num_clusters, ROWS_A_STEP // max(block, chunk), CLUSTERS_A_STEP))
    return Tiles(clusters, block, resident, chunk)


class Operands:
    """Arrays [n, rows, columns] that a kernel reads, by name, and the blocks that a step of its grid gets."""

    def __init__(self, clusters: int):
        self.clusters = clusters
        self.names: list[str] = []
        self.arrays: list[Array] = []
        self.specs: list[Any] = []

    def scalar(self, name: str, array: Array) -> None:
        self._add(name, array.reshape(1, 1), pl.BlockSpec(memory_space=pltpu.SMEM))

    def rows(self, name: str, array: Array, size: int, block: Callable[..., Any]) -> None:
        """size rows of a block; block: of the inner two axes of the grid, its number."""
        shape = (self.clusters, size, array.shape[-1])
        self._add(name, array, pl.BlockSpec(shape, lambda c, i, j: (c, block(i, j), 0)))

    def row(self, name: str, array: Array, size: int, block: Callable[..., Any]) -> None:
        """size columns of one row [n, 1, columns]."""
        self._add(name, array, pl.BlockSpec((self.clusters, 1, size), lambda c, i, j: (c, 0, block(i, j))))

    def taken(self, name: str, taken: Taken, size: int, block: Callable[..., Any]) -> None:
        for piece, array in enumerate(taken.rows):
            self.rows(f"{name}{piece}", array, size, block)
        if taken.place is not None:
            self.row(f"{name}_place", taken.place, size, block)

    def _add(self, name: str, array: Array, spec: Any) -> None:
        self.names.append(name)
        self.arrays.append(array)
        self.specs.append(spec)

    def named(self, refs: Sequence[Any]) -> tuple[dict[str, Any], Sequence[Any]]:
        """The references by name, and those of outputs and scratch."""
        count = len(self.names)
        return dict(zip(self.names, refs[:count], strict=True)), refs[count:]


def column_of(row: Array) -> Array:
    """[1, C] as [C, 1], of int32 below 2^24 or of floats."""
    wide = jnp.broadcast_to(row.astype(jnp.float32), (8, row.shape[1]))
    return wide.T[:, :1].astype(row.dtype)


class Sides(NamedTuple):
    """Of queries, and of keys: the columns of their rows, and the words that a token takes."""

    layouts: tuple[Layout, Layout]
    words: tuple[int, int]
