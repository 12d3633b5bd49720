import chex
import numpy as np
import pytest
import scipy.linalg

from evaluation.frechet import Moments, frechet_distance, frechet_estimate, frechet_infinity, sum_of


def drawn(num, width, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(seed + 100).normal(size=(width, width)) / width**0.5
    return rng.normal(size=(num, width)) @ mixing + shift


def by_square_root(a, b):
    """The formula as scipy has it."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * root.real)


def test_the_distance_is_that_of_the_square_root():
    a, b = drawn(400, 24, 0), drawn(300, 24, 1, shift=0.3)
    found = frechet_distance(Moments.of(a), Moments.of(b))
    np.testing.assert_allclose(found, by_square_root(a, b), rtol=1e-9)
    assert frechet_distance(Moments.of(a), Moments.of(a)) == pytest.approx(0, abs=1e-10)


# scipy gives `disp` up, which pytorch-fid asks for.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_distance_is_that_of_pytorch_fid():
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    for num in (300, 50):  # more and fewer than features
        a, b = drawn(num, 64, 0).astype(np.float32), drawn(200, 64, 1, shift=0.1).astype(np.float32)
        (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
        wanted = fid_score.calculate_frechet_distance(mean_a, cov_a, mean_b, cov_b)
        np.testing.assert_allclose(frechet_distance(Moments.of(a), Moments.of(b)), wanted, rtol=1e-4)


def test_normals_whose_covariances_commute():
    """(m - n)^2 + (s - t)^2 in each direction."""
    a = Moments.from_covariance(9, np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    b = Moments.from_covariance(7, np.array([0.0, 5.0]), np.diag([1.0, 16.0]))
    assert frechet_distance(a, b) == pytest.approx(1 + 9 + 1 + 1)


@pytest.mark.parametrize("num", [2, 5])
def test_fewer_images_than_features(num):
    """The root of a singular product is where scipy's becomes imaginary."""
    a, b = drawn(num, 30, 0), drawn(40, 30, 1)
    moments = Moments.of(a), Moments.of(b)
    # By the root of the small matrix of the images: tr (A B)^(1/2) = tr (X B X^T / (n - 1))^(1/2).
    centred = a - a.mean(0)
    small = centred @ np.cov(b, rowvar=False) @ centred.T / (num - 1)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(small), 0)).sum()
    wanted = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a, rowvar=False))
    wanted += np.trace(np.cov(b, rowvar=False)) - 2 * shared
    np.testing.assert_allclose(frechet_distance(*moments), wanted, rtol=1e-9)


def test_images_that_are_all_alike():
    a = Moments.of(np.ones((5, 3)))
    assert frechet_distance(a, a) == 0
    b = Moments.of(drawn(50, 3, 0))
    wanted = np.sum((b.mean - 1) ** 2) + np.trace(b.covariance)
    assert frechet_distance(a, b) == pytest.approx(wanted)


def test_moments_of_parts_are_those_of_the_whole():
    x = drawn(57, 6, 0, shift=1e3)  # far from zero: sums of squares would cancel
    parts = [Moments.of(part) for part in np.array_split(x, 4)]
    whole = sum_of(parts)
    chex.assert_trees_all_close(whole.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(x, rowvar=False), rtol=1e-8)
    assert whole.count == 57


def test_the_spread_is_that_of_new_samples():
    real = Moments.of(drawn(4000, 4, 0, shift=1.0))
    values, spreads = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(200, 4))
        found = frechet_estimate([Moments.of(part) for part in np.array_split(x, 10)], real)
        values.append(found.value)
        spreads.append(found.spread)
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.3)
    # One part alone tells nothing.
    assert frechet_estimate([Moments.of(x)], real).spread is None


@pytest.mark.parametrize(("width", "num"), [(20, 2000), (96, 700)])
def test_infinity_takes_the_bias_away(width, num):
    """Of two samples of one distribution the distance falls as 1 / N; of many features, few images too."""
    real = Moments.from_covariance(10**6, np.zeros(width), np.eye(width))
    found = []
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=(num, width))
        estimate = frechet_infinity(x, real, seed=seed)
        assert abs(estimate.value) < frechet_distance(Moments.of(x), real) / 3
        found.append(estimate.value)
    assert np.mean(found) == pytest.approx(0, abs=0.05 * width * width / num)
    with pytest.raises(ValueError, match=f"wants {6 * width} images or more, got {6 * width - 1}"):
        frechet_infinity(x[: 6 * width - 1], real)


def test_what_cannot_be_compared_is_refused():
    a = Moments.of(drawn(5, 3, 0))
    with pytest.raises(ValueError, match="3 and 4"):
        frechet_distance(a, Moments.of(drawn(5, 4, 0)))
    with pytest.raises(ValueError, match="two images or more, but got 1"):
        frechet_distance(a, Moments.of(drawn(1, 3, 0)))
