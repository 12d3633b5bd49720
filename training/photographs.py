"""The colour photographs that scikit-image ships: images without a download; and squares cut from images."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


def photograph(name: str) -> UInt8[np.ndarray, "H W 3"]:
    """One of NAMES.

    Raises:
        ValueError: there is no such photograph.
    """
    import skimage.data

    if name not in NAMES:
        raise ValueError(f"the photographs are {', '.join(NAMES)}, but got {name!r}.")
    return np.asarray(getattr(skimage.data, name)())


def middle_square(
    image: UInt8[np.ndarray, "H W 3"],
    side: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> UInt8[np.ndarray, "R R 3"]:
    """The largest centred square, resized to side x side."""
    height, width, _ = image.shape
    small = min(height, width)
    return _square(image, (height - small) // 2, (width - small) // 2, small, side, resample)


def random_square(
    image: UInt8[np.ndarray, "H W 3"], side: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "R R 3"]:
    """A square from a random place, between `side` and the whole image in size, resized to side x side."""
    height, width, _ = image.shape
    size = int(rng.integers(side, min(height, width), endpoint=True))
    top, left = (int(rng.integers(0, length - size, endpoint=True)) for length in (height, width))
    return _square(image, top, left, size, side, Image.Resampling.LANCZOS)


def _square(
    image: np.ndarray, top: int, left: int, size: int, side: int, resample: Image.Resampling
) -> np.ndarray:
    square = Image.fromarray(image[top : top + size, left : left + size])
    return np.asarray(square.resize((side, side), resample))
