"""The recipe: exact near, estimated far, and the papers' attentions one argument away."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Canopy, Scatterbrain, Smyrf, attention, dense_attention
from smyrf_jax.diagnostics import attention_error
from tests.smyrf_jax.reference import avals_of

SMALL = Canopy(num_trees=2, cluster_size=8, means_per_cluster=4)
FEATURES = Scatterbrain(num_hashes=2, cluster_size=8)


def arrays(*shape):
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3)]


def run(*arguments, method=SMALL, **options):
    return attention(*arguments, method=method, rng=jax.random.key(1), **options)


def test_it_is_nearer_to_dense_than_smyrf_at_the_same_size():
    query, key, value = arrays(1, 128, 2, 16)
    exact = dense_attention(query, key, value)
    errors = [
        float(jnp.mean(attention_error(run(query, key, value, method=method), exact)))
        for method in (SMALL, Smyrf(2, 8))
    ]
    assert errors[0] < 0.6 * errors[1]


def test_without_means_what_lies_outside_does_not_count():
    query, key, value = arrays(1, 40, 2, 8)
    trees = Canopy(2, 8, means_per_cluster=0, clusters_see_future=True)
    output = run(query, key, value, method=trees, is_causal=True)
    np.testing.assert_allclose(output[:, 0], value[:, 0], atol=1e-6)


def test_features_are_redrawn_by_the_key_and_can_be_causal():
    query, key, value = arrays(1, 40, 2, 8)
    causal = dataclasses.replace(FEATURES, clusters_see_future=True)
    first, second = (
        attention(query, key, value, method=causal, rng=rng, is_causal=True)
        for rng in jax.random.split(jax.random.key(1))
    )
    assert np.max(np.abs(first - second)) > 1e-3
    # The first query sees the first key alone.
    np.testing.assert_allclose(first[:, 0], value[:, 0], atol=1e-4)


@pytest.mark.parametrize("method", [SMALL, FEATURES], ids=["means", "features"])
def test_it_composes(method):
    arguments = arrays(2, 2, 24, 2, 4)  # two leading axes

    def loss(*arguments):
        return jnp.sum(jnp.sin(run(*arguments, method=method)))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
    chex.assert_tree_all_finite(gradients)
    expected = jax.jit(lambda *arguments: run(*arguments, method=method))(*arguments)
    mapped = jax.jit(jax.vmap(lambda *arguments: run(*arguments, method=method)))(*arguments)
    chex.assert_trees_all_close(mapped, expected, atol=1e-5)
    remat = jax.jit(jax.grad(jax.checkpoint(loss)))(*arguments)
    chex.assert_trees_all_close(remat, gradients[0], atol=1e-5)
    parallel = jax.pmap(lambda *arguments: run(*arguments, method=method))(*arguments)
    chex.assert_trees_all_close(parallel, expected, atol=1e-5)


def test_gradients_inside_shard_map_are_those_outside():
    arguments = arrays(8, 24, 2, 4)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.sharding.PartitionSpec("batch")

    def gradients(*arguments):
        def loss(*arguments):
            return jnp.sum(jnp.sin(run(*arguments)))

        return jax.grad(loss, argnums=(0, 1, 2))(*arguments)

    sharded = jax.jit(jax.shard_map(gradients, mesh=mesh, in_specs=batch, out_specs=batch))
    chex.assert_trees_all_close(sharded(*arguments), jax.jit(gradients)(*arguments), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_trees", [1, 2])
def test_no_intermediate_is_as_large_as_the_logits(num_trees):
    """Of the means neither, if they are many: forward and backward go step by step."""
    length = 4096
    shape = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)

    def loss(*arguments):
        method = Canopy(num_trees, 64, 16)
        return jnp.sum(attention(*arguments, method=method, implementation="loop"))

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(shape, shape, shape)
    assert max(aval.size for aval in avals_of(jaxpr.jaxpr)) <= length**2 / 8


def test_residuals_are_of_all_weights():
    query, key, value = arrays(1, 40, 2, 8)
    output, logsumexp = run(query, key, jnp.ones_like(value), method=Canopy(2, 40), return_residual=True)
    np.testing.assert_allclose(output, 1, rtol=1e-4)
    exact = dense_attention(query, key, value, return_residual=True)[1]
    np.testing.assert_allclose(logsumexp, exact, atol=1e-4)


def test_means_cannot_be_causal():
    query, key, value = arrays(1, 40, 2, 8)
    with pytest.raises(ValueError, match="Canopy and Centroids cannot be causal: take Scatterbrain"):
        run(query, key, value, is_causal=True)
