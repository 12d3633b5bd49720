"""The attentions that Scatterbrain compares, each with the settings that one budget gives it.

The budget is what a query may look at, as a part of all keys: keys of clusters and windows, and features, of
which there are those of the query and those of a key. Scatterbrain spends half of it on either side.
Source: Scatterbrain (arXiv:2110.15343), and the settings that its authors published.
"""

from collections.abc import Mapping
from typing import Any

from smyrf_jax import Canopy, Dense, Local, Method, Performer, Scatterbrain, Smyrf
from smyrf_jax.methods import Reformer

# Two rounds of clusters each: Reformer's chunks see the one before them, which is the second.
_FIXED: Mapping[str, tuple[type[Method], dict[str, Any]]] = {
    "dense": (Dense, {}),
    "smyrf": (Smyrf, {"num_hashes": 2}),
    "reformer": (Reformer, {"num_hashes": 1}),
    "local": (Local, {}),
    "performer": (Performer, {}),
    "scatterbrain": (Scatterbrain, {"num_hashes": 2}),
    "scatterbrain_local": (Scatterbrain, {}),
    "trees": (Canopy, {"num_trees": 2, "means_per_cluster": 0}),
    "canopy": (Canopy, {}),
}
CONTENDERS: tuple[str, ...] = tuple(_FIXED)


def contender(name: str, length: int, pairs: float, *, width: int = 64) -> Method:
    """The method of a name in CONTENDERS for self-attention over `length` tokens.

    canopy, one tree with means outside, looks at a mean of every cluster at least: of `length` keys at
    2 sqrt(length). Below that there are trees alone, "trees".

    pairs: the budget, as a part of all query-key pairs; dense attention takes them all.
    width: of a head.

    Raises:
        ValueError: there is no such name, or the budget has room for no settings.
    """
    if name not in _FIXED:
        raise ValueError(f"a method should be one of {', '.join(CONTENDERS)}, but got {name!r}.")
    kind, fields = _FIXED[name]
    if kind is Dense:
        return Dense()
    if name == "scatterbrain_local":
        fields = {"window": max(1, int(pairs * length / 2))}
    return kind.for_budget(length, length, pairs=pairs, width=width, **fields)
