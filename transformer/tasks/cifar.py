"""CIFAR-10's pictures in gray, a token a pixel. Source: Long Range Arena (arXiv:2011.04006), section 3.1."""

import io
import pickle
from types import MappingProxyType
from typing import Any

import numpy as np
from etils import epath
from numpy._core.multiarray import _reconstruct

from training.files import path_of
from transformer.tasks.labelled import Labelled

_SIDE, _VALIDATION = 32, 5000
_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
# Weights of red, green and blue in luminance (ITU-R BT.601).
_GRAY = (0.2989, 0.587, 0.114)


def cifar(path: str) -> dict[str, Labelled]:
    """The last 5,000 of the training pictures (a tenth of fewer) are for validation.

    Args:
        path: of the folder with data_batch_1.bin .. 5.bin and test_batch.bin ("binary version"), or with
            data_batch_1 .. 5 and test_batch ("python version").

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not one of CIFAR-10's.
    """
    folder = path_of(path)
    read, end = (_read_binary, ".bin") if (folder / "test_batch.bin").exists() else (_read_pickle, "")
    found = {}
    for name in (*_BATCHES, "test_batch"):
        file = folder / f"{name}{end}"
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing: --config.data.path should be the folder of CIFAR-10, of its binary "
                "version (*.bin) or its python version."
            )
        found[name] = read(file)
    images, labels = (np.concatenate([found[name][i] for name in _BATCHES]) for i in (0, 1))
    held_out = min(_VALIDATION, -(-len(labels) // 10))
    return {
        "train": _labelled(images[:-held_out], labels[:-held_out]),
        "validation": _labelled(images[-held_out:], labels[-held_out:]),
        "test": _labelled(*found["test_batch"]),
    }


def _labelled(images: np.ndarray, labels: np.ndarray) -> Labelled:
    """Of pictures [B, 3 * 1024]: red, green and blue, row by row."""
    planes = images.reshape(len(images), 3, _SIDE**2).astype(np.float32)
    gray = np.einsum("bcp,c->bp", planes, np.array(_GRAY, np.float32))
    lengths = np.full(len(images), _SIDE**2, np.int32)
    return Labelled(np.round(gray).astype(np.uint8), lengths, labels.astype(np.int32))


def _read_binary(file: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.frombuffer(file.read_bytes(), np.uint8)
    if not len(content) or len(content) % (1 + 3 * _SIDE**2):
        raise ValueError(f"{file} is no file of CIFAR-10: a picture should have 3,073 bytes.")
    rows = content.reshape(-1, 1 + 3 * _SIDE**2)
    return _checked(file, rows[:, 1:], rows[:, 0])


def _read_pickle(file: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _ArraysAlone(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        images, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
    except (pickle.UnpicklingError, KeyError, TypeError, EOFError, AttributeError, ImportError) as error:
        raise ValueError(f"{file} is no file of CIFAR-10's python version: {error}.") from error
    return _checked(file, images, labels)


def _checked(file: epath.Path, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.shape != (len(labels), 3 * _SIDE**2) or images.dtype != np.uint8 or not np.all(labels < 10):
        raise ValueError(
            f"{file} is no file of CIFAR-10: there should be pictures [B, 3072] of bytes and labels 0 .. 9, "
            f"but there are {images.dtype} {images.shape} and labels up to {np.max(labels, initial=0)}."
        )
    return images, labels


class _ArraysAlone(pickle.Unpickler):
    """Reads arrays of numbers and what Python has built in, and runs nothing else that a file may name."""

    _KNOWN = MappingProxyType(
        {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """What the file names, if it is one of the known."""
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not read")
        return self._KNOWN[module, name]
