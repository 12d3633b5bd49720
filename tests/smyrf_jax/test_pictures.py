"""Pictures show what they say."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from smyrf_jax import Clustering, Smyrf
from smyrf_jax.diagnostics import error_by_pairs
from smyrf_jax.pictures import clusters_over_image, errors_by_pairs, shared_pairs
from tests.smyrf_jax.reference import arrays_of


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def halves():
    """Two rounds over 4 x 4 queries and 2 x 2 keys: top against bottom, then left against right."""
    query = np.arange(16).reshape(4, 4)
    key = np.arange(4).reshape(2, 2)
    orders = [
        np.stack([grid.reshape(2, -1), np.stack(np.split(grid, 2, axis=1)).reshape(2, -1)])
        for grid in (query, key)
    ]
    return Clustering(*(jnp.asarray(order, jnp.int32) for order in orders))


def test_the_keys_of_a_pixel_stay_bright():
    figure = clusters_over_image(np.ones((4, 4, 3)), halves(), (0, 3), key_grid=(2, 2))
    shown = [axis.images[0].get_array()[..., 0] == 1 for axis in figure.axes]
    top, right = np.arange(4)[:, None] < 2, np.arange(4)[None] >= 2
    for seen, expected in zip(shown, (top, right, top | right), strict=True):
        np.testing.assert_array_equal(seen, np.broadcast_to(expected, (4, 4)))
    assert figure.axes[2].get_title() == "any round: 75% of the keys"
    with pytest.raises(ValueError, match="pixel should be within 4 x 4"):
        clusters_over_image(np.ones((4, 4, 3)), halves(), (4, 0), key_grid=(2, 2))
    with pytest.raises(ValueError, match="key_grid should divide 4 x 4"):
        clusters_over_image(np.ones((4, 4, 3)), halves(), (0, 0), key_grid=(3, 2))


def test_the_map_of_pairs_counts_rounds():
    count = shared_pairs(halves(), 16, 4).axes[0].images[0].get_array()
    np.testing.assert_array_equal(count[0], [2, 1, 1, 0])
    np.testing.assert_array_equal(count.sum(0), [16] * 4)


def test_errors_fall_to_zero_where_all_pairs_are_met():
    arrays = arrays_of((1, 128, 128, 2, 8, 8))
    curves = {}
    for rounds in (1, 4):
        curves[f"{rounds} rounds"] = error_by_pairs(
            *arrays, method=Smyrf, num_hashes=rounds, deduplicate=True
        )
    one, four = curves.values()
    assert [pairs for pairs, _ in one] == [2.0**-power for power in range(6, -1, -1)]
    assert one[-1][1] < 1e-5
    assert four[0][0] == 1 / 32  # 1/64 would be 256 clusters of 128 queries
    for points in (one, four):
        errors = [error for _, error in points]
        assert errors == sorted(errors, reverse=True)
    axis = errors_by_pairs(curves).axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [error for _, error in one])
