"""The blocks of gathered clusters by XLA: what GPUs run, and what kernels are compared with."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

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
from smyrf_jax.blockwise.spread import Packed, Taken
from smyrf_jax.blockwise.tiles import Sides, Tiles

# Logits of a step.
LOGITS_A_STEP = 2**22


def _block(sides: Sides, queries: Array, keys: Array, position: Array | None) -> tuple[Queries, Keys]:
    columns = unpacked(keys, sides.layouts[1])
    turned = {name: columns.pop(name).T for name in ("ids", "offset") if name in columns}
    return Queries(**unpacked(queries, sides.layouts[0])), Keys(**columns, **turned, position=position)


def _of_clusters(
    function: Callable[..., Any], sides: Sides, queries: Taken, keys: Taken, position: Array | None
) -> Any:
    """function of the queries and keys of each cluster, some clusters at a time."""
    arrays: tuple[Array, ...] = queries.rows[0], keys.rows[0]
    if position is not None:
        arrays = *arrays, position

    def one(queries: Array, keys: Array, position: Array | None = None) -> Any:
        return function(*_block(sides, queries, keys, position))

    most = max(1, LOGITS_A_STEP // (arrays[0].shape[1] * arrays[1].shape[1]))
    clusters = arrays[0].shape[0]
    if not isinstance(clusters, int) or clusters <= most:
        return jax.vmap(one)(*arrays)
    return jax.lax.map(lambda rows: one(*rows), arrays, batch_size=most)


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
) -> Array:
    """As `kernels.attend_clusters`. All tokens lie in one source, one a row."""

    def one(queries: Queries, keys: Keys) -> Array:
        return forward(settings, queries, keys, hash_round).rows

    found: Array = _of_clusters(one, sides, queries, keys, position)
    return found


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
) -> tuple[Array, Array]:
    """As `kernels.gradients_of_clusters`."""

    def one(queries: Queries, keys: Keys) -> tuple[Array, Array]:
        of_queries, of_keys = backward(settings, queries, keys, hash_round)
        return (
            jnp.concatenate([of for of in of_queries if of is not None], axis=1),
            jnp.concatenate([of for of in of_keys if of is not None], axis=0).T,
        )

    found: tuple[Array, Array] = _of_clusters(one, sides, queries, keys, position)
    return found


def merge_rounds(rounds: list[Taken], *, values: int, words: int, has_far: bool, dtype: Any) -> Any:
    """As `kernels.merge_rounds`."""
    found = [of_round.rows[0] for of_round in rounds]
    rows = merged(*found)
    if dtype is None:
        return rows
    rows = kept_where_noise(rows, found[0]) if has_far else rows
    return divided(rows).astype(dtype), logsumexp_of(rows[..., values], rows[..., values + 1])
