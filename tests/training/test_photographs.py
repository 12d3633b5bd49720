"""The photographs, and squares of images."""

import numpy as np
import pytest
from PIL import Image

from training.photographs import NAMES, middle_square, photograph, random_square


@pytest.mark.parametrize("name", NAMES)
def test_a_photograph_has_colours(name):
    image = photograph(name)
    assert image.dtype == np.uint8
    assert min(image.shape[:2]) >= 256
    assert np.ptp(image, axis=-1).max() > 50


def test_there_are_four_photographs():
    assert len({photograph(name).tobytes() for name in NAMES}) == 4
    with pytest.raises(ValueError, match="the photographs are astronaut, chelsea, .*'moon'"):
        photograph("moon")


@pytest.mark.parametrize("shape", [(40, 60, 3), (60, 40, 3)])
def test_the_middle_square_is_centred(shape):
    image = np.zeros(shape, np.uint8)
    middle = tuple(slice((length - 40) // 2, (length + 40) // 2) for length in shape[:2])
    image[middle] = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    np.testing.assert_array_equal(middle_square(image, 40), image[middle])
    small = [
        middle_square(image, 20, resample)
        for resample in (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC)
    ]
    assert small[0].shape == (20, 20, 3)
    assert np.any(small[0] != small[1])
    np.testing.assert_array_equal(middle_square(image, 20), small[0])


def test_random_squares_stay_inside_and_differ():
    image = np.zeros((40, 48, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(40)[:, None], np.arange(48)
    rng = np.random.default_rng(0)
    squares = [random_square(image, 32, rng) for _ in range(50)]
    assert {square.shape for square in squares} == {(32, 32, 3)}
    corners = np.array([square[0, 0] for square in squares])
    assert np.all(corners.max(axis=0)[:2] >= [5, 10])
    assert len({square.tobytes() for square in squares}) > 40
    np.testing.assert_array_equal(random_square(image, 32, np.random.default_rng(0)), squares[0])
