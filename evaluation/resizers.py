"""Resizing one image to the square that a network takes, as the programs of published numbers do.

The way of resizing moves a Fréchet distance more than many a method does (Parmar et al., arXiv:2104.11222),
so each is named after its program and follows it to the rounding.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

Resizer = Callable[[UInt8[np.ndarray, "H W 3"], int], Float32[np.ndarray, "R R 3"]]


def clean(image: UInt8[np.ndarray, "H W 3"], side: int) -> Float32[np.ndarray, "R R 3"]:
    """Pillow's bicubic with antialiasing, channel by channel in floats, cut off at 0 and 255, not rounded.

    Source: clean-fid 0.1.35 (github.com/GaParmar/clean-fid), mode "clean"; older ones do not cut off.
    """
    channels = [Image.fromarray(channel) for channel in np.moveaxis(image.astype(np.float32), -1, 0)]
    size = (side, side)
    resized = [np.asarray(channel.resize(size, Image.Resampling.BICUBIC)) for channel in channels]
    return np.stack(resized, -1).clip(0, 255)


def pillow_bicubic(image: UInt8[np.ndarray, "H W 3"], side: int) -> Float32[np.ndarray, "R R 3"]:
    """Pillow's bicubic with antialiasing, rounded to whole numbers in 0 .. 255.

    Source: dgm-eval (github.com/layer6ai-labs/dgm-eval), DINOv2's transform; torchvision's Resize.
    """
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)


def legacy_pytorch(image: UInt8[np.ndarray, "H W 3"], side: int) -> Float32[np.ndarray, "R R 3"]:
    """Bilinear between the centres of pixels, without antialiasing.

    Source: torch.nn.functional.interpolate(mode="bilinear", align_corners=False), pytorch-fid's.
    """
    # Its steps are float32; it rounds once after the product and the sum.
    steps = [float(np.float32(size / side)) for size in image.shape[:2]]
    places = [np.maximum((np.arange(side) + 0.5) * step - 0.5, 0).astype(np.float32) for step in steps]
    return _bilinear(image, *places)


def legacy_tensorflow(image: UInt8[np.ndarray, "H W 3"], side: int) -> Float32[np.ndarray, "R R 3"]:
    """Bilinear between the corners of pixels, without antialiasing: it moves the image to the corner.

    Source: TensorFlow 1's tf.image.resize_bilinear, in the graph of the Inception-v3 of 2015.
    """
    return _bilinear(
        image, *(np.arange(side, dtype=np.float32) * np.float32(size / side) for size in image.shape[:2])
    )


RESIZERS: Mapping[str, Resizer] = {
    resizer.__name__: resizer for resizer in (clean, legacy_pytorch, legacy_tensorflow, pillow_bicubic)
}


def _bilinear(
    image: UInt8[np.ndarray, "H W 3"], rows: Float[np.ndarray, " R"], columns: Float[np.ndarray, " R"]
) -> Float32[np.ndarray, "R R 3"]:
    """The values at places that are counted in pixels; the last row and column go on for ever."""
    across = _between(image, columns, axis=1)
    return _between(across, rows, axis=0)


def _between(image: np.ndarray, places: np.ndarray, axis: int) -> Float32[np.ndarray, "..."]:
    last = image.shape[axis] - 1
    first = np.minimum(places.astype(int), last)
    low, high = (
        np.take(image, indices, axis).astype(np.float32) for indices in (first, np.minimum(first + 1, last))
    )
    shares = np.expand_dims(places - first, tuple(other for other in range(3) if other != axis))
    return low + (high - low) * shares.astype(np.float32)
