"""Schedules, and what decays."""

import jax
import numpy as np
import pytest

from transformer.updates import build_optimizer


def rates_of(steps, **settings):
    """The rates of the first steps of 8."""
    whole = {"learning_rate": 0.1, "warmup": 0.25, "weight_decay": 0.5, "clip": 1.0} | settings
    optimizer = build_optimizer(whole, 8)
    params = {"kernel": np.ones(1, np.float32)}
    state, rates = optimizer.init(params), []
    for _ in range(steps):
        updates, state = optimizer.update(jax.tree.map(np.zeros_like, params), state, params)
        rates.append(float(-updates["kernel"][0]) / 0.5)
    return rates


@pytest.mark.parametrize("warmup", [0, 0.04])
def test_without_steps_to_warm_up_the_rate_is_whole_at_once(warmup):
    settings = {"learning_rate": 0.1, "warmup": warmup, "weight_decay": 0.5, "clip": 1.0}
    optimizer = build_optimizer(settings, 4)
    params = {"kernel": np.ones(1, np.float32)}
    state, rates = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update(jax.tree.map(np.zeros_like, params), state, params)
        rates.append(float(-updates["kernel"][0]) / 0.5)
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025], atol=1e-7)


def test_the_schedule_and_what_decays():
    settings = {"learning_rate": 0.1, "warmup": 0.25, "weight_decay": 0.5, "clip": 1.0}
    for warmup in (-0.1, 100):
        with pytest.raises(
            ValueError, match=f"warmup should be a part of the steps, 0 .. 1, but is {warmup}"
        ):
            build_optimizer(settings | {"warmup": warmup}, 8)
    optimizer = build_optimizer(settings, 8)
    params = {"kernel": np.ones(1, np.float32), "bias": np.ones(1, np.float32)}
    state, zeros = optimizer.init(params), jax.tree.map(np.zeros_like, params)
    rates = []
    for _ in range(9):
        updates, state = optimizer.update(zeros, state, params)
        assert float(updates["bias"][0]) == 0
        rates.append(float(-updates["kernel"][0]) / 0.5)
    np.testing.assert_allclose(rates[:3], [0, 0.05, 0.1], atol=1e-7)
    np.testing.assert_allclose(rates[3:], 0.1 * np.array([5, 4, 3, 2, 1, 0]) / 6, atol=1e-7)


def test_cosine_ends_at_zero():
    expected = [0, 0.05, *(0.05 * (1 + np.cos(np.pi * np.arange(7) / 6)))]
    np.testing.assert_allclose(rates_of(9, schedule="cosine"), expected, atol=1e-7)


@pytest.mark.parametrize("warmup", [0, 0.25])
def test_invsqrt_falls_with_the_root_of_the_step(warmup):
    first = max(1, round(8 * warmup))
    expected = [0.1 * min(step / first if warmup else 1, (first / max(step, 1)) ** 0.5) for step in range(12)]
    np.testing.assert_allclose(rates_of(12, schedule="invsqrt", warmup=warmup), expected, atol=1e-7)


def test_there_is_no_other_schedule():
    with pytest.raises(ValueError, match=r"schedule should be one of \['cosine', 'invsqrt', 'linear'\]"):
        rates_of(1, schedule="step")
