"""What the public functions ask of their arguments. Private functions assume it."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.floats import float32_at_least


def check_arguments(
    query: Any, key: Any, value: Any, mask: Any | None, query_mask: Any | None = None
) -> None:
    """Raises ValueError unless query, key, value and masks are arrays that fit [*B, T, N, D] and so on."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        _check_array(name, array)
        if array.ndim < 3:
            raise ValueError(f"{name} should be [*B, length, heads, width], but got shape {array.shape}.")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} should be of floating-point numbers, but got {array.dtype}.")
    batch, heads = query.shape[:-3], query.shape[-2]
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"query and key should have one width, but got {query.shape=} and {key.shape=}.")
    divides = not heads if not key.shape[-2] else not heads % key.shape[-2]
    if key.shape[:-3] != batch or not divides:
        raise ValueError(
            "query and key should have the same batch and heads, or fewer key heads that divide the "
            f"query heads, but got {query.shape=} and {key.shape=}."
        )
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"key and value should differ in width only, but got {key.shape=} and {value.shape=}."
        )
    _check_mask("mask", mask, "key", (*batch, heads, 1, key.shape[-3]))
    _check_mask("query_mask", query_mask, "query", (*batch, heads, 1, query.shape[-3]))


def _check_array(name: str, array: Any) -> None:
    if not hasattr(array, "ndim") or not hasattr(array, "dtype"):
        raise ValueError(f"{name} should be an array, but got a {type(array).__name__}.")


def _check_mask(name: str, mask: Any | None, kind: str, full: tuple[int, ...]) -> None:
    if mask is None:
        return
    _check_array(name, mask)
    if mask.dtype != jnp.bool_:
        raise ValueError(f"{name} should be boolean (True keeps a {kind}), but got {mask.dtype=}.")
    fits = mask.ndim == len(full) and mask.shape[-2:] == full[-2:]
    if not fits or any(m not in (1, f) for m, f in zip(mask.shape[:-2], full[:-2], strict=True)):
        length = "S" if kind == "key" else "T"
        raise ValueError(
            f"{name} should be a {kind}-padding mask [*B, 1 or N, 1, {length}] for "
            f"[*B, N, 1, {length}] = {full}, but got {mask.shape=}. Of kept [*B, {length}] make "
            "kept[..., None, None, :]. A mask over query-key pairs is not supported: it needs memory for "
            "every pair."
        )


def check_lengths(name: str, lengths: Array, batch: tuple[int, ...]) -> None:
    """Raises ValueError unless lengths are integers [*B]."""
    if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"{name} should be integers of shape [*B] = {batch}, but got {lengths.dtype}{lengths.shape}."
        )


def scale_of(scale: Any, width: int) -> Any:
    """The scale of logits, 1 / sqrt(width) for None. Raises ValueError unless it is one number."""
    if scale is None:
        return 1 / math.sqrt(max(1, width))
    try:
        if jnp.ndim(scale) == 0 and not jnp.iscomplexobj(scale) and not isinstance(scale, str):
            return scale
    except TypeError:  # of what is no number to JAX
        pass
    raise ValueError(f"scale should be one real number, but got {scale!r}.")


def with_positive_scale(query: Array, scale: Any) -> tuple[Array, Any]:
    """The query and the scale with a sign of the scale moved to the query, so that it is not negative."""
    if isinstance(scale, jax.core.Tracer):
        negative = scale < 0
        return jnp.where(negative, -query, query), jnp.where(negative, -scale, scale)
    return (-query, -scale) if scale < 0 else (query, scale)


def rng_of(rng: Array | None) -> Array:
    """The rng, or the fixed key that stands for None. Raises ValueError unless it is one typed key."""
    if rng is None:
        return jax.random.key(0)
    dtype = getattr(rng, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or jnp.ndim(rng) != 0:
        raise ValueError(f"rng should be one typed key, jax.random.key(seed), but got {rng!r}.")
    return rng


def known_product(sizes: tuple[Any, ...]) -> int:
    """The product of those sizes that are numbers; jax.export has symbols as well."""
    return math.prod(size for size in sizes if isinstance(size, int))


def is_empty(query: Array, key: Array) -> bool:
    """Whether there is no sample, head, query or key: then there is nothing to attend to."""
    return any(size == 0 for size in (*query.shape[:-1], key.shape[-3]))


def empty_attention(query: Array, value: Array) -> tuple[Array, Array]:
    """Output and logsumexp where `is_empty`."""
    dtype = float32_at_least(query.dtype)
    output = jnp.zeros((*query.shape[:-1], value.shape[-1]), value.dtype)
    return output, jnp.full(query.shape[:-1], -jnp.inf, dtype)


def check_positive(**numbers: Any) -> None:
    """Raises ValueError unless each is a positive integer; names it."""
    for name, number in numbers.items():
        try:
            operator.index(number)
        except TypeError:
            raise ValueError(f"{name} must be an integer, got {name}={number!r}.") from None
        if isinstance(number, bool):
            raise ValueError(f"{name} must be an integer, got {name}={number!r}.")
        if number < 1:
            raise ValueError(f"{name} must be positive, got {name}={number}.")


def check_power_of_two(**numbers: Any) -> None:
    """Raises ValueError unless each is a power of two; names it."""
    check_positive(**numbers)
    for name, number in numbers.items():
        if number & (number - 1):
            raise ValueError(f"{name} must be a power of two, got {name}={number}.")


def check_even(**numbers: Any) -> None:
    """Raises ValueError unless each is positive and even; names it."""
    check_positive(**numbers)
    for name, number in numbers.items():
        if number % 2:
            raise ValueError(f"{name} must be even, got {name}={number}.")
