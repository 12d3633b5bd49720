"""The mathematics of one block: some queries and some keys of a cluster, forward and backward.

Written once, for XLA and for TPU kernels: matrices, columns [C, 1] and rows [1, K].
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise.contract import Rules
from smyrf_jax.clustering.local import in_window
from smyrf_jax.floats import finite_max, finite_min, float32_at_least


class Settings(NamedTuple):
    """What is known of all blocks before they are traced.

    masked: some key slots are empty; their position is num_keys.
    num_ids: rounds whose clusters are compared; the first num_without in any case, others once they are over.
    first_id: the first of these among the ids of queries.
    far: blocks have estimates of their pairs; linear and met as in `Estimates`.
    """

    rules: Rules
    num_keys: int
    masked: bool = False
    num_ids: int = 0
    first_id: int = 0
    num_without: int = 0
    far: bool = False
    linear: bool = False
    met: int = 0

    @property
    def keys_have_positions(self) -> bool:
        return self.masked or self.rules.is_causal or self.rules.window is not None

    @property
    def queries_have_positions(self) -> bool:
        return self.rules.is_causal or self.rules.window is not None


class Queries(NamedTuple):
    """Of a block. query: [C, D], times the scale of the logits.

    position: [C, 1] and ids: [C, E] of its clusters, as floats.
    features: [C, F] and offset: [C, 1] of its estimates; floor: [C, 1], the logsumexp of all of them.
    of_output: [C, V], and of_rows: [C, 2], logsumexp and shift: what the backward pass is given.
    """

    query: Array
    position: Any = None
    ids: Any = None
    features: Any = None
    offset: Any = None
    floor: Any = None
    of_output: Any = None
    of_rows: Any = None


class Keys(NamedTuple):
    """Of a block. key: [K, D], value: [K, V].

    position: [1, K] int32 and ids: [E, K] of its clusters, as floats.
    features: [K, F] and offset: [1, K] of its estimates.
    """

    key: Array
    value: Array
    position: Any = None
    ids: Any = None
    features: Any = None
    offset: Any = None


class Attended(NamedTuple):
    """Attention over some keys, not yet divided: sums of weights e^(logit - top).

    numerator: [..., C, V], total: [..., C, 1], top: [..., C, 1].
    """

    numerator: Array
    total: Array
    top: Array

    @property
    def rows(self) -> Array:
        """[..., C, V + 2]."""
        return jnp.concatenate(self, axis=-1)


def merged(*parts: Array) -> Array:
    """Rows of `Attended` over the keys of all parts. A part without keys is zeros, or has a low top.

    Whole rows are multiplied: on TPUs a column takes as long.
    """
    column = jax.lax.broadcasted_iota(jnp.int32, parts[0].shape, parts[0].ndim - 1)
    last = parts[0].shape[-1] - 1
    low = finite_min(parts[0].dtype)
    tops = [jnp.where(part[..., last - 1 : last] == 0, low, part[..., last:]) for part in parts]
    top = functools.reduce(jnp.maximum, tops)
    sums = sum(jnp.exp(of - top) * part for of, part in zip(tops, parts, strict=True))
    return jnp.where(column == last, top, sums)


def kept_where_noise(rows: Array, far: Array) -> Array:
    """Rows of `Attended`, and those of the far field where estimates of huge logits left nothing."""
    last = rows.shape[-1] - 1
    return jnp.where(rows[..., last - 1 : last] > 0, rows, far)


def divided(rows: Array) -> Array:
    """Output [..., C, V] of rows of `Attended`; zeros without keys."""
    values = rows.shape[-1] - 2
    total = rows[..., values : values + 1]
    some = total > 0
    return jnp.where(some, rows[..., :values] / jnp.where(some, total, 1.0), 0.0)


def logsumexp_of(total: Array, top: Array) -> Array:
    """finite_min without keys."""
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), finite_min(top.dtype))


_ROWS = (((1,), (1,)), ((), ()))  # [A, D], [B, D] -> [A, B]
_PLAIN = (((1,), (0,)), ((), ()))  # [A, B], [B, D] -> [A, D]
_COLUMNS = (((0,), (0,)), ((), ()))  # [A, B], [A, D] -> [B, D]


def _product(first: Array, second: Array, dimensions: Any) -> Array:
    dtype = float32_at_least(first.dtype)
    return jax.lax.dot_general(first, second, dimensions, preferred_element_type=dtype)


def _kept(settings: Settings, queries: Queries, keys: Keys, hash_round: Any) -> Array | None:
    """Which pairs count, [C, K] or what broadcasts to it; None: all."""
    keep = None

    def both(keep: Array | None, more: Array) -> Array:
        return more if keep is None else keep & more

    if settings.masked:
        keep = keys.position < settings.num_keys
    if settings.queries_have_positions:
        distance = keys.position - queries.position.astype(jnp.int32)
        if settings.rules.is_causal:
            keep = both(keep, distance <= 0)
        if settings.rules.window is not None:
            keep = both(keep, in_window(distance, settings.rules.window))
    for index in range(settings.num_ids):
        column = settings.first_id + index
        differ = queries.ids[:, column : column + 1] != keys.ids[index : index + 1]
        if index >= settings.num_without:
            differ |= hash_round <= index - settings.num_without
        keep = both(keep, differ)
    return keep


def _estimates(
    settings: Settings, queries: Queries, keys: Keys, top: Array, keep: Array | None, hash_round: Any
) -> tuple[Array, Array]:
    """Estimates of the pairs over e^top, [C, K], and the factor of their features' products."""
    dtype = top.dtype
    high = math.log(finite_max(dtype)) / 2
    found = _product(queries.features, keys.features, _ROWS)
    exponent = queries.offset - top
    if keys.offset is not None:
        exponent = exponent + keys.offset
    if settings.linear:
        factor = jnp.exp(jnp.minimum(exponent, high))
        estimates = factor * found
        factor = jnp.broadcast_to(factor, found.shape)
    else:
        estimates = factor = jnp.exp(jnp.minimum(found + exponent, high))
    counts = hash_round >= settings.met
    keep = counts if keep is None else keep & counts
    return jnp.where(keep, estimates, 0.0), jnp.where(keep, factor, 0.0)


def forward(settings: Settings, queries: Queries, keys: Keys, hash_round: Any) -> Attended:
    """Attention of the block."""
    products = _product(queries.query, keys.key, _ROWS)
    low = finite_min(products.dtype)
    keep = _kept(settings, queries, keys, hash_round)
    if keep is not None:
        products = jnp.where(keep, products, low)
    peak = jnp.max(products, axis=1, keepdims=True)
    top = jnp.maximum(peak, low)
    if settings.far:
        top = jnp.maximum(top, queries.floor)
        behind = jnp.minimum(peak - top, 0.0)
        weights = jnp.exp(products - peak + behind)
        if keep is not None:
            weights = jnp.where(keep, weights, 0.0)
        weights -= _estimates(settings, queries, keys, top, keep, hash_round)[0]
    else:
        weights = jnp.exp(products - peak)
    total = jnp.sum(weights, axis=1, keepdims=True)
    numerator = _product(weights, keys.value, _PLAIN)
    if keep is not None and not settings.far:
        # Without keys the peak is low, and every weight 1. Empty means have low / 4.
        some = peak > low / 8
        top, total = jnp.where(some, top, low), jnp.where(some, total, 0.0)
        numerator = jnp.where(some, numerator, 0.0)
    return Attended(numerator, total, top)


class OfKeys(NamedTuple):
    """Gradients of a block's keys, transposed: [D, K], [V, K], [F, K], [1, K].

    A product of a transposed [C, K] is slow, the one that gives its transpose is fast.
    """

    key: Array
    value: Array
    features: Any = None
    offset: Any = None


class OfQueries(NamedTuple):
    """Gradients of a block's queries, [C, D], [C, F], [C, 1]."""

    query: Array
    features: Any = None
    offset: Any = None


def backward(settings: Settings, queries: Queries, keys: Keys, hash_round: Any) -> tuple[OfQueries, OfKeys]:
    """Gradients of the block's queries and keys.

    Empty slots hold zeros: those of queries give nothing, those of keys get something that nobody reads.
    """
    logsumexp, shift = queries.of_rows[:, :1], queries.of_rows[:, 1:]
    products = _product(queries.query, keys.key, _ROWS)
    keep = _kept(settings._replace(masked=settings.masked and settings.far), queries, keys, hash_round)
    # Never above 0, but by rounding; for logits of 1e9 that may be 30.
    weights = jnp.exp(jnp.minimum(products - logsumexp, 0.0))
    if keep is not None:
        weights = jnp.where(keep, weights, 0.0)
    of_weights = _product(queries.of_output, keys.value, _ROWS) - shift
    of_logits = weights * of_weights
    of_query: dict[str, Array] = {"query": _product(of_logits, keys.key, _PLAIN)}
    of_key: dict[str, Array] = {"key": _product(queries.query, of_logits, _COLUMNS)}
    if settings.far:
        estimates, factor = _estimates(settings, queries, keys, logsumexp, keep, hash_round)
        weights -= estimates
        of_exponent, of_product = -estimates * of_weights, -factor * of_weights
        of_query["features"] = _product(of_product, keys.features, _PLAIN)
        of_query["offset"] = jnp.sum(of_exponent, axis=1, keepdims=True)
        of_key["features"] = _product(queries.features, of_product, _COLUMNS)
        if keys.offset is not None:
            of_key["offset"] = jnp.sum(of_exponent, axis=0, keepdims=True)
    of_key["value"] = _product(queries.of_output, weights, _COLUMNS)
    return OfQueries(**of_query), OfKeys(**of_key)
