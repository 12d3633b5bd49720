"""Rows of words give back every number that went into them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax.blockwise.packing import layout_of, packed, unpacked

# Widths and dtypes by name; the words of a row, and their dtype.
ROWS = {
    "float32": ({"query": (5, "float32"), "offset": (1, "float32")}, 6, "float32"),
    "bfloat16, even": ({"query": (6, "bfloat16")}, 3, "int32"),
    "bfloat16, odd": (
        {"query": (5, "bfloat16"), "value": (1, "bfloat16"), "more": (7, "bfloat16")},
        8,
        "int32",
    ),
    "both": ({"key": (3, "bfloat16"), "ids": (2, "float32"), "value": (4, "bfloat16")}, 6, "int32"),
    "float16": ({"query": (5, "float16"), "ids": (2, "float32")}, 7, "float32"),
    "float64": ({"query": (5, "float64"), "ids": (2, "float32"), "value": (3, "bfloat16")}, 10, "float64"),
    "float64 alone": ({"query": (5, "float64")}, 5, "float64"),
}


def numbers(width, dtype, seed):
    """Large, small and infinite ones, of both signs: their bits are all that counts."""
    generator = np.random.default_rng(seed)
    drawn = generator.normal(size=(2, 9, width)) * 2.0 ** generator.integers(-14, 15, (2, 9, width))
    drawn[0, :3, 0] = 0.0, -0.0, np.inf
    drawn[1, :2, -1] = -np.inf, float(jnp.finfo(dtype).max)
    return jnp.asarray(drawn, dtype)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_unpacked_is_what_was_packed(name):
    columns, words, dtype = ROWS[name]
    with jax.enable_x64("float64" in name):
        arrays = {of: numbers(*column, seed) for seed, (of, column) in enumerate(columns.items())}
        layout = layout_of(arrays)
        rows = jax.jit(lambda arrays: packed(arrays, layout))(arrays)
        chex.assert_shape(rows, (2, 9, words))
        assert rows.dtype == layout.dtype == dtype
        assert layout.words == words
        ends = [column.start + column.words for column in layout.columns]
        assert [column.start for column in layout.columns] == [0, *ends[:-1]]
        assert ends[-1] == words
        found = jax.jit(lambda rows: unpacked(rows, layout))(rows)
        expected = {of: array.astype(layout.number) for of, array in arrays.items()}
        chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
        chex.assert_trees_all_equal(found, expected)
        signs = (jax.tree.map(jnp.signbit, tree) for tree in (found, expected))
        chex.assert_trees_all_equal(*signs)


def test_rows_of_zeros_are_zeros():
    """What empty slots hold."""
    arrays = {"key": jnp.zeros((3, 5), jnp.bfloat16), "value": jnp.zeros((3, 2), jnp.float32)}
    layout = layout_of(arrays)
    rows = packed(arrays, layout)
    np.testing.assert_array_equal(rows, 0)
    for array in unpacked(rows, layout).values():
        np.testing.assert_array_equal(array, 0)


def test_no_number_reaches_another():
    """Halves of a word that are no numbers leave their neighbour alone."""
    array = jnp.arange(1, 7, dtype=jnp.bfloat16)[None]
    layout = layout_of({"key": array})
    for column in range(6):
        spoiled = array.at[0, column].set(jnp.nan)
        found = unpacked(packed({"key": spoiled}, layout), layout)["key"]
        np.testing.assert_array_equal(jnp.isnan(found[0]), np.arange(6) == column)
        np.testing.assert_array_equal(np.delete(found[0], column), np.delete(np.arange(1.0, 7.0), column))
