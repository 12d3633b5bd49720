"""Costs and budgets, against counts by hand."""

import jax.numpy as jnp
import pytest

from smyrf_jax.budget import budget, cost, dense_is_faster

BIGGAN = {"width": 12, "value_width": 48}


def test_pairs_are_those_of_the_paper():
    # "Half the memory": 4 hashes, 8 clusters of 2048 queries and 512 keys.
    half = cost(16384, 4096, num_hashes=4, cluster_size=2048, **BIGGAN)
    assert half.pairs == 0.5
    assert cost(128, 128, num_hashes=2, cluster_size=32, width=64).pairs == 0.5
    # Lengths that nothing divides: 4 clusters of at most 4 x 2.
    assert cost(13, 7, num_hashes=1, cluster_size=4, width=64).pairs == 4 * 4 * 2 / (13 * 7)


def test_memory_is_linear_and_near_the_measured():
    small, large = (
        cost(n, n, num_hashes=4, cluster_size=128, width=64, heads=8).memory for n in (2**14, 2**15)
    )
    assert 1.9 < large / small < 2.1
    # By the TPU compiler, v3, float32: 124 and 115 MB (benchmarks/results/memory.md).
    for batch, length, megabytes in ((4, 16384, 124), (1, 65536, 115)):
        count = cost(length, length // 4, num_hashes=4, cluster_size=2048, batch=batch, lanes=128, **BIGGAN)
        assert count.memory / 1e6 == pytest.approx(megabytes, rel=0.1)
    half = cost(4096, 4096, num_hashes=4, cluster_size=128, width=64, dtype=jnp.bfloat16)
    assert half.memory < cost(4096, 4096, num_hashes=4, cluster_size=128, width=64).memory


@pytest.mark.parametrize("pairs", [0.03, 0.125, 0.5, 1.0])
@pytest.mark.parametrize("lengths", [(4096, 4096), (16384, 4096), (1000, 777)])
def test_a_budget_of_pairs_is_kept_and_used(lengths, pairs):
    found = budget(*lengths, width=64, pairs=pairs, num_hashes=4)
    assert found == cost(*lengths, width=64, num_hashes=4, cluster_size=found.cluster_size)
    assert 0.6 * pairs < found.pairs <= pairs
    assert f"cluster_size={found.cluster_size}" in str(found)


def test_a_budget_of_memory_is_kept():
    found = budget(65536, 16384, memory=0.05, lanes=128, **BIGGAN)
    assert found.memory_of_dense <= 0.05
    assert found.pairs == pytest.approx(0.5, rel=0.01)
    with pytest.raises(
        ValueError, match="No cluster_size is within.*memory=0.10%.*the least is num_hashes=4"
    ):
        budget(1024, 1024, memory=0.001, width=64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give pairs or memory"),
        ({"pairs": 0.0}, "pairs must be positive, got pairs=0.0"),
        ({"memory": -1.0}, "memory must be positive, got memory=-1.0"),
        ({"pairs": 0.5, "num_hashes": 0}, "num_hashes must be positive, got num_hashes=0"),
        ({"pairs": 0.5, "heads": 0}, "heads must be positive, got heads=0"),
        ({"pairs": 0.01}, "No cluster_size is within pairs=1.00%"),
    ],
)
def test_bad_budgets_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        budget(256, 256, width=8, **arguments)


def test_dense_is_faster_for_short_sequences_and_many_pairs():
    assert dense_is_faster(128, 128, num_hashes=4, cluster_size=64)
    assert not dense_is_faster(4096, 4096, num_hashes=4, cluster_size=128)
    assert dense_is_faster(1024, 1024, num_hashes=8, cluster_size=1024)


def test_means_are_counted():
    settings: dict = {"num_hashes": 2, "cluster_size": 32, "width": 32}
    plain, canopy = (cost(512, 512, means_per_cluster=means, **settings) for means in (0, 4))
    assert plain.pairs == 2 * 32 / 512
    assert canopy.pairs == 2 * 32 / 512 + 4 * 16 / 512
    # Output, logsumexp and query with their gradients; the centroid of each key with its gradient.
    assert canopy.memory - plain.memory == 4 * 512 * (2 * (32 + 1) + 2 * 32 + 2 * 32)
    assert canopy.settings == {"num_hashes": 2, "cluster_size": 32, "means_per_cluster": 4}
    assert "means_per_cluster=4" in str(canopy)
    # With one round no pair needs an estimate of its own.
    one, plain = (
        cost(512, 512, means_per_cluster=means, **(settings | {"num_hashes": 1})) for means in (4, 0)
    )
    assert one.memory - plain.memory == 4 * 512 * 2 * (32 + 1)
    with pytest.raises(ValueError, match="power of two"):
        cost(512, 512, means_per_cluster=3, **settings)


@pytest.mark.parametrize(
    ("length", "pairs", "expected"), [(512, 0.125, (32, 2)), (2048, 0.125, (128, 8)), (2048, 0.0625, (64, 2))]
)
def test_a_budget_is_shared_by_clusters_and_means(length, pairs, expected):
    found = budget(length, length, width=32, pairs=pairs, num_hashes=1, means=True)
    assert (found.cluster_size, found.means_per_cluster) == expected
    assert found.pairs <= pairs
    sizes: list[dict] = [{"num_hashes": 1, "cluster_size": size, "width": 32} for size in range(1, length)]
    least = min(cost(length, length, means_per_cluster=1, **size).pairs for size in sizes)
    with pytest.raises(ValueError, match=f"the least is num_hashes=1.*means_per_cluster=1: {least:.2%}"):
        budget(length, length, width=32, pairs=0.001, num_hashes=1, means=True)
