"""Sources, heads and keys in parts, where memory does not hold them at once: the results are the loop's."""

import dataclasses

import jax
import pytest

from smyrf_jax import Centroids, batching
from smyrf_jax.blockwise import kernels, plan, spread, steps, tiles
from smyrf_jax.chips import SOURCE_BYTES
from tests.smyrf_jax.blockwise.implementations import (
    CASES,
    LONG,
    OTHERS,
    Case,
    attend_by,
    compare,
    features,
    problem_of,
)

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


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("name", IN_LITTLE_MEMORY)
def test_sources_of_eight_rows_give_the_same(name, monkeypatch):
    monkeypatch.setitem(SOURCE_BYTES, "v3", 4096)
    monkeypatch.setattr(spread, "PIECES_BYTES", 2**20)
    compare(IN_LITTLE_MEMORY[name], ("pallas",))


def parts_cut(monkeypatch) -> list[int]:
    """Into how many parts arrays are cut from now on: a head has more rows than a source of a gather."""
    monkeypatch.setitem(SOURCE_BYTES, "v3", 2**14)
    monkeypatch.setattr(steps, "PART_BYTES", 4096)
    cut = []
    one_after_another = batching.one_after_another
    for room in (steps, plan):
        monkeypatch.setattr(room, "one_after_another", lambda *a: cut.append(a[1]) or one_after_another(*a))
    return cut


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
    cut = parts_cut(monkeypatch)
    compare(case, OTHERS)
    assert {3, 8} <= set(cut)


def test_tokens_are_cut_where_memory_needs_it_alone(monkeypatch):
    """Not where a source holds them, nor for one head of many."""
    cut = parts_cut(monkeypatch)

    def tokens_cut(case):
        cut.clear()
        arrays, clustering, _ = problem_of(case)
        attend = attend_by(case, "gather")
        jax.jit(lambda *of: attend(*of[:3], clustering, None, scale=of[3])).lower(*arrays)
        return steps.PARTS in cut

    assert tokens_cut(ONE_HEAD)
    assert not tokens_cut(dataclasses.replace(ONE_HEAD, heads=steps.PARTS))
    monkeypatch.setitem(SOURCE_BYTES, "v3", 2**20)
    assert not tokens_cut(ONE_HEAD)


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
    assert tiles.tiles_of(1, 300, 700) == (1, 128, 256, 128)
    case = dataclasses.replace(LONG, num_queries=300, num_keys=700, cluster_size=300)
    compare(dataclasses.replace(case, **change), ("pallas",))
