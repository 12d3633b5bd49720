"""What the public functions ask of their arguments. Private functions assume it."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def check_arguments(query: Array, key: Array, value: Array, mask: Array | None) -> None:
    """Raises ValueError unless query, key, value and mask fit [*B, T, N, D] and so on."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim < 3:
            raise ValueError(f"{name} should be [*B, length, heads, width], but got shape {array.shape}.")
    batch, heads = query.shape[:-3], query.shape[-2]
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"query and key should have one width, but got {query.shape=} and {key.shape=}.")
    if key.shape[:-3] != batch or not key.shape[-2] or heads % key.shape[-2]:
        raise ValueError(
            "query and key should have the same batch and heads, or fewer key heads that divide the "
            f"query heads, but got {query.shape=} and {key.shape=}."
        )
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"key and value should differ in width only, but got {key.shape=} and {value.shape=}."
        )
    if mask is None:
        return
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask should be boolean (True keeps a key), but got {mask.dtype=}.")
    full = (*batch, heads, 1, key.shape[-3])
    fits = mask.ndim == len(full) and mask.shape[-2:] == full[-2:]
    if not fits or any(m not in (1, f) for m, f in zip(mask.shape[:-2], full[:-2], strict=True)):
        raise ValueError(
            f"mask should be a key-padding mask [*B, 1 or N, 1, S] for [*B, N, 1, S] = {full}, "
            f"but got {mask.shape=}. Of kept [*B, S] make kept[..., None, None, :]. A mask over query-key "
            "pairs is not supported: it needs memory for every pair."
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
    if jnp.ndim(scale) != 0:
        raise ValueError(f"scale should be one number, but got shape {jnp.shape(scale)}.")
    return scale


def rng_of(rng: Array | None) -> Array:
    """The rng, or the fixed key that stands for None."""
    return jax.random.key(0) if rng is None else rng


def is_empty(query: Array, key: Array) -> bool:
    """Whether there is no sample, head, query or key: then there is nothing to attend to."""
    return not math.prod((*query.shape[:-1], key.shape[-3]))


def empty_attention(query: Array, value: Array) -> tuple[Array, Array]:
    """Output and logsumexp where `is_empty`."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    output = jnp.zeros((*query.shape[:-1], value.shape[-1]), value.dtype)
    return output, jnp.full(query.shape[:-1], -jnp.inf, dtype)


def check_positive(**numbers: Any) -> None:
    """Raises ValueError unless each is a positive integer; names it."""
    for name, number in numbers.items():
        try:
            operator.index(number)
        except TypeError:
            raise ValueError(f"{name} must be an integer, got {name}={number!r}.") from None
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
