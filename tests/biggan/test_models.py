"""Shapes, initialisers, and errors of the networks and the layers."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biggan import Discriminator, Generator
from biggan.experiment import build_gan
from biggan.layers import (
    AttentionBlock,
    ClassProjection,
    ConditionalBatchNorm,
    downsample,
    max_pool,
    upsample,
)
from biggan.train import GANTask
from smyrf_jax import Dense, Smyrf
from smyrf_jax.dense import dense_weights
from tests.biggan.variables import filled

KEYS = ("params", "hashing")


def init(module, *inputs):
    rngs = dict(zip(KEYS, jax.random.split(jax.random.key(0)), strict=True))
    return jax.jit(functools.partial(module.init, train=False))(rngs, *inputs)


def variables_of(module, *inputs):
    """As `init` has them, but for the numbers."""
    return filled(jax.eval_shape(functools.partial(init, module), *inputs))


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_every_resolution_makes_images_and_scores(resolution):
    generator = Generator(resolution, channels=2, dim_z=8)
    discriminator = Discriminator(resolution, channels=2)
    noise, labels = jnp.zeros((2, generator.noise_width)), jnp.zeros(2, jnp.int32)

    def run():
        rngs = dict(zip(KEYS, jax.random.split(jax.random.key(0)), strict=True))
        images, g = generator.init_with_output(rngs, noise, labels, train=False)
        scores, d = discriminator.init_with_output(rngs, images, labels, train=False)
        return images, scores, g, d

    images, scores, _, _ = jax.eval_shape(run)
    chex.assert_shape(images, (2, resolution, resolution, 3))
    chex.assert_shape(scores, (2,))


def test_kernels_are_orthogonal_biases_and_gamma_zero(tiny):
    """In the state that a run begins with: its program is compiled for test_train.py too."""
    state = GANTask(tiny, "", jax.devices()[:1]).first_state()
    params = {"generator": state.generator.params, "discriminator": state.discriminator.params}
    assert params["generator"]["attention1"]["gamma"] == 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "kernel":
            matrix = leaf.reshape(-1, leaf.shape[-1])
            matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
            np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-5)
        elif path[-1].key == "bias" and path[-2].key != "norm" and leaf.ndim == 1:
            np.testing.assert_array_equal(leaf, 0)


def test_the_gain_of_conditional_batch_norm_is_one_plus_the_table():
    norm = ConditionalBatchNorm(num_classes=3, bn_eps=1e-5, sn_eps=1e-6, axis_name=None)
    x = jax.random.normal(jax.random.key(1), (4, 2, 2, 5))
    labels = jnp.array([0, 1, 2, 1])
    variables = init(norm, x, labels)
    zeros = jax.tree.map(jnp.zeros_like, variables["params"])
    output, _ = norm.apply(variables | {"params": zeros}, x, labels, train=True, mutable=["batch_stats"])
    plain = nn.BatchNorm(use_running_average=False, use_bias=False, use_scale=False)
    expected, _ = plain.init_with_output(jax.random.key(0), x)
    chex.assert_trees_all_close(output, expected, atol=1e-5)


def test_pooling_is_that_of_linen():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    chex.assert_trees_all_close(downsample(x), nn.avg_pool(x, (2, 2), (2, 2)), atol=1e-6)
    chex.assert_trees_all_equal(max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))
    chex.assert_trees_all_equal(upsample(x)[:, ::2, 1::2], x)


def test_remat_changes_no_gradient():
    with jax.enable_x64(True):
        attention = nn.FrozenDict({32: Dense()})
        generator = Generator(32, channels=2, dim_z=8, attention=attention, dtype=jnp.float64)
        noise, labels = jax.random.normal(jax.random.key(1), (2, 8)), jnp.zeros(2, jnp.int32)
        variables = jax.tree.map(lambda x: x.astype(np.float64), variables_of(generator, noise, labels))

        def loss(params, remat):
            images, _ = generator.clone(remat=remat).apply(
                variables | {"params": params},
                noise,
                labels,
                train=True,
                mutable=["batch_stats", "spectral_norm"],
                rngs={"hashing": jax.random.key(0)},
            )
            return jnp.sum(images**2)

        grad = jax.jit(jax.grad(loss), static_argnums=1)
        gradients = [grad(variables["params"], remat) for remat in (False, True)]
        chex.assert_trees_all_close(*gradients, rtol=1e-8, atol=1e-9)


def in_dtype(dtype):
    """A function and its argument, the parameters of two networks that compute in dtype.

    It returns the gradients of the scores' sum, and (images, scores, statistics of one and of the other).
    """
    attention = nn.FrozenDict({16: Dense()})  # Hashes may fall otherwise when rounded.
    generator = Generator(32, channels=4, dim_z=8, attention=attention, dtype=dtype)
    discriminator = Discriminator(32, channels=4, attention=attention, dtype=dtype)
    noise, labels = jax.random.normal(jax.random.key(1), (4, 8)), jnp.zeros(4, jnp.int32)
    g = variables_of(generator, noise, labels)
    d = variables_of(discriminator, jnp.zeros((4, 32, 32, 3)), labels)

    def loss(params):
        g_params, d_params = params
        mutable = ["batch_stats", "spectral_norm"]
        apply = functools.partial(generator.apply, train=True, mutable=mutable)
        images, g_stats = apply(g | {"params": g_params}, noise, labels)
        apply = functools.partial(discriminator.apply, train=True, mutable=mutable)
        scores, d_stats = apply(d | {"params": d_params}, images, labels)
        return jnp.sum(scores), (images, scores, g_stats, d_stats)

    return jax.grad(loss, has_aux=True), (g["params"], d["params"])


def test_bfloat16_is_float32_up_to_its_rounding():
    """Outputs, statistics and gradients, which are all float32.

    A bfloat16 has 8 bits: each of some 15 roundings on the way is off by 2^-8 = 0.004 of its number at most.
    Numbers of the size of 1 are then off by some hundredths at worst (0.04 measured, 0.006 in the mean), the
    sums over a map by less. A gradient passes twice as many roundings and adds numbers of either sign:
    0.2 of its norm measured.
    """
    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        function, params = in_dtype(dtype)
        found[dtype] = jax.device_get(jax.jit(function)(params))
        assert {leaf.dtype for leaf in jax.tree.leaves((params, found[dtype]))} == {np.dtype(np.float32)}
    expected, actual = found[jnp.float32], found[jnp.bfloat16]
    (images, scores, g_stats, d_stats), of_bfloat16 = expected[1], actual[1]
    np.testing.assert_allclose(of_bfloat16[0], images, atol=0.1)
    assert np.sqrt(np.mean((of_bfloat16[0] - images) ** 2)) < 0.01
    np.testing.assert_allclose(of_bfloat16[1], scores, atol=0.02 * np.abs(scores).max())
    chex.assert_trees_all_close(of_bfloat16[2]["batch_stats"], g_stats["batch_stats"], atol=0.01)
    chex.assert_trees_all_equal(of_bfloat16[2]["spectral_norm"], g_stats["spectral_norm"])
    chex.assert_trees_all_equal(of_bfloat16[3], d_stats)
    for theirs, ours in zip(expected[0], actual[0], strict=True):
        norms = jax.tree.map(np.linalg.norm, theirs)
        # Biases before a batch norm have no gradient but for rounding.
        floor = 1e-3 * max(jax.tree.leaves(norms))
        errors = jax.tree.map(lambda a, b: np.linalg.norm(a - b), theirs, ours)
        for (path, error), norm in zip(
            jax.tree_util.tree_leaves_with_path(errors), jax.tree.leaves(norms), strict=True
        ):
            assert error < 0.4 * norm + floor, (path, error, norm)


def test_the_convolutions_compute_in_the_dtype():
    """Forward and backward. Without a word about it all is float32, and nothing is anything else."""
    for dtype, name in ((jnp.float32, "f32"), (jnp.bfloat16, "bf16")):
        function, params = in_dtype(dtype)
        program = str(jax.make_jaxpr(function)(params))
        convolutions = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated", program)
        assert len(convolutions) > 60
        assert set(convolutions) == {name}
        assert ("bf16" in program) == (name == "bf16")
    assert Generator(32).dtype is Discriminator(32).dtype is jnp.float32


def test_an_attention_block_shows_what_it_attends_to():
    """Where it is asked to, and else nothing of it is in the program."""
    block = AttentionBlock(Dense(), sn_eps=1e-6)
    inputs = jax.random.normal(jax.random.key(0), (2, 8, 8, 16))
    variables = variables_of(block, inputs)
    apply = functools.partial(block.apply, train=False)
    output, kept = apply(variables, inputs, mutable=["intermediates"])
    query, key, value, attended = (
        kept["intermediates"][name][0] for name in ("query", "key", "value", "attended")
    )
    chex.assert_shape([query, key, value], [(2, 64, 1, 2), (2, 16, 1, 2), (2, 16, 1, 8)])
    weights = dense_weights(query, key, scale=1.0)
    np.testing.assert_allclose(jnp.einsum("bnts,bsnv->btnv", weights, value), attended, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(apply(variables, inputs), output)
    assert "intermediates" not in variables


def test_without_a_key_for_hashing_the_images_are_always_the_same():
    generator = Generator(32, channels=8, dim_z=8, attention={16: Smyrf(num_hashes=1, cluster_size=8)})
    noise, labels = jax.random.normal(jax.random.key(1), (2, 8)), jnp.zeros(2, jnp.int32)
    variables = variables_of(generator, noise, labels)
    draw = jax.jit(functools.partial(generator.apply, train=False))
    images = draw(variables, noise, labels)
    chex.assert_trees_all_equal(draw(variables, noise, labels), images)
    others = [draw(variables, noise, labels, rngs={"hashing": jax.random.key(seed)}) for seed in range(2)]
    assert np.abs(others[0] - others[1]).max() > 1e-4


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Generator(48), "generator.resolution should be one of .*48"),
        (Generator(32, attention={64: Dense()}), "map size 64.*have the sizes.*32"),
        (Generator(32, hierarchical=True), "hierarchical wants generator.shared_dim"),
    ],
)
def test_bad_fields_are_named(module, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: init(module, jnp.zeros((1, 120)), jnp.zeros(1, jnp.int32)))


def test_the_discriminator_names_a_stage_it_does_not_have():
    module = Discriminator(128, attention={128: Dense()})
    with pytest.raises(ValueError, match=r"map size 128, but .* have the sizes \[4, 8, 16, 32, 64\]"):
        init(module, jnp.zeros((1, 128, 128, 3)), jnp.zeros(1, jnp.int32))


def test_a_batch_size_of_nothing_is_refused(tiny):
    tiny.batch_size = 0
    with pytest.raises(ValueError, match=r"config.batch_size must be positive, got 0"):
        build_gan(tiny)


def test_a_wrong_dtype_is_refused(tiny):
    tiny.dtype = "bf16"
    with pytest.raises(ValueError, match=r"config.dtype should be .*'float32', 'bfloat16'.*, but got 'bf16'"):
        build_gan(tiny)


def test_the_dtype_of_a_config_is_that_of_both_networks(tiny):
    tiny.dtype = "bfloat16"
    gan = build_gan(tiny)
    assert gan.generator.dtype is gan.discriminator.dtype is jnp.bfloat16


def test_a_label_that_is_no_class_is_no_class_s_vector():
    """Data with such a label are refused; a program that meets one nevertheless does not hide it."""
    projection = ClassProjection(num_classes=3, features=4)
    labels = jnp.array([2, 3])
    variables = projection.init(jax.random.key(0), labels)
    inside, outside = projection.apply(variables, labels)
    assert np.isfinite(inside).all()
    assert np.isnan(outside).all()
