"""Attention by its name in a config."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import smyrf_jax

ATTENTION: dict[str, Callable[..., Any]] = {
    "dense": smyrf_jax.dense_attention,
    "smyrf": smyrf_jax.smyrf_attention,
    "canopy": smyrf_jax.canopy_attention,
}


def attention_from_config(name: str, **options: Any) -> Callable[..., Any]:
    """An attention function by its name, with its options bound.

    Raises:
        ValueError: the name or an option is not known.
    """
    if name not in ATTENTION:
        raise ValueError(f"attention.name should be one of {sorted(ATTENTION)}, but got {name!r}.")
    unknown = sorted(options.keys() - inspect.signature(ATTENTION[name]).parameters.keys())
    if unknown:
        raise ValueError(f"{name} attention has no options {unknown}.")
    return functools.partial(ATTENTION[name], **options)
