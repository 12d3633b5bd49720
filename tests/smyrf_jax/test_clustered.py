"""clustered_attention and smyrf_attention against dense references, and what must hold for any input."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import (
    Clustering,
    Dense,
    Smyrf,
    attention,
    clustered_attention,
    dense_attention,
    smyrf_attention,
)
from smyrf_jax.blockwise import schedule
from tests.smyrf_jax.reference import SHAPES, arrays_of, cluster, loss_of, padding_mask, reference

small = jax.jit(functools.partial(smyrf_attention, num_hashes=2, cluster_size=4))
dense = jax.jit(lambda *arrays, rng: dense_attention(*arrays))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("deduplicate", [False, True])
def test_values_and_gradients_equal_the_reference(shape, masked, is_causal, deduplicate, monkeypatch):
    # Clusters of 4 x 4 or fewer: 3 a step, so that steps do not divide them, and several are run.
    monkeypatch.setattr(schedule, "LOGITS_A_STEP", 3 * 4 * 4 * shape[0] * shape[3])
    with jax.enable_x64(True):
        arrays = arrays_of(shape, jnp.float64)
        mask = padding_mask(shape) if masked else None
        clustering = cluster(*arrays[:2], mask)
        options = {"deduplicate": deduplicate, "is_causal": is_causal, "scale": 0.7}

        def run(attend):
            def loss(*arrays):
                result = attend(*arrays, clustering, mask, **options)
                return loss_of(*result), result

            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)

        ours = functools.partial(clustered_attention, return_residual=True)
        chex.assert_trees_all_close(run(ours), run(reference), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_causal", [False, True])
def test_query_heads_may_share_key_heads(is_causal):
    query = arrays_of((2, 13, 7, 6, 4, 5))[0]
    key, value = arrays_of((2, 13, 7, 2, 4, 5))[1:]
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 6, 1, 7))

    def run(method, repeats):
        def loss(query, key, value):
            key, value = (jnp.repeat(array, repeats, axis=2) for array in (key, value))
            result = attention(
                query, key, value, method=method, mask=mask, is_causal=is_causal, return_residual=True
            )
            return loss_of(*result), result

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    for method in (Smyrf(2, 4, clusters_see_future=True), Dense()):
        chex.assert_trees_all_close(run(method, 1), run(method, 3), rtol=1e-5, atol=1e-5)


def test_second_derivatives_equal_the_reference_and_forward_mode_raises():
    with jax.enable_x64(True):
        shape = SHAPES[2]
        arrays, mask = arrays_of(shape, jnp.float64), padding_mask(shape)
        mask = mask.at[1].set(False)  # a sample without keys
        clustering = cluster(*arrays[:2], mask)

        def penalty(attend):
            def loss(*arrays):
                return loss_of(*attend(*arrays, clustering, mask))

            def squared(*arrays):
                return sum(jnp.sum(grad**2) for grad in jax.grad(loss, argnums=(0, 1, 2))(*arrays))

            return jax.jit(jax.grad(squared, argnums=(0, 1, 2)))(*arrays)

        ours = functools.partial(clustered_attention, return_residual=True)
        chex.assert_trees_all_close(penalty(ours), penalty(reference), rtol=1e-9, atol=1e-11)
        with pytest.raises(TypeError, match="forward-mode.*custom_vjp"):
            jax.jvp(lambda query: clustered_attention(query, *arrays[1:], clustering), arrays[:1], arrays[:1])


def test_causal_rows_see_no_later_key():
    query, key, value = arrays_of((1, 12, 12, 2, 4, 4))
    options = {"num_hashes": 2, "cluster_size": 4, "is_causal": True, "clusters_see_future": True}
    attend = jax.jit(functools.partial(smyrf_attention, **options))
    output, jacobian = (
        function(value)
        for function in (
            lambda value: attend(query, key, value, rng=jax.random.key(0)),
            jax.jacrev(lambda value: attend(query, key, value, rng=jax.random.key(0))[0, :, 0, 0]),
        )
    )
    assert output.shape == (1, 12, 2, 4)
    weights = np.asarray(jacobian[:, 0, :, 0, 0])  # [T, S] of the first head
    assert np.all(np.triu(weights, 1) == 0)
    assert np.all(np.diagonal(weights) > 0)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("is_causal", [False, True])
def test_one_cluster_is_dense_attention_for_any_rng(shape, masked, dtype, is_causal):
    arrays = arrays_of(shape, dtype)
    mask = padding_mask(shape) if masked else None
    expected = dense_attention(*arrays, mask, is_causal=is_causal, return_residual=True)
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    options = {"num_hashes": 3, "cluster_size": shape[1], "is_causal": is_causal}
    attend = jax.jit(functools.partial(smyrf_attention, **options, deduplicate=True, return_residual=True))
    for seed in range(2):
        result = attend(*arrays, mask, rng=jax.random.key(seed))
        assert result[0].dtype == dtype
        assert result[1].dtype == jnp.float32
        result, wanted = (jax.tree.map(lambda x: x.astype(jnp.float32), x) for x in (result, expected))
        chex.assert_trees_all_close(result, wanted, rtol=tolerance, atol=tolerance)
    # Without deduplication every key counts once a round: log 3 more, and the same output.
    output = smyrf_attention(*arrays, mask, rng=jax.random.key(0), **options)
    assert isinstance(output, jax.Array)
    chex.assert_trees_all_close(output.astype(jnp.float32), wanted[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("attend", [small, dense])
def test_rows_without_keys_are_zero_and_have_no_gradient(attend):
    arrays = arrays_of(SHAPES[0])
    mask = jnp.zeros((2, 1, 1, 16), bool).at[1].set(True)

    def loss(*arrays):
        output = attend(*arrays, mask, rng=jax.random.key(0))
        return jnp.sum(output**2), output

    grads, output = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    chex.assert_tree_all_finite((grads, output))
    for array in (output, *grads):
        np.testing.assert_array_equal(array[0], 0)
        assert jnp.any(array[1] != 0)
    no_keys = [arrays[0], arrays[1][:, :0], arrays[2][:, :0]]
    np.testing.assert_array_equal(attend(*no_keys, rng=jax.random.key(0)), 0)


def test_masked_keys_and_other_samples_never_leak():
    shape = SHAPES[2]
    arrays, mask = arrays_of(shape), padding_mask(shape)
    output = small(*arrays, mask, rng=jax.random.key(0))
    poisoned = [jnp.where(mask[:, 0, 0, :, None, None], array, 1e9) for array in arrays[1:]]
    chex.assert_trees_all_equal(small(arrays[0], *poisoned, mask, rng=jax.random.key(0)), output)
    other = [array.at[1].set(1e9) for array in arrays]
    chex.assert_trees_all_equal(small(*other, mask, rng=jax.random.key(0))[0], output[0])
    heads = [array.at[:, :, 1].set(1e9) for array in arrays]
    chex.assert_trees_all_equal(small(*heads, mask, rng=jax.random.key(0))[:, :, 0], output[:, :, 0])


def test_masks_differ_by_sample_and_head():
    arrays = arrays_of(SHAPES[0])
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 2, 1, 16))
    attend = jax.jit(functools.partial(smyrf_attention, num_hashes=2, cluster_size=16))
    output = attend(*arrays, mask, rng=jax.random.key(0))
    for sample in range(2):
        for head in range(2):
            kept = np.flatnonzero(mask[sample, head, 0])
            query, key, value = (array[sample : sample + 1, :, head : head + 1] for array in arrays)
            expected = dense_attention(query, key[:, kept], value[:, kept])
            chex.assert_trees_all_close(output[sample, :, head], expected[0, :, 0], rtol=1e-5, atol=1e-6)


def test_permuting_tokens_permutes_the_output():
    arrays = arrays_of(SHAPES[0])
    queries, keys = (jax.random.permutation(jax.random.key(seed), 16) for seed in (5, 6))
    output = small(*arrays, rng=jax.random.key(0))
    permuted = small(arrays[0][:, queries], arrays[1][:, keys], arrays[2][:, keys], rng=jax.random.key(0))
    chex.assert_trees_all_close(permuted, output[:, queries], rtol=1e-5, atol=1e-6)


def test_jit_vmap_remat_and_pmap_compose():
    arrays = arrays_of((8, 13, 7, 2, 4, 5))

    def attend(*arrays):
        return smyrf_attention(*arrays, rng=jax.random.key(0), num_hashes=2, cluster_size=4)

    expected = attend(*arrays)
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
    close(jax.jit(attend)(*arrays), expected)
    close(jax.jit(jax.vmap(attend))(*arrays), expected)
    heads_outside = [jnp.moveaxis(array, 2, 0)[:, :, :, None] for array in arrays]
    close(jnp.moveaxis(jax.jit(jax.vmap(attend))(*heads_outside)[..., 0, :], 0, 2), expected)
    split = [array.reshape(8, 1, *array.shape[1:]) for array in arrays]
    close(jax.pmap(attend)(*split).reshape(expected.shape), expected)

    def loss(attend, *arrays):
        return jnp.sum(attend(*arrays) ** 2)

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, function), argnums=(0, 1, 2)))(*arrays)
        for function in (attend, jax.checkpoint(attend))
    ]
    close(*gradients)


def test_shard_map_computes_the_same_gradients_on_each_device():
    arrays = arrays_of((8, 13, 7, 2, 4, 5))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.sharding.PartitionSpec("batch")

    def loss(*arrays):
        output = smyrf_attention(*arrays, rng=jax.random.key(0), num_hashes=2, cluster_size=4)
        return jnp.sum(output**2, axis=(1, 2, 3))

    def gradients(*arrays):
        return jax.grad(lambda *arrays: jnp.sum(loss(*arrays)), argnums=(0, 1, 2))(*arrays)

    sharded = jax.jit(jax.shard_map(gradients, mesh=mesh, in_specs=batch, out_specs=batch))
    chex.assert_trees_all_close(sharded(*arrays), jax.jit(gradients)(*arrays), rtol=1e-5, atol=1e-5)
    # One query for all samples: its gradient is summed over the devices.
    shared = jax.jit(
        jax.shard_map(
            lambda query, *others: gradients(query, *others)[0],
            mesh=mesh,
            in_specs=(jax.sharding.PartitionSpec(), batch, batch),
            out_specs=jax.sharding.PartitionSpec(),
        )
    )(arrays[0][:1], *arrays[1:])
    repeated = jnp.broadcast_to(arrays[0][:1], arrays[0].shape)
    expected = jnp.sum(jax.jit(gradients)(repeated, *arrays[1:])[0], axis=0, keepdims=True)
    chex.assert_trees_all_close(shared, expected, rtol=1e-5, atol=1e-5)
    # The compiler's own partitioning of a sharded batch.
    placed = jax.device_put(arrays, jax.sharding.NamedSharding(mesh, batch))
    result = jax.jit(gradients)(*placed)
    assert result[0].sharding.is_equivalent_to(placed[0].sharding, 4)
    chex.assert_trees_all_close(result, jax.jit(gradients)(*arrays), rtol=1e-5, atol=1e-5)


def test_an_implementation_can_be_chosen():
    def attend(arrays, **options):
        return smyrf_attention(*arrays, rng=jax.random.key(0), num_hashes=1, cluster_size=8, **options)

    short, long = arrays_of((1, 16, 16, 1, 4, 4)), arrays_of((1, 512, 512, 1, 4, 4))
    for arrays, chosen in ((short, "dense"), (long, "clustered")):
        chex.assert_trees_all_equal(
            attend(arrays, implementation="auto"), attend(arrays, implementation=chosen)
        )
        assert jnp.any(attend(arrays, implementation="dense") != attend(arrays))
    # On TPUs dense attention of 256 tokens is faster yet: kernels are of clusters.
    for length, kernels in ((256, False), (8192, True)):
        shape = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)
        traced = jax.jit(lambda *of: attend(of, implementation="auto")).trace(shape, shape, shape)
        program = traced.lower(lowering_platforms=("tpu",)).as_text()
        assert ("tpu_custom_call" in program) == kernels
    options = {"is_causal": True, "scale": 0.3, "return_residual": True}
    chex.assert_trees_all_equal(
        attend(short, implementation="dense", **options), dense_attention(*short, **options)
    )


def test_a_query_in_no_cluster_gets_zeros_and_a_batch_may_be_empty():
    arrays = arrays_of(SHAPES[0])
    clustering = cluster(*arrays[:2])
    clustering = clustering._replace(query_order=jnp.full_like(clustering.query_order, 16))
    np.testing.assert_array_equal(clustered_attention(*arrays, clustering), 0)
    empty = [array[:0] for array in arrays]
    chex.assert_shape(small(*empty, rng=jax.random.key(0)), (0, 16, 2, 4))


def test_the_rng_decides_and_more_hashes_come_nearer_to_dense():
    arrays = arrays_of((2, 256, 256, 2, 8, 8))
    chex.assert_trees_all_equal(*(small(*arrays, rng=jax.random.key(1)) for _ in range(2)))
    assert jnp.any(small(*arrays, rng=jax.random.key(1)) != small(*arrays, rng=jax.random.key(2)))

    @functools.partial(jax.jit, static_argnums=0)
    def error(rounds):
        rng = jax.random.key(0)
        output = smyrf_attention(*arrays, rng=rng, num_hashes=rounds, cluster_size=32)
        return jnp.linalg.norm(output - dense_attention(*arrays))

    errors = [error(rounds) for rounds in (1, 4, 16)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hashes": 0}, "num_hashes must be positive, got num_hashes=0"),
        ({"implementation": "exact"}, "implementation should be 'auto', 'dense' or 'clustered'.*'exact'"),
        ({"cluster_size": -1}, "cluster_size must be positive, got cluster_size=-1"),
    ],
)
def test_bad_settings_are_named(change, message):
    arguments = {"rng": jax.random.key(0), "num_hashes": 1, "cluster_size": 4} | change
    # Beyond the checks of the tests' own type hook, as a user meets it.
    attend = getattr(smyrf_attention, "__wrapped__", smyrf_attention)
    with pytest.raises(ValueError, match=message):
        attend(*arrays_of(SHAPES[0]), **arguments)


def test_a_clustering_of_another_batch_is_refused():
    arrays = arrays_of(SHAPES[0])
    clustering = cluster(*(array[:1] for array in arrays[:2]))
    attend = getattr(clustered_attention, "__wrapped__", clustered_attention)
    with pytest.raises(ValueError, match="clustering should hold orders"):
        attend(*arrays, clustering)


@pytest.mark.parametrize("implementation", ["loop", "gather", "pallas"])
def test_a_key_in_two_slots_of_a_round_counts_once(implementation):
    """Also where there is one round."""
    clustering = Clustering(
        jnp.array([[[[[0, 1, 2, 3], [4, 5, 6, 6]]]]]), jnp.array([[[[[0, 1, 2, 3], [0, 1, 4, 5]]]]])
    )
    arrays = [jnp.zeros((1, 6, 1, 2)), *arrays_of((1, 6, 6, 1, 2, 3))[1:]]
    options = {"deduplicate": True, "return_residual": True, "implementation": implementation}
    _, logsumexp = clustered_attention(*arrays, clustering, **options)
    # Zero logits: a query counts its keys. Keys 0 and 1 stay in the first cluster.
    np.testing.assert_allclose(np.exp(logsumexp[0, :, 0]), [4, 4, 4, 4, 2, 2], rtol=1e-5)
