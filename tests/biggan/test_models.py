"""Shapes, initialisers, and errors of the networks and the layers."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biggan import Discriminator, Generator
from biggan.experiment import build_gan
from biggan.layers import ConditionalBatchNorm, downsample, max_pool, upsample
from biggan.train import GANTask
from smyrf_jax import Dense, Smyrf
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
        generator = Generator(32, channels=2, dim_z=8, attention=nn.FrozenDict({32: Dense()}))
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
