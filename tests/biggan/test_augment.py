"""Augmentation: values, draws and gradients of the policies, and the probability that adapts."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from biggan.augment import POLICIES, Augmentation, AugmentState, adapted, augment, init_augment
from biggan.experiment import STATE_FIELDS, build_gan
from biggan.restoring import read_config, restore_state
from tests.biggan.variables import state_of
from training.checkpoint import Checkpoints, Progress

ALL = tuple(POLICIES)
HEIGHT, WIDTH = 13, 16  # an odd and an even side


@functools.partial(jax.jit, static_argnames="policies")
def augmented(images, numbers, policies, probability):
    """`augment` with a key for each number."""
    rngs = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(numbers)
    return augment(images, rngs, policies, probability)


def image_of(seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)


def draws(policy, image, num=500):
    """The image after one policy, with as many draws."""
    images = np.broadcast_to(image, (num, *image.shape))
    return np.asarray(augmented(images, np.arange(num), (policy,), 1.0))


def translated(image, down, right):
    result = np.zeros_like(image)
    for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
        if 0 <= y - down < HEIGHT and 0 <= x - right < WIDTH:
            result[y, x] = image[y - down, x - right]
    return result


def cut(image, top, left, side):
    result = image.copy()
    for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
        if top <= y < top + side[0] and left <= x < left + side[1]:
            result[y, x] = 0
    return result


def colored(image, brightness, saturation, contrast):
    result = np.array(image, np.float64)
    for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
        pixel = result[y, x] + brightness
        result[y, x] = pixel.mean() + saturation * (pixel - pixel.mean())
    return result.mean() + contrast * (result - result.mean())


def places_of(results, possible):
    """Which of the possible results, by their places, the results are."""
    names = {result.tobytes(): place for place, result in possible.items()}
    assert len(names) == len(possible)
    return {names[result.tobytes()] for result in results}


def test_translation_goes_up_to_an_eighth_of_the_side_and_zeros_come_in():
    image = image_of()
    possible = {shift: translated(image, *shift) for shift in itertools.product(range(-2, 3), range(-2, 3))}
    assert places_of(draws("translation", image), possible) == set(possible)


def test_cutout_is_a_square_of_half_the_side_with_its_centre_anywhere():
    image = image_of()
    # Of 13 rows the square has 7, around each of them; of 16 columns 8, between any two and at the borders.
    tops, lefts = range(-3, 10), range(-4, 13)
    possible = {place: cut(image, *place, (7, 8)) for place in itertools.product(tops, lefts)}
    found = places_of(draws("cutout", image), possible)
    assert {top for top, _ in found} == set(tops)
    assert {left for _, left in found} == set(lefts)


def test_color_has_the_factors_that_its_source_tells():
    image = image_of()
    grey = image.mean(2, keepdims=True)
    factors = []
    for result in draws("color", image):
        # No later factor moves the mean of the image, nor the third the channels against each other.
        brightness = result.mean() - image.mean()
        result_grey = result.mean(2, keepdims=True)
        contrast = np.vdot(result_grey - result.mean(), grey - grey.mean()) / np.sum(
            (grey - grey.mean()) ** 2
        )
        saturation = np.vdot(result - result_grey, image - grey) / np.sum((image - grey) ** 2) / contrast
        factors.append((brightness, saturation, contrast))
        if len(factors) <= 50:
            np.testing.assert_allclose(result, colored(image, *factors[-1]), atol=1e-5)
    low, high = np.min(factors, 0), np.max(factors, 0)
    np.testing.assert_allclose(low, [-0.5, 0.0, 0.5], atol=0.02)
    np.testing.assert_allclose(high, [0.5, 2.0, 1.5], atol=0.02)
    assert np.abs(np.corrcoef(np.transpose(factors)) - np.eye(3)).max() < 0.15


def test_the_probability_is_that_of_each_policy():
    images, numbers = np.stack([image_of(seed) for seed in range(500)]), np.arange(500)
    np.testing.assert_array_equal(augmented(images, numbers, ALL, 0.0), images)

    def changed(policies, probability):
        found = augmented(images, numbers, policies, probability)
        return np.mean(np.any(np.asarray(found) != images, (1, 2, 3)))

    assert changed(ALL, 1.0) == 1.0
    for policy in ALL:
        assert changed((policy,), 0.3) == pytest.approx(0.3 * changed((policy,), 1.0), abs=0.07)
    # Each by a choice of its own.
    assert changed(ALL, 0.3) == pytest.approx(1 - 0.7**3, abs=0.07)


def test_an_image_draws_by_its_key_alone():
    images, numbers = np.stack([image_of(seed) for seed in range(500)]), np.arange(500)
    whole = augmented(images, numbers, ALL, 0.9)
    backwards = augmented(images[::-1], numbers[::-1], ALL, 0.9)
    np.testing.assert_allclose(backwards[::-1], whole, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        images = np.stack([image_of(seed) for seed in range(3)]).astype(np.float64)

        @jax.jit
        @jax.value_and_grad
        def value(images):
            return jnp.sum(jnp.sin(augmented(images, np.arange(3), ALL, 1.0)))

        direction = np.random.default_rng(9).normal(size=images.shape)
        (above, _), (_, gradient), (below, _) = (value(images + s * direction) for s in (1e-5, 0, -1e-5))
        difference = float(above - below) / 2e-5
    slopes = np.sum(np.asarray(gradient) * direction, (1, 2, 3))
    assert np.all(np.abs(slopes) > 1e-3)  # of each image
    np.testing.assert_allclose(slopes.sum(), difference, rtol=1e-6)


def test_bfloat16_has_the_draws_of_float32():
    images, numbers = np.stack([image_of(seed) for seed in range(500)]), np.arange(500)
    found = augmented(jnp.asarray(images, jnp.bfloat16), numbers, ALL, 1.0)
    assert found.dtype == jnp.bfloat16
    expected = augmented(images, numbers, ALL, 1.0)
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=0.05)


def test_the_probability_moves_with_the_sign_of_real_scores_and_stays_a_probability():
    augmentation = Augmentation(("color",), 0.5, adaptive=True, target=0.6, images=1000)
    update = jax.jit(functools.partial(adapted, augmentation=augmentation, num_images=64))
    state = init_augment(augmentation)
    assert (float(state.probability), float(state.real_sign)) == (0.5, 0.0)
    mean, expected = 0.0, 0.5
    for sign in [1.0] * 30 + [-1.0] * 40:
        state = update(state, real_sign=jnp.float32(sign))
        mean = np.exp(-64 / 256) * mean + (1 - np.exp(-64 / 256)) * sign
        expected = np.clip(expected + (0.064 if mean > 0.6 else -0.064), 0, 1)
        np.testing.assert_allclose(state.real_sign, mean, atol=1e-5)
        np.testing.assert_allclose(state.probability, expected, atol=1e-5)
        if sign == 1.0:
            highest = float(state.probability)
    assert (highest, float(state.probability)) == (1.0, 0.0)


def test_the_smoothing_does_not_depend_on_the_batch():
    augmentation = Augmentation(("color",), adaptive=True)
    start, sign = AugmentState(jnp.float32(0.5), jnp.float32(0.1)), jnp.float32(0.8)
    once = adapted(start, augmentation, sign, 32)
    state = start
    for _ in range(4):
        state = adapted(state, augmentation, sign, 8)
    np.testing.assert_allclose(state.real_sign, once.real_sign, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", "colour"),
        ("policy", "color,color"),
        ("probability", 1.5),
        ("target", 1.0),
        ("images", 0),
        ("adaptive", True),  # without a policy
    ],
)
def test_settings_without_a_meaning_are_refused(field, value, tiny):
    tiny.augment[field] = value
    with pytest.raises(ValueError, match=rf"config\.augment\.{field} "):
        build_gan(tiny)


def test_a_config_says_what_is_augmented(tiny):
    assert build_gan(tiny).augmentation is None
    tiny.augment.policy = "translation, color"
    assert build_gan(tiny).augmentation == Augmentation(("translation", "color"))
    before = ConfigDict({name: value for name, value in tiny.items() if name != "augment"})
    assert build_gan(before).augmentation is None


def test_checkpoints_hold_what_has_adapted(tiny, tmp_path):
    tiny.augment.policy, tiny.augment.adaptive = "color", True
    state = state_of(tiny, build_gan(tiny))
    state = state.replace(augment=AugmentState(np.float32(0.25), np.float32(0.75)))
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    checkpoints.save(state, Progress(0, tiny.to_dict()))
    checkpoints.close()
    restored = restore_state(str(tmp_path), read_config(str(tmp_path)))
    chex.assert_trees_all_equal(restored, state)
    assert float(restored.augment.real_sign) == 0.75
    assert "augment".startswith(STATE_FIELDS)  # runs of before have no such section at all
