"""Images as PNG, grids of them, and animations."""

import io
import math
import os

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8
from PIL import Image

from training.files import write_whole


def to_uint8(images: Float[Array, "B H W 3"]) -> UInt8[Array, "B H W 3"]:
    """Images in [-1, 1] as 0 .. 255."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)


def grid(images: UInt8[np.ndarray, "B H W 3"], columns: int | None = None) -> UInt8[np.ndarray, "R C 3"]:
    """Images side by side, row by row, with a gap of two white pixels. columns: None: of a square."""
    batch, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(batch))
    rows = math.ceil(batch / columns)
    pixels = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = 2 + row * (height + 2), 2 + column * (width + 2)
        pixels[top : top + height, left : left + width] = image
    return pixels


def save_grid(images: UInt8[np.ndarray, "B H W 3"], path: str, columns: int | None = None) -> None:
    """`grid` as a PNG."""
    save_picture(grid(images, columns), path)


def save_picture(pixels: UInt8[np.ndarray, "H W 3"], path: str) -> None:
    """A PNG that nobody ever sees half."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    write_whole(path, file.getvalue())


def save_animation(frames: UInt8[np.ndarray, "B H W 3"], path: str, seconds: float = 0.08) -> None:
    """Frames one after the other, again and again, as WebP or GIF by the path; nobody ever sees it half.

    A GIF has 256 colours a frame; the WebP keeps all. seconds: of a frame.
    """
    first, *others = (Image.fromarray(frame) for frame in frames)
    file = io.BytesIO()
    first.save(
        file,
        format=os.path.splitext(path)[1].removeprefix(".").upper(),
        save_all=True,
        append_images=others,
        duration=round(1000 * seconds),
        loop=0,
        lossless=True,  # of the WebP
    )
    write_whole(path, file.getvalue())
