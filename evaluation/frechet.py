"""The Fréchet distance between two sets of features, and the moments that it wants."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean [D] and scatter [D, D] of features, in float64. `a + b` are those of both sets.

    scatter: the sum over the features of (x - mean) (x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: Float[np.ndarray, "N D"]) -> "Moments":
        """The moments of one feature or more."""
        features = np.asarray(features, np.float64)
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    @classmethod
    def from_covariance(cls, count: int, mean: np.ndarray, covariance: np.ndarray) -> "Moments":
        """Moments of `count` features with a covariance [D, D], that of N - 1."""
        return cls(count, np.asarray(mean, np.float64), np.asarray(covariance, np.float64) * (count - 1))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], the scatter over N - 1.

        Raises:
            ValueError: there are fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance wants two images or more, but got {self.count}.")
        return self.scatter / (self.count - 1)

    @functools.cached_property
    def root(self) -> Float[np.ndarray, "D K"]:
        """A matrix whose product with its transpose is the covariance; K is its rank."""
        values, vectors = scipy.linalg.eigh(self.covariance)
        # What is below this is rounding: of fewer features than their width, or of constant ones.
        kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
        return vectors[:, kept] * np.sqrt(values[kept])


class Estimate(NamedTuple):
    """A number and its standard deviation; spread None: not known."""

    value: float
    spread: float | None


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of the covariances A and B.

    tr (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2): no root of a matrix that is not
    symmetric, so that nothing becomes imaginary, and exact for few features too.

    Raises:
        ValueError: the widths differ, or a set has fewer than two features.

    Source: Heusel et al., 2017 (arXiv:1706.08500).
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features should be of one width, but got {len(a.mean)} and {len(b.mean)}.")
    product = a.root.T @ b.root
    shared = scipy.linalg.svdvals(product).sum() if min(product.shape) else 0.0
    difference = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(difference @ difference + traces - 2 * shared)


def frechet_estimate(parts: Sequence[Moments], real: Moments) -> Estimate:
    """The distance of all parts together to `real`, and its deviation by the jackknife over the parts.

    parts: disjoint, of about one size, as drawn; None to spare with fewer than two.
    """
    whole = sum_of(parts)
    value = frechet_distance(whole, real)
    if len(parts) < 2:
        return Estimate(value, None)
    without = [sum_of([*parts[:i], *parts[i + 1 :]]) for i in range(len(parts))]
    if min(moments.count for moments in without) < 2:
        return Estimate(value, None)
    left = np.array([frechet_distance(moments, real) for moments in without])
    return Estimate(value, float(np.sqrt((len(parts) - 1) * left.var())))


def sum_of(parts: Sequence[Moments]) -> Moments:
    """The moments of one part or more together."""
    return functools.reduce(Moments.__add__, parts)


def fewest_for_infinity(width: int) -> int:
    """How many features of a width `frechet_infinity` wants."""
    return 6 * width


def frechet_infinity(features: Any, real: Moments, *, seed: int = 0, sizes: int = 15) -> Estimate:
    """The distance that infinitely many images would have: it is linear in 1 / N; and its standard error.

    features: [N, D] of generated images. Distances of `sizes` subsets, of from min(5000, N / 10) to N, are
    fitted by a line; its value at 1 / N = 0 is the estimate. Where that is fewer than 3 D, subsets begin with
    3 D: of fewer images than features the distance is on no line.

    Raises:
        ValueError: N is below 6 D, too few for a line.

    Source: Chong and Forsyth, 2020 (arXiv:1911.07023), whose 5000 are 2.4 times the 2048 features.
    """
    num, width = features.shape
    if num < fewest_for_infinity(width):
        raise ValueError(
            f"fd_infinity of {width} features wants {fewest_for_infinity(width)} images or more, got {num}."
        )
    rng = np.random.default_rng(seed)
    counts = np.linspace(max(min(5000, num // 10), 3 * width), num, sizes).astype(int)
    distances = [
        frechet_distance(Moments.of(features[rng.choice(num, count, replace=False)]), real)
        for count in counts
    ]
    (_, value), covariance = np.polyfit(1 / counts, distances, 1, cov=True)
    return Estimate(float(value), float(np.sqrt(covariance[1, 1])))
