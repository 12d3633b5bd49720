"""Pictures as files."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from biggan.pictures import grid, save_animation, save_grid, to_uint8


def test_colours_are_rounded_and_bounded():
    images = jnp.array([-1.5, -1.0, 0.0, 1.0, 1.5, 1 / 127.5]).reshape(1, 2, 1, 3)
    assert np.asarray(to_uint8(images)).ravel().tolist() == [0, 0, 128, 255, 255, 128]


def test_a_grid_has_every_image_in_its_place(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 6, 3), dtype=np.uint8)
    pixels = grid(images, columns=3)
    assert pixels.shape == (2 * 6 + 2, 3 * 8 + 2, 3)
    np.testing.assert_array_equal(pixels[8:12, 10:16], images[4])
    assert (pixels[8:12, 18:24] == 255).all()
    save_grid(images, str(tmp_path / "folder" / "grid.png"), columns=3)
    with Image.open(tmp_path / "folder" / "grid.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize(("kind", "most"), [("webp", 0), ("gif", 16)])
def test_an_animation_has_all_frames(kind, most, tmp_path):
    ramp = np.linspace(0, 200, 16 * 12).reshape(12, 16, 1)
    frames = np.stack([np.repeat(ramp + 10 * index, 3, axis=2) for index in range(5)]).astype(np.uint8)
    save_animation(frames, str(tmp_path / f"walk.{kind}"), seconds=0.1)
    assert [path.name for path in tmp_path.iterdir()] == [f"walk.{kind}"]
    with Image.open(tmp_path / f"walk.{kind}") as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (5, (16, 12), 0)
        for index, frame in enumerate(frames):
            picture.seek(index)
            shown = np.asarray(picture.convert("RGB")).astype(int)
            assert np.abs(shown - frame).max() <= most
            assert picture.info.get("duration", 100) == 100
