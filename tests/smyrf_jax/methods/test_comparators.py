"""Clusters of other methods: what each promises."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Smyrf, attention, dense_attention
from smyrf_jax.diagnostics import captured_mass
from smyrf_jax.methods import HyperAttention, Reformer, Routing
from smyrf_jax.methods.comparators import gray_numbers

KINDS = {
    "signs": lambda size: HyperAttention(2, size),
    "reformer": lambda size: Reformer(2, size),
    "routing": Routing,
}


def around_centres(length=96, heads=2):
    """Queries and keys around shared points of a sphere."""
    centres = jax.random.normal(jax.random.key(0), (12, 8))
    centres = 5 * centres / jnp.linalg.norm(centres, axis=-1, keepdims=True)
    places = jax.random.randint(jax.random.key(1), (2, 1, length, heads), 0, 12)
    noise = jax.random.normal(jax.random.key(2), (2, 1, length, heads, 8))
    return tuple(centres[places] + 0.3 * noise)


def build(kind, query, key, mask=None, cluster_size=8):
    make = KINDS[kind](cluster_size).clustering
    return jax.jit(lambda *arrays: make(*arrays, rng=jax.random.key(3)))(query, key, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_they_capture_more_than_chance_and_one_cluster_is_dense(kind):
    query, key = around_centres()
    clustering = build(kind, query, key)
    rounds, clusters = {"signs": (2, 12), "reformer": (4, 12), "routing": (12, 1)}[kind]
    chex.assert_shape(clustering, (1, 2, rounds, clusters, 8))
    make = KINDS[kind](8)
    mass_of = jax.jit(lambda rng: jnp.mean(captured_mass(query, key, make, rng=rng)))
    mass = np.mean([mass_of(rng) for rng in jax.random.split(jax.random.key(3), 16)])
    chance = (rounds if kind != "routing" else 1) / 12
    assert mass > 2 * chance
    output = attention(query, key, key, method=KINDS[kind](96))
    np.testing.assert_allclose(output, dense_attention(query, key, key), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_keys_are_in_no_cluster(kind):
    query, key = around_centres()
    mask = jnp.arange(96) < 60
    order = np.asarray(build(kind, query, key, mask[None, None, None]).key_order)
    assert np.all((order < 60) | (order == 96))
    assert np.any(order < 60)
    moved = jnp.where(mask[None, :, None, None], key, 0.0)
    if kind != "routing":  # whose centres begin as any keys
        np.testing.assert_array_equal(build(kind, query, moved, mask[None, None, None]).key_order, order)


def test_sorted_tokens_are_all_in_a_cluster():
    query, key = around_centres()
    for kind in ("signs", "reformer"):
        for order in build(kind, query, key):
            rows = np.asarray(order).reshape(-1, 96)
            np.testing.assert_array_equal(np.sort(rows, axis=-1), np.tile(np.arange(96), (len(rows), 1)))


def test_a_reformer_chunk_sees_the_one_before():
    query, key = around_centres()
    queries, keys = build("reformer", query, key)
    np.testing.assert_array_equal(queries[:, :, :2], queries[:, :, 2:])
    np.testing.assert_array_equal(np.roll(keys[:, :, :2], 1, axis=-2), keys[:, :, 2:])


def test_the_mean_of_the_keys_does_not_matter_to_signs():
    query, key = around_centres()
    chex.assert_trees_all_equal(build("signs", query, key), build("signs", query, key + 0.5))


def test_routing_has_no_more_centres_than_keys():
    query, key = around_centres()
    queries, keys = Routing(8).clustering(query, key[:, :5])
    used = np.any(np.asarray(keys) < 5, axis=(-2, -1))
    assert np.all(np.sum(used, axis=-1) == 5)
    np.testing.assert_array_equal(np.any(np.asarray(queries) < query.shape[1], axis=(-2, -1)), used)


def test_neighbours_in_gray_order_differ_by_one_sign():
    signs = jnp.asarray(np.array(np.meshgrid(*4 * [[-1.0, 1.0]])).reshape(4, -1).T)  # all of four signs
    numbers = gray_numbers(signs)
    np.testing.assert_array_equal(jnp.sort(numbers), jnp.arange(16))
    ordered = np.asarray(signs)[np.argsort(numbers)]
    np.testing.assert_array_equal(np.sum(ordered[1:] != ordered[:-1], axis=-1), 1)


def test_no_gradients():
    query, key = around_centres(16, 1)
    for method in (*(make(4) for make in KINDS.values()), Smyrf(1, 4)):
        gradient = jax.jit(
            jax.grad(lambda query, method=method: jnp.sum(attention(query, key, key, method=method)))
        )
        chex.assert_tree_all_finite(gradient(query))
