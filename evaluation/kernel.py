"""The kernel distance between two sets of features."""

import numpy as np
from jaxtyping import Float

from evaluation.frechet import Estimate

SUBSETS, SUBSET_SIZE = 100, 1000


def squared_discrepancy(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"], *, paired: bool = False
) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy, kernel (x . y / D + 1)^3.

    paired: features i of both sets were drawn together, and N is M. No pair is compared with itself: the
    estimate stays unbiased, and is 0 of a set and itself.

    Raises:
        ValueError: a set has fewer than two features.

    Source: Gretton et al., 2012 (JMLR 13), lemma 6.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a kernel distance wants two images or more, but got {min(len(a), len(b))}.")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        values = kernel(x, x)
        return (values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))

    if not paired:
        return float(within(a) + within(b) - 2 * kernel(a, b).mean())
    across = kernel(a, b)
    of_others = (across.sum() - np.trace(across)) / (len(a) * (len(a) - 1))
    return float(within(a) + within(b) - 2 * of_others)


def kernel_distance(
    fake: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"], *, seed: int = 0, paired: bool = False
) -> Estimate:
    """Mean and standard deviation of `squared_discrepancy` over 100 subsets of 1000 images of each set.

    Of sets with fewer than 2000 images, subsets are a half of the smaller one: the mean is as unbiased. The
    deviation is that of one subset, as usual. paired: see `squared_discrepancy`; subsets have whole pairs.

    Raises:
        ValueError: a set has fewer than four images, or paired sets are of several sizes.

    Source: Binkowski et al., 2018 (arXiv:1801.01401).
    """
    size = min(SUBSET_SIZE, min(len(fake), len(real)) // 2)
    if size < 2:
        raise ValueError(f"kd wants four images or more in each set, but got {len(fake)} and {len(real)}.")
    if paired and len(fake) != len(real):
        raise ValueError(f"paired sets should have as many images, but got {len(fake)} and {len(real)}.")
    rng = np.random.default_rng(seed)

    def discrepancy() -> float:
        of_fake = rng.choice(len(fake), size, replace=False)
        of_real = of_fake if paired else rng.choice(len(real), size, replace=False)
        return squared_discrepancy(fake[of_fake], real[of_real], paired=paired)

    values = [discrepancy() for _ in range(SUBSETS)]
    return Estimate(float(np.mean(values)), float(np.std(values)))
