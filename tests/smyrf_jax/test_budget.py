"""Costs and budgets, against counts by hand."""

import jax.numpy as jnp
import pytest

from smyrf_jax import Canopy, Dense, Local, Performer, Scatterbrain, Smyrf
from smyrf_jax.budget import dense_is_faster
from smyrf_jax.methods import Reformer, Routing

BIGGAN = {"width": 12, "value_width": 48}


def test_pairs_are_those_of_the_paper():
    # "Half the memory": 4 hashes, 8 clusters of 2048 queries and 512 keys.
    assert Smyrf(4, 2048).cost(16384, 4096, **BIGGAN).pairs == 0.5
    assert Smyrf(2, 32).cost(128, 128).pairs == 0.5
    # Lengths that nothing divides: 4 clusters of at most 4 x 2.
    assert Smyrf(1, 4).cost(13, 7).pairs == 4 * 4 * 2 / (13 * 7)
    # A chunk of Reformer is met with itself and the one before, a centre of Routing once.
    assert Reformer(1, 32).cost(512, 512).pairs == 2 * 32 / 512
    assert Routing(64).cost(512, 512).pairs == 64 / 512
    assert Local(64).cost(512, 512).pairs == 64 / 512
    assert Local(64).cost(512, 32).pairs == 1
    assert Dense().cost(512, 100).pairs == 1
    assert Dense().cost(512, 100, heads=3).memory_of_dense == 1


def test_features_and_means_count():
    # A feature of a query and one of a key count as a pair each.
    assert Performer(32).cost(512, 512).pairs == 2 * 32 / 512
    assert Scatterbrain(2, 32, 16).cost(512, 512).pairs == (2 * 32 + 2 * 16) / 512
    assert Scatterbrain(num_features=16, window=40).cost(512, 512).pairs == (40 + 2 * 16) / 512
    assert Canopy(2, 32, 4).cost(512, 512).pairs == 2 * 32 / 512 + 4 * 16 / 512
    assert Canopy(2, 32, 0).cost(512, 512).pairs == 2 * 32 / 512


def test_memory_is_linear_and_near_the_measured():
    small, large = (Smyrf(4, 128).cost(n, n, width=64, heads=8).memory for n in (2**14, 2**15))
    assert 1.9 < large / small < 2.1
    # By the TPU compiler, v3, float32: 124 and 115 MB (docs/results/tables/memory.md).
    for batch, length, megabytes in ((4, 16384, 124), (1, 65536, 115)):
        count = Smyrf(4, 2048).cost(length, length // 4, batch=batch, lanes=128, **BIGGAN)
        assert count.memory / 1e6 == pytest.approx(megabytes, rel=0.1)
    half = Smyrf(4, 128).cost(4096, 4096, dtype=jnp.bfloat16)
    assert half.memory < Smyrf(4, 128).cost(4096, 4096).memory
    # Means: output, logsumexp and query with their gradients; the centroid of each key with its gradient.
    plain, canopy = (method.cost(512, 512, width=32).memory for method in (Smyrf(2, 32), Canopy(2, 32, 4)))
    assert canopy - plain == 4 * 512 * (2 * (32 + 1) + 2 * 32 + 2 * 32)
    # With one round no pair needs an estimate of its own.
    plain, one = (method.cost(512, 512, width=32).memory for method in (Smyrf(1, 32), Canopy(1, 32, 4)))
    assert one - plain == 4 * 512 * 2 * (32 + 1)


@pytest.mark.parametrize("pairs", [0.03, 0.125, 0.5, 1.0])
@pytest.mark.parametrize("lengths", [(4096, 4096), (16384, 4096), (1000, 777)])
def test_a_budget_of_pairs_is_kept_and_used(lengths, pairs):
    found = Smyrf.for_budget(*lengths, pairs=pairs, num_hashes=4)
    assert found.num_hashes == 4
    assert 0.6 * pairs < found.cost(*lengths).pairs <= pairs
    assert f"{found.cost(*lengths).pairs:.2%} of the pairs" in str(found.cost(*lengths))


def test_a_budget_of_memory_is_kept():
    found = Smyrf.for_budget(65536, 16384, memory=0.05, lanes=128, **BIGGAN)
    cost = found.cost(65536, 16384, lanes=128, **BIGGAN)
    assert cost.memory_of_dense <= 0.05
    assert cost.pairs == pytest.approx(0.5, rel=0.01)
    with pytest.raises(
        ValueError, match=r"No settings are within memory=0.10%.*the least is Smyrf\(num_hashes=4"
    ):
        Smyrf.for_budget(1024, 1024, memory=0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give pairs or memory"),
        ({"pairs": 0.0}, "pairs must be positive, got pairs=0.0"),
        ({"memory": -1.0}, "memory must be positive, got memory=-1.0"),
        ({"pairs": 0.5, "num_hashes": 0}, "num_hashes must be positive, got num_hashes=0"),
        ({"pairs": 0.5, "heads": 0}, "heads must be positive, got heads=0"),
        ({"pairs": 0.01}, "No settings are within pairs=1.00%"),
    ],
)
def test_bad_budgets_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Smyrf.for_budget(256, 256, **arguments)


def test_dense_is_faster_for_short_sequences_and_many_pairs():
    assert dense_is_faster(128, 128, num_hashes=4, cluster_size=64)
    assert not dense_is_faster(4096, 4096, num_hashes=4, cluster_size=128)
    assert dense_is_faster(1024, 1024, num_hashes=8, cluster_size=1024)
    assert dense_is_faster(0, 16, num_hashes=1, cluster_size=4)
    assert dense_is_faster(256, 256, num_hashes=1, cluster_size=8, platform="tpu")
    assert not dense_is_faster(256, 256, num_hashes=1, cluster_size=8)
    assert not dense_is_faster(4096, 4096, num_hashes=2, cluster_size=64, platform="tpu")


@pytest.mark.parametrize(
    ("length", "pairs", "expected"), [(512, 0.125, (32, 2)), (2048, 0.125, (128, 8)), (2048, 0.0625, (64, 2))]
)
def test_a_budget_is_shared_by_clusters_and_means(length, pairs, expected):
    found = Canopy.for_budget(length, length, pairs=pairs, width=32)
    assert (found.num_trees, found.cluster_size, found.means_per_cluster) == (1, *expected)
    assert found.cost(length, length).pairs <= pairs
    fixed = Canopy.for_budget(length, length, pairs=pairs, means_per_cluster=1)
    assert fixed.means_per_cluster == 1
    fixed = Canopy.for_budget(4096, 4096, pairs=0.125, cluster_size=64)
    assert fixed == Canopy(1, 64, 4)
    least = min(Canopy(1, size, 1).cost(length, length).pairs for size in range(1, length))
    with pytest.raises(ValueError, match=f"the least is Canopy.*means_per_cluster=1.: {least:.2%}"):
        Canopy.for_budget(length, length, pairs=0.001)


def test_a_budget_is_shared_by_clusters_and_features():
    # The rule of Scatterbrain's own experiments, N / 32 of 3136 tokens: half for each; features cost twice.
    found = Scatterbrain.for_budget(3136, 3136, pairs=98 / 3136, num_hashes=2)
    assert found == Scatterbrain(2, 24, 24)
    beside = Scatterbrain.for_budget(3136, 3136, pairs=98 / 3136, window=49)
    assert beside == Scatterbrain(window=49, num_features=24)
    assert Performer.for_budget(3136, 3136, pairs=98 / 3136) == Performer(48)
