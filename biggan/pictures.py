"""Grids of images, as PNG."""

import io
import math

import numpy as np
from jax import Array
from jaxtyping import Float, UInt8
from PIL import Image

from training.files import write_whole


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
    save_picture(grid, path)


def save_picture(pixels: UInt8[np.ndarray, "H W 3"], path: str) -> None:
    """A PNG that nobody ever sees half."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    write_whole(path, file.getvalue())
