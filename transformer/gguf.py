"""Reads GGUF files, as llama.cpp and its kin have them: metadata and tensors.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

# Types of metadata by their numbers: those of one size; 8 is a string and 9 an array.
_SCALARS = ("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "|b1", "", "", "<u8", "<i8", "<f8")
_STRING, _ARRAY = 8, 9
_HALF, _BYTE = np.dtype("<f2"), np.dtype("u1")

# Names of tensor types by their numbers; those that are missing were taken out of the format.
_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


class GGUF(NamedTuple):
    """metadata: name -> number, string, or array. tensors: name -> float32, the last axis the innermost."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]


class _Kind(NamedTuple):
    """A tensor type that is read: numbers a block, what a block is made of, and the numbers of blocks."""

    size: int
    block: np.dtype
    numbers: Callable[[np.ndarray], np.ndarray]


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """[blocks, 32] of [blocks, 16]: the low halves of all bytes first."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


def _block(*fields: tuple[Any, ...]) -> np.dtype:
    return np.dtype(list(fields))


def _scale(blocks: np.ndarray, field: str = "scale") -> np.ndarray:
    return blocks[field].astype(np.float32)[:, None]


_KINDS = {
    "F32": _Kind(1, np.dtype("<f4"), lambda blocks: blocks.astype(np.float32)),
    "F16": _Kind(1, _HALF, lambda blocks: blocks.astype(np.float32)),
    "Q4_0": _Kind(
        32,
        _block(("scale", _HALF), ("packed", _BYTE, 16)),
        lambda blocks: _scale(blocks) * (_nibbles(blocks["packed"]) - 8),
    ),
    "Q4_1": _Kind(
        32,
        _block(("scale", _HALF), ("least", _HALF), ("packed", _BYTE, 16)),
        lambda blocks: _scale(blocks) * _nibbles(blocks["packed"]) + _scale(blocks, "least"),
    ),
    "Q8_0": _Kind(
        32,
        _block(("scale", _HALF), ("numbers", "i1", 32)),
        lambda blocks: _scale(blocks) * blocks["numbers"].astype(np.float32),
    ),
}


class _Reader:
    """Reads one thing after the other."""

    def __init__(self, path: pathlib.Path):
        self.path, self.place = path, 0
        self.data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)

    def bytes(self, count: int) -> np.ndarray:
        if count > len(self.data) - self.place:
            raise ValueError(f"{self.path} is cut short: it ends at byte {len(self.data)}.")
        self.place += count
        return self.data[self.place - count : self.place]

    def array(self, dtype: str, count: int) -> np.ndarray:
        return self.bytes(np.dtype(dtype).itemsize * count).view(dtype)

    def number(self, dtype: str) -> Any:
        return self.array(dtype, 1)[0].item()

    def string(self) -> str:
        start = self.place
        try:
            return self.bytes(self.number("<u8")).tobytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: the string at byte {start} is not UTF-8: {error}.") from error

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            of, count = self.number("<u4"), self.number("<u8")
            if of == _ARRAY:
                raise ValueError(f"{self.path}: an array of arrays in the metadata, at byte {self.place}.")
            if of == _STRING:
                return [self.string() for _ in range(count)]
            return np.array(self.array(self._scalar(of), count))
        return self.number(self._scalar(kind))

    def _scalar(self, kind: int) -> str:
        if kind >= len(_SCALARS):
            raise ValueError(f"{self.path}: metadata of the unknown type {kind} at byte {self.place}.")
        return _SCALARS[kind]


def read_gguf(path: str | os.PathLike) -> GGUF:
    """The metadata and the tensors of a GGUF file, of versions 2 and 3.

    Tensors may be F32, F16, Q4_0, Q4_1 and Q8_0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no GGUF or one of another version, is cut short, or has a tensor of another type.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    reader = _Reader(path)
    if bytes(reader.data[:4]) != b"GGUF":
        raise ValueError(f"{path} is not a GGUF file: it begins with {bytes(reader.data[:4])!r}.")
    reader.bytes(4)
    version = reader.number("<u4")
    if version not in (2, 3):
        order = " (of big-endian numbers)" if version >= 1 << 16 else ""
        raise ValueError(f"{path}: version {version}{order} of GGUF is not read here, 2 and 3 are.")
    num_tensors, num_fields = reader.number("<u8"), reader.number("<u8")
    metadata = {}
    for _ in range(num_fields):
        name = reader.string()
        metadata[name] = reader.value(reader.number("<u4"))
    entries = []
    for _ in range(num_tensors):
        name = reader.string()
        shape = reader.array("<u8", reader.number("<u4")).tolist()[::-1]  # the innermost axis comes first
        entries.append((name, shape, reader.number("<u4"), reader.number("<u8")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{path}: general.alignment should be a number of bytes, but is {alignment!r}.")
    start = -(-reader.place // alignment) * alignment
    return GGUF(metadata, {name: _tensor(reader, start, name, *entry) for name, *entry in entries})


def _tensor(reader: _Reader, start: int, name: str, shape: list[int], number: int, offset: int) -> np.ndarray:
    kind = _KINDS.get(_TYPES.get(number, ""))
    if kind is None:
        raise ValueError(
            f"{reader.path}: the tensor {name} is of type {_TYPES.get(number, number)}; read are "
            f"{', '.join(_KINDS)}."
        )
    inner = shape[-1] if shape else 1
    if inner % kind.size:
        raise ValueError(f"{reader.path}: rows of {name} should be blocks of {kind.size}, but are {inner}.")
    count = 1
    for size in shape:  # in Python's integers, which do not overflow
        count *= size
    reader.place = start + offset
    raw = reader.bytes(count // kind.size * kind.block.itemsize)
    return kind.numbers(raw.view(kind.block)).reshape(shape)
