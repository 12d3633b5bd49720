import dataclasses

import numpy as np
import pytest

from evaluation.evaluator import Evaluator
from evaluation.frechet import Moments, frechet_distance
from evaluation.metrics import METRICS
from evaluation.statistics import save_statistics
from tests.evaluation.toy import features, images, network, silent

ALL = list(METRICS)


def evaluator(metrics=ALL, networks=None, **options):
    return Evaluator(networks or [network()], metrics, silent, batch_size=8, **options)


def test_every_metric_has_a_field_and_a_line():
    fake, real = images(80, 0, shift=20), images(50, 1)
    found = evaluator()(fake, evaluator().real(real))
    values = found.values()
    for name in ("fd", "kd", "fd_infinity", "is", "memorisation"):
        assert f"{name}_toy" in values
        assert f"{name}_toy_sd" in values
    for name in ("precision", "recall", "density", "coverage", "nearest_ratio"):
        assert f"{name}_toy" in values
    assert (values["num_fake"], values["num_real"]) == (80, 50)
    wanted = frechet_distance(Moments.of(features(fake)), Moments.of(features(real)))
    assert values["fd_toy"] == pytest.approx(wanted, rel=1e-4)
    assert all("80 generated, 50 real images" in line for line in found.lines())
    assert len(found.lines()) == len(found.estimates)


def test_two_networks():
    fake, real = images(30, 0), images(30, 1)
    both = evaluator(["fd", "is"], [network(has_logits=False), network("other", "4567")])
    names = set(both(fake, both.real(real)).estimates)
    assert names == {"fd_toy", "fd_other", "is_other"}


def test_real_images_are_measured_once(tmp_path):
    class Counted(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    real = images(30, 1)

    def real_of(metrics, some=real, toy=network()):  # noqa: B008
        counted = Counted(some)
        found = evaluator(metrics, [toy], cache=str(tmp_path)).real(counted)[0]
        assert counted.reads in (30, 60)  # for the hash, and for the network
        return found, counted.reads == 60

    first, computed = real_of(["fd"])
    assert computed
    assert first.vectors is None
    again, computed = real_of(["fd"])
    assert not computed
    np.testing.assert_allclose(again.moments.covariance, first.moments.covariance)
    # A metric that wants all features makes them anew, and then all have them.
    whole, computed = real_of(["kd"])
    assert computed
    assert len(whole.vectors) == 30
    assert not real_of(["kd"])[1]
    assert not real_of(["fd"])[1]
    # By content.
    assert real_of(["fd"], images(30, 2))[1]
    assert not real_of(["fd"], [image.copy() for image in real])[1]
    # A damaged file is made anew.
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert real_of(["fd"])[1]
    assert not real_of(["fd"])[1]
    assert real_of(["fd"], toy=dataclasses.replace(network(), resizer="clean"))[1]


def test_a_cache_that_cannot_be_written_costs_no_evaluation(tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    found = evaluator(["fd"], cache=str(tmp_path / "cache")).real(images(30, 1))
    assert found[0].origin.num_images == 30
    assert "NOT KEPT: statistics of the real images in" in capsys.readouterr().out


def test_statistics_of_a_file(tmp_path):
    path, fake = str(tmp_path / "real.npz"), images(30, 0)
    whole = evaluator(["kd"]).real(images(30, 1))
    save_statistics(path, whole[0])
    of_file = evaluator(["fd", "kd"])(fake, evaluator(["fd", "kd"]).real_of_file(path)).values()
    of_images = evaluator(["fd", "kd"])(fake, evaluator(["fd", "kd"]).real(images(30, 1))).values()
    assert of_file == pytest.approx(of_images)
    save_statistics(path, evaluator(["fd"]).real(images(30, 1))[0])
    with pytest.raises(ValueError, match="keeps moments alone, but --metrics=kd wants all features"):
        evaluator(["fd", "kd"]).real_of_file(path)
    with pytest.raises(ValueError, match="statistics of one network"):
        evaluator(["fd"], [network(), network("other")]).real_of_file(path)


def test_sets_that_cannot_be_compared():
    with pytest.raises(ValueError, match="8x8, that of the real ones 16x16"):
        evaluator(["fd"])(images(5), evaluator(["fd"]).real(images(5, side=16)))
    mixed = [*images(9), *images(1, side=11)]
    for fake in (mixed, mixed[::-1]):
        with pytest.raises(ValueError, match=r"(mixed|11x11), that of the real ones 8x8.* --resolution"):
            evaluator(["fd"])(fake, evaluator(["fd"]).real(images(5)))


@pytest.mark.parametrize("metric", ["fd", "kd"])
def test_too_few_images_for_a_covariance_are_remarked(metric):
    one = evaluator([metric])
    remarks = one(images(11), one.real(images(20, 1))).remarks
    wanted = "There are fewer generated images (11) than features (12): fd is far too high, kd not."
    assert remarks == ([wanted] if metric == "fd" else [])


def test_real_images_of_several_sizes_are_remarked():
    real = evaluator(["fd"]).real([*images(9, 1), *images(1, side=11)])
    found = evaluator(["fd"])(images(20), real)
    assert "Images of size 8x8 are compared with real ones of size mixed." in found.remarks


@pytest.mark.parametrize(
    ("metric", "fake", "real", "match"),
    [
        ("fd", 1, 9, "wants 2 generated images or more, but there are 1: --num"),
        ("kd", 9, 3, "wants 4 real images or more, but there are 3"),
        ("prdc", 5, 9, "wants 6 generated"),
        ("fd_infinity", 71, 9, "wants 72 generated"),
        ("is", 9, 9, "wants 10 generated"),
        ("memorisation", 9, 1, "wants 2 real"),
    ],
)
def test_images_that_are_too_few_for_a_metric(metric, fake, real, match):
    """It says so before anything is drawn; with one more it is measured."""
    with pytest.raises(ValueError, match=f"--metrics={metric} of --features=toy {match}"):
        evaluator([metric])(images(fake), evaluator([metric]).real(images(real, 1)))
    enough = evaluator([metric])
    assert enough(images(max(fake, 72)), enough.real(images(max(real, 9), 1))).estimates
    fake, real = (
        int(match.split()[1]) if which in match else n for which, n in (("gen", fake), ("real", real))
    )
    assert enough(images(fake), enough.real(images(real, 1))).estimates


def test_the_order_of_classes_does_not_matter_for_the_inception_score():
    colours = np.random.default_rng(0).integers(0, 256, (10, 3), np.uint8)
    sorted_by_class = [np.broadcast_to(colours[index // 20], (8, 8, 3)) for index in range(200)]
    one = evaluator(["is"])
    in_turn = [sorted_by_class[i % 10 * 20 + i // 10] for i in range(200)]
    real = one.real(images(9, 1))
    found = [one(some, real).values()["is_toy"] for some in (sorted_by_class, in_turn)]
    assert found[0] == pytest.approx(found[1], rel=0.2)
    assert found[0] > 1.5


def test_names():
    with pytest.raises(ValueError, match=r"--metrics should be of fd, .* got 'fid'"):
        evaluator(["fid"])
    with pytest.raises(ValueError, match="--metrics should be"):
        evaluator([])
    with pytest.raises(ValueError, match="--metrics=is wants --features=inception"):
        evaluator(["is"], [network(has_logits=False)])
