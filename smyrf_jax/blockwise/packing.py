"""Columns of several arrays side by side in one row of 32-bit words, so that one gather moves them all.

On TPUs a gathered row costs the same up to 128 words, whatever is in it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.floats import float32_at_least


class Column(NamedTuple):
    """Where an array [..., width] lies in a row: words start .. start + words - 1.

    half: two bfloat16 numbers a word, the first half of the array in the low bits.
    """

    name: str
    width: int
    start: int
    words: int
    half: bool


class Layout(NamedTuple):
    """Of rows [..., words] of a dtype: that of the numbers, or int32 where some share a word."""

    columns: tuple[Column, ...]
    words: int
    dtype: jnp.dtype

    @property
    def number(self) -> jnp.dtype:
        """The dtype of what is unpacked."""
        return jnp.dtype(jnp.float32) if self.dtype == jnp.int32 else self.dtype


def layout_of(arrays: dict[str, Array]) -> Layout:
    """The layout of rows of these arrays [..., width]. Integers have to be below 2^24."""
    columns, start = [], 0
    for name, array in arrays.items():
        half = array.dtype == jnp.bfloat16
        width = array.shape[-1]
        words = -(-width // 2) if half else width
        columns.append(Column(name, width, start, words, half))
        start += words
    wide = any(array.dtype == jnp.float64 for array in arrays.values())
    number = float32_at_least(jnp.dtype(jnp.float64 if wide else jnp.float32))
    halves = any(column.half for column in columns) and not wide
    if not halves:
        columns, start = _unshared(columns)
    return Layout(tuple(columns), start, jnp.dtype(jnp.int32) if halves else number)


def _unshared(columns: list[Column]) -> tuple[list[Column], int]:
    found, start = [], 0
    for column in columns:
        found.append(Column(column.name, column.width, start, column.width, False))
        start += column.width
    return found, start


def packed(arrays: dict[str, Array], layout: Layout) -> Array:
    """[..., words]."""
    parts = []
    for column in layout.columns:
        array = arrays[column.name]
        if column.half:
            array = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, column.width % 2)])
            low, high = jnp.split(
                jax.lax.bitcast_convert_type(array, jnp.uint16).astype(jnp.int32), 2, axis=-1
            )
            parts.append(low | (high << 16))
        elif layout.dtype == jnp.int32:
            parts.append(jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.int32))
        else:
            parts.append(array.astype(layout.dtype))
    return jnp.concatenate(parts, axis=-1)


def unpacked(rows: Array, layout: Layout) -> dict[str, Array]:
    """The arrays, in float32 at least."""
    found = {}
    for column in layout.columns:
        words = rows[..., column.start : column.start + column.words]
        if column.half:
            both = [words << 16, words & -(2**16)]
            numbers = jnp.concatenate(
                [jax.lax.bitcast_convert_type(half, jnp.float32) for half in both], axis=-1
            )
            words = numbers[..., : column.width]
        elif layout.dtype == jnp.int32:
            words = jax.lax.bitcast_convert_type(words, jnp.float32)
        found[column.name] = words
    return found
