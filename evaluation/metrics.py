"""The metrics of generated images, by name."""

import dataclasses
from collections.abc import Callable

import numpy as np

from evaluation.frechet import Estimate, fewest_for_infinity, frechet_estimate, frechet_infinity
from evaluation.inception_score import SPLITS, inception_score
from evaluation.kernel import kernel_distance
from evaluation.neighbours import NEIGHBOURS, memorised, nearest, prdc
from evaluation.statistics import Statistics

# Images of each set that prdc takes at most, drawn at random: its cost is that of all pairs.
_MOST_NEIGHBOURS = 10_000


@dataclasses.dataclass(frozen=True)
class Metric:
    """compute: (fake, real, seed) -> estimates by name. wants: of "fake", "real" vectors, and "logits".

    smaller_is_better: for each of those names. fewest: generated and real images that it can be made of, for
    features of a width.
    """

    compute: Callable[[Statistics, Statistics, int], dict[str, Estimate]]
    wants: frozenset[str]
    smaller_is_better: dict[str, bool]
    fewest: Callable[[int], tuple[int, int]]


def _fd(fake: Statistics, real: Statistics, seed: int) -> dict[str, Estimate]:
    del seed
    return {"fd": frechet_estimate(fake.parts, real.moments)}


def _kd(fake: Statistics, real: Statistics, seed: int) -> dict[str, Estimate]:
    return {"kd": kernel_distance(_vectors(fake), _vectors(real), seed=seed)}


def _prdc(fake: Statistics, real: Statistics, seed: int) -> dict[str, Estimate]:
    rng = np.random.default_rng(seed)
    few_fake, few_real = (rng.permutation(_vectors(x))[:_MOST_NEIGHBOURS] for x in (fake, real))
    return {name: Estimate(value, None) for name, value in prdc(few_fake, few_real)._asdict().items()}


def _fd_infinity(fake: Statistics, real: Statistics, seed: int) -> dict[str, Estimate]:
    return {"fd_infinity": frechet_infinity(_vectors(fake), real.moments, seed=seed)}


def _is(fake: Statistics, real: Statistics, seed: int) -> dict[str, Estimate]:
    del real
    assert fake.logits is not None
    # Images of a folder come class by class.
    return {"is": inception_score(np.random.default_rng(seed).permutation(fake.logits))}


def _memorisation(fake: Statistics, real: Statistics, seed: int) -> dict[str, Estimate]:
    del seed
    ratios = memorised(nearest(_vectors(fake), _vectors(real)), _vectors(real))
    part = float(np.mean(ratios < 1))
    return {
        "memorisation": Estimate(part, float(np.sqrt(part * (1 - part) / len(ratios)))),
        "nearest_ratio": Estimate(float(np.median(ratios)), None),
    }


def _vectors(statistics: Statistics) -> np.ndarray:
    assert statistics.vectors is not None
    return statistics.vectors


_NEITHER: frozenset[str] = frozenset()
_BOTH = frozenset({"fake", "real"})
_PRDC = dict.fromkeys(("precision", "recall", "density", "coverage"), False)
METRICS = {
    "fd": Metric(_fd, _NEITHER, {"fd": True}, lambda width: (2, 2)),
    "kd": Metric(_kd, _BOTH, {"kd": True}, lambda width: (4, 4)),
    "prdc": Metric(_prdc, _BOTH, _PRDC, lambda width: (NEIGHBOURS + 1, NEIGHBOURS + 1)),
    "fd_infinity": Metric(
        _fd_infinity,
        frozenset({"fake"}),
        {"fd_infinity": True},
        lambda width: (fewest_for_infinity(width), 2),
    ),
    "is": Metric(_is, frozenset({"logits"}), {"is": False}, lambda width: (SPLITS, 0)),
    "memorisation": Metric(
        _memorisation, _BOTH, {"memorisation": True, "nearest_ratio": False}, lambda width: (1, 2)
    ),
}
