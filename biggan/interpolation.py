"""Ways from one image's noise to another's."""

import numpy as np
from jaxtyping import Float, Int, UInt8


def slerp(
    start: Float[np.ndarray, " Z"], end: Float[np.ndarray, " Z"], parts: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "P Z"]:
    """Spherical interpolation, by parts in 0 .. 1 of the angle between the two.

    Noise of many dimensions lies near a sphere; the middle of a straight line lies far inside it, where
    no noise is ever drawn. Vectors of (nearly) one line have no such arc, and go by the line.

    Source: Shoemake, 1985, "Animating rotation with quaternion curves"; of a GAN's noise: White, 2016
    (arXiv:1609.04468).
    """
    first, last = start.astype(np.float64), end.astype(np.float64)
    parts = parts.astype(np.float64)[:, None]
    lengths = np.linalg.norm(first) * np.linalg.norm(last)
    cosine = np.clip(first @ last / lengths, -1, 1) if lengths else 1.0
    angle = np.arccos(cosine)
    if np.sin(angle) < 1e-4:
        weights = 1 - parts, parts
    else:
        weights = np.sin((1 - parts) * angle) / np.sin(angle), np.sin(parts * angle) / np.sin(angle)
    return (weights[0] * first[None] + weights[1] * last[None]).astype(start.dtype)


def closed_walk(
    noise: Float[np.ndarray, "B Z"], labels: Int[np.ndarray, " B"], steps: int
) -> tuple[Float[np.ndarray, "M Z"], Int[np.ndarray, " M"]]:
    """From each noise to the next, and from the last to the first: a row of steps + 1 images each.

    A row has the class that it begins with: classes are not mixed.

    Returns:
        Noise and labels of the B * (steps + 1) images, row by row.

    Raises:
        ValueError: there is but one noise, or no step; names the flags.
    """
    if steps < 1:
        raise ValueError(f"--interpolate should be a positive number of steps, but got {steps}.")
    if len(noise) < 2:
        raise ValueError(
            f"--interpolate wants two images or more to go between, but got {len(noise)}: --num."
        )
    parts = np.linspace(0, 1, steps + 1, dtype=np.float32)
    ways = [slerp(start, end, parts) for start, end in zip(noise, np.roll(noise, -1, axis=0), strict=True)]
    return np.concatenate(ways), np.repeat(labels, steps + 1)


def frames_of_walk(images: UInt8[np.ndarray, "M H W 3"], steps: int) -> UInt8[np.ndarray, "F H W 3"]:
    """The images of `closed_walk` without the last column, which is what the next row begins with."""
    return images[np.arange(len(images)) % (steps + 1) != steps]
