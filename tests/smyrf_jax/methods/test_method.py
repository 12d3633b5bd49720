"""What every method promises: one call, settings that are checked, a cost, a budget, a name."""

import dataclasses
import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import (
    Canopy,
    CausalCanopy,
    Dense,
    Local,
    Method,
    Performer,
    Scatterbrain,
    Smyrf,
    attention,
    clustered_attention,
    dense_attention,
    method_from_config,
)
from smyrf_jax.diagnostics import captured_mass
from smyrf_jax.methods import METHODS, Clustered, ContentBased
from tests.smyrf_jax.reference import arrays_of

SMALL = {
    "dense": Dense(),
    "smyrf": Smyrf(2, 8),
    "canopy": Canopy(2, 8, 2),
    "causalcanopy": CausalCanopy(8, 1, 1, leaf_size=2, leaves_per_branch=2, tree_sizes=(16,)),
    "scatterbrain": Scatterbrain(2, 8, 8),
    "scatterbrain with a window": Scatterbrain(num_features=8, window=9),
    "performer": Performer(16),
    "local": Local(9),
    "streaming": METHODS["streaming"](window=9),
    "reformer": METHODS["reformer"](num_hashes=1, cluster_size=8),
    "routing": METHODS["routing"](cluster_size=8),
    "hyperattention": METHODS["hyperattention"](num_hashes=2, cluster_size=8),
}
CAUSAL = ("causalcanopy",)
SHAPE = (2, 24, 24, 4, 4, 5)


def test_all_methods_are_here():
    assert {type(method).__name__.lower() for method in SMALL.values()} == set(METHODS)


@pytest.mark.parametrize("name", SMALL)
def test_a_method_is_a_value(name):
    method = SMALL[name]
    copy = dataclasses.replace(method)
    assert copy == method == pickle.loads(pickle.dumps(method))
    assert hash(copy) == hash(method)
    assert eval(repr(method), {type(method).__name__: type(method)}) == method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.cluster_size = 3
    assert type(method)() == METHODS[type(method).__name__.lower()]()  # every field has a default


@pytest.mark.parametrize("name", SMALL)
def test_the_method_is_static_and_the_same_input_gives_the_same_output(name):
    query, key, value = arrays_of(SHAPE)
    key, value = key[:, :, :2], value[:, :, :2]  # two heads share one
    run = jax.jit(
        lambda method, *arrays: attention(
            *arrays, method=method, is_causal=name in CAUSAL, return_residual=True
        ),
        static_argnums=0,
    )
    output, logsumexp = run(SMALL[name], query, key, value)
    chex.assert_shape(output, (2, 24, 4, 5))
    chex.assert_shape(logsumexp, (2, 24, 4))
    chex.assert_tree_all_finite(output)
    chex.assert_trees_all_close(run(SMALL[name], query, key, value), (output, logsumexp))


@pytest.mark.parametrize("name", SMALL)
def test_its_clusters_are_those_it_attends_in(name):
    query, key, value = arrays_of(SHAPE)
    method = SMALL[name]
    if not isinstance(method, Clustered):
        with pytest.raises(ValueError, match=f"{type(method).__name__} has no clusters"):
            method.clustering(query, key)
        return
    clustering = method.clustering(query, key, rng=jax.random.key(5))
    assert clustering.query_order.shape[:2] == (2, 4)

    @jax.jit
    def run(query, key, value):
        parts = method.parts(query, key, None, jax.random.key(5))
        options = {"deduplicate": parts.deduplicate, "far_field": parts.far_field, "window": parts.window}
        expected = clustered_attention(query, key, value, parts.clustering, **options)
        output = attention(query, key, value, method=method, rng=jax.random.key(5))
        rngs = [jax.random.key(5), None]
        of = (
            method,
            parts.clustering if parts.window is None else method,
        )  # a window has no more than its pairs
        masses = [captured_mass(query, key, x, rng=rng) for x, rng in zip(of, rngs, strict=True)]
        return parts.clustering, (output, masses[0]), (expected, masses[1])

    again, *results = run(query, key, value)
    chex.assert_trees_all_equal(again, clustering)
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_lengths_are_masks_and_padded_queries_are_zero(name):
    query, key, value = arrays_of(SHAPE)
    lengths = jnp.array([24, 15])
    mask = (jnp.arange(24)[None] < lengths[:, None])[:, None, None]
    method = SMALL[name]

    @jax.jit
    def run(mask, lengths):
        masks = {"mask": mask, "query_mask": mask}
        lengths = {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
        options = {"is_causal": name in CAUSAL, "return_residual": True}
        return attention(query, key, value, method=method, **options, **masks, **lengths)

    expected, residual = run(mask, None)
    output, logsumexp = run(None, lengths)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(logsumexp, residual)
    np.testing.assert_array_equal(output[1, 15:], 0)
    np.testing.assert_array_equal(logsumexp[1, 15:], -jnp.inf)


@pytest.mark.parametrize("name", ["dense", "smyrf", "canopy", "scatterbrain", "performer"])
def test_the_scale_may_be_learned(name):
    with jax.enable_x64(True):
        query, key, value = arrays_of((1, 12, 12, 2, 3, 3), jnp.float64)
        method = SMALL[name]

        @jax.jit
        def loss(scale):
            return jnp.sum(jnp.sin(attention(query, key, value, method=method, scale=scale)))

        slope = jax.grad(loss)(jnp.asarray(0.7))
        ahead, behind = (loss(jnp.asarray(0.7 + step)) for step in (1e-5, -1e-5))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6)
        np.testing.assert_allclose(
            loss(0.7), jnp.sum(jnp.sin(attention(query, key, value, method=method, scale=0.7))), rtol=1e-12
        )


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_budget_is_kept_and_used(name):
    method = METHODS[name]
    if name == "dense":
        with pytest.raises(ValueError, match=r"pairs=12.50% of dense attention's; the least is Dense\(\)"):
            method.for_budget(1024, 1024, pairs=0.125)
        assert method.for_budget(1024, 1024, pairs=1.0) == Dense()
        return
    for lengths, pairs in (((1024, 1024), 0.125), ((2048, 512), 0.25)):
        found = method.for_budget(*lengths, pairs=pairs, width=32)
        assert isinstance(found, method)
        assert 0.6 * pairs < found.cost(*lengths, width=32).pairs <= pairs
    with pytest.raises(ValueError, match=r"has no fields \['size'\]; it has \["):
        method.for_budget(1024, 1024, pairs=0.5, size=3)
    with pytest.raises(ValueError, match="num_queries must be positive, got num_queries=0"):
        method.for_budget(0, 1024, pairs=0.5)


def test_methods_by_name():
    assert method_from_config("canopy", num_trees=2, cluster_size=32) == Canopy(2, 32)
    assert method_from_config("dense") == Dense()
    with pytest.raises(ValueError, match=r"name should be one of \['canopy', 'causalcanopy', .*'sparse'"):
        method_from_config("sparse")
    with pytest.raises(ValueError, match=r"Dense has no fields \['cluster_size'\]; it has \[\]"):
        method_from_config("dense", cluster_size=3)
    with pytest.raises(ValueError, match="Canopy has no fields.*'num_hashes'.*it has.*'num_trees'"):
        method_from_config("canopy", num_hashes=3)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("smyrf", {"num_hashes": 0}, "num_hashes must be positive, got num_hashes=0"),
        ("smyrf", {"cluster_size": -1}, "cluster_size must be positive, got cluster_size=-1"),
        ("canopy", {"num_trees": 0}, "num_trees must be positive"),
        (
            "canopy",
            {"means_per_cluster": 3},
            "means_per_cluster must be a power of two, got means_per_cluster=3",
        ),
        ("scatterbrain", {"num_features": 3}, "num_features must be even, got num_features=3"),
        ("scatterbrain", {"window": 0}, "window must be positive"),
        ("performer", {"num_features": 0}, "num_features must be positive"),
        ("local", {"window": 0}, "window must be positive, got window=0"),
        ("reformer", {"num_hashes": 0}, "num_hashes must be positive"),
        ("routing", {"cluster_size": 0}, "cluster_size must be positive"),
        ("hyperattention", {"cluster_size": 0}, "cluster_size must be positive"),
    ],
)
def test_settings_without_meaning_are_refused_when_they_are_made(name, fields, message):
    with pytest.raises(ValueError, match=message):
        method_from_config(name, **fields)


@pytest.mark.parametrize("name", SMALL)
def test_causal_weights_sum_to_one_and_see_no_later_key(name):
    query, key, _ = arrays_of((1, 90, 90, 1, 4, 4))
    method, eye = SMALL[name], jnp.eye(90)[None, :, None]
    if isinstance(method, ContentBased) and name != "scatterbrain with a window":
        with pytest.raises(ValueError, match=f"{type(method).__name__}.* cannot be causal"):
            attention(query, key, eye, method=method, is_causal=True)
        method = dataclasses.replace(method, clusters_see_future=True)
    attend = jax.jit(lambda *arrays: attention(*arrays, method=method, is_causal=True))
    if name == "canopy":
        with pytest.raises(ValueError, match="Canopy and Centroids cannot be causal"):
            attend(query, key, eye)
        return
    weights = np.asarray(attend(query, key, eye)[0, :, 0])
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(np.triu(weights, 1), 0, atol=1e-7)
    if name == "local":
        logits = query[0, :, 0] @ key[0, :, 0].T / 2
        distance = jnp.arange(90)[None] - jnp.arange(90)[:, None]
        expected = jax.nn.softmax(jnp.where((distance >= -4) & (distance <= 0), logits, -jnp.inf))
        np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_gives_zeros(name):
    attend = functools.partial(attention, method=SMALL[name], return_residual=True)
    for batch, num_queries, num_keys, heads in ((2, 0, 8, 2), (2, 8, 0, 2), (0, 8, 8, 2)):
        shapes = (num_queries, 4), (num_keys, 4), (num_keys, 5)
        arrays = [jnp.ones((batch, length, heads, width)) for length, width in shapes]
        output, logsumexp = attend(*arrays)
        assert output.shape == (batch, num_queries, heads, 5)
        np.testing.assert_array_equal(output, 0)
        np.testing.assert_array_equal(logsumexp, -jnp.inf)


@pytest.mark.parametrize("name", ["smyrf", "canopy", "scatterbrain", "performer", "routing"])
def test_a_learned_scale_and_shared_arrays_inside_shard_map(name):
    """The gradient of what is the same on all devices is summed over them."""
    query, key, value = arrays_of((8, 16, 16, 1, 3, 3))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, same = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    is_causal, method = name != "canopy", SMALL[name]
    if isinstance(method, ContentBased):
        method = dataclasses.replace(method, clusters_see_future=True)

    def slopes(query, key, value, scale):
        def loss(key, scale):
            keys = jnp.broadcast_to(key, (len(query), *key.shape[1:]))
            output = attention(query, keys, value, method=method, scale=scale, is_causal=is_causal)
            return jnp.sum(jnp.sin(output))

        return jax.grad(loss, argnums=(0, 1))(key, scale)

    arguments = query, key[:1], value, jnp.asarray(0.7)
    sharded = jax.shard_map(slopes, mesh=mesh, in_specs=(batch, same, batch, same), out_specs=(same, same))
    chex.assert_trees_all_close(
        jax.jit(sharded)(*arguments), jax.jit(slopes)(*arguments), rtol=1e-3, atol=1e-4
    )


class Doubled(Method):
    """A method of a user."""

    def attend(self, query, key, value, mask, *, rng, scale, is_causal):
        return 2 * value, jnp.zeros(query.shape[:-1])


def test_a_method_of_ones_own_goes_in():
    query, key, value = arrays_of(SHAPE)
    chex.assert_trees_all_equal(attention(query, key, value, method=Doubled()), 2 * value)
    with pytest.raises(NotImplementedError, match="Doubled does not know its cost"):
        Doubled().cost(8, 8)


def test_performer_comes_near_dense_with_many_features():
    query, key, value = arrays_of((1, 30, 30, 2, 4, 4))
    output = attention(0.5 * query, 0.5 * key, value, method=Performer(8192))
    np.testing.assert_allclose(output, dense_attention(0.5 * query, 0.5 * key, value), atol=0.05)
