"""Tiles that TPUs can lay out, whatever the sizes of clusters."""

import itertools

from smyrf_jax.blockwise.tiles import BLOCK, tiles_of
from smyrf_jax.chips import LANES


def test_tiles_are_of_whole_sublanes_and_several_of_whole_lanes():
    sizes = (1, 5, 8, 12, 16, 100, 500, 512, 513, 600, 800, 1000, 1025, 2048, 3000, 8192)
    for queries, keys, words in itertools.product(sizes, sizes, (24, 128, 130, 500)):
        tiles = tiles_of(7, queries, keys, words)
        # Rows of bfloat16 lie 16 to a register; places of tokens lie along lanes.
        for size, length in ((tiles.queries, queries), (tiles.chunk, keys)):
            assert size % 16 == 0
            assert size >= length or size % LANES == 0
            assert size <= BLOCK
        assert tiles.keys % tiles.chunk == 0
        # Filling up costs less than a tile.
        assert -(-keys // tiles.keys) * tiles.keys < keys + tiles.chunk
        assert -(-queries // tiles.queries) * tiles.queries < queries + tiles.queries
