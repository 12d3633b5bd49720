"""Images in NumPy files."""

import numpy as np
import pytest

from biggan.sources import open_source


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays(kind, channels, tmp_path):
    path = tmp_path / f"images.{kind}"
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 7, channels), np.uint8)
    array[..., 3:] = 255
    if kind == "npy":
        np.save(path, array)
    else:
        np.savez(path, arr_0=array, labels=np.zeros(3, int))
    source = open_source(path=str(path))
    assert len(source) == 3
    expected = np.broadcast_to(array[2, ..., :3], (5, 7, 3))
    np.testing.assert_array_equal(source[2]["image"], expected)
    assert source[2]["name"] == f"2 of {path}"


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((2, 3, 5, 5), np.uint8), r"uint8\[2, 3, 5, 5\]"),
        (np.full((2, 5, 5, 3), np.nan, np.float32), r"float32\[2, 5, 5, 3\]\. Floats have to be scaled"),
        (np.zeros((0, 5, 5, 3), np.uint8), r"uint8\[0, 5, 5, 3\]"),
    ],
)
def test_arrays_that_are_no_images(array, found, tmp_path):
    np.save(tmp_path / "images.npy", array)
    with pytest.raises(ValueError, match=r"config\.data\.path: .*one array of images.*" + found):
        open_source(path=str(tmp_path / "images.npy"))


def test_arrays_that_cannot_be_read(tmp_path):
    path = tmp_path / "images.npz"
    path.write_bytes(b"PK no zip file")
    with pytest.raises(ValueError, match="cannot read"):
        open_source(path=str(path))
    np.savez(path, a=np.zeros((2, 5, 5, 3), np.uint8), b=np.zeros((2, 5, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="should hold one array of images"):
        open_source(path=str(path))
