"""Grids of images, as PNG."""

import math
import os

import numpy as np
from jax import Array
from jaxtyping import Float, UInt8
from PIL import Image


def to_uint8(images: Float[Array | np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Images in [-1, 1] as 0 .. 255."""
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)


def save_grid(images: UInt8[np.ndarray, "B H W 3"], path: str, columns: int | None = None) -> None:
    """Images side by side, row by row, with a gap of two white pixels."""
    batch, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(batch))
    rows = math.ceil(batch / columns)
    grid = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (2 + place * (height + 2) for place in divmod(index, columns))
        grid[top : top + height, left : left + width] = image
    _save(Image.fromarray(grid), path)


def _save(image: Image.Image, path: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    image.save(f"{path}.part", format="PNG")
    os.replace(f"{path}.part", path)  # a reader never sees half a picture
