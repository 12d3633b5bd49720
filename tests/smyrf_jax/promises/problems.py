"""The methods in small settings, and problems for them."""

from typing import Any, NamedTuple

import jax
import numpy as np

from smyrf_jax import Canopy, CausalCanopy, Dense, Local, Performer, Scatterbrain, Smyrf
from smyrf_jax.methods import HyperAttention, Reformer, Routing, Streaming

SMALL = {
    "dense": Dense(),
    "smyrf": Smyrf(2, 8),
    "canopy": Canopy(1, 8, 2),
    "causalcanopy": CausalCanopy(8, 1, 1, leaf_size=2, leaves_per_branch=2, tree_sizes=(16,), num_sinks=1),
    "scatterbrain": Scatterbrain(2, 8, 8),
    "window": Scatterbrain(num_features=8, window=9),
    "performer": Performer(16),
    "local": Local(9),
    "streaming": Streaming(9, 2),
    "reformer": Reformer(1, 8),
    "routing": Routing(8),
    "hyperattention": HyperAttention(2, 8),
}
# With so many queries or fewer, one cluster holds everything. Performer has no clusters.
ONE_CLUSTER = {
    "dense": Dense(),
    "smyrf": Smyrf(2, 64),
    "canopy": Canopy(2, 64, 2),
    # All is open: exact through the trees.
    "causalcanopy": CausalCanopy(8, 99, 99, leaf_size=2, leaves_per_branch=2, tree_sizes=(16,), num_sinks=1),
    "scatterbrain": Scatterbrain(2, 64, 8),
    "window": Scatterbrain(num_features=8, window=128),
    "performer": Performer(16),
    "local": Local(128),
    "streaming": Streaming(128, 2),
    "reformer": Reformer(1, 64),
    "routing": Routing(64),
    "hyperattention": HyperAttention(2, 64),
}
# See every key by its place, so that a hole among the kept ones is a distance.
BY_PLACE = ("window", "local", "streaming", "causalcanopy")
# Asked to be causal in every promise: they are nothing else.
CAUSAL = ("causalcanopy",)
ALL_PAIRS = ("dense", "performer")
TOKENS = ("query", "key", "value")
DIFFERENTIATED = (*TOKENS, "scale")


class Problem(NamedTuple):
    """Arguments of attention, and what its output and logsumexp are multiplied with in the loss.

    kept: mask [B, 1, 1, S]; kept_queries: query_mask [B, 1, 1, T], or None for the same array.
    """

    query: Any
    key: Any
    value: Any
    scale: Any
    to_output: Any
    to_logsumexp: Any
    kept: Any = None
    kept_queries: Any = None


def problem_of(
    seed: int = 0,
    lengths: tuple[int, int] = (24, 24),
    *,
    batch: int = 2,
    heads: tuple[int, int] = (2, 2),
    widths: tuple[int, int] = (8, 8),
    dtype: Any = np.float32,
) -> Problem:
    """Normal numbers, of NumPy: T and S, N and M, D and V; every token is kept."""
    rng = np.random.default_rng(seed)
    (num_queries, num_keys), (width, value_width) = lengths, widths
    exact = np.float64 if dtype == np.float64 else np.float32

    def normal(*shape: int, dtype: Any = dtype) -> Any:
        return rng.normal(size=shape).astype(dtype)

    return Problem(
        query=normal(batch, num_queries, heads[0], width),
        key=normal(batch, num_keys, heads[1], width),
        value=normal(batch, num_keys, heads[1], value_width),
        scale=exact(0.4),
        to_output=normal(batch, num_queries, heads[0], value_width),
        to_logsumexp=normal(batch, num_queries, heads[0], dtype=exact),
        kept=np.ones((batch, 1, 1, num_keys), bool),
    )


def padded(name):
    """Forty tokens, of which 13 are kept: at the start and scattered (at the end, where places matter)."""
    problem = problem_of(3, (40, 40), heads=(2, 1), widths=(8, 6), dtype=np.float64)
    scattered = "." * 27 + "x" * 13 if name in BY_PLACE else "..x" * 8 + "x." * 5 + "." * 6
    return problem._replace(kept=kept_of("x" * 13 + "." * 27, scattered))


def kept_of(*rows):
    """[B, 1, 1, S] of a string each, in which x keeps."""
    return np.array([[character == "x" for character in row] for row in rows])[:, None, None]


def filled(array, kept, garbage):
    """[B, T, N, D] with garbage where kept [B, 1, 1, T] is not."""
    return np.where(kept[:, 0, 0, :, None, None], array, array.dtype.type(garbage))


def taken(array, kept):
    """The kept rows of [B, T, ...]; as many in each sample."""
    return np.stack([row[keep] for row, keep in zip(np.asarray(array), kept[:, 0, 0], strict=True)])


def left(array, kept):
    """The other rows."""
    return np.concatenate([row[~keep] for row, keep in zip(np.asarray(array), kept[:, 0, 0], strict=True)])


def single(tree):
    """In float32."""
    return jax.tree.map(lambda x: x if x.dtype == bool else np.asarray(x, np.float32), tree)
