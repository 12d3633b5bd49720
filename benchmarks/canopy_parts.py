"""What canopy's time goes to: its tree, its means, its clusters; beside SMYRF and dense attention.

    python -m benchmarks.canopy_parts                        # a minute or two

Forward, on this machine, random queries and keys. Writes canopy_parts.md into docs/results/tables/.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array

from benchmarks.tables import RESULTS, table
from smyrf_jax import (
    Canopy,
    Centroids,
    Clustering,
    Dense,
    FarField,
    Method,
    Smyrf,
    attention,
)
from smyrf_jax.clustered import attend_in_clusters
from training.provenance import header
from training.timing import Step, medians

# heads, length, width, cluster size, means a cluster
CASES = [(12, 2048, 32, 128, 16), (4, 16384, 64, 256, 8)]


@dataclasses.dataclass(frozen=True)
class Given(FarField):
    """Estimates that were made before, so that what follows them is timed alone."""

    found: Any

    def check(self, *_: Any, **__: Any) -> None:
        """They were checked when they were made."""

    def estimates(self, *_: Any, **__: Any) -> Any:
        """See `FarField`."""
        return self.found


def runs_of(heads: int, length: int, width: int, size: int, means: int) -> dict[str, Step]:
    rngs = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(rng, (1, length, heads, width)) for rng in rngs]
    canopy = Canopy(num_trees=1, cluster_size=size, means_per_cluster=means)
    hashed, smyrf = (Smyrf(num_hashes=rounds, cluster_size=size) for rounds in (1, 4))
    centroids = Centroids(means)

    @jax.jit
    def estimates(query: Array, key: Array, value: Array, clustering: Clustering) -> Any:
        options: dict[str, Any] = {"scale": width**-0.5, "is_causal": False, "complete": True}
        return centroids.estimates(query, key, value, clustering, None, **options)

    tree = jax.jit(canopy.clustering)

    @jax.jit
    def near(query: Array, key: Array, value: Array, clustering: Clustering, found: Any) -> Any:
        far: dict[str, Any] = {"far_field": Given(found), "complete": True}
        return attend_in_clusters(query, key, value, clustering, None, scale=width**-0.5, **far)

    clustering = tree(*arrays[:2])
    found = estimates(*arrays, clustering)

    def whole(method: Method) -> Callable[..., Any]:
        return jax.jit(functools.partial(attention, method=method))

    parts: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "tree": (tree, arrays[:2]),
        "means": (estimates, [*arrays, clustering]),
        "clusters": (near, [*arrays, clustering, found]),
        "canopy in all": (whole(canopy), arrays),
        "SMYRF's clusters, one round": (jax.jit(hashed.clustering), arrays[:2]),
        "SMYRF in all, four rounds": (whole(smyrf), arrays),
        "dense": (whole(Dense()), arrays),
    }
    return {
        name: functools.partial(lambda run, given: jax.block_until_ready(run(*given)), run, given)
        for name, (run, given) in parts.items()
    }


def lines_of(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """found: a case's title -> a part's name -> seconds."""
    names = next(iter(found.values()))
    rows = [[name, *(f"{1e3 * seconds[name]:.1f}" for seconds in found.values())] for name in names]
    return table(["", *found], rows)


def main() -> None:
    found = {}
    for case in CASES:
        heads, length, width, size, means = case
        title = f"{heads} heads of {length} x {width}, clusters of {size}, {means} means each"
        found[title] = medians(runs_of(*case), 25)
    lines = [
        *header(),
        "Milliseconds, forward, median of a run in random order.",
        "",
        *lines_of(found),
    ]
    (RESULTS / "canopy_parts.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
