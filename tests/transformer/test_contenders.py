"""What a budget gives each of Scatterbrain's contenders."""

import pytest

from smyrf_jax import Dense, Local, Performer, Scatterbrain, Smyrf
from smyrf_jax.methods import Reformer
from transformer.contenders import CONTENDERS, contender


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        # The settings of T2T-ViT's two attentions; a number of features is even here.
        (
            3136,
            {
                "smyrf": Smyrf(2, 49),
                "reformer": Reformer(1, 49),
                "local": Local(98),
                "performer": Performer(48),
                "scatterbrain": Scatterbrain(2, 24, 24),
                "scatterbrain_local": Scatterbrain(num_features=24, window=49),
            },
        ),
        (
            784,
            {
                "smyrf": Smyrf(2, 12),
                "reformer": Reformer(1, 12),
                "local": Local(24),
                "performer": Performer(12),
                "scatterbrain": Scatterbrain(2, 6, 6),
                "scatterbrain_local": Scatterbrain(num_features=6, window=12),
            },
        ),
    ],
)
def test_a_32nd_of_the_pairs(length, expected):
    for name, method in expected.items():
        assert contender(name, length, 1 / 32) == method


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_budget_is_kept_and_spent(name):
    for length, pairs in ((3136, 1 / 32), (1024, 1 / 8)):
        if name == "canopy" and pairs < 2 / length**0.5:
            with pytest.raises(ValueError, match=r"No settings are within pairs=3\.12%"):
                contender(name, length, pairs)
            continue
        method = contender(name, length, pairs)
        if name == "dense":
            assert method == Dense()
        else:
            assert 0.85 * pairs < method.cost(length, length).pairs <= pairs


def test_what_there_is_not():
    with pytest.raises(ValueError, match="a method should be one of dense, smyrf, .* but got 'topk'"):
        contender("topk", 64, 0.5)
    with pytest.raises(ValueError, match="No settings are within"):
        contender("performer", 64, 1e-3)
