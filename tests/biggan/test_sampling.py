"""Samples: what decides them, and that neither batches nor devices do."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biggan import Generator, sampling
from biggan.experiment import build_gan
from biggan.sampling import (
    Sampler,
    images_of,
    labels_in_turn,
    latents,
    sampling_keys,
    standing_statistics,
)
from smyrf_jax import Smyrf
from tests.biggan.variables import variables_of

GENERATOR = Generator(
    32, channels=4, dim_z=8, num_classes=3, attention={16: Smyrf(num_hashes=2, cluster_size=64)}
)
KEYS = sampling_keys(0)


@pytest.fixture(scope="module")
def variables():
    return variables_of(GENERATOR)


def test_noise_depends_on_the_key_and_the_number_alone():
    noise, labels = latents(GENERATOR, KEYS.noise, 7)
    assert noise.dtype == np.float32
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    for index in (0, 6):
        expected = jax.random.normal(jax.random.fold_in(KEYS.noise, index), (8,))
        np.testing.assert_allclose(noise[index], expected, rtol=1e-6)
    np.testing.assert_array_equal(latents(GENERATOR, KEYS.noise, 3)[0], noise[:3])
    assert len(np.unique(noise)) == noise.size
    assert np.abs(latents(GENERATOR, sampling_keys(1).noise, 7)[0] - noise).min() > 0


def test_truncated_noise_is_cut_off():
    noise, _ = latents(GENERATOR, KEYS.noise, 200, truncation=0.5)
    assert 0.49 < np.abs(noise).max() <= 0.5
    assert np.abs(noise.mean()) < 0.05


def test_a_truncation_that_is_not_positive_is_refused():
    for truncation in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="truncation must be positive"):
            latents(GENERATOR, KEYS.noise, 2, truncation)
        with pytest.raises(ValueError, match="truncation must be positive"):
            standing_statistics(GENERATOR, {}, KEYS.standing, truncation=truncation)


def test_classes_are_taken_in_turn():
    assert latents(GENERATOR, KEYS.noise, 5, classes=[2, 0])[1].tolist() == [2, 0, 2, 0, 2]
    for wrong in ([3], [0, -1], []):
        with pytest.raises(ValueError, match=r"--classes should be numbers in 0 \.\. 2.* num_classes=3"):
            labels_in_turn(GENERATOR, 4, wrong)


def test_images_are_the_generators(variables):
    """Whatever the batch is padded to."""
    noise, labels = latents(GENERATOR, KEYS.noise, 5)
    images = Sampler(GENERATOR, batch_size=4)(variables, noise, labels, KEYS.hashing)
    apply = jax.jit(functools.partial(GENERATOR.apply, train=False))
    expected = apply(variables, noise, labels, rngs={"hashing": KEYS.hashing})
    expected = np.clip(np.round((np.asarray(expected) + 1) * 127.5), 0, 255)
    assert images.dtype == np.uint8
    assert np.abs(images - expected).max() <= 1
    assert images.std(axis=0).mean() > 5  # they differ, so that they can be confused
    assert images.std(axis=(1, 2)).mean() > 5


def test_batches_and_devices_change_nothing(variables, monkeypatch):
    """And one program serves for all."""
    traced = []

    def counting(*arguments):
        traced.append(0)
        return images_of(*arguments)

    monkeypatch.setattr(sampling, "images_of", counting)
    noise, labels = latents(GENERATOR, KEYS.noise, 11)
    one = Sampler(GENERATOR, batch_size=4)
    whole = one(variables, noise, labels, KEYS.hashing)
    sizes = [len(batch) for batch in one.batches(variables, noise, labels, KEYS.hashing)]
    assert sizes == [4, 4, 3]
    several = Sampler(GENERATOR, batch_size=2, devices=jax.devices()[1:4])
    found = list(several.batches(variables, noise, labels, KEYS.hashing))
    assert [len(batch) for batch in found] == [6, 5]
    assert np.abs(np.concatenate(found).astype(int) - whole).max() <= 1
    assert one(variables, noise[:0], labels[:0], KEYS.hashing).shape == (0, 32, 32, 3)
    assert one(variables, noise[:8], labels[:8], KEYS.hashing).shape == (8, 32, 32, 3)
    np.testing.assert_array_equal(one(variables, noise[3:5], labels[3:5], KEYS.hashing), whole[3:5])
    assert len(traced) == 2


def test_the_next_batch_is_drawn_while_one_is_used(variables):
    sampler, drawn = Sampler(GENERATOR, batch_size=4), []

    def draw(variables, noise, labels, rng):
        drawn.append(0)
        return jnp.zeros((1, 4, 32, 32, 3), jnp.uint8), jnp.ones((1, 4), bool)

    sampler._draw = draw
    noise, labels = latents(GENERATOR, KEYS.noise, 12)
    seen = [len(drawn) for _ in sampler.batches(variables, noise, labels, KEYS.hashing)]
    assert seen == [2, 3, 3]


def test_images_that_are_not_finite_are_refused(variables):
    broken = jax.tree.map(np.array, variables)
    broken["params"]["output_conv"]["bias"] = np.full(3, np.nan, np.float32)
    noise, labels = latents(GENERATOR, KEYS.noise, 5)
    with pytest.raises(
        ValueError, match="image 0 of the generator is not finite: .* --step names an earlier"
    ):
        Sampler(GENERATOR, batch_size=4)(broken, noise, labels, KEYS.hashing)


@pytest.mark.parametrize(
    ("noise", "labels", "message"),
    [
        ((2, 7), [0, 0], r"noise should be \[B, 8\], but got noise.shape=\(2, 7\)"),
        ((2, 8), [0], r"labels should be \[2\], .*labels.shape=\(1,\)"),
        ((2, 8), [0, 3], r"labels should be in 0 .. 2, but got 0 .. 3"),
    ],
)
def test_what_does_not_fit_the_generator_is_refused(noise, labels, message):
    inputs = np.zeros(noise, np.float32), np.array(labels, np.int32)
    with pytest.raises(ValueError, match=message):
        Sampler(GENERATOR)._check(*inputs)
    with pytest.raises(ValueError, match="batch_size must be positive, got batch_size=0"):
        Sampler(GENERATOR, batch_size=0)


def test_cross_replica_batch_norm_samples_on_one_device(tiny):
    tiny.generator.cross_replica_bn = True
    tiny.generator.attention = {}
    generator = build_gan(tiny).generator
    assert generator.axis_name is not None
    noise, labels = latents(generator, KEYS.noise, 2)
    images = Sampler(generator, batch_size=2)(variables_of(generator), noise, labels, KEYS.hashing)
    assert images.shape == (2, 32, 32, 3)


def test_standing_statistics_are_the_moments_of_what_is_sampled():
    """Of the first batch norm, whose input is the linear layer of the noise: mean 0, variance by its rows."""
    generator = dataclasses.replace(GENERATOR, attention={}, channels=2)
    variables = variables_of(generator)
    found = standing_statistics(generator, variables, KEYS.standing, truncation=0.5, passes=2, batch_size=16)
    moments = found["batch_stats"]["block0"]["bn1"]["norm"]
    noise, _ = latents(generator, KEYS.noise, 2000, truncation=0.5)
    kernel = variables["params"]["linear"]["kernel"]
    kernel = kernel / np.linalg.norm(kernel, 2)
    inputs = (noise @ kernel).reshape(len(noise), -1, 16)
    np.testing.assert_allclose(moments["var"], inputs.var(axis=(0, 2)), rtol=0.5)
    np.testing.assert_allclose(moments["mean"], 0, atol=0.1)
    for other in ("params", "spectral_norm"):
        assert found[other] is variables[other]
