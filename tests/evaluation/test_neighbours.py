import numpy as np
import pytest

from evaluation import neighbours
from evaluation.neighbours import closest_pairs, memorised, nearest, prdc, radii


def drawn(num, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(num, 4)) + shift


def distance(a, b):
    return np.linalg.norm(a - b)


@pytest.fixture(params=[3, 1024])
def blocks(request, monkeypatch):
    """Few rows at a time, and all at once."""
    monkeypatch.setattr(neighbours, "_ROWS", request.param)


@pytest.mark.usefixtures("blocks")
def test_prdc_as_the_papers_define_it():
    fake, real, k = drawn(13, 0, 0.4), drawn(17, 1), 3

    def radius(x, others):
        return sorted(distance(x, other) for other in others)[k]  # itself is the first

    def within(x, centre, others):
        return distance(x, centre) < radius(centre, others)

    precision = np.mean([any(within(f, r, real) for r in real) for f in fake])
    recall = np.mean([any(within(r, f, fake) for f in fake) for r in real])
    density = np.mean([sum(within(f, r, real) for r in real) / k for f in fake])
    coverage = np.mean([any(within(f, r, real) for f in fake) for r in real])
    np.testing.assert_allclose(prdc(fake, real, k), (precision, recall, density, coverage))
    assert 0 < precision < 1
    assert 0 < recall < 1


@pytest.mark.usefixtures("blocks")
def test_memorised():
    real = drawn(20, 0)
    fake = np.concatenate([real[[7]], real[[3]] + 1e-3, drawn(3, 1, shift=50.0)])
    found = nearest(fake, real)
    ratios = memorised(found, real)
    assert list(found.places[:2]) == [7, 3]
    other = min(distance(real[3], x) for i, x in enumerate(real) if i != 3)
    np.testing.assert_allclose(ratios[1], distance(fake[1], real[3]) / other, rtol=1e-4)
    assert ratios[0] < 1e-6
    assert (ratios[2:] > 5).all()
    pairs = closest_pairs(fake, real, 2)
    assert [pair[:2] for pair in pairs] == [(0, 7), (1, 3)]


def test_new_real_images_are_no_copies():
    """About half of them are nearer to a real image than that one is to its nearest other."""
    real, new = drawn(600, 0), drawn(600, 1)
    assert np.mean(memorised(nearest(new, real), real) < 1) == pytest.approx(0.5, abs=0.1)


def test_real_images_that_are_there_twice():
    real = np.repeat(drawn(4, 0), 2, axis=0)
    fake = np.stack([real[0], real[0] + 0.1])
    assert list(memorised(nearest(fake, real), real)) == [0, np.inf]


def test_too_few():
    with pytest.raises(ValueError, match="5 nearest others of an image want 6 images, but got 5"):
        radii(drawn(5, 0), 5)
