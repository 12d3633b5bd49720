import numpy as np
import pytest

from evaluation import statistics as statistics_module
from evaluation.frechet import Moments, frechet_estimate
from evaluation.networks import Features
from evaluation.statistics import (
    Origin,
    Statistics,
    collect,
    compared,
    is_statistics,
    load_statistics,
    save_statistics,
)

ORIGIN = Origin("toy", "0123", "clean", "8x8", 23, "abcd")
X = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)


def batches(size, x=X):
    return (Features(x[i : i + size], x[i : i + size, :2]) for i in range(0, len(x), size))


@pytest.mark.parametrize("size", [1, 4, 23])
def test_moments_and_what_is_kept(size):
    found = collect(batches(size), True, True, lambda: ORIGIN)
    np.testing.assert_allclose(found.moments.mean, X.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.moments.covariance, np.cov(X.astype(float), rowvar=False), rtol=1e-6)
    np.testing.assert_array_equal(found.vectors, X)
    np.testing.assert_array_equal(found.logits, X[:, :2])
    # Each has one of every ten images, whatever the batches were.
    assert sorted(part.count for part in found.parts) == [2] * 7 + [3] * 3
    whole = collect(batches(23), False, False, lambda: ORIGIN)
    for part, same in zip(found.parts, whole.parts, strict=True):
        np.testing.assert_allclose(part.mean, same.mean, rtol=1e-6)
    sparse = collect(batches(size), False, False, lambda: ORIGIN)
    assert sparse.vectors is None
    assert sparse.logits is None


def test_parts_of_classes_in_turn_are_alike(monkeypatch):
    """The spread of ten classes in turn is that of samples of random classes, and not that of the classes."""
    monkeypatch.setattr(statistics_module, "_AT_ONCE", 8)
    real = Moments.from_covariance(10**6, np.zeros(4), np.eye(4) * 30)

    def estimate(labels, rng):
        x = labels[:, None] + rng.normal(size=(300, 4))
        return frechet_estimate(collect(batches(16, x), False, False, lambda: ORIGIN).parts, real)

    rngs = [np.random.default_rng(seed) for seed in range(40)]
    spreads = [estimate(np.arange(300) % 10, rng).spread for rng in rngs]
    values = [estimate(rng.integers(0, 10, 300), rng).value for rng in rngs]
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.5)


def test_the_file_is_that_of_others_too(tmp_path):
    path = str(tmp_path / "stats.npz")
    statistics = collect(batches(4), True, False, lambda: ORIGIN)
    save_statistics(path, statistics)
    with np.load(path) as file:  # as pytorch-fid and clean-fid read it
        np.testing.assert_allclose(file["mu"], X.mean(0), rtol=1e-6)
        np.testing.assert_allclose(file["sigma"], np.cov(X.astype(float), rowvar=False), rtol=1e-6)
        assert (str(file["features"]), int(file["num_images"])) == ("toy", 23)
    found = load_statistics(path)
    assert found.origin == ORIGIN
    np.testing.assert_array_equal(found.vectors, X)
    np.testing.assert_allclose(found.moments.covariance, statistics.moments.covariance)
    assert is_statistics(path)
    assert not is_statistics(str(tmp_path))


def test_a_file_of_another_program(tmp_path):
    path = str(tmp_path / "theirs.npz")
    np.savez(path, mu=X.mean(0), sigma=np.cov(X, rowvar=False))
    found = load_statistics(path)
    assert found.origin == Origin("", "", "", "", 0, "")
    remarks = compared(ORIGIN, found, 4)
    assert sum("do not say their" in remark for remark in remarks) == 4


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"mu": X.mean(0)}, "no statistics file"),
        ({"mu": X, "sigma": X}, r"mu is \(23, 4\) and sigma \(23, 4\)"),
        ({"mu": X.mean(0), "sigma": np.full((4, 4), np.nan)}, "not finite"),
        ({"mu": X.mean(0), "sigma": -np.eye(4)}, "sigma is no covariance"),
        ({"mu": X.mean(0), "sigma": np.triu(np.ones((4, 4)))}, "sigma is no covariance"),
        (
            {"mu": X.mean(0), "sigma": np.eye(4), "num_images": 23, "vectors": X[:5]},
            r"vectors should be \[23, 4\] finite floats.* got \[5, 4\] float32",
        ),
    ],
)
def test_damaged_files(arrays, match, tmp_path):
    path = str(tmp_path / "stats.npz")
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=match):
        load_statistics(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no statistics file"):
        load_statistics(str(tmp_path / "none.npz"))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(b"PK\3\4 cut")
    with pytest.raises(ValueError, match="no statistics file"):
        load_statistics(str(cut))
    assert not is_statistics(str(cut))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"features": "inception"}, "features of the generated images is toy, .* real ones inception"),
        ({"weights": "ffff"}, "weights of the generated .* 0123, .* ffff"),
        ({"resizer": "legacy_pytorch"}, "take --resize=legacy_pytorch"),
        ({"resolution": "256x256"}, "8x8, that of the real ones 256x256.* --resolution=8,"),
    ],
)
def test_what_cannot_be_compared(change, match):
    real = Statistics(ORIGIN._replace(**change), [Moments.of(X)])
    with pytest.raises(ValueError, match=match):
        compared(ORIGIN, real, 4)


def test_remarks():
    real = Statistics(ORIGIN._replace(resolution="mixed", num_images=3), [Moments.of(X[:3])])
    remarks = ["Images of size 8x8 are compared with real ones of size mixed."]
    assert compared(ORIGIN, real, 4) == remarks
    with pytest.raises(ValueError, match="of 4 features, but --features=toy has 2048"):
        compared(ORIGIN, real, 2048)


def test_what_is_no_feature():
    broken = X.copy()
    broken[13, 2] = np.nan
    with pytest.raises(ValueError, match="features of image 13 are not finite"):
        collect(batches(4, broken), False, False, lambda: ORIGIN)
    with pytest.raises(ValueError, match="two images or more, but got 1"):
        collect(batches(4, X[:1]), False, False, lambda: ORIGIN)
