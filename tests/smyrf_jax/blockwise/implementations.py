"""Problems that every implementation attends, and what they are compared by."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from smyrf_jax import (
    Centroids,
    Clustering,
    Features,
    local_clustering,
    orthogonal_projection,
    smyrf_clustering,
)
from smyrf_jax.clustered import attend_in_clusters
from tests.smyrf_jax.reference import arrays_of, loss_of

OTHERS = ("gather", "pallas")
# What is compared is arithmetic, not what a compiler makes of it.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
WIDTH = 5


def features() -> Features:
    return Features(orthogonal_projection(jax.random.key(1), 4, WIDTH))


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, its clusters, and how it is attended.

    missing: some tokens are in no cluster.
    masked, query_masked: some keys and some queries are not kept.
    far: makes the far field.
    """

    batch: int = 2
    num_queries: int = 45
    num_keys: int = 21
    heads: int = 2
    key_heads: int = 0
    values: int = 6
    cluster_size: int = 16
    rounds: int = 2
    is_causal: bool = False
    deduplicate: bool = False
    window: int | None = None
    missing: bool = False
    masked: bool = False
    query_masked: bool = False
    far: Any = None
    dtype: str = "float32"


BASE = Case()
LONG = Case(batch=1, num_queries=1200, num_keys=1100, heads=1, rounds=1, cluster_size=1200)
SQUARE = Case(num_queries=90, num_keys=90, rounds=1)
CASES = {
    "base": BASE,
    "heads share keys": Case(heads=4, key_heads=2),
    "all heads share keys": Case(heads=3, key_heads=1),
    "tokens in no cluster": Case(missing=True),
    "some keys": Case(masked=True),
    "some queries": Case(query_masked=True),
    "some queries and keys, once": Case(masked=True, query_masked=True, deduplicate=True),
    "each key once": Case(deduplicate=True),
    "shared keys, once": Case(heads=4, key_heads=2, deduplicate=True),
    "causal": Case(is_causal=True),
    "window": dataclasses.replace(SQUARE, window=7),
    "means": Case(rounds=1, far=lambda: Centroids(2)),
    "means, two rounds": Case(far=lambda: Centroids(2)),
    "means, some keys": Case(far=lambda: Centroids(2), masked=True, query_masked=True),
    "means, shared keys": Case(far=lambda: Centroids(2), heads=4, key_heads=2),
    "features": Case(far=features),
    "causal features in a window": dataclasses.replace(SQUARE, window=7, is_causal=True, far=features),
    "one cluster": Case(cluster_size=64),
    "six rounds": Case(rounds=6),
    "equal widths": Case(values=WIDTH),
    "one token": Case(batch=1, num_queries=1, num_keys=1, heads=1),
    "half precision": Case(dtype="bfloat16"),
    "half precision, means": Case(dtype="bfloat16", far=lambda: Centroids(2)),
    "double precision": Case(dtype="float64"),
    "double precision, means": Case(dtype="float64", far=lambda: Centroids(2)),
}
# bfloat16 numbers have 8 bits, and implementations round at other places: scaled queries, sums of rounds.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-9}


@functools.cache
def problem_of(case: Case) -> tuple[list[Any], Clustering, Any]:
    """Query, key, value and scale, the clusters, and the mask of keys."""
    shape = (case.batch, case.num_queries, case.num_keys, case.heads, WIDTH, case.values)
    query, key, value = arrays_of(shape, jnp.dtype(case.dtype))
    key, value = (array[:, :, : case.key_heads or case.heads] for array in (key, value))
    kept = None
    if case.masked:  # of the last sample none
        kept = jax.random.bernoulli(jax.random.key(5), 0.6, (case.batch, 1, 1, case.num_keys))
        kept = kept.at[-1].set(False)
        key, value = (jnp.where(kept[:, 0, 0, :, None, None], array, 0) for array in (key, value))
    kept_queries = None
    if case.query_masked:
        kept_queries = jax.random.bernoulli(jax.random.key(6), 0.6, (case.batch, 1, 1, case.num_queries))
    if case.window is not None:
        rows = (case.batch, case.heads)
        clustering = local_clustering(rows, case.num_queries, case.num_keys, window=case.window)
    else:
        clustering = smyrf_clustering(
            query,
            key,
            kept,
            rng=jax.random.key(3),
            num_hashes=case.rounds,
            cluster_size=case.cluster_size,
            query_mask=kept_queries,
        )
    if case.missing:
        clustering = Clustering(
            *(
                jnp.where(jax.random.bernoulli(jax.random.key(seed), 0.7, order.shape), order, length)
                for seed, order, length in zip(
                    (7, 8), clustering, (case.num_queries, case.num_keys), strict=True
                )
            )
        )
    scale = jnp.asarray(0.4, "float64" if case.dtype == "float64" else "float32")
    return [query, key, value, scale], clustering, kept


def results_of(case: Case, attend: Any) -> Any:
    """Loss, output, logsumexp and gradients of attend(query, key, value, clustering, mask, scale=)."""
    arrays, clustering, mask = problem_of(case)

    def loss(query, key, value, scale):
        output, logsumexp = attend(query, key, value, clustering, mask, scale=scale)
        return loss_of(output.astype(scale.dtype), logsumexp), (output, logsumexp)

    gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
    return jax.jit(gradients, compiler_options=QUICKLY)(*arrays)


def attend_by(case: Case, implementation: str) -> Any:
    every_token = not (case.missing or case.masked or case.query_masked or case.window is not None)
    return functools.partial(
        attend_in_clusters,
        is_causal=case.is_causal,
        deduplicate=case.deduplicate,
        window=case.window,
        far_field=case.far and case.far(),
        complete=not case.missing and case.window is None,
        every_token=every_token,
        implementation=implementation,
    )


def assert_alike(found: Any, expected: Any, tolerance: float) -> None:
    """Equal dtypes and infinities, and differences that are small beside the largest number of an array."""
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        ours, wanted = (np.asarray(array, np.float64) for array in (ours, wanted))
        finite = np.isfinite(wanted)
        np.testing.assert_array_equal(ours[~finite], wanted[~finite])
        largest = np.max(np.abs(wanted[finite]), initial=1.0)
        np.testing.assert_allclose(ours[finite], wanted[finite], rtol=0, atol=tolerance * largest)


def compare(case: Case, implementations: tuple[str, ...]) -> None:
    with jax.enable_x64(case.dtype == "float64"):
        expected = results_of(case, attend_by(case, "loop"))
        assert any(np.any(np.asarray(array) != 0) for array in jax.tree.leaves(expected[1]))
        for implementation in implementations:
            found = results_of(case, attend_by(case, implementation))
            assert_alike(found, expected, TOLERANCE[case.dtype])
