"""One contract, three implementations: gathers and kernels give what the loop gives.

Kernels are interpreted here: what a TPU's compiler makes of them, `tests/launch/test_schedule.py` compiles.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import (
    Centroids,
    Clustering,
    Features,
    attention,
    batching,
    clustered_attention,
    local_clustering,
    orthogonal_projection,
    smyrf_clustering,
)
from smyrf_jax.blockwise import Inputs, Rules, blockwise_attention, kernels, plan, spread, steps, tiles
from smyrf_jax.chips import SOURCE_BYTES
from smyrf_jax.clustered import attend_in_clusters
from tests.smyrf_jax.reference import arrays_of, loss_of, reference

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
# One sample: each head is a step of its own, and four steps or fewer are unrolled.
IN_LITTLE_MEMORY = {
    "base": Case(batch=1, heads=6),
    # Rows of more than half of the lanes: sources of one token a row, several of them.
    "wide, tokens in no cluster": Case(batch=1, values=70, missing=True),
} | {
    name: dataclasses.replace(case, batch=1)
    for name, case in CASES.items()
    if name in ("heads share keys", "each key once", "window", "means, two rounds", "features")
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


@pytest.fixture
def few_clusters_a_step(monkeypatch):
    """Two clusters in a step of a grid, lest programs grow long: kernels are unrolled over them."""
    monkeypatch.setattr(tiles, "ROWS_A_STEP", 32)


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("name", CASES)
def test_gathers_and_kernels_give_what_the_loop_gives(name):
    compare(CASES[name], OTHERS)


def test_many_clusters_share_a_step():
    compare(BASE, ("pallas",))


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("name", IN_LITTLE_MEMORY)
def test_sources_of_eight_rows_give_the_same(name, monkeypatch):
    monkeypatch.setitem(SOURCE_BYTES, "v3", 4096)
    monkeypatch.setattr(spread, "PIECES_BYTES", 2**20)
    compare(IN_LITTLE_MEMORY[name], ("pallas",))


# Six clusters, of 16 queries and 8 keys, in as many parts as there are sources: three.
ONE_HEAD = Case(batch=1, heads=1, num_queries=96, num_keys=48, values=70)


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize(
    "case",
    [
        ONE_HEAD,
        dataclasses.replace(ONE_HEAD, rounds=6, missing=True),
        dataclasses.replace(ONE_HEAD, rounds=1, far=lambda: Centroids(2)),
        dataclasses.replace(ONE_HEAD, is_causal=True, deduplicate=True),
    ],
    ids=["base", "many rounds", "means", "causal"],
)
def test_one_head_in_parts(case, monkeypatch):
    monkeypatch.setitem(SOURCE_BYTES, "v3", 2**14)
    monkeypatch.setattr(steps, "PART_BYTES", 4096)
    cut = []
    one_after_another = batching.one_after_another
    for room in (steps, plan):
        monkeypatch.setattr(room, "one_after_another", lambda *a: cut.append(a[1]) or one_after_another(*a))
    compare(case, OTHERS)
    assert {3, 8} <= set(cut)


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("implementation", ["loop", *OTHERS])
def test_they_give_what_dense_attention_with_counts_gives(implementation):
    expected = results_of(BASE, reference)
    found = results_of(BASE, attend_by(BASE, implementation))
    assert_alike(found, expected, TOLERANCE["float32"])


LONG = Case(batch=1, num_queries=1200, num_keys=1100, heads=1, rounds=1, cluster_size=1200)


def test_clusters_larger_than_a_block():
    assert tiles.tiles_of(1, 1200, 1100) == (1, 400, 1152, 384)
    compare(LONG, OTHERS)


@pytest.mark.parametrize(
    "change",
    [{}, {"is_causal": True}, {"far": lambda: Centroids(8)}, {"far": features}, {"cluster_size": 150}],
    ids=["base", "causal", "means", "features", "two clusters"],
)
def test_keys_that_do_not_fit_a_step(change, monkeypatch):
    monkeypatch.setitem(SOURCE_BYTES, "v3", 2**15)  # nor tokens a source
    for module in (tiles, kernels):
        monkeypatch.setattr(module, "BLOCK", 128)
    monkeypatch.setattr(tiles, "RESIDENT", 256)
    assert tiles.tiles_of(1, 300, 600) == (1, 104, 256, 128)
    case = dataclasses.replace(LONG, num_queries=300, num_keys=600, cluster_size=300)
    compare(dataclasses.replace(case, **change), ("pallas",))


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("clustered", [False, True])
def test_pairs_of_one_number_are_left_out(clustered):
    """Also where all tokens share one cluster without an order."""
    (query, key, value, scale), clustering, _ = problem_of(BASE)
    query, key, value, clustering = jax.tree.map(lambda array: array[0], (query, key, value, clustering))
    heads = BASE.heads
    of_query = jax.random.randint(jax.random.key(9), (heads, BASE.num_queries), -1, 3)
    of_key = jax.random.randint(jax.random.key(10), (heads, BASE.num_keys), 0, 3)
    without = of_query, jnp.where(of_key == 2, -2, of_key)

    def run(implementation):
        def loss(query, key, value, scale):
            orders = clustering if clustered else None
            rules = Rules(deduplicate=clustered, complete=clustered, implementation=implementation)
            results = blockwise_attention(rules, Inputs(query, key, value, scale, orders, without))
            return loss_of(*results), results

        gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
        return jax.jit(gradients, compiler_options=QUICKLY)(query, key, value, scale)

    expected = run("loop")
    for implementation in OTHERS:
        assert_alike(run(implementation), expected, TOLERANCE["float32"])


SMALL = Case(batch=1, num_queries=12, num_keys=9, heads=2, key_heads=1, values=3, cluster_size=4)


@pytest.mark.parametrize("change", [{}, {"far": lambda: Centroids(2)}], ids=["base", "means"])
def test_second_derivatives_are_those_of_the_loop(change):
    case = dataclasses.replace(SMALL, dtype="float64", **change)

    def run(implementation):
        arrays, clustering, mask = problem_of(case)
        attend = attend_by(case, implementation)

        def loss(query, key, value, scale):
            return loss_of(*attend(query, key, value, clustering, mask, scale=scale))

        def squared(*arrays):
            return sum(jnp.sum(grad**2) for grad in jax.grad(loss, argnums=(0, 1, 2, 3))(*arrays))

        gradients = jax.grad(squared, argnums=(0, 1, 2, 3))
        return jax.jit(gradients, compiler_options=QUICKLY)(*arrays)

    with jax.enable_x64(True):
        expected = run("loop")
        # The second pass is the loop's own, whatever ran the first: once is enough for means.
        for implementation in OTHERS[: 1 if change else 2]:
            assert_alike(run(implementation), expected, 1e-9)


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("implementation", OTHERS)
def test_mapped_samples_are_those_of_a_batch_and_know_nothing_of_each_other(implementation):
    """One vmap more than the batch has; a sample that is no number spoils no other."""
    case = dataclasses.replace(SMALL, batch=3)
    (*arrays, scale), clustering, _ = problem_of(case)
    attend = attend_by(case, implementation)

    def gradients(query, key, value, clustering):
        def loss(*arrays):
            results = attend(*arrays, clustering, None, scale=scale)
            return loss_of(*results), results

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(query, key, value)

    def alone(array):
        return array[:, None]

    mapped = jax.jit(jax.vmap(gradients), compiler_options=QUICKLY)
    arguments = jax.tree.map(alone, (*arrays, clustering))
    found = mapped(*arguments)
    one = jax.jit(gradients, compiler_options=QUICKLY)
    singly = [
        one(*jax.tree.map(lambda array, sample=sample: array[sample], arguments)) for sample in range(3)
    ]
    assert_alike(found, jax.tree.map(lambda *parts: jnp.stack(parts), *singly), TOLERANCE["float32"])
    spoiled = mapped(*(array.at[1, 0, 0, 0].set(jnp.nan) for array in arguments[:3]), arguments[3])
    apart = np.array([0, 2])
    chex.assert_trees_all_equal(*(jax.tree.map(lambda array: array[apart], of) for of in (spoiled, found)))
    assert any(jnp.any(jnp.isnan(array[1])) for array in jax.tree.leaves(spoiled))


@pytest.mark.parametrize("name", ["exact", "", "Loop"])
def test_an_unknown_implementation_is_refused(name):
    (*arrays, _), clustering, _ = problem_of(SMALL)
    # Beyond the checks of the tests' own type hook, as a user meets it.
    whole, clustered = (getattr(of, "__wrapped__", of) for of in (attention, clustered_attention))
    message = f"implementation should be .*loop.*gather.*pallas.*{name!r}"
    with pytest.raises(ValueError, match=message):
        whole(*arrays, implementation=name)
    with pytest.raises(ValueError, match=message):
        clustered(*arrays, clustering, implementation=name)
