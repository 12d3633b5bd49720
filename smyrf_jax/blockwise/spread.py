"""Rows of many tokens as sources of gathers, each of which fits vector memory.

Where tokens are many, several share a row, side by side, and there are several sources. Which token of a
gathered row is meant, and of which source, is a number beside it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.chips import LANES, row_bytes, source_bytes

# Bytes of a token's rows of all pieces, whose blocks lie in vector memory at once. Where they would be more,
# there is one source, however large, and a gathered row takes ten times as long.
PIECES_BYTES = 2**11


class Spread(NamedTuple):
    """Where token t lies: row t % rows of place t // rows. A source has `groups` places side by side.

    rows: of a source. words: of a token. groups: tokens a row. pieces: sources.
    """

    rows: int
    words: int
    groups: int
    pieces: int

    @property
    def places(self) -> int:
        return self.groups * self.pieces


def spread_of(length: int, words: int, itemsize: int = 4) -> Spread:
    """A spread of rows of `length` tokens."""
    row = row_bytes(words, itemsize)
    most = max(8, source_bytes() // row)
    if length <= most:
        return Spread(length, words, 1, 1)
    groups = 1
    while groups * 2 * words <= LANES and groups * most < length:
        groups *= 2
    pieces = -(-length // (groups * most))
    if pieces * row > PIECES_BYTES:
        return Spread(length, words, 1, 1)
    rows = -(-length // (groups * pieces * 8)) * 8
    return Spread(rows, LANES // groups if groups > 1 else words, groups, pieces)


class Taken(NamedTuple):
    """Gathered rows of tokens.

    rows: of each source, [..., C, groups * words].
    place: which of them is meant, [..., 1, C] int32, -1: none, which gives zeros; None: there is one place.
    """

    rows: tuple[Array, ...]
    place: Array | None


def sources_of(rows: Array, spread: Spread, empty: bool) -> list[Array]:
    """The sources, for rows [T, words] of tokens. empty: one more row of zeros is needed."""
    length, words = rows.shape
    if spread.places == 1:
        return [jnp.pad(rows, [(0, 8), (0, 0)]) if empty else rows]
    rows = jnp.pad(rows, [(0, spread.rows * spread.places - length), (0, spread.words - words)])
    found = []
    for piece in range(spread.pieces):
        first = piece * spread.groups
        parts = [
            rows[place * spread.rows : (place + 1) * spread.rows]
            for place in range(first, first + spread.groups)
        ]
        found.append(jnp.concatenate(parts, axis=-1))
    return found


def take(sources: list[Array], spread: Spread, index: Array) -> Taken:
    """The rows of tokens [..., C]; T, the length, gives zeros where `empty` rows were asked for."""
    if spread.places == 1:
        return Taken((_rows(sources[0], index),), None)
    row, place = index % spread.rows, index // spread.rows
    place = jnp.where(place < spread.places, place, -1)
    # Where a token lies in another source, any row does.
    return Taken(tuple(_rows(source, row) for source in sources), place[..., None, :])


def _rows(source: Array, index: Array) -> Array:
    return source.at[index].get(mode="promise_in_bounds")


def chosen(rows: list[Any], place: Any, words: int, total: int) -> Any:
    """The words of the tokens that are meant, [..., C, words], of rows [..., C, groups * total].

    place: [..., C, 1], or None where there is one.
    """
    if place is None:
        return rows[0]
    groups = rows[0].shape[-1] // total
    found = jnp.zeros((), rows[0].dtype)
    for piece, of_piece in enumerate(rows):
        for group in range(groups):
            here = of_piece[..., group * total : group * total + words]
            found = jnp.where(place == piece * groups + group, here, found)
    return found


def beside(rows: Any, groups: int, total: int) -> Any:
    """Rows [C, words] as [C / groups, groups * total]: the rows of equal parts of C side by side."""
    if groups == 1:
        return rows
    part = rows.shape[0] // groups
    parts = [rows[group * part : (group + 1) * part] for group in range(groups)]
    missing = total - rows.shape[1]
    if missing:
        zeros = jnp.zeros((part, missing), rows.dtype)
        parts = [jnp.concatenate([of, zeros], axis=1) for of in parts]
    return jnp.concatenate(parts, axis=1)


class Packed(NamedTuple):
    """Rows that a step of clusters writes, and how they are gathered back.

    words: of a row's token. groups: tokens a row. block: slots whose tokens share rows.
    pieces: sources of the gather. rows: of a source.
    """

    words: int
    groups: int
    block: int
    pieces: int
    rows: int


def packed_of(slots: int, words: int, block: int, itemsize: int = 4) -> Packed:
    """How rows of so many slots are written. block: slots of a cluster, or of a part of it that is a tile."""
    row = row_bytes(words, itemsize)
    most = max(8, source_bytes() // row)
    groups = 1
    while groups * 2 * words <= LANES and groups * most < slots and block % (groups * 16) == 0:
        groups *= 2
    rows = slots // groups
    pieces = -(-rows // most)
    if pieces * row > PIECES_BYTES:
        groups = pieces = 1
        rows = slots
    return Packed(LANES // groups if groups > 1 else words, groups, block, pieces, -(-rows // pieces))


def take_back(parts: Sequence[Array], packed: Packed, slot: Array) -> Taken:
    """Of rows [.., groups * words], in parts, those of the slots [..., T]."""
    parts = [rows.reshape(-1, rows.shape[-1]) for rows in parts]
    if packed.groups == 1 and packed.pieces == 1:
        return Taken((_rows(_joined(parts), slot),), None)
    part = packed.block // packed.groups
    within = slot % packed.block
    row, group = slot // packed.block * part + within % part, within // part
    if packed.pieces == 1:
        return Taken((_rows(_joined(parts), row),), group[..., None, :])
    piece = row // packed.rows
    sources = list(parts)
    if len(parts) != packed.pieces or len(parts[0]) != packed.rows:
        # Clusters that fill up the last step of a grid come after all slots.
        rows = _joined(parts)[: packed.rows * packed.pieces]
        missing = packed.rows * packed.pieces - len(rows)
        rows = jnp.pad(rows, [(0, missing), (0, 0)]) if missing else rows
        sources = [
            jax.lax.slice_in_dim(rows, start, start + packed.rows)
            for start in range(0, packed.rows * packed.pieces, packed.rows)
        ]
    found = tuple(_rows(source, row % packed.rows) for source in sources)
    return Taken(found, (piece * packed.groups + group)[..., None, :])


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
