"""Samples and data of a GAN as an evaluation takes them, and what a run measures."""

import concurrent.futures
import json

import jax
import numpy as np
import pytest
from PIL import Image

from biggan import evaluation
from biggan.evaluation import (
    Crops,
    Samples,
    SourceImages,
    build_best,
    build_evaluator,
    build_real,
    save_pairs,
    usable_places,
)
from biggan.files import Folder
from biggan.images import ImageError
from biggan.restoring import restore_state
from biggan.sampling import Sampler
from biggan.sources import Photos
from biggan.train import train
from evaluation.neighbours import Pair
from tests.evaluation.toy import network
from training.task import Best


class Values(Sampler):
    """Its image number i is of the value i; counts what it draws."""

    images_at_once = 4

    def __init__(self):
        self.drawn = []

    def batches(self, variables, noise, labels, rng):
        for first in range(0, len(noise), self.images_at_once):
            batch = noise[first : first + self.images_at_once, 0].astype(np.uint8)
            self.drawn.extend(batch.tolist())
            yield np.broadcast_to(batch[:, None, None, None], (len(batch), 2, 2, 3))


def test_samples_that_fail_fail_again():
    """And do not end for those who ask next."""

    class Broken(Values):
        def batches(self, *arguments):
            for batch in super().batches(*arguments):
                if batch.max() >= 4:
                    raise ValueError("image 4 is broken")
                yield batch

    noise = np.arange(9, dtype=np.float32)[:, None]
    some = Samples(Broken(), {}, noise, np.zeros(9, np.int32), jax.random.key(0))
    assert some[3].shape == (2, 2, 3)
    for _ in range(3):
        with pytest.raises(ValueError, match="image 4 is broken"):
            some[5]


def samples(num):
    sampler = Values()
    noise = np.arange(num, dtype=np.float32)[:, None]
    return Samples(sampler, {}, noise, np.zeros(num, np.int32), jax.random.key(0)), sampler


def test_samples_in_order_are_drawn_once():
    some, sampler = samples(100)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = [int(image[0, 0, 0]) for image in pool.map(some.__getitem__, range(100))]
    assert found == list(range(100))
    assert sampler.drawn == found
    assert len(some._drawn) <= 2 + 64 // 4


def test_samples_in_any_order():
    some, sampler = samples(200)
    for index in (150, 3, 199, 0, 77, 77):
        assert int(some[index][1, 1, 2]) == index
    assert len(sampler.drawn) < 30
    with pytest.raises(IndexError):
        some[200]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for index, size in enumerate([(40, 40), (60, 40), (20, 20), (33, 48)]):
        Image.new("RGB", size, (index, index, index)).save(root / f"{index}.png")
    (root / "4.png").write_bytes(b"no image")
    return root


def test_images_of_a_source(folder):
    source = Folder(str(folder))

    def images(resolution, places=None):
        return SourceImages(
            source, resolution, places, where="--fake", way_out="--skip_corrupt leaves it out."
        )

    assert images(None)[1].shape == (40, 60, 3)
    squares = images(32)
    assert squares[1].shape == (32, 32, 3)
    for index, match in ((2, "20x20, smaller than 32"), (4, "cannot read the image")):
        with pytest.raises(ImageError, match=rf"^--fake: .*{match}.*\. --skip_corrupt leaves it out\.$"):
            squares[index]
    places, unusable = usable_places(source, 32, lambda items, total: items)
    assert places.tolist() == [0, 1, 3]
    assert len(unusable) == 2
    few = images(32, places)
    assert len(few) == 3
    assert int(few[2].max()) == 3


def test_crops_of_photographs():
    crops = Crops(Photos(), 32, 6, seed=0)
    assert len(crops) == 6
    np.testing.assert_array_equal(crops[5], Crops(Photos(), 32, 6, seed=0)[5])
    assert np.abs(crops[1].astype(int) - crops[5]).mean() > 1  # another place of the same photograph
    assert crops[0].shape == (32, 32, 3)


def test_the_data_of_a_run(tiny, folder):
    assert len(build_real(tiny, 7)) == 7  # crops of the photographs
    tiny.data.source, tiny.data.path = "", str(folder)
    assert len(build_real(tiny, 7)) == 5
    tiny.data.skip_corrupt = True
    assert len(build_real(tiny, 7)) == 3
    assert len(build_real(tiny, 7, most=2)) == 2


def test_a_picture_of_pairs(tmp_path):
    fake, real = (
        [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(3)],
        [np.full((40, 50, 3), 99, np.uint8)],
    )
    save_pairs([Pair(2, 0, 0.1), Pair(0, 0, 0.2)], fake, real, str(tmp_path / "pairs.png"))
    with Image.open(tmp_path / "pairs.png") as picture:
        pixels = np.asarray(picture)
    assert pixels[60, 60, 0] == 20
    assert pixels[60, 190, 0] == 99
    assert pixels[60, 320, 0] == 0


@pytest.mark.parametrize(
    ("name", "smaller"), [("kd_dinov2_s14", True), ("precision_inception", False), ("", None)]
)
def test_best(tiny, name, smaller):
    tiny.evaluate.metrics, tiny.evaluate.features, tiny.evaluate.best = (
        "kd,prdc",
        "dinov2_s14,inception",
        name,
    )
    fields = ("evaluate.", "data.", "generator.resolution")
    assert build_best(tiny) == (Best(name, smaller, fields) if name else None)


def test_names_of_the_config_are_refused(tiny, tmp_path):
    tiny.evaluate.metrics, tiny.evaluate.best = "kd", "fd_dinov2_s14"
    with pytest.raises(ValueError, match=r"config\.evaluate\.best should be one of kd_dinov2_s14, as"):
        build_best(tiny)
    for field, value, match in (
        (
            "num",
            3,
            r"config\.evaluate\.metrics=kd .* wants 4 generated .* there are 3: config\.evaluate\.num",
        ),
        ("every", -2, r"config\.evaluate\.every must not be negative, got -2"),
        ("metrics", "fid", r"config\.evaluate\.metrics should be of fd"),
        ("features", "vgg", r"config\.evaluate\.features should be of inception"),
        (
            "features",
            "inception",
            r"config\.evaluate\.features=inception wants config\.evaluate\.inception_weights",
        ),
    ):
        changed = tiny.copy_and_resolve_references()
        changed.evaluate[field] = value
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            build_evaluator(changed, str(tmp_path), jax.local_devices()[:1])
    tiny.evaluate.metrics = ""
    assert build_evaluator(tiny, str(tmp_path), jax.local_devices()[:1]) is None


def test_what_cannot_be_measured_is_told_and_the_run_goes_on(tiny, folder, tmp_path, monkeypatch, capsys):
    """The data cannot be read any more, as training took all it wants."""
    monkeypatch.setattr(
        evaluation, "load_network", lambda name, paths, inception_sha256: network("toy", side=8)
    )
    monkeypatch.setattr(evaluation, "open_source", lambda **options: Folder(str(folder)))
    tiny.num_steps, tiny.evaluate.metrics, tiny.evaluate.features = 2, "kd", "toy"
    tiny.evaluate.best = ""
    assert int(train(tiny, str(tmp_path / "run"), jax.devices()[:1]).step) == 2
    out = capsys.readouterr().out
    assert "NOT MEASURED: the samples of step 2 (config.data: the image" in out
    assert "config.data.skip_corrupt leaves out what cannot be used" in out
    assert "2.png is 20x20, smaller than 32" in out
    assert "The run goes on." in out


def test_a_run_measures_itself_and_keeps_its_best(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        evaluation,
        "load_network",
        lambda name, paths, inception_sha256: network("toy", has_logits=False, side=8),
    )
    tiny.num_steps, tiny.checkpoint.every, tiny.sample.every = 4, 4, 0
    tiny.evaluate.every, tiny.evaluate.num, tiny.evaluate.metrics = 2, 20, "fd,kd,memorisation"
    tiny.evaluate.features, tiny.evaluate.best = "toy", "kd_toy"
    train(tiny, str(tmp_path), jax.devices()[:1])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row for row in rows if "kd_toy" in row}
    assert sorted(measured) == [2, 4]
    names = {"fd_toy", "fd_toy_sd", "kd_toy_sd", "memorisation_toy", "nearest_ratio_toy"}
    assert names <= set(measured[2])
    best = min(measured, key=lambda step: measured[step]["kd_toy"])
    assert int(restore_state(str(tmp_path), tiny, "best").step) == best
    out = capsys.readouterr().out
    assert "step 2: kd_toy: " in out
    assert "(20 generated, 20 real images)" in out
    assert f"checkpoint with the best kd_toy: {tmp_path}/checkpoints/best" in out
    assert [path.name[:4] for path in (tmp_path / "evaluation").iterdir()] == ["toy_"]
