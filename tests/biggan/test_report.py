"""Tables and pictures of rows that are made up."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from biggan.attention_maps import Block, decomposed, entropies_of
from biggan.report import DenseMap, write_report, write_rows, write_table
from biggan.swaps import Row

DENSE = Row("dense", "Dense()", None, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.5, 0.5)
REMOVED = Row("removed", "Nothing()", None, 0.0, 0.0, 1.0, 0.2, 0.3, 4.0, 0.5, 0.1, 3.5, 0.5)
SOME = Row("smyrf", "Smyrf()", 0.25, 0.24, 0.125, 0.75, 0.1, 0.2, 3.0, 0.25, 0.05, 2.75, 0.5)
ORACLE = Row("largest keys", "16", 0.25, 0.25, None, 0.125)


@pytest.fixture(scope="module")
def maps():
    shapes = (2, 24, 1, 4), (2, 12, 1, 4), (2, 12, 1, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    block = Block(5, -0.25, *map(jax.random.normal, keys, shapes))
    return [DenseMap(block, entropies_of(block), decomposed(block))]


def test_the_table_says_what_was_measured(maps, tmp_path):
    write_table([DENSE, SOME, ORACLE], maps, ["`command`", "about"], ["left out"], str(tmp_path / "table.md"))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[:2] == ["`command`", "about"]
    assert lines[-1] == "left out"
    (block,) = (line for line in lines if line.startswith("| 5x5 |"))
    assert block.split(" | ")[1:3] == ["24 x 12", "-0.2500"]
    assert f"{np.mean(maps[0].entropy):.2f} (" in block
    assert ", 2.48 |" in block
    needed = ", ".join(f"{maps[0].parts.needed(part).mean():.3g}" for part in (0.9, 0.99))
    assert block.endswith(f" {needed} of 12 |")
    assert (
        "| smyrf | Smyrf() | 24.00% | 12.5% | 0.7500 | 0.1000 | 0.2000 | 3.0000 | 0.25 ± 0.05 | 2.75 ± 0.5 |"
        in lines
    )
    assert "| largest keys | 16 | 25.00% | - | 0.1250 | - | - | - | - | - |" in lines


def test_rows_are_plain_objects(tmp_path):
    write_rows([SOME, ORACLE], str(tmp_path / "rows.json"))
    some, oracle = json.loads((tmp_path / "rows.json").read_text())
    assert some["method"] == "smyrf"
    assert (some["part"], some["pairs"], some["kd_real_sd"]) == (0.25, 0.24, 0.5)
    assert oracle["memory"] is oracle["fd"] is None
    assert Row(**some) == SOME


def test_the_pictures(maps, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    rows, shown = [DENSE, REMOVED, SOME, ORACLE], {"dense": images, "same": images, "other": images ^ 4}
    write_report(str(tmp_path), rows, [*maps, *maps], shown, ["heading"], [])
    assert len(list(tmp_path.iterdir())) == 5
    for name in ("curves", "grid", "map"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10, name
    with Image.open(tmp_path / "grid.png") as picture:
        # Differences, at the right: black where there are none, white where they are the largest.
        right = np.asarray(picture.convert("L"))[:, picture.width * 6 // 10 :]
    middle = [right[len(right) * (2 * row + 1) // 6] for row in range(3)]
    assert np.mean(middle[0] < 5) > 0.5
    assert np.mean(middle[1] < 5) > 0.5
    assert np.mean(middle[2] > 250) > 0.5
