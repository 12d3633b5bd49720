"""Several levels of halving by a kernel, interpreted: the same nodes as level by level."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax.clustering import halving, halving_kernel, sets, tree
from smyrf_jax.clustering.halving_kernel import NO_TOKEN
from smyrf_jax.clustering.nodes import Nodes
from smyrf_jax.clustering.sets import Sets, halved


def vectors(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def sides_of(coordinates, kept, sizes):
    return [tree._root(of, mask, 1, size) for of, mask, size in zip(coordinates, kept, sizes, strict=True)]


def grown(kernel, nodes, sides):
    starts = tree._starts(jax.random.key(9), 1, sides[0].coordinates, nodes.depth)
    found = jax.jit(functools.partial(tree._grown, kernel))(nodes, sides, starts)
    return [np.sort(np.asarray(tokens), axis=-1) for tokens in found]


@pytest.mark.parametrize(
    ("trees", "lengths", "num_clusters", "masked"),
    [
        (2, (32, 16), 4, False),  # eight rows a set
        (9, (30, 21), 3, False),  # a row a set, odd numbers of clusters and tokens
        (2, (30, 20), 4, True),
    ],
)
def test_a_tree_has_the_nodes_that_it_has_level_by_level(trees, lengths, num_clusters, masked):
    coordinates = [vectors(trees, length, 3, seed=length) for length in lengths]
    kept = [None, None]
    if masked:
        kept = [
            jax.random.uniform(jax.random.key(seed), of.shape[:2]) < 0.6
            for seed, of in enumerate(coordinates)
        ]
        coordinates = [jnp.where(mask[..., None], of, 0) for of, mask in zip(coordinates, kept, strict=True)]
    sizes = [-(-length // num_clusters) for length in lengths]
    sides, nodes = sides_of(coordinates, kept, sizes), Nodes(num_clusters, None)
    for ours, expected in zip(grown(None, nodes, sides), grown(False, nodes, sides), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_fewer_clusters_are_filled_where_queries_are_padded():
    coordinates = [vectors(2, 32, 3), vectors(2, 32, 3, seed=1)]
    kept = [jnp.arange(32)[None] < jnp.asarray([[9], [32]])] * 2
    coordinates = [jnp.where(mask[..., None], of, 0) for of, mask in zip(coordinates, kept, strict=True)]
    sides, nodes = sides_of(coordinates, kept, (8, 8)), Nodes(4, jnp.asarray([2, 4]))
    for ours, expected in zip(grown(None, nodes, sides), grown(False, nodes, sides), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_nodes_that_do_not_fit_are_halved_level_by_level_first(monkeypatch):
    sides = sides_of([vectors(2, 32, 3), vectors(2, 32, 3, seed=1)], [None, None], (4, 4))
    nodes = Nodes(8, None)
    expected = grown(False, nodes, sides)
    stages = []
    several = tree._several_levels
    monkeypatch.setattr(tree, "_several_levels", lambda *a, **k: stages.append(a[3:5]) or several(*a, **k))
    monkeypatch.setattr(sets, "RESIDENT", 16)
    monkeypatch.setattr(sets, "LEVELS", 1)
    for ours, of in zip(grown(None, nodes, sides), expected, strict=True):
        np.testing.assert_array_equal(ours, of)
    assert stages == [(1, 1), (2, 1)]


def test_of_equal_places_the_lowest_tokens_come_first():
    tokens = jnp.asarray([[6, 1, 5, 0, 3, 2, 4, NO_TOKEN]], jnp.int32)
    counts = [jnp.asarray([of], jnp.int32) for of in ([3], [2, 2])]
    alike = Sets(
        jnp.zeros((1, 2, 8)),
        tokens,
        jnp.concatenate([counts[0], counts[1]], axis=1),
        jnp.asarray([[2, 1, 2, 2]], jnp.int32),
    )
    (found,) = halved([alike], jnp.ones((1, 3, 2)), levels=2, size=[2], spare=[1], length=[7], interpret=True)
    np.testing.assert_array_equal(found[0], [[0, 1], [2, 7], [3, 4], [5, 6]])


@pytest.mark.parametrize("columns", [False, True])
def test_long_sets_are_read_a_few_columns_at_a_time(monkeypatch, columns):
    if columns:
        monkeypatch.setattr(halving_kernel, "CHUNK", 1024)
    sides = sides_of([vectors(1, 2048, 3), vectors(1, 2048, 3, seed=1)], [None, None], (1024, 1024))
    nodes = Nodes(2, None)
    for ours, expected in zip(grown(None, nodes, sides), grown(False, nodes, sides), strict=True):
        # Sums of another order may put a token that lies at the median on its other side.
        assert np.mean(ours == expected) > 0.99
        np.testing.assert_array_equal(np.sort(ours.ravel()), np.arange(2048))


@pytest.mark.parametrize(("tokens", "clusters", "slots", "complete"), [(40, 4, 10, True), (29, 4, 8, False)])
def test_pieces_of_clusters(tokens, clusters, slots, complete):
    rows = vectors(3, tokens, 5)
    order = jnp.stack([jax.random.permutation(jax.random.key(seed), tokens) for seed in range(3)])
    order = jnp.pad(order, [(0, 0), (0, clusters * slots - tokens)], constant_values=tokens)
    order = jnp.sort(order.reshape(3, clusters, slots), axis=-1)
    expected = halving._pieces_by_levels(2, complete, rows, order)
    ours = halving.pieces_by_kernel(2, complete, rows, order, interpret=True)
    np.testing.assert_array_equal(np.sort(ours, axis=-1), np.sort(expected, axis=-1))
    mapped = jax.vmap(
        lambda rows, order: halving.pieces_by_kernel(2, complete, rows[None], order[None], interpret=True)[0]
    )(rows, order)
    np.testing.assert_array_equal(mapped, ours)
