"""Every method gets as many pairs."""

import pytest

from smyrf_jax import Canopy, Dense, Local, Performer, Scatterbrain, Smyrf
from transformer.budgeted import budgeted, leaks, part_of_pairs

METHODS = {
    "smyrf": ({"num_hashes": 2}, Smyrf),
    "performer": ({}, Performer),
    "local": ({}, Local),
    "canopy": ({}, Canopy),
    "scatterbrain": ({"window_share": 0.5}, Scatterbrain),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("length", [256, 2001])
def test_methods_have_the_pairs_of_the_budget(name, length):
    fields, kind = METHODS[name]
    # Means of 256 tokens take an 8th at least.
    pairs = 1 / 8 if (name, length) == ("canopy", 256) else 1 / 16
    method = budgeted(name, length, pairs, False, **fields)
    assert isinstance(method, kind)
    assert 0.8 * pairs < part_of_pairs(method, length, False) <= pairs


def test_the_sizes_of_the_public_configs():
    """Scatterbrain's, for Text: N = 1000 at a 16th."""
    assert budgeted("smyrf", 1024, 1 / 16, False, num_hashes=2) == Smyrf(2, 32)
    assert budgeted("performer", 1024, 1 / 16, False) == Performer(32)
    assert budgeted("local", 1024, 1 / 16, False) == Local(64)
    found = budgeted("scatterbrain", 1024, 1 / 16, False, window_share=0.5)
    assert found == Scatterbrain(window=32, num_features=16)
    assert budgeted("scatterbrain", 1024, 1 / 16, False, num_hashes=2) == Scatterbrain(2, 16, 16)


def test_without_a_budget_fields_are_all_there_is():
    assert budgeted("smyrf", 64, 0, False, num_hashes=3, cluster_size=5) == Smyrf(3, 5)
    assert budgeted("dense", 64, 1 / 16, True) == Dense()
    assert part_of_pairs(Dense(), 64, True) == 1
    for pairs in (0, 0.5):
        with pytest.raises(ValueError, match="name should be one of"):
            budgeted("sparse", 64, pairs, False)


def test_clusters_of_all_tokens_leak():
    assert leaks(Smyrf(2, 8, clusters_see_future=True), 64)
    assert not leaks(Smyrf(2, 64, clusters_see_future=True), 64)
    assert not leaks(Scatterbrain(window=8, clusters_see_future=True), 64)
    for method in (Dense(), Local(8), Performer(8), Scatterbrain(window=8)):
        assert not leaks(method, 64)
