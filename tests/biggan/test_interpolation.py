"""Ways from one noise to another, beside the geometry of a sphere."""

import numpy as np
import pytest

from biggan.interpolation import closed_walk, frames_of_walk, slerp


def test_an_arc_of_the_unit_circle():
    parts = np.linspace(0, 1, 4, dtype=np.float32)
    start, end = np.array([2, 0], np.float32), np.array([0, 2], np.float32)
    angles = parts * np.pi / 2
    expected = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(slerp(start, end, parts), expected, atol=1e-6)


def test_noise_stays_as_long_as_noise_is():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 120)).astype(np.float32)
    way = slerp(start, end, np.linspace(0, 1, 9, dtype=np.float32))
    lengths = np.linalg.norm(way, axis=1)
    bounds = sorted([np.linalg.norm(start), np.linalg.norm(end)])
    assert way.dtype == np.float32
    assert lengths.min() > 0.95 * bounds[0]
    assert np.linalg.norm((start + end) / 2) < 0.8 * bounds[0]  # the straight line's middle
    np.testing.assert_allclose(way[[0, -1]], [start, end], atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, 0.0])
def test_vectors_of_one_line_go_by_the_line(factor):
    start = np.array([1, 2, 3], np.float32)
    parts = np.array([0, 0.25, 1], np.float32)
    expected = start[None] * (1 + (factor - 1) * parts[:, None])
    np.testing.assert_allclose(slerp(start, factor * start, parts), expected, atol=1e-5)


def test_a_walk_is_closed_and_a_row_has_one_class():
    noise = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    way, labels = closed_walk(noise, np.array([0, 1, 2], np.int32), steps=4)
    rows = way.reshape(3, 5, 8)
    np.testing.assert_allclose(rows[:, 0], noise, atol=1e-6)
    np.testing.assert_allclose(rows[:, -1], noise[[1, 2, 0]], atol=1e-6)
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 5))
    numbers = np.broadcast_to(np.arange(15, dtype=np.uint8)[:, None, None, None], (15, 2, 2, 3))
    frames = frames_of_walk(numbers, steps=4)
    assert frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]


def test_what_has_no_way_is_refused():
    noise, labels = np.ones((1, 8), np.float32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match=r"--interpolate wants two images or more .*got 1: --num"):
        closed_walk(noise, labels, steps=2)
    with pytest.raises(ValueError, match=r"--interpolate should be a positive number of steps, but got 0"):
        closed_walk(np.ones((2, 8), np.float32), np.zeros(2, np.int32), steps=0)
