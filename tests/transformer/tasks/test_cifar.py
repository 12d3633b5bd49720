"""CIFAR-10's files: of numbers alone, and of pickles, of which nothing is run."""

import io
import pickle
import struct

import numpy as np
import pytest

from transformer.tasks.cifar import cifar

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


class Python2(pickle._Pickler):
    """Writes strings as Python 2 did."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, string):
        content = string if isinstance(string, bytes) else string.encode()
        short = len(content) < 256
        self.write(b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content)))
        self.write(content)
        self.memoize(string)

    dispatch[bytes] = dispatch[str] = save_string


def dumped(content):
    file = io.BytesIO()
    Python2(file, protocol=2).dump(content)
    return file.getvalue()


def pictures(number, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, 3072)).astype(np.uint8), rng.integers(0, 10, number)


def write(folder, kind):
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        images, labels = pictures(4, seed)
        if kind == "bin":
            rows = np.concatenate([labels[:, None].astype(np.uint8), images], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:  # as Python 2 wrote them
            content = {b"data": images, b"labels": labels.tolist(), b"batch_label": b"of 5"}
            (folder / name).write_bytes(dumped(content))
    return folder


@pytest.mark.parametrize("kind", ["bin", "py"])
def test_both_versions_are_read(kind, tmp_path):
    parts = cifar(str(write(tmp_path / kind, kind)))
    assert [len(part.labels) for part in parts.values()] == [18, 2, 4]
    images, labels = pictures(4, 5)
    np.testing.assert_array_equal(parts["test"].labels, labels)
    red, green, blue = images.reshape(4, 3, 1024).astype(float).swapaxes(0, 1)
    np.testing.assert_allclose(parts["test"].tokens, 0.299 * red + 0.587 * green + 0.114 * blue, atol=0.6)
    np.testing.assert_array_equal(parts["validation"].labels, pictures(4, 4)[1][2:])
    assert np.all(parts["train"].lengths == 1024)


class Ran:
    def __reduce__(self):
        return print, ("it ran",)


def test_nothing_in_a_pickle_is_run(tmp_path, capsys):
    folder = write(tmp_path / "py", "py")
    (folder / "data_batch_2").write_bytes(dumped({b"data": Ran(), b"labels": []}))
    with pytest.raises(
        ValueError, match=r"data_batch_2 is no file .*: it wants .*\.print, which is not read"
    ):
        cifar(str(folder))
    assert capsys.readouterr().out == ""


def test_files_that_are_none_are_named(tmp_path):
    folder = write(tmp_path / "bin", "bin")
    (folder / "data_batch_3.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(ValueError, match=r"data_batch_3\.bin is no file of CIFAR-10: a picture"):
        cifar(str(folder))
    (folder / "data_batch_3.bin").write_bytes(b"\x0b" * 3073)
    with pytest.raises(ValueError, match=r"data_batch_3\.bin is no file .* and labels up to 11"):
        cifar(str(folder))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin is missing: --config.data.path"):
        cifar(str(folder))
    other = write(tmp_path / "py", "py")
    (other / "data_batch_1").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="data_batch_1 is no file of CIFAR-10's python version"):
        cifar(str(other))
