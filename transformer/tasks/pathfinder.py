"""Pathfinder: whether two dots lie on the same one of two dashed lines, among shorter ones.

Source: Linsley et al. (arXiv:1805.08315); the sizes are those of Long Range Arena (arXiv:2011.04006), section
3.1. Lines are drawn by a walk of its own here: each dash turns a little from the one before, keeps its
distance from all others, and a picture in which a line finds no way is left.
"""

import dataclasses

import numpy as np

from transformer.tasks.labelled import Labelled

_DASH, _GAP, _THICKNESS, _MARKER = 2.0, 1.0, 0.5, 1.5  # pixels; of the marker, the radius
_OF_DASH, _OF_MARKER = 0.75, 1.0  # contrasts
# Degrees that a dash turns at most, at the first and at the last of the ways that are tried for it.
_TURN, _LAST_TURN, _TRIES = 15.0, 90.0, 24
_APART = 2.5  # pixels between dashes that do not follow each other
_DOTS_APART = 7.0
_STARTS = 16  # places where a line is begun, until one goes all the way


@dataclasses.dataclass(frozen=True)
class Pathfinder:
    """window: pixels a side. contour: dashes of a line. distractors: lines of a third as many dashes."""

    window: int = 32
    contour: int = 14
    distractors: int = 5

    def __post_init__(self) -> None:
        if self.window < 8 or self.contour < 4 or self.distractors < 0:
            raise ValueError(
                "config.data.window should be 8 at least, contour 4, and distractors not negative, but are "
                f"{self}."
            )


def pathfinder(
    settings: Pathfinder, sizes: dict[str, int], seed: int = 0, at_once: int = 1024
) -> dict[str, Labelled]:
    """Pictures [B, window * window] of 0 .. 255, row by row; label 1 where the dots are on one line.

    Raises:
        ValueError: lines as long as that find no room.
    """
    rng = np.random.default_rng(seed)
    number, found, labels, rounds = sum(sizes.values()), list[np.ndarray](), list[np.ndarray](), 0
    while sum(map(len, found)) < number:
        images, of_images = _drawn(settings, rng, at_once)
        found.append(images)
        labels.append(of_images)
        rounds += 1
        if rounds == 20 and not any(map(len, found)):
            raise ValueError(
                f"lines find no room: config.data.window={settings.window} should be larger, or contour and "
                "distractors less."
            )
    ends = np.cumsum(list(sizes.values()))[:-1]
    images, classes = (np.concatenate(arrays)[:number] for arrays in (found, labels))
    lengths = np.full(number, images.shape[1], np.int32)
    arrays = (np.split(array, ends) for array in (images, lengths, classes))
    return {name: Labelled(*part) for name, part in zip(sizes, zip(*arrays, strict=True), strict=True)}


def _drawn(settings: Pathfinder, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels: as many of the number as succeed."""
    # [B, dashes, 2 ends, 2]
    dashes = np.zeros((number, 0, 2, 2))
    for dots in (settings.contour, settings.contour, *[settings.contour // 3] * settings.distractors):
        dashes = _with_line(settings, rng, dashes, dots)
        if not len(dashes):
            return np.zeros((0, settings.window**2), np.uint8), np.zeros(0, np.int32)
    # The first end of the first line, and the last end of the other and of it.
    first = dashes[:, 0].mean(axis=1)
    last = np.stack([dashes[:, end].mean(axis=1) for end in (2 * settings.contour - 1, settings.contour - 1)])
    # Whichever is marked: else the labels would not be even.
    apart = np.all(np.linalg.norm(first - last, axis=-1) >= _DOTS_APART, axis=0)
    dashes, first, last = dashes[apart], first[apart], last[:, apart]
    labels = rng.integers(2, size=len(dashes)).astype(np.int32)
    markers = np.stack([first, last[labels, np.arange(len(dashes))]], axis=1)
    return _painted(settings.window, dashes, markers), labels


def _with_line(settings: Pathfinder, rng: np.random.Generator, before: np.ndarray, length: int) -> np.ndarray:
    """Pictures with one line more; those in which it finds no way are left out."""
    done, rest = [], before
    for _ in range(_STARTS):
        line, whole = _walked(settings, rng, rest, length)
        done.append(np.concatenate([rest[whole], line[whole]], axis=1))
        rest = rest[~whole]
        if not len(rest):
            break
    return np.concatenate(done)


def _walked(
    settings: Pathfinder, rng: np.random.Generator, before: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lines [B, length, 2, 2], and which of them went all the way."""
    number, rows = len(before), np.arange(len(before))
    low, high = 2.0, settings.window - 3.0  # of ends: dots lie within the picture
    widest = np.deg2rad(np.linspace(_TURN, _LAST_TURN, _TRIES))[None]
    others = _points(before)
    line = np.zeros((number, length, 2, 2))
    whole = np.ones(number, bool)
    angle = rng.uniform(0, 2 * np.pi, (number, _TRIES))
    place = rng.uniform(low, high, (number, _TRIES, 2))
    heading = angle[:, 0]
    for dash in range(length):
        if dash:
            turns = widest * rng.uniform(-1, 1, (number, _TRIES))
            angle = heading[:, None] + turns
            before_it = line[:, dash - 1, 1][:, None]
            # The gap goes half the old way and half the new.
            middle = heading[:, None] + turns / 2
            place = before_it + _GAP * np.stack([np.cos(middle), np.sin(middle)], axis=-1)
        ends = np.stack(
            [place, place + _DASH * np.stack([np.cos(angle), np.sin(angle)], axis=-1)], axis=-2
        )  # [B, tries, 2, 2]
        fits = np.all((ends >= low) & (ends <= high), axis=(-2, -1))
        points = _points(ends)
        fits &= _distance(points, others) > _APART
        if dash > 1:  # and from its own line, but for the dash it goes on from
            fits &= _distance(points, _points(line[:, : dash - 1])) > _APART
        chosen = np.argmax(fits, axis=1)
        whole &= fits[rows, chosen]
        line[:, dash] = ends[rows, chosen]
        heading = angle[rows, chosen]
    return line, whole


def _points(dashes: np.ndarray) -> np.ndarray:
    """The ends and the middle of dashes [B, n, 2, 2]: [B, n, 3, 2]."""
    return np.stack([dashes[:, :, 0], dashes.mean(axis=2), dashes[:, :, 1]], axis=2)


def _distance(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[B, n], the least between points [B, n, 3, 2] and others [B, m, 3, 2]; infinite without others."""
    number, tries = points.shape[:2]
    if not others.shape[1]:
        return np.full((number, tries), np.inf)
    flat, theirs = (array.reshape(number, -1, 2).astype(np.float32) for array in (points, others))
    squares = np.sum(flat**2, axis=-1)[:, :, None] + np.sum(theirs**2, axis=-1)[:, None]
    squares -= 2 * flat @ np.swapaxes(theirs, 1, 2)
    return np.sqrt(np.maximum(squares, 0)).reshape(number, tries, -1).min(axis=-1)


def _painted(window: int, dashes: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """[B, window * window] uint8: dashes [B, n, 2, 2] and discs around markers [B, 2, 2]."""
    axis = np.arange(window, dtype=np.float32)
    pixels = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    number = len(dashes)
    nearest = np.full((number, window * window), np.inf, np.float32)
    for dash in range(dashes.shape[1]):
        start, end = (dashes[:, dash, i, None].astype(np.float32) for i in (0, 1))
        way = end - start
        from_start = pixels[None] - start
        along = np.clip(np.sum(from_start * way, axis=-1) / _DASH**2, 0, 1)
        squares = np.sum((from_start - along[..., None] * way) ** 2, axis=-1)
        nearest = np.minimum(nearest, squares)
    # A pixel is as bright as much of it is covered, about.
    bright = _OF_DASH * np.clip(_THICKNESS + 0.5 - np.sqrt(nearest), 0, 1)
    for i in (0, 1):
        gap = np.linalg.norm(pixels[None] - markers[:, None, i].astype(np.float32), axis=-1)
        bright = np.maximum(bright, _OF_MARKER * np.clip(_MARKER + 0.5 - gap, 0, 1))
    return np.round(255 * bright).astype(np.uint8)
