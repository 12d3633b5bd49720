"""Halving by counting and by sorting: the same halves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax.clustering.halving import _by_counting, _by_sorting, halve_clusters

LENGTH = 100


def nodes(seed=0):
    """Tokens [2, 3, 16] of which the last slots are empty, and how many there are."""
    generator = np.random.default_rng(seed)
    tokens = generator.permutation(LENGTH)[:96].reshape(2, 3, 16)
    count = np.array([[16, 15, 9], [1, 0, 12]])
    tokens = np.where(np.arange(16) < count[..., None], tokens, LENGTH)
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(count, jnp.int32)


ALONG = {
    "drawn": lambda tokens: jax.random.normal(jax.random.key(0), tokens.shape),
    "rounded": lambda tokens: jnp.round(jax.random.normal(jax.random.key(0), tokens.shape)),
    "alike": lambda tokens: jnp.zeros(tokens.shape),
    "either zero": lambda tokens: jnp.where(tokens % 2 == 0, 0.0, -0.0),
    "infinite": lambda tokens: jnp.where(tokens % 3 == 0, jnp.inf, -jnp.inf),
    "large and small": lambda tokens: jnp.where(tokens % 2 == 0, 1e38, 1e-38) * (tokens % 5 - 2.0),
}


@pytest.mark.parametrize("share", [0.0, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("kind", ALONG)
def test_counting_finds_the_halves_that_sorting_finds(kind, share):
    tokens, count = nodes()
    along = ALONG[kind](tokens)
    first = (share * count).astype(jnp.int32)
    counted = jax.jit(_by_counting, static_argnums=(3, 4))(tokens, along, first, 16, LENGTH)
    ordered = jax.jit(_by_sorting, static_argnums=(4, 5))(tokens, along, first, count, 16, LENGTH)
    chex.assert_shape(counted, (2, 6, 16))
    chex.assert_trees_all_equal(jnp.sort(counted, axis=-1), jnp.sort(ordered, axis=-1))
    sizes = jnp.stack([first, count - first], axis=-1).reshape(2, 6)
    # Empty slots come after all others.
    chex.assert_trees_all_equal(counted < LENGTH, jnp.arange(16)[None, None] < sizes[..., None])


def test_the_first_half_lies_first():
    tokens, count = nodes()
    along = ALONG["drawn"](tokens)
    half = _by_counting(tokens, along, count // 2, 8, LENGTH).reshape(2, 3, 2, 8)
    place = {int(token): float(at) for token, at in zip(tokens.ravel(), along.ravel(), strict=True)}
    for low, high in np.asarray(half).reshape(6, 2, 8):
        lows, highs = ([place[token] for token in side if token < LENGTH] for side in (low, high))
        assert not lows or max(lows) <= min(highs)


def test_numbers_that_are_none_stay_in_their_own_node():
    tokens, count = nodes()
    along = ALONG["drawn"](tokens)
    spoiled = along.at[0, 1].set(jnp.nan)
    for clean, other in zip(
        *(_by_counting(tokens, values, count // 2, 8, LENGTH) for values in (along, spoiled)), strict=True
    ):
        apart = np.array([0, 1, 4, 5])
        chex.assert_trees_all_equal(clean[apart], other[apart])
        chex.assert_trees_all_equal(jnp.sort(clean.ravel()), jnp.sort(other.ravel()))


@pytest.mark.parametrize("times", [0, 1, 2, 4])
def test_pieces_of_clusters_are_complete_balanced_and_alike(times):
    """Keys around four points, in clusters of 11, 8, 1 and none."""
    points = 10 * jax.random.normal(jax.random.key(0), (4, 3))
    vectors = points[jnp.arange(20) % 4][None] + 0.1 * jax.random.normal(jax.random.key(1), (1, 20, 3))
    slots = jnp.arange(11)
    order = jnp.stack(
        [slots, jnp.where(slots < 8, slots + 11, 20), jnp.where(slots < 1, 19, 20), 0 * slots + 20]
    )
    pieces = np.asarray(halve_clusters(vectors, order[None], times=times))[0]
    chex.assert_shape(pieces, (4 * 2**times, -(-11 // 2**times)))
    for cluster, its_pieces in zip(np.asarray(order), np.split(pieces, 4), strict=True):
        assert sorted(its_pieces[its_pieces < 20]) == sorted(cluster[cluster < 20])
        sizes = np.sum(its_pieces < 20, axis=-1)
        assert sizes.max() - sizes.min() <= 1
    if times == 2:  # eight keys of one cluster, two of each point
        for piece in pieces[4:8]:
            assert len(set((piece[:2] % 4).tolist())) == 1


def test_half_precision_vectors_are_halved_in_single_precision():
    """Far from the origin, where the moments of bfloat16 would be noise."""
    vectors = (20 + jax.random.normal(jax.random.key(0), (1, 32, 4))).astype(jnp.bfloat16)
    order = jnp.arange(32, dtype=jnp.int32).reshape(1, 2, 16)
    halved = [halve_clusters(x, order, times=2) for x in (vectors, vectors.astype(jnp.float32))]
    chex.assert_trees_all_equal(*halved)
