"""Methods: attentions with their settings, as objects."""

from collections.abc import Mapping
from typing import Any

from smyrf_jax.methods.canopy import Canopy
from smyrf_jax.methods.causal_canopy import CausalCanopy
from smyrf_jax.methods.comparators import HyperAttention, Reformer, Routing
from smyrf_jax.methods.dense import Dense
from smyrf_jax.methods.local import Local
from smyrf_jax.methods.method import Clustered, ContentBased, Method, Parts, check_fields
from smyrf_jax.methods.scatterbrain import Performer, Scatterbrain
from smyrf_jax.methods.smyrf import Smyrf
from smyrf_jax.methods.streaming import Streaming

METHODS: Mapping[str, type[Method]] = {
    method.__name__.lower(): method
    for method in (
        Dense,
        Smyrf,
        Canopy,
        CausalCanopy,
        Scatterbrain,
        Performer,
        Local,
        Streaming,
        Reformer,
        Routing,
        HyperAttention,
    )
}


def method_from_config(name: str, **options: Any) -> Method:
    """A method by its name in a config, such as "smyrf" or "canopy", with its fields.

    Raises:
        ValueError: the name or a field is not known, or a field has no meaning.
    """
    if name not in METHODS:
        raise ValueError(f"name should be one of {sorted(METHODS)}, but got {name!r}.")
    check_fields(METHODS[name], options)
    return METHODS[name](**options)


__all__ = [
    "METHODS",
    "Canopy",
    "CausalCanopy",
    "Clustered",
    "ContentBased",
    "Dense",
    "HyperAttention",
    "Local",
    "Method",
    "Parts",
    "Performer",
    "Reformer",
    "Routing",
    "Scatterbrain",
    "Smyrf",
    "Streaming",
    "method_from_config",
]
