"""What is compiled, by chance: methods, shapes, dtypes, ways to mask."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from smyrf_jax import Canopy, CausalCanopy, Dense, Local, Method, Performer, Scatterbrain, Smyrf, Streaming
from smyrf_jax.methods import HyperAttention, Reformer, Routing

# One array for queries and keys, so that a cluster has no more slots than it needs.
SHARED = ("shared mask", "shared mask of heads", "shared lengths")
MASKINGS = (
    "none",
    "mask",
    "mask of heads",
    "mask of all samples",
    "two masks",
    "two lengths",
    "lengths and mask",
    *SHARED,
)


class Setting(NamedTuple):
    """What is compiled.

    batch: *B; lengths: T and S; heads: N and M; widths: D and V.
    masking: one of MASKINGS.
    kept: queries and keys that each sample keeps, where that is a number, for `alone`.
    scale: as for attention, or "traced".
    """

    method: Method
    batch: tuple[int, ...]
    lengths: tuple[int, int]
    heads: tuple[int, int]
    widths: tuple[int, int]
    dtype: str
    masking: str
    kept: tuple[int, int] | None
    scale: float | str | None
    is_causal: bool
    residual: bool


def method_by_chance(rng: np.random.Generator, name: str, clusters: int, is_causal: bool) -> Method:
    """A method of random fields. clusters: where hashed clusters are wanted large, their least size."""
    size, rounds = max(clusters, pick(rng, 1, 2, 3, 8, 8, 16)), pick(rng, 1, 2, 3)
    window, features = pick(rng, 1, 2, 5, 9, 200), pick(rng, 2, 8, 16)
    future: dict[str, Any] = {"clusters_see_future": True} if is_causal else {}
    if name == "smyrf":
        return Smyrf(rounds, size, bool(rng.integers(2)), **future)
    if name == "canopy":
        return Canopy(pick(rng, 1, 1, 2), size, 0 if is_causal else pick(rng, 0, 1, 2, 8), **future)
    if name == "scatterbrain":
        if rng.integers(2):
            return Scatterbrain(num_features=features, window=window)
        return Scatterbrain(rounds, size, features, **future)
    simple: dict[str, Callable[[], Method]] = {
        "dense": Dense,
        "performer": lambda: Performer(features),
        "local": lambda: Local(window),
        "streaming": lambda: Streaming(window, pick(rng, 1, 2, 4)),
        "causalcanopy": lambda: CausalCanopy(
            pick(rng, 8, 16),
            pick(rng, 1, 2, 99),
            pick(rng, 1, 2, 99),
            leaf_size=2,
            leaves_per_branch=pick(rng, 1, 2),
            tree_sizes=pick(rng, (), (32,)),
            num_sinks=pick(rng, 0, 1, 4),
            shared_choice=bool(rng.integers(2)),
        ),
        "reformer": lambda: Reformer(rounds, size, **future),
        "routing": lambda: Routing(size, **future),
        "hyperattention": lambda: HyperAttention(rounds, size, **future),
    }
    return simple[name]()


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    """One of them."""
    return choices[rng.integers(len(choices))]


def setting_by_chance(rng: np.random.Generator, names: list[str]) -> Setting:
    """One that `attention` takes."""
    name = pick(rng, *names)
    is_causal = name == "causalcanopy" or bool(rng.integers(3) == 0)
    lengths = tuple(pick(rng, 1, 2, 3, 5, 8, 13, 16, 24, 33, 40, 64) for _ in range(2))
    masking = pick(rng, *MASKINGS)
    if masking in SHARED or rng.integers(2):
        lengths = (lengths[0], lengths[0])
    batch = pick(rng, (), (1,), (2,), (3,), (2, 2))
    key_heads = pick(rng, 1, 1, 2)
    heads, widths = (key_heads * pick(rng, 1, 2), key_heads), (pick(rng, 1, 3, 8, 16), pick(rng, 1, 5, 8))
    match rng.integers(40):  # something is missing
        case 0:
            lengths = pick(rng, (0, 5), (5, 0), (0, 0))
            lengths = (0, 0) if masking in SHARED else lengths
        case 1:
            batch = (0,)
        case 2:
            heads = (0, 0)
        case 3:
            widths = pick(rng, (0, 3), (3, 0), (0, 0))
    method = method_by_chance(rng, name, lengths[0] if rng.integers(4) == 0 else 1, is_causal)
    kept = None
    alike = ("mask", "two masks", "two lengths", "shared mask", "shared lengths")  # in all heads
    if masking in alike and min(lengths) and rng.integers(2):
        queries, keys = (int(rng.integers(1, length + 1)) for length in lengths)
        kept = (lengths[0] if masking == "mask" else queries, queries if masking in SHARED else keys)
    return Setting(
        method,
        batch,
        lengths,
        heads,
        widths,
        pick(rng, "float32", "float32", "float64", "float64", "bfloat16", "float16"),
        masking,
        kept,
        pick(rng, "traced", "traced", "traced", None, 0.7, -0.7, 0.0),
        is_causal,
        bool(rng.integers(4)),
    )


def without_clusters(method: Method) -> bool:
    """Which keys a query sees depends on places alone."""
    window = isinstance(method, Scatterbrain) and method.window is not None
    return window or isinstance(method, (Dense, Performer, Local, Streaming))


def by_place(method: Method) -> bool:
    """Distances between tokens matter."""
    return without_clusters(method) and not isinstance(method, (Dense, Performer))
