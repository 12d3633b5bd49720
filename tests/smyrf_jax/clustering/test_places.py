"""The slot of each token: by sorting, by a formula, and by what is obvious."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import local_clustering
from smyrf_jax.clustering.clustering import cluster_of_places, first_slots, places_by_sorting, places_of
from smyrf_jax.clustering.halving import _by_counting, _by_sorting
from smyrf_jax.clustering.local import local_places


def places_in(order, length):
    """By numpy, of [..., slots]; the number of slots for tokens without one."""
    order = np.asarray(order)
    found = np.full((*order.shape[:-1], length), order.shape[-1], np.int32)
    for row in np.ndindex(order.shape[:-1]):
        (filled,) = np.nonzero(order[row] < length)
        found[row][order[row][filled]] = filled
    return found


def order_of(length, slots, kept, seed=0):
    """Orders [2, 3, slots] of `kept` tokens, at any slots."""
    generator = np.random.default_rng(seed)
    order = np.full((2, 3, slots), length, np.int32)
    for row in np.ndindex(2, 3):
        order[row][generator.permutation(slots)[:kept]] = generator.permutation(length)[:kept]
    return jnp.asarray(order)


@pytest.mark.parametrize(
    ("length", "slots", "kept"),
    [(24, 24, 24), (21, 24, 21), (24, 24, 13), (24, 12, 12), (5, 40, 3), (1, 1, 1), (7, 4, 0)],
)
def test_sorting_finds_the_slots_that_scattering_finds(length, slots, kept):
    order = order_of(length, slots, kept)
    expected = places_in(order, length)
    clusters = order.reshape(2, 3, -1, min(4, slots))
    np.testing.assert_array_equal(jax.jit(places_of, static_argnums=1)(clusters, length), expected)
    sort = jax.jit(places_by_sorting, static_argnums=(1, 2))
    np.testing.assert_array_equal(sort(order, length, False), expected)
    if kept == length:
        np.testing.assert_array_equal(sort(order, length, True), expected)
    cluster = cluster_of_places(jnp.asarray(expected), clusters)
    expected_cluster = np.where(expected < slots, expected // min(4, slots), -1)
    np.testing.assert_array_equal(cluster, expected_cluster)


@pytest.mark.parametrize("complete", [False, True])
def test_tokens_and_slots_that_do_not_fit_one_word(complete):
    length = 70_000
    order = order_of(length, length + 50, length if complete else length // 2)[:1, :1]
    found = jax.jit(places_by_sorting, static_argnums=(1, 2))(order, length, complete)
    np.testing.assert_array_equal(found, places_in(order, length))


def test_orders_may_be_mapped_over():
    order = order_of(21, 24, 17)
    sort = functools.partial(places_by_sorting, length=21, complete=False)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(sort)))(order), places_in(order, 21))


@pytest.mark.parametrize(("length", "slots"), [(9, 40), (1, 5), (60, 40), (70_000, 70_500)])
def test_a_token_in_the_first_of_its_slots_alone(length, slots):
    order = np.random.default_rng(0).integers(0, length + 1, (2, slots), np.int32)
    expected = order.copy()
    for row in expected:
        seen = set()
        for slot, token in enumerate(row):
            row[slot] = length if token in seen else token
            seen.add(token)
    np.testing.assert_array_equal(jax.jit(first_slots, static_argnums=1)(order, length), expected)


@pytest.mark.parametrize("window", [1, 7, 64, 300])
@pytest.mark.parametrize(
    ("num_queries", "num_keys", "spare"), [(200, 200, 0), (200, 150, 5), (30, 90, 3), (1, 1, 0)]
)
def test_the_places_of_windows(window, num_queries, num_keys, spare):
    """Each slot of `local_clustering` that holds a token is one of its places, and no other is.

    spare: empty slots at the end of each cluster.
    """
    clustering = local_clustering((1,), num_queries, num_keys, window=window)
    queries, keys = (np.asarray(order)[0, 0] for order in clustering)
    for order, length, before in ((queries, num_queries, 0), (keys, num_keys, window // 2)):
        filled = np.pad(order, [(0, 0), (0, spare)], constant_values=length)
        places = local_places(
            length,
            filled.shape[1],
            len(order),
            size=queries.shape[1],
            keys=order.shape[1],
            before=before,
        )
        places = np.asarray(places)
        slots = filled.ravel()
        for token in range(length):
            there = np.sort(places[:, token][places[:, token] < slots.size])
            np.testing.assert_array_equal(there, np.flatnonzero(slots == token))
        assert np.all(places <= slots.size)


@pytest.mark.parametrize("slots", [1, 7, 16, 33])
def test_halves_of_uneven_sizes_are_the_same_sets(slots):
    """More slots than a half has, nodes of any size, and some that are empty."""
    generator = np.random.default_rng(slots)
    nodes, length = 5, 5 * slots
    tokens = np.stack([generator.permutation(length).reshape(nodes, slots) for _ in range(2)])
    count = generator.integers(0, slots + 1, (2, nodes))
    count[0, 0], count[1, 0] = 0, slots
    tokens = jnp.asarray(np.where(np.arange(slots) < count[..., None], tokens, length), jnp.int32)
    along = jax.random.normal(jax.random.key(slots), tokens.shape)
    size = -(-slots // 2)
    fewest = np.maximum(count - size, 0)
    first = fewest + generator.integers(0, np.minimum(count, size) - fewest + 1)
    count, first = (jnp.asarray(array, jnp.int32) for array in (count, first))
    ordered = jax.jit(_by_sorting, static_argnums=(4, 5))(tokens, along, first, count, size, length)
    counted = jax.jit(_by_counting, static_argnums=(3, 4))(tokens, along, first, size, length)
    np.testing.assert_array_equal(jnp.sort(ordered, axis=-1), jnp.sort(counted, axis=-1))
    halves = np.asarray(ordered).reshape(2, nodes, 2, size)
    np.testing.assert_array_equal(np.sum(halves < length, axis=-1)[..., 0], first)
    expected = np.sort(np.asarray(tokens), axis=-1)
    both = np.sort(halves.reshape(2, nodes, -1), axis=-1)[..., :slots]
    np.testing.assert_array_equal(both, expected)
