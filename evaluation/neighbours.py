"""What nearest neighbours among features tell: fidelity, diversity, and memorised images."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Rows of distances that are in memory at once.
_ROWS = 1024
# Of prdc; the k of Naeem et al.
NEIGHBOURS = 5


class PRDC(NamedTuple):
    """precision, recall, density, coverage: each 1 for two samples of one distribution, or about 1."""

    precision: float
    recall: float
    density: float
    coverage: float


class Nearest(NamedTuple):
    """Of each generated image: place of the nearest real one, and the distance to it [N]."""

    places: Int[np.ndarray, " N"]
    distance: Float[np.ndarray, " N"]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, M], Euclidean, float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sizes = (a**2).sum(1)[:, None] + (b**2).sum(1)[None]
    squares = sizes - 2 * (a @ b.T)
    # What is left of equal ones is rounding.
    return np.sqrt(np.where(squares > 1e-12 * sizes, squares, 0))


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Some rows of the distances at a time, and the number of the first."""
    for first in range(0, len(a), _ROWS):
        yield first, _distances(a[first : first + _ROWS], b)


def radii(features: Float[np.ndarray, "N D"], k: int) -> Float[np.ndarray, " N"]:
    """The distance of each feature to its k-th nearest other one.

    Raises:
        ValueError: there are not that many others.
    """
    if len(features) <= k:
        raise ValueError(f"the {k} nearest others of an image want {k + 1} images, but got {len(features)}.")
    found = []
    for first, block in _blocks(features, features):
        rows = np.arange(len(block))
        block[rows, first + rows] = 0.0  # itself, rounded
        found.append(np.partition(block, k, axis=1)[:, k])
    return np.concatenate(found)


def prdc(fake: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"], k: int = NEIGHBOURS) -> PRDC:
    """How much of one set lies among the k nearest neighbours of the other.

    precision: generated images within the k-th neighbour's distance of some real image. recall: the reverse.
    density: of how many real images, over k. coverage: real images with a generated one within that distance.

    Raises:
        ValueError: a set has no more than k images.

    Source: Kynkäänniemi et al., 2019 (arXiv:1904.06991); Naeem et al., 2020 (arXiv:2002.09797).
    """
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    within, recalled, covered = 0, np.zeros(len(real), bool), np.zeros(len(real), bool)
    precise = np.zeros(len(fake), bool)
    for first, block in _blocks(fake, real):
        inside = block < real_radii[None]
        precise[first : first + len(block)] = inside.any(1)
        within += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (block < fake_radii[first : first + len(block), None]).any(0)
    density = within / (k * len(fake))
    return PRDC(float(precise.mean()), float(recalled.mean()), density, float(covered.mean()))


def nearest(fake: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"]) -> Nearest:
    """The nearest real image of each generated one."""
    found = [(block.argmin(1), block.min(1)) for _, block in _blocks(fake, real)]
    places, distances = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Nearest(places, distances)


def memorised(found: Nearest, real: Float[np.ndarray, "M D"]) -> Float[np.ndarray, " N"]:
    """Of each generated image: its distance to the nearest real one, over that one's to its nearest other.

    Below 1 it is nearer than real images are to each other; of new real images about half are. 0: a copy.

    Source: the authenticity of Alaa et al., 2022 (arXiv:2102.08921).
    """
    apart = radii(real, 1)[found.places]
    # Real images that are there twice: only a copy is as near.
    return np.where(
        apart > 0, found.distance / np.where(apart > 0, apart, 1), np.where(found.distance > 0, np.inf, 0)
    )


class Pair(NamedTuple):
    """A generated image and its nearest real one, by index, and what `memorised` says of it."""

    fake: int
    real: int
    ratio: float


def closest_pairs(fake: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"], num: int = 8) -> list[Pair]:
    """The generated images that are most like copies, each with its real image; no more than `num`."""
    found = nearest(fake, real)
    ratios = memorised(found, real)
    return [Pair(int(i), int(found.places[i]), float(ratios[i])) for i in np.argsort(ratios)[:num]]
