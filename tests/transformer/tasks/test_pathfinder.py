"""Pictures of two long lines, of which one or both have dots at an end."""

import numpy as np
import pytest

from transformer.tasks import pathfinder as module
from transformer.tasks.pathfinder import Pathfinder, pathfinder

SETTINGS = Pathfinder(24, 6, 2)


def test_pictures():
    parts = pathfinder(SETTINGS, {"train": 300, "test": 50}, at_once=256)
    assert [len(part.labels) for part in parts.values()] == [300, 50]
    images = np.concatenate([part.tokens for part in parts.values()])
    assert images.shape == (350, 24 * 24)
    assert images.dtype == np.uint8
    assert len(np.unique(images, axis=0)) == 350
    labels = parts["train"].labels
    assert set(labels.tolist()) == {0, 1}
    assert 0.4 < labels.mean() < 0.6
    # A picture of either label has as much ink.
    ink = parts["train"].tokens.astype(float).mean(axis=1)
    assert ink[labels == 1].mean() == pytest.approx(ink[labels == 0].mean(), rel=0.05)
    # Two dots, full white in their middle.
    assert np.all(np.sum(images == 255, axis=1) >= 2)
    again = pathfinder(SETTINGS, {"train": 300, "test": 50}, at_once=256)
    np.testing.assert_array_equal(again["test"].tokens, parts["test"].tokens)


def test_lines_are_whole_smooth_and_apart():
    rng = np.random.default_rng(0)
    dashes = np.zeros((128, 0, 2, 2))
    for length in (6, 6, 2):
        dashes = module._with_line(SETTINGS, rng, dashes, length)
    assert len(dashes) > 64
    assert dashes.shape[1:] == (14, 2, 2)
    assert dashes.min() >= 2
    assert dashes.max() <= 21
    way = dashes[:, :, 1] - dashes[:, :, 0]
    np.testing.assert_allclose(np.linalg.norm(way, axis=-1), 2)
    for first in (0, 6):
        line = dashes[:, first : first + 6]
        gaps = np.linalg.norm(line[:, 1:, 0] - line[:, :-1, 1], axis=-1)
        np.testing.assert_allclose(gaps, 1)
        turns = np.sum(way[:, first + 1 : first + 6] * way[:, first : first + 5], axis=-1) / 4
        assert np.all(turns >= np.cos(np.deg2rad(90)) - 1e-9)
    # Of different lines, the nearest of the points in between too.
    along = np.linspace(0, 1, 5)[:, None]
    points = dashes[:, :, None, 0] + along * way[:, :, None]
    one, other = points[:, :6].reshape(len(points), -1, 2), points[:, 6:12].reshape(len(points), -1, 2)
    assert np.linalg.norm(one[:, :, None] - other[:, None], axis=-1).min() > 2


def test_dots_lie_at_ends(monkeypatch):
    seen = {}
    real = module._painted

    def painted(window, dashes, markers):
        seen.update(dashes=dashes, markers=markers)
        return real(window, dashes, markers)

    monkeypatch.setattr(module, "_painted", painted)
    images, labels = module._drawn(SETTINGS, np.random.default_rng(0), 128)
    dashes, markers = seen["dashes"], seen["markers"]
    ends = dashes.mean(axis=2)
    np.testing.assert_allclose(markers[:, 0], ends[:, 0])
    np.testing.assert_allclose(markers[labels == 1, 1], ends[labels == 1, 5])
    np.testing.assert_allclose(markers[labels == 0, 1], ends[labels == 0, 11])
    assert np.linalg.norm(markers[:, 0] - markers[:, 1], axis=-1).min() >= 7
    rows = images.reshape(-1, 24, 24)
    for image, of_image in zip(rows, markers, strict=True):
        for y, x in np.round(of_image).astype(int):
            assert image[y, x] == 255


def test_lines_that_find_no_room_are_told(monkeypatch):
    monkeypatch.setattr(module, "_STARTS", 1)
    with pytest.raises(ValueError, match="lines find no room: config.data.window=8"):
        pathfinder(Pathfinder(8, 20, 0), {"train": 4}, at_once=8)
    with pytest.raises(ValueError, match="window should be 8 at least"):
        Pathfinder(4)
