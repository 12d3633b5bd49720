"""Numbers and metadata of GGUF files that the tests write are read as they were meant."""

import struct

import numpy as np
import pytest

from tests.transformer.llamas import NUMBERS, quantised, write_gguf
from transformer.gguf import read_gguf


@pytest.mark.parametrize("kind", list(NUMBERS))
def test_numbers_are_those_that_were_written(kind, tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 5, 64)).astype(np.float32)
    data, expected = quantised(array, kind)
    for version in (2, 3):
        write_gguf(tmp_path / "a.gguf", {}, {"a": (NUMBERS[kind], array.shape, data)}, version)
        (found,) = read_gguf(tmp_path / "a.gguf").tensors.values()
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert np.max(np.abs(found - array)) < {"F32": 1e-9, "F16": 2e-3, "Q8_0": 0.02}.get(kind, 0.35)


def test_metadata_is_what_was_written(tmp_path):
    metadata = {"a": 7, "b": 0.5, "c": True, "d": "ä", "e": ["x", "", "yz"], "f": [1, -2, 3]}
    write_gguf(tmp_path / "a.gguf", metadata, {})
    found = read_gguf(tmp_path / "a.gguf").metadata
    assert list(found.pop("f")) == metadata.pop("f")
    assert found == metadata


def test_types_that_are_not_read_are_named(tmp_path):
    path = tmp_path / "a.gguf"
    for number, name in ((12, "Q4_K"), (30, "BF16"), (99, "99")):
        write_gguf(path, {}, {"a.weight": (number, (4,), bytes(16))})
        with pytest.raises(ValueError, match=f"the tensor a.weight is of type {name}; read are F32, F16, Q4"):
            read_gguf(path)
    write_gguf(path, {}, {"a.weight": (8, (2, 48), bytes(200))})
    with pytest.raises(ValueError, match="rows of a.weight should be blocks of 32, but are 48"):
        read_gguf(path)
    write_gguf(path, {"general.alignment": "x"}, {})
    with pytest.raises(ValueError, match="general.alignment should be a number of bytes, but is 'x'"):
        read_gguf(path)


def test_files_that_are_no_gguf_are_refused(tmp_path):
    path = tmp_path / "d.gguf"
    with pytest.raises(FileNotFoundError, match="d.gguf is missing"):
        read_gguf(path)
    for data in (b"", b"GG", b"<!DOCTYPE html>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="d.gguf is not a GGUF file"):
            read_gguf(path)
    for version, message in ((1, "version 1 of GGUF"), (3 << 24, "big-endian numbers")):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
        with pytest.raises(ValueError, match=message):
            read_gguf(path)
    one_field = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1)
    path.write_bytes(one_field + b"a" + struct.pack("<I", 77))
    with pytest.raises(ValueError, match="metadata of the unknown type 77"):
        read_gguf(path)
    path.write_bytes(one_field + b"\xff" + bytes(8))
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_gguf(path)


def test_files_that_are_cut_short_are_refused(tmp_path):
    path = tmp_path / "a.gguf"
    tensors = {name: (0, (5, 7), bytes(140)) for name in ("a", "b")}
    write_gguf(path, {"words": ["x", "yz"] * 50, "numbers": [1, 2, 3], "name": "a b"}, tensors)
    data = path.read_bytes()
    read_gguf(path)
    for size in (5, 7, 20, 30, 100, 500, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=f"cut short: it ends at byte {size}"):
            read_gguf(path)
    # More than there can be, of strings, of numbers and of a tensor.
    huge = struct.pack("<Q", 1 << 62)
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a"
    for rest in (
        struct.pack("<I", 8) + huge,
        struct.pack("<II", 9, 8) + huge,
        struct.pack("<II", 9, 12) + huge,
    ):
        path.write_bytes(head + rest + bytes(100))
        with pytest.raises(ValueError, match="cut short"):
            read_gguf(path)
    write_gguf(path, {}, {"a": (0, (1 << 40, 1 << 40), bytes(140))})
    with pytest.raises(ValueError, match="cut short"):
        read_gguf(path)
