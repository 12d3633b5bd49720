"""What canopy's time goes to: its tree, its means, its clusters; beside SMYRF and dense attention.

    python -m benchmarks.canopy_parts                        # a minute or two

Forward, on this machine, random queries and keys. Writes canopy_parts.md into benchmarks/results/.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from benchmarks.timing import medians
from smyrf_jax import (
    canopy_attention,
    centroid_far_field,
    clustered_attention,
    dense_attention,
    smyrf_attention,
    smyrf_clustering,
    tree_clustering,
)

RESULTS = pathlib.Path(__file__).parent / "results"
# heads, length, width, cluster size, means a cluster
CASES = [(12, 2048, 32, 128, 16), (4, 16384, 64, 256, 8)]


def runs_of(heads: int, length: int, width: int, size: int, means: int) -> dict[str, Callable[[], Any]]:
    rngs = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(rng, (1, length, heads, width)) for rng in rngs]
    rng: Array = jax.random.key(1)
    one: dict[str, Any] = {"num_hashes": 1, "cluster_size": size}
    four: dict[str, Any] = {"num_hashes": 4, "cluster_size": size}
    tree = jax.jit(lambda query, key, value: tree_clustering(query, key, rng=rng, **one))
    far_field = jax.jit(functools.partial(centroid_far_field, means_per_cluster=means))
    near = jax.jit(lambda *given: clustered_attention(*given[:4], far_field=given[4]))
    clustering = tree(*arrays)
    far = far_field(*arrays, clustering)
    canopy = jax.jit(lambda *arrays: canopy_attention(*arrays, rng=rng, **one, means_per_cluster=means))
    smyrf = jax.jit(lambda *arrays: smyrf_attention(*arrays, rng=rng, **four))
    hashes = jax.jit(lambda query, key, value: smyrf_clustering(query, key, rng=rng, **one))
    dense = jax.jit(lambda *arrays: dense_attention(*arrays))
    parts: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "tree": (tree, arrays),
        "means": (far_field, [*arrays, clustering]),
        "clusters": (near, [*arrays, clustering, far]),
        "canopy in all": (canopy, arrays),
        "SMYRF's clusters, one round": (hashes, arrays),
        f"SMYRF in all, 4 x {size}": (smyrf, arrays),
        "dense": (dense, arrays),
    }
    return {
        name: functools.partial(lambda run, given: jax.block_until_ready(run(*given)), run, given)
        for name, (run, given) in parts.items()
    }


def main() -> None:
    found = [medians(runs_of(*case), 25) for case in CASES]
    titles = [
        f"{heads} heads of {length} x {width}, clusters of {size}, {means} means each"
        for heads, length, width, size, means in CASES
    ]
    lines = [
        "Milliseconds, forward, two CPU cores, median of a run in random order.",
        "`python -m benchmarks.canopy_parts`",
        "",
        "| | " + " | ".join(titles) + " |",
        "|---|" + "---|" * len(titles),
    ]
    names = [list(seconds) for seconds in found]
    for row in zip(*names, strict=True):
        cells = " | ".join(f"{1e3 * of[name]:.1f}" for name, of in zip(row, found, strict=True))
        lines.append(f"| {row[0].split(',')[0]} | {cells} |")
    (RESULTS / "canopy_parts.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[3:]))


if __name__ == "__main__":
    main()
