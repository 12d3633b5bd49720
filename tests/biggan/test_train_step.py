"""The training step: replicas, accumulation, averages, regularisation."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from biggan import train_step as train_step_module
from biggan.experiment import build_gan
from biggan.losses import orthogonal_gradient
from biggan.parallel import parallel_step, shard_batch
from biggan.state import NetworkState
from biggan.train_step import Batch, discriminator_step, latents
from smyrf_jax import Method
from tests.biggan.variables import state_of
from training.parallel import AXIS, replicate, to_host


class Noise(Method):
    """Outputs that depend on the key for the hash directions alone."""

    def attend(self, query, key, value, mask, *, rng, scale, is_causal):
        output = jax.random.normal(rng, (*query.shape[:-1], value.shape[-1]))
        return output, jnp.zeros(query.shape[:-1])


def images_for(config, num, seed=0):
    rng = np.random.default_rng(seed)
    size = config.generator.resolution
    images = rng.integers(0, 256, (num, size, size, 3), dtype=np.uint8)
    return images, np.zeros(num, np.int32)


def in_float64(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


def computing_in(dtype, gan):
    networks = {name: getattr(gan, name).clone(dtype=dtype) for name in ("generator", "discriminator")}
    return dataclasses.replace(gan, **networks)


def of_each_replica(function, rng):
    """function(rng) on eight replicas, with the same rng."""
    mapped = jax.pmap(lambda _, rng: function(rng), axis_name=AXIS, in_axes=(0, None))
    return mapped(np.arange(8), rng)


def test_eight_replicas_equal_one_on_the_same_global_batch(tiny):
    """In gradients, in parameters and in what augments, after two steps, in float64."""
    tiny.generator.attention = {"16": {"name": "dense"}}
    tiny.augment.update(policy="color,translation,cutout", probability=0.6, adaptive=True, images=64)
    tiny.generator.cross_replica_bn = True
    tiny.d_steps = 2
    with jax.enable_x64(True):
        results = []
        for num_devices in (8, 1):
            tiny.batch_size = 8 // num_devices
            gan = computing_in(jnp.float64, build_gan(tiny))
            # The trace of decay 0 keeps the last gradient in the state.
            optimizer = optax.chain(optax.trace(decay=0.0), gan.g_optimizer)
            gan = dataclasses.replace(gan, g_optimizer=optimizer, d_optimizer=optimizer)
            state = in_float64(state_of(tiny, gan))
            devices = jax.devices()[:num_devices]
            step, replicas = parallel_step(gan, devices), replicate(state, devices)
            for index in range(2):
                images, labels = images_for(tiny, 16, seed=index)
                batch = shard_batch(gan, images, labels, num_devices)
                replicas, metrics = step(replicas, batch, jax.random.key(1))
            for leaf in jax.tree.leaves(replicas):
                shards = np.asarray(leaf)
                np.testing.assert_array_equal(shards, np.broadcast_to(shards[:1], shards.shape))
            results.append((to_host(replicas), to_host(metrics)))
        chex.assert_trees_all_close(*results, rtol=1e-7, atol=1e-9)
        state_after, metrics = results[0]
        # By 16 images a step, down.
        assert state_after.augment.probability == pytest.approx(0.1)
        assert metrics["augment_probability"] == state_after.augment.probability
        assert metrics["real_sign"] == state_after.augment.real_sign != 0
        for network in ("generator", "discriminator"):
            moved = jax.tree.map(
                lambda new, old: np.abs(new - old).max(),
                getattr(results[0][0], network).params,
                getattr(state, network).params,
            )
            assert max(jax.tree.leaves(moved)) > 1e-6


def test_every_replica_draws_its_own_noise_and_hash_directions(tiny):
    gan = build_gan(tiny)
    gan = dataclasses.replace(gan, generator=gan.generator.clone(attention={16: Noise()}))

    def draw(rng):
        noise, _ = latents(gan, rng, 2)
        directions = jax.random.normal(jax.random.fold_in(rng, gan.replica()), (3,))
        return noise, directions

    noise, directions = of_each_replica(draw, jax.random.key(0))
    assert len(np.unique(np.asarray(noise)[..., 0])) == 16
    assert len(np.unique(np.asarray(directions)[..., 0])) == 8

    # And the generator is given such a key: images differ by nothing else here.
    state = state_of(tiny, gan)
    params = state.generator.params
    params["linear"] = jax.tree.map(np.zeros_like, params["linear"])

    def generate(rng):
        return train_step_module._generate(gan, params, state.generator.stats, 2, rng)[0]

    images = of_each_replica(generate, jax.random.key(0))
    flat = np.asarray(images).reshape(8, -1)
    assert all(np.abs(flat[i] - flat[j]).max() > 1e-3 for i in range(8) for j in range(i))


def test_noise_does_not_depend_on_the_number_of_replicas(tiny):
    gan = build_gan(tiny)
    one = dataclasses.replace(gan, axis_name=None)
    whole, _ = latents(one, jax.random.key(0), 16)
    parts, _ = of_each_replica(lambda rng: latents(gan, rng, 2), jax.random.key(0))
    chex.assert_trees_all_equal(np.asarray(parts).reshape(16, -1), np.asarray(whole))


def test_augmentation_does_not_depend_on_the_number_of_replicas(tiny):
    tiny.augment.policy = "color,translation,cutout"
    gan = build_gan(tiny)
    state = state_of(tiny, gan)
    images = np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype(np.float32)
    rng = jax.random.key(0)
    one = dataclasses.replace(gan, axis_name=None)
    whole = jax.jit(lambda images: train_step_module._augmented(one, state, images, rng))(images)
    part = jax.pmap(lambda images: train_step_module._augmented(gan, state, images, rng), axis_name=AXIS)
    parts = np.asarray(part(images.reshape(8, 2, 32, 32, 3)))
    np.testing.assert_allclose(parts.reshape(images.shape), whole, atol=1e-6)
    assert np.all(np.any(parts != images.reshape(parts.shape), (2, 3, 4)))


def test_the_discriminator_sees_augmented_images_alone(tiny, monkeypatch):
    """With an augmentation that leaves nothing, all scores are the same and the generator learns nothing."""
    tiny.augment.policy, tiny.augment.adaptive = "color", True
    tiny.generator.attention = {}
    gan = dataclasses.replace(build_gan(tiny), axis_name=None)
    monkeypatch.setattr(train_step_module, "augment", lambda images, *_: 0 * images)
    images, labels = images_for(tiny, 2)
    batch = Batch(images[None, None], labels[None, None])
    step = jax.jit(functools.partial(train_step_module.train_step, gan))
    _, metrics = step(state_of(tiny, gan), batch, jax.random.key(0))
    assert float(metrics["g_grad_norm"]) == 0
    assert float(metrics["d_loss_fake"]) + float(metrics["d_loss_real"]) == pytest.approx(2)


def test_accumulated_gradients_are_the_mean_of_the_micro_batches(tiny, monkeypatch):
    with jax.enable_x64(True):
        tiny.generator.attention = {}
        gan = computing_in(jnp.float64, build_gan(tiny))
        gan = dataclasses.replace(gan, axis_name=None, d_optimizer=optax.sgd(1.0))
        state = in_float64(state_of(tiny, gan))
        noise = jax.random.normal(jax.random.key(0), (2, 8))
        monkeypatch.setattr(train_step_module, "latents", lambda *_: (noise, jnp.zeros(2, jnp.int32)))
        images, labels = images_for(tiny, 4)
        batch = Batch(jnp.asarray(images).reshape(2, 2, 32, 32, 3), jnp.asarray(labels).reshape(2, 2))

        @functools.partial(jax.jit, static_argnums=0)
        def update(accumulation, state, batch):
            accumulating = dataclasses.replace(gan, accumulation=accumulation)
            return discriminator_step(accumulating, state, batch, jax.random.key(1))[0]

        first = update(1, state, Batch(batch.images[:1], batch.labels[:1]))
        # The same weights, but the power iterations go on.
        resumed = first.replace(discriminator=first.discriminator.replace(params=state.discriminator.params))
        second = update(1, resumed, Batch(batch.images[1:], batch.labels[1:]))
        both = update(2, state, batch)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, first.discriminator.params, second.discriminator.params)
        chex.assert_trees_all_close(both.discriminator.params, mean, rtol=1e-7, atol=1e-9)
        chex.assert_trees_all_close(
            both.discriminator.stats, second.discriminator.stats, rtol=1e-7, atol=1e-9
        )


def test_the_average_is_a_copy_until_its_start(tiny):
    gan = build_gan(tiny)
    devices = jax.devices()[:1]
    state = state_of(tiny, gan)
    step, replicas = parallel_step(gan, devices), replicate(state, devices)
    batch = shard_batch(gan, *images_for(tiny, 2), 1)
    for number in range(4):
        before = state
        replicas, metrics = step(replicas, batch, jax.random.key(0))
        state = to_host(replicas)
        live = {
            "params": state.generator.params,
            "batch_stats": state.generator.stats["batch_stats"],
        }
        decay = 0.0 if number < tiny.ema.start else tiny.ema.decay
        expected = jax.tree.map(lambda o, n, d=decay: d * o + (1 - d) * n, before.ema, live)
        chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 4
    chex.assert_tree_all_finite((state, metrics))
    sampling = state.sampling_variables()
    chex.assert_trees_all_equal(sampling["params"], state.ema["params"])
    # An average of power-iteration vectors would shrink them.
    chex.assert_trees_all_equal(sampling["spectral_norm"], state.generator.stats["spectral_norm"])


def test_a_step_in_bfloat16_keeps_the_state_in_float32(tiny):
    tiny.dtype = "bfloat16"
    gan = dataclasses.replace(build_gan(tiny), axis_name=None)
    before = state_of(tiny, gan)
    images, labels = images_for(tiny, 2)
    batch = Batch(images[None, None], labels[None, None])
    step = jax.jit(functools.partial(train_step_module.train_step, gan))
    state, metrics = step(before, batch, jax.random.key(0))
    chex.assert_tree_all_finite((state, metrics))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, before)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((state, metrics))}
    assert dtypes == {np.dtype(np.float32), np.dtype(np.int32)}  # int32: the numbers of steps
    for new, old in zip(
        (*vars(state.generator).values(), *vars(state.discriminator).values(), state.ema),
        (*vars(before.generator).values(), *vars(before.discriminator).values(), before.ema),
        strict=True,
    ):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), new, old)
        assert max(jax.tree.leaves(moved)) > 1e-6


def test_orthogonal_gradient_is_that_of_the_penalty():
    rng = np.random.default_rng(0)
    shapes = {
        "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "table": {"embedding": (3, 5)},
        "shared": {"embedding": (3, 5)},
    }
    params = jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )

    @jax.jit
    @jax.grad
    def of_penalty(params):
        rows = [params["conv"]["kernel"].reshape(-1, 4).T, params["table"]["embedding"]]
        grams = [row @ row.T for row in rows]
        return sum(jnp.sum((gram * (1 - jnp.eye(len(gram)))) ** 2) / 2 for gram in grams)

    found = jax.jit(functools.partial(orthogonal_gradient, exclude=("shared",)))(params)
    chex.assert_trees_all_close(found, of_penalty(params), rtol=1e-4)


def test_orthogonal_regularisation_changes_the_update(tiny):
    gan = dataclasses.replace(build_gan(tiny), axis_name=None, d_optimizer=optax.sgd(1.0))
    params = {"dense": {"kernel": jnp.array([[1.0, 1.0], [0.0, 1.0]])}}
    network = NetworkState(params, {}, gan.d_optimizer.init(params))
    zero = jax.tree.map(jnp.zeros_like, params)
    updated, norm = train_step_module._update(gan.d_optimizer, network, zero, 0.1)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, orthogonal_gradient(params))
    chex.assert_trees_all_close(updated.params, expected)
    assert float(norm) == 0.0
    assert jnp.any(updated.params["dense"]["kernel"] != params["dense"]["kernel"])
