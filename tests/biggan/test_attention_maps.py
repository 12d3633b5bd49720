"""What is looked at is the dense generator's attention, and what is said of it is so."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biggan import Generator
from biggan.attention_maps import (
    Block,
    Decomposition,
    blocks_of,
    decomposed,
    densely,
    entropies_of,
    error_of,
    largest_keys_errors,
    low_rank_errors,
)
from biggan.sampling import latents, sampling_keys
from smyrf_jax import Dense, Local, Smyrf
from smyrf_jax.dense import dense_weights
from tests.biggan.variables import variables_of

KEY = jax.random.key(0)
GENERATOR = Generator(
    32,
    channels=4,
    dim_z=8,
    attention={16: Smyrf(num_hashes=1, cluster_size=16), 8: Local(2)},
)


@pytest.fixture(scope="module")
def block():
    """Of two samples, 24 queries and 12 keys, whose attention is neither flat nor of single keys."""
    shapes = (2, 24, 1, 4), (2, 12, 1, 4), (2, 12, 1, 3)
    return Block(5, 0.5, *map(jax.random.normal, jax.random.split(KEY, 3), shapes))


def test_blocks_are_those_of_the_dense_generator():
    variables = variables_of(GENERATOR)
    variables["params"]["attention1"]["gamma"] = np.float32(-0.25)
    noise, labels = latents(GENERATOR, sampling_keys(0).noise, 2)
    small, large = blocks_of(GENERATOR, variables, noise, labels)
    assert (small.size, small.gamma, large.size, large.gamma) == (8, 0.5, 16, -0.25)
    assert (large.problem.num_queries, large.problem.num_keys, large.problem.width) == (256, 64, 2)
    assert (large.problem.values, large.problem.heads, large.problem.batch) == (8, 1, 1)
    assert densely(GENERATOR).attention == {8: Dense(), 16: Dense()}
    # The larger map's queries are of what the smaller map's dense attention gave.
    _, kept = jax.jit(
        lambda *inputs: densely(GENERATOR).apply(*inputs, train=False, mutable="intermediates")
    )(variables, noise, labels)
    for found, name in ((small, "attention0"), (large, "attention1")):
        for of in ("query", "key", "value"):
            np.testing.assert_allclose(
                getattr(found, of), kept["intermediates"][name][of][0], rtol=1e-4, atol=1e-5
            )


def test_a_generator_without_attention_is_refused():
    with pytest.raises(ValueError, match="has no attention to swap: its config.generator.attention is empty"):
        blocks_of(GENERATOR.clone(attention={}), {}, np.zeros((1, 8), np.float32), np.zeros(1, np.int32))


def test_errors_of_a_method_are_means_over_samples(block):
    """Of a local window, by hand: weights outside it are none."""
    weights = np.exp(np.einsum("btnd,bsnd->bts", block.query, block.key))
    distance = np.arange(12)[None] - np.arange(24)[:, None]
    near = weights * ((distance >= -2) & (distance < 3))
    exact, found = (
        (of / np.maximum(of.sum(-1, keepdims=True), 1e-30)) @ np.asarray(block.value[:, :, 0])
        for of in (weights, near)
    )
    expected = np.mean(np.linalg.norm(found - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2)))
    assert error_of(block, Local(5), KEY) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1
    assert error_of(block, Dense(), KEY) == 0


def test_the_largest_keys_are_the_best_that_is_sparse(block):
    weights = np.asarray(dense_weights(block.query, block.key, scale=1.0))[:, 0]
    value = np.asarray(block.value[:, :, 0])
    kept = np.where(weights >= np.sort(weights)[..., -3:-2], weights, 0)
    found, exact = kept / kept.sum(-1, keepdims=True) @ value, weights @ value
    expected = np.mean(np.linalg.norm(found - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2)))
    errors = largest_keys_errors(block, [1, 3, 12])
    assert errors[1] == pytest.approx(expected, rel=1e-4)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_maps_are_cut_off_at_a_rank(block):
    maps = decomposed(block)
    weights = np.asarray(dense_weights(block.query, block.key, scale=1.0))[:, 0]
    np.testing.assert_allclose((maps.left * maps.values[:, None]) @ maps.right, weights, atol=1e-6)
    assert np.all(np.diff(maps.values) <= 0)
    errors = low_rank_errors(block, maps, [1, 4, 12])
    value = np.asarray(block.value[:, :, 0])
    left, values, right = np.linalg.svd(weights.astype(np.float64))
    cut = (left[..., :4] * values[:, None, :4]) @ right[:, :4]
    expected = [
        np.linalg.norm((near - of) @ v) / np.linalg.norm(of @ v)
        for near, of, v in zip(cut, weights, value, strict=True)
    ]
    assert errors[1] == pytest.approx(np.mean(expected), rel=1e-3)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def test_the_energy_is_of_squares():
    values = np.sqrt(np.array([[8.0, 1, 1, 0], [4, 3, 2, 1]]))
    found = Decomposition(np.zeros((2, 5, 4)), values, np.zeros((2, 4, 4)))
    assert found.needed(0.75).tolist() == [1, 3]
    assert found.needed(0.95).tolist() == [3, 4]


def test_entropies(block):
    flat = block._replace(query=jnp.zeros_like(block.query))
    np.testing.assert_allclose(entropies_of(flat), np.full((2, 24), math.log(12)), rtol=1e-6)
    weights = np.asarray(dense_weights(block.query, block.key, scale=1.0))[:, 0]
    np.testing.assert_allclose(entropies_of(block), -np.sum(weights * np.log(weights), -1), rtol=1e-4)
