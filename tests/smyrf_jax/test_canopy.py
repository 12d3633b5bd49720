"""The recipe: exact near, estimated far, and the papers' attentions one argument away."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import canopy_attention, dense_attention, performer_far_field, smyrf_attention
from smyrf_jax.diagnostics import attention_error
from tests.smyrf_jax.reference import avals_of

SIZES = {"num_hashes": 2, "cluster_size": 8}


def arrays(*shape):
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3)]


def run(*arguments, **options):
    return canopy_attention(*arguments, rng=jax.random.key(1), **(SIZES | options))


def test_it_is_nearer_to_dense_than_smyrf_at_the_same_size():
    query, key, value = arrays(1, 128, 2, 16)
    exact = dense_attention(query, key, value)
    smyrf = smyrf_attention(query, key, value, rng=jax.random.key(1), **SIZES)
    errors = [float(jnp.mean(attention_error(out, exact))) for out in (run(query, key, value), smyrf)]
    assert errors[0] < 0.6 * errors[1]


def test_without_the_outside_it_is_smyrf_deduplicated():
    query, key, value = arrays(1, 40, 2, 8)
    ours = run(query, key, value, clusters="smyrf", outside="nothing")
    rng = jax.random.split(jax.random.key(1))[0]
    theirs = smyrf_attention(query, key, value, rng=rng, deduplicate=True, **SIZES)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_features_are_redrawn_by_the_key_and_can_be_causal():
    query, key, value = arrays(1, 40, 2, 8)
    options = {"clusters": "smyrf", "outside": "features", "is_causal": True}
    first, second = (
        canopy_attention(query, key, value, rng=rng, **SIZES, **options)
        for rng in jax.random.split(jax.random.key(1))
    )
    assert np.max(np.abs(first - second)) > 1e-3
    # The first query sees the first key alone.
    np.testing.assert_allclose(first[:, 0], value[:, 0], atol=1e-4)


@pytest.mark.parametrize("outside", ["centroids", "features"])
def test_it_composes(outside):
    arguments = arrays(2, 2, 24, 2, 4)  # two leading axes

    def loss(*arguments):
        return jnp.sum(jnp.sin(run(*arguments, outside=outside)))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
    chex.assert_tree_all_finite(gradients)
    expected = jax.jit(lambda *arguments: run(*arguments, outside=outside))(*arguments)
    mapped = jax.jit(jax.vmap(lambda *arguments: run(*arguments, outside=outside)))(*arguments)
    chex.assert_trees_all_close(mapped, expected, atol=1e-5)
    remat = jax.jit(jax.grad(jax.checkpoint(loss)))(*arguments)
    chex.assert_trees_all_close(remat, gradients[0], atol=1e-5)
    parallel = jax.pmap(lambda *arguments: run(*arguments, outside=outside))(*arguments)
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


@pytest.mark.parametrize("num_hashes", [1, 2])
def test_no_intermediate_is_as_large_as_the_logits(num_hashes):
    """Of the means neither, if they are many: forward and backward go step by step."""
    length = 4096
    shape = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)

    def loss(*arguments):
        return jnp.sum(run(*arguments, num_hashes=num_hashes, cluster_size=64, means_per_cluster=16))

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(shape, shape, shape)
    assert max(aval.size for aval in avals_of(jaxpr.jaxpr)) <= length**2 / 8


def test_residuals_are_of_all_weights():
    query, key, value = arrays(1, 40, 2, 8)
    output, logsumexp = run(query, key, jnp.ones_like(value), cluster_size=40, return_residual=True)
    np.testing.assert_allclose(output, 1, rtol=1e-4)
    exact = dense_attention(query, key, value, return_residual=True)[1]
    np.testing.assert_allclose(logsumexp, exact, atol=1e-4)


def test_what_cannot_be_is_refused():
    query, key, value = arrays(1, 40, 2, 8)
    for options, message in (
        ({"clusters": "forest"}, "clusters should be one of"),
        ({"outside": "average"}, "outside should be one of"),
        ({"is_causal": True}, "centroids are means of keys at all positions"),
        ({"outside": "features", "num_features": 3}, "num_features should be even and positive, but got 3"),
        ({"cluster_size": 0}, "cluster_size"),
        ({"means_per_cluster": 3}, "means_per_cluster must be a power of two, got means_per_cluster=3"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(canopy_attention, "__wrapped__", canopy_attention)(
                query, key, value, rng=jax.random.key(0), **(SIZES | options)
            )


def test_performer_alone_is_the_output_of_the_far_field():
    query, key, value = arrays(1, 30, 2, 4)
    projection = jax.random.normal(jax.random.key(5), (4096, 4))
    query, key = 0.5 * query, 0.5 * key
    far = performer_far_field(query, key, value, projection=projection)
    np.testing.assert_allclose(far.output, dense_attention(query, key, value), atol=0.05)
