"""Noise in files: what is written is read, and what cannot be meant is told."""

import numpy as np
import pytest

from biggan import Generator
from biggan.saved_latents import read_latents, save_latents

GENERATOR = Generator(32, dim_z=8, num_classes=3)
NOISE = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def test_what_is_saved_is_read(tmp_path):
    path = str(tmp_path / "latents.npz")
    save_latents(NOISE, np.array([2, 1, 0, 2], np.int32), path)
    noise, labels = read_latents(path, GENERATOR)
    np.testing.assert_array_equal(noise, NOISE)
    assert labels.tolist() == [2, 1, 0, 2]


def test_noise_alone_is_read(tmp_path):
    np.save(tmp_path / "z.npy", NOISE.astype(np.float64))
    noise, labels = read_latents(str(tmp_path / "z.npy"), GENERATOR)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise, NOISE)
    assert labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"noise": NOISE[:, :7]}, r"noise should be \[B, 8\], but got \[4, 7\]"),
        ({"noise": NOISE[0]}, r"noise should be \[B, 8\], but got \[8\]"),
        ({"noise": NOISE[:0]}, r"noise should be \[B, 8\], but got \[0, 8\]"),
        ({"noise": np.ones((4, 8), int)}, "should be of floats, but got int64"),
        ({"noise": np.where(np.arange(4)[:, None] == 2, np.nan, NOISE)}, "finite, but row 2 is not"),
        ({"z": NOISE}, r"but it holds \['z'\]"),
        (
            {"noise": NOISE, "labels": np.zeros(3, int)},
            r"labels should be \[4\] integers, but got \[3\] int64",
        ),
        ({"noise": NOISE, "labels": np.zeros(4)}, r"labels should be \[4\] integers, but got \[4\] float64"),
        ({"noise": NOISE, "labels": np.array([0, 1, 2, 3])}, r"labels should be in 0 .. 2, but got 0 .. 3"),
    ],
)
def test_what_does_not_fit_is_told(arrays, message, tmp_path):
    np.savez(tmp_path / "z.npz", **arrays)
    with pytest.raises(ValueError, match=r"--z=.*z.npz should be an .npy file of noise \[B, 8\]") as error:
        read_latents(str(tmp_path / "z.npz"), GENERATOR)
    assert error.match(message)


def test_a_file_that_is_none_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--z=.*missing.npy should be .*there is no such file"):
        read_latents(str(tmp_path / "missing.npy"), GENERATOR)
    np.savez(tmp_path / "cut.npz", noise=NOISE)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:100])
    np.save(tmp_path / "objects.npy", np.array([{}]))
    (tmp_path / "text.npy").write_text("1 2 3")
    for name in ("cut.npz", "objects.npy", "text.npy"):
        with pytest.raises(ValueError, match=rf"--z=.*{name} should be .*cannot be read"):
            read_latents(str(tmp_path / name), GENERATOR)
