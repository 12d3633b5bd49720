"""Gathers from sources of few rows find the rows that a plain index finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import chips
from smyrf_jax.blockwise import spread as spread_module
from smyrf_jax.blockwise.spread import (
    LANES,
    beside,
    chosen,
    packed_of,
    sources_of,
    spread_of,
    take,
    take_back,
)

ROW = LANES * 4
# Tokens, their words, and the rows that a source may have.
SIZES = [
    (13, 5, 64),
    (64, 5, 64),
    (65, 5, 64),
    (200, 5, 16),
    (1001, 20, 8),
    (300, 64, 40),
    (100, 65, 40),
    (90, 128, 32),
]


def column(place):
    return None if place is None else jnp.swapaxes(place, -1, -2)


def rows_of(length, words, dtype):
    rows = np.random.default_rng(length).integers(-(2**20), 2**20, (length, words))
    return jnp.asarray(rows, dtype)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize(("length", "words", "most"), SIZES)
def test_taken_rows_are_those_of_the_tokens(length, words, most, dtype, monkeypatch):
    monkeypatch.setitem(chips.SOURCE_BYTES, "v3", most * ROW)
    monkeypatch.setattr(spread_module, "PIECES_BYTES", 64 * ROW)
    rows = rows_of(length, words, dtype)
    spread = spread_of(length, words)
    sources = sources_of(rows, spread, empty=True)
    assert len(sources) == spread.pieces
    for source in sources:
        assert len(source) <= most + 8  # eight of zeros
        assert source.shape[1] <= max(LANES, words)
    index = np.random.default_rng(0).integers(0, length + 1, (3, 40))
    index[0, :3] = length, 0, length - 1
    taken = take(sources, spread, jnp.asarray(index, jnp.int32))
    found = chosen(list(taken.rows), column(taken.place), words, spread.words)
    expected = np.concatenate([rows, np.zeros((1, words), dtype)])[index]
    np.testing.assert_array_equal(found[..., :words], expected)


def test_one_source_without_empty_rows_is_the_rows_themselves():
    rows = rows_of(40, 5, "float32")
    assert sources_of(rows, spread_of(40, 5), empty=False)[0] is rows


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("words", [1, 33, 64, 65, 128, 129, 300])
def test_every_token_has_a_place_and_sources_fit(words, itemsize, monkeypatch):
    monkeypatch.setitem(chips.SOURCE_BYTES, "v3", 64 * ROW)
    monkeypatch.setattr(spread_module, "PIECES_BYTES", 2**30)
    for length in (1, 63, 64, 65, 127, 128, 500, 5000):
        check_spread(length, words, itemsize)


def check_spread(length, words, itemsize):
    spread = spread_of(length, words, itemsize)
    assert spread.rows * spread.places >= length
    assert spread.rows * spread.places < length + 8 * spread.places  # rows are filled up to eights
    assert spread.groups * spread.words <= LANES or spread.groups == 1
    lanes = -(-spread.groups * spread.words // LANES) * LANES
    assert (spread.rows - 7) * lanes * itemsize <= max(64 * ROW, lanes * itemsize)


# Clusters, slots of a cluster, slots that share rows, words, and the rows that a source may have.
WRITTEN = [
    (4, 32, 32, 5, 512),
    (4, 64, 32, 5, 32),
    (6, 64, 64, 5, 16),
    (3, 48, 48, 60, 40),
    (5, 32, 32, 20, 8),
    (3, 24, 24, 5, 16),
    (2, 64, 32, 100, 24),
]


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize(("clusters", "size", "block", "words", "most"), WRITTEN)
def test_written_rows_are_taken_back(clusters, size, block, words, most, spare, monkeypatch):
    """spare: clusters that fill up the last step of a grid."""
    monkeypatch.setitem(chips.SOURCE_BYTES, "v3", most * ROW)
    monkeypatch.setattr(spread_module, "PIECES_BYTES", 64 * ROW)
    rows = rows_of(clusters * size, words, "float32")
    packed = packed_of(clusters * size, words, block)
    assert packed.rows <= most
    blocks = rows.reshape(-1, block, words)
    written = jnp.stack([beside(of, packed.groups, packed.words) for of in blocks])
    assert written.shape[2] <= LANES
    written = written.reshape(clusters, size // packed.groups, -1)
    written = jnp.pad(written, [(0, spare), (0, 0), (0, 0)], constant_values=jnp.nan)
    slot = np.random.default_rng(0).integers(0, clusters * size, (2, 50))
    slot[0, :2] = 0, clusters * size - 1
    taken = jax.jit(lambda rows, slot: take_back([rows], packed, slot))(written, jnp.asarray(slot, jnp.int32))
    found = chosen(list(taken.rows), column(taken.place), words, packed.words)
    np.testing.assert_array_equal(found, np.asarray(rows)[slot])


def test_a_place_that_is_none_gives_zeros():
    rows = [jnp.ones((4, 6)), jnp.full((4, 6), 2.0)]
    place = jnp.asarray([[-1], [0], [2], [3]], jnp.int32)
    found = chosen(rows, place, 2, 3)
    np.testing.assert_array_equal(found, [[0, 0], [1, 1], [2, 2], [2, 2]])


def test_blocks_of_many_pieces_would_not_fit_so_that_there_is_one(monkeypatch):
    monkeypatch.setitem(chips.SOURCE_BYTES, "v3", 16 * ROW)
    assert spread_of(64, 100).pieces == 4
    assert spread_of(65, 100) == (65, 100, 1, 1)
    assert packed_of(64, 100, 64).pieces == 4
    assert packed_of(80, 100, 80) == (100, 1, 80, 1, 80)
