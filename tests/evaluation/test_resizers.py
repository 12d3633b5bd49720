"""Resizers, compared with the programs that they follow."""

import numpy as np
import pytest
from PIL import Image

from evaluation.resizers import RESIZERS

# Height, width, side: up, down, one each way, one row alone, a ratio that floats do not hold.
SIZES = [(16, 16, 40), (50, 37, 24), (20, 90, 33), (1, 7, 5), (32, 32, 299), (256, 300, 299)]


def image_of(height, width):
    """Noise: it has the sharpest edges."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(image, side):
    return image.resize((side, side), resample=Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_clean_is_pillow_on_floats(height, width, side):
    image = image_of(height, width)
    got = RESIZERS["clean"](image, side)
    for channel in range(3):
        wanted = pillow(Image.fromarray(image[..., channel]).convert("F"), side)
        np.testing.assert_array_equal(got[..., channel], np.clip(np.array(wanted), 0, 255))


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_pillow_bicubic_is_pillow_on_bytes(height, width, side):
    image = image_of(height, width)
    got = RESIZERS["pillow_bicubic"](image, side)
    np.testing.assert_array_equal(got, np.array(pillow(Image.fromarray(image), side)))


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_legacy_pytorch_is_interpolate(height, width, side):
    torch = pytest.importorskip("torch")
    image = image_of(height, width)
    tensor = torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32)
    wanted = torch.nn.functional.interpolate(tensor, (side, side), mode="bilinear", align_corners=False)
    got = RESIZERS["legacy_pytorch"](image, side)
    np.testing.assert_allclose(got, wanted[0].numpy().transpose(1, 2, 0), rtol=0, atol=1e-5 * 255)


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_legacy_tensorflow_pixel_by_pixel(height, width, side):
    """As TensorFlow's kernel says it: place = index * size / side, in float32."""
    image = image_of(height, width).astype(np.float32)
    got = RESIZERS["legacy_tensorflow"](image.astype(np.uint8), side)
    for row, column in np.random.default_rng(1).integers(0, side, (200, 2)):
        place = [np.float32(i) * np.float32(size / side) for i, size in ((row, height), (column, width))]
        (top, left), (down, right) = (int(at) for at in place), (at - np.float32(int(at)) for at in place)
        bottom, end = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = image[top, left] + (image[top, end] - image[top, left]) * right
        lower = image[bottom, left] + (image[bottom, end] - image[bottom, left]) * right
        np.testing.assert_array_equal(got[row, column], upper + (lower - upper) * down)


def test_legacy_tensorflow_in_numbers():
    """Twice as large: every other pixel is one of the image, the last ones are repeated."""
    image = np.repeat(np.array([[0, 100], [40, 200]], np.uint8)[..., None], 3, -1)
    wanted = [[0, 50, 100, 100], [20, 85, 150, 150], [40, 120, 200, 200], [40, 120, 200, 200]]
    for channel in np.moveaxis(RESIZERS["legacy_tensorflow"](image, 4), -1, 0):
        np.testing.assert_array_equal(channel, wanted)


@pytest.mark.parametrize("name", RESIZERS)
def test_an_image_of_the_size_stays_as_it_is(name):
    image = image_of(29, 29)
    got = RESIZERS[name](image, 29)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, image)


def test_what_they_differ_in():
    """On an edge: none passes the range, and clean does not round."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    found = {name: resizer(image, 40) for name, resizer in RESIZERS.items()}
    for resized in found.values():
        assert resized.min() == 0
        assert resized.max() == 255
    assert 0 < np.abs(found["clean"] - found["pillow_bicubic"]).max() <= 0.5
    assert not np.array_equal(found["legacy_pytorch"], found["legacy_tensorflow"])
