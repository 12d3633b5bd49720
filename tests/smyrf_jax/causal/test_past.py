"""The trees of the past."""

import jax
import jax.numpy as jnp
import numpy as np

from smyrf_jax.causal.past import Sizes, past_of
from smyrf_jax.causal.step import window_of

SIZES = Sizes(leaf=2, branch=4, levels=(8, 16), sinks=3)


def test_each_token_is_in_one_leaf_of_each_level():
    """Values that are the numbers of their tokens say where these are."""
    length = 40
    key = np.random.default_rng(0).normal(size=(2, length, 5)).astype(np.float32)
    value = np.broadcast_to(np.arange(length, dtype=np.float32)[:, None], (2, length, 1))
    kept = np.ones((2, length), bool)
    kept[1, 20:23] = False
    past = past_of(*map(jnp.asarray, (key, value, kept)), SIZES)
    firsts = SIZES.first_branches(length)
    for row in range(2):
        for level, size in enumerate(SIZES.levels):
            leaves = slice(2 * firsts[level], 2 * firsts[level + 1])
            filled, tokens = past.leaves.filled[row, leaves], past.leaves.values[row, leaves, :, 0]
            assert sorted(tokens[filled].tolist()) == np.flatnonzero(kept[row])[3:].tolist()
            trees = np.asarray(tokens).reshape(-1, size)
            for tree, place in zip(np.asarray(filled).reshape(-1, size), range(length), strict=False):
                assert set(trees[place][tree] // size) <= {place}
            np.testing.assert_allclose(
                past.leaves.keys[row, leaves][filled], key[row][np.asarray(tokens[filled], int)]
            )


def test_means_are_those_of_leaves_and_branches():
    rng = np.random.default_rng(1)
    key, value = (rng.normal(size=(1, 32, 4)).astype(np.float32) for _ in range(2))
    past = jax.tree.map(
        np.asarray, past_of(jnp.asarray(key), jnp.asarray(value), jnp.ones((1, 32), bool), SIZES)
    )
    filled = past.leaves.filled[0]
    for leaf in range(len(filled)):
        if filled[leaf].any():
            mean = past.leaves.keys[0, leaf][filled[leaf]].mean(0)
            np.testing.assert_allclose(past.leaf_means.keys[0, leaf], mean, atol=1e-6)
            np.testing.assert_allclose(past.leaf_means.size[0, leaf], np.log(filled[leaf].sum()), atol=1e-6)
    for branch in range(len(filled) // 2):
        some = filled[2 * branch : 2 * branch + 2]
        of_branch = past.leaves.values[0, 2 * branch : 2 * branch + 2][some]
        np.testing.assert_allclose(past.branch_means.values[0, branch], of_branch.mean(0), atol=1e-6)
        np.testing.assert_allclose(past.branch_means.size[0, branch], np.log(some.sum()), atol=1e-6)


def test_a_block_looks_at_each_earlier_key_once():
    """By the sizes of the branches it may look at, and values that are rows of an identity."""
    length = 40
    key = np.random.default_rng(2).normal(size=(1, length, 4)).astype(np.float32)
    value = np.eye(length, dtype=np.float32)[None]
    past = past_of(jnp.asarray(key), jnp.asarray(value), jnp.ones((1, length), bool), SIZES)
    row = jax.tree.map(lambda of: of[0], past)
    for start in range(0, length, 8):
        means = window_of(row, jnp.int32(start), SIZES, length).means
        counted = np.exp(np.asarray(means.size)) @ np.asarray(means.values)
        expected = np.arange(length) < start
        expected[:3] = False
        np.testing.assert_allclose(counted, expected, atol=1e-5)
