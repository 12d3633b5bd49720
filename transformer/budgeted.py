"""Attentions of a config, at the sizes that a budget of pairs allows.

The budget is the paper's: a part of all T x S pairs, also where half of them are hidden. Windows and clusters
are counted with their hidden half then, features and CausalCanopy have none. So of causal attention methods
differ in the part of the pairs that are seen: `part_of_pairs` tells it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from smyrf_jax import Dense, Method, method_from_config
from smyrf_jax.methods import METHODS


def budgeted(
    name: str,
    length: int,
    pairs: int | float,
    is_causal: bool,
    *,
    window_share: float = 0.0,
    **fields: Any,
) -> Method:
    """The method of that name whose cost stays within a part of dense attention's pairs.

    Args:
        name: as for `method_from_config`. Dense attention has all pairs, whatever the budget.
        length: tokens of a sequence.
        pairs: of dense attention's. 0: no budget, the fields are all there is.
        is_causal: whether later tokens are hidden.
        window_share: of the budget, for a local window; what is left is for features (Scatterbrain).
        **fields: of the method, that are fixed.

    Raises:
        ValueError: there is no such method or field, or nothing is within the budget.
    """
    if not pairs or METHODS.get(name) is Dense:
        return method_from_config(name, **fields)
    if name not in METHODS:
        method_from_config(name)
    if window_share:
        fields |= {"window": max(1, round(window_share * pairs * length))}
    return METHODS[name].for_budget(length, length, pairs=pairs, **fields)


def part_of_pairs(method: Method, length: int, is_causal: bool) -> float:
    """Pairs that a method has of dense attention's at this length: if causal, of those that are seen."""
    return method.cost(length, length, is_causal=is_causal).pairs


def leaks(method: Method, length: int) -> bool:
    """Whether a causal model with it sees of later tokens into which clusters they fall."""
    fields: Mapping[str, Any] = {of.name: getattr(method, of.name) for of in dataclasses.fields(method)}
    has_window = fields.get("window") is not None
    return bool(fields.get("clusters_see_future")) and not has_window and length > fields["cluster_size"]
