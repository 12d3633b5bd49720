"""Noise and labels of images in a file, so that the same images can be drawn again."""

import io
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from biggan.generator import Generator
from training.files import path_of, write_whole


def save_latents(noise: Float[np.ndarray, "B Z"], labels: Int[np.ndarray, " B"], path: str) -> None:
    """Writes `noise` and `labels` as an .npz file of arrays with these names."""
    file = io.BytesIO()
    np.savez(file, noise=noise, labels=labels)
    write_whole(path, file.getvalue())


def read_latents(
    path: str, generator: Generator
) -> tuple[Float[np.ndarray, "B Z"], Int[np.ndarray, " B"] | None]:
    """What `save_latents` wrote; or noise alone: an .npy file of an array, or an .npz without labels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or what does not fit the generator; says what is wanted.
    """
    shape = f"[B, {generator.noise_width}]"
    wanted = f"--z={path} should be an .npy file of noise {shape}, or an .npz file with noise and labels"
    file = path_of(path)
    if not file.is_file():
        raise FileNotFoundError(f"{wanted}, but there is no such file.")
    try:
        loaded: Any = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"noise": loaded}
    except Exception as error:  # a text, a cut zip file, pickled objects: of many kinds
        raise ValueError(f"{wanted}, but it cannot be read: {error}") from error
    if "noise" not in arrays:
        raise ValueError(f"{wanted}, but it holds {sorted(arrays) or 'nothing'}.")
    noise, labels = arrays["noise"], arrays.get("labels")
    if not np.issubdtype(noise.dtype, np.floating):
        raise ValueError(f"{wanted}: noise should be of floats, but got {noise.dtype}.")
    if noise.ndim != 2 or noise.shape[1] != generator.noise_width or not len(noise):
        raise ValueError(f"{wanted}: noise should be {shape}, but got {list(noise.shape)}.")
    noise = noise.astype(np.float32)
    if not np.isfinite(noise).all():
        row = int(np.flatnonzero(~np.isfinite(noise).all(axis=1))[0])
        raise ValueError(f"{wanted}: noise should be finite, but row {row} is not.")
    if labels is None:
        return noise, None
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != noise.shape[:1]:
        raise ValueError(
            f"{wanted}: labels should be [{len(noise)}] integers, "
            f"but got {list(labels.shape)} {labels.dtype}."
        )
    if not (labels.min() >= 0 and labels.max() < generator.num_classes):
        raise ValueError(
            f"{wanted}: labels should be in 0 .. {generator.num_classes - 1}, but got "
            f"{labels.min()} .. {labels.max()}. --classes gives others."
        )
    return noise, labels.astype(np.int32)
