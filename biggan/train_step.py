"""The discriminator and generator steps of one replica. Pure: (state, batch, rng) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, Key, PyTree

from biggan.augment import Augmentation, adapted, augment
from biggan.discriminator import Discriminator
from biggan.generator import Generator
from biggan.layers import SPECTRAL_NORM
from biggan.losses import discriminator_hinge, generator_hinge, orthogonal_gradient
from biggan.state import GANState, NetworkState

Metrics = dict[str, Array]

# The stream of a micro-batch's key that is the augmentation's, behind those that `split` makes of it: so a
# step without augmentation draws what it drew before there was any.
_AUGMENT = 2


@dataclasses.dataclass(frozen=True)
class GAN:
    """Networks, optimisers and the settings of a step.

    d_steps: updates of the discriminator an update of the generator.
    accumulation: micro-batches whose gradients are averaged before an update.
    g_ortho, d_ortho: strength of the orthogonal regularisation; 0: none.
    ema_decay, ema_start: of the generator's average; before ema_start it is a copy.
    augmentation: of what the discriminator sees; None: none.
    axis_name: the axis of the replicas; None: there is one.
    """

    generator: Generator
    discriminator: Discriminator
    g_optimizer: optax.GradientTransformation
    d_optimizer: optax.GradientTransformation
    d_steps: int = 1
    accumulation: int = 1
    g_ortho: float = 0.0
    d_ortho: float = 0.0
    ema_decay: float = 0.9999
    ema_start: int = 0
    augmentation: Augmentation | None = None
    axis_name: str | None = None

    def mean_over_replicas(self, tree: PyTree) -> PyTree:
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)

    def replica(self) -> int | Array:
        return 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name)

    def num_replicas(self) -> int:
        return 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)


class Batch(NamedTuple):
    """Real images of one training step of one replica: d_steps x accumulation micro-batches of B.

    images: [K, A, B, H, W, 3] uint8. labels: [K, A, B] int32. NumPy, jax or abstract arrays.
    """

    images: Any
    labels: Any


def train_step(gan: GAN, state: GANState, batch: Batch, rng: Key[Array, ""]) -> tuple[GANState, Metrics]:
    """d_steps updates of the discriminator, then one of the generator.

    Every replica gets the same rng and its own batch. On return the state is the same on all: the
    gradients and the running batch statistics are averaged over the axis; spectral-norm vectors
    depend on the weights alone.

    Returns:
        The new state and metrics, scalars averaged over the updates and the replicas.
    """
    rng_d, rng_g = jax.random.split(jax.random.fold_in(rng, state.step))

    collected = []
    for index, rng_step in enumerate(jax.random.split(rng_d, gan.d_steps)):
        state, metrics = discriminator_step(
            gan, state, jax.tree.map(lambda array, i=index: array[i], batch), rng_step
        )
        collected.append(metrics)
    d_metrics = jax.tree.map(lambda *values: sum(values) / gan.d_steps, *collected)
    state, g_metrics = generator_step(gan, state, batch.labels.shape[-1], rng_g)
    stats = state.generator.stats
    stats = stats | {"batch_stats": gan.mean_over_replicas(stats["batch_stats"])}
    state = state.replace(generator=state.generator.replace(stats=stats))
    state = _averaged(gan, state)
    if gan.augmentation is not None and state.augment is not None:
        num_images = batch.labels.size * gan.num_replicas()
        now = adapted(state.augment, gan.augmentation, d_metrics["real_sign"], num_images)
        state = state.replace(augment=now)
        d_metrics |= {"real_sign": now.real_sign, "augment_probability": now.probability}
    return state.replace(step=state.step + 1), d_metrics | g_metrics


def discriminator_step(
    gan: GAN, state: GANState, batch: Batch, rng: Key[Array, ""]
) -> tuple[GANState, Metrics]:
    """One update of the discriminator on a batch [A, B, ...] and as many generated images.

    Fake and real images go through the discriminator together, in one pass.
    """

    def loss(params: PyTree, stats: Any, inputs: Any) -> tuple[Array, Any]:
        micro_batch, rng = inputs
        rng_fake, rng_hash = jax.random.split(rng)
        fake, labels, g_stats = _generate(
            gan, state.generator.params, stats[0], len(micro_batch.labels), rng_fake
        )
        real = micro_batch.images.astype(fake.dtype) / 127.5 - 1
        rng_of_fake, rng_of_real = jax.random.split(jax.random.fold_in(rng, _AUGMENT))
        fake = _augmented(gan, state, jax.lax.stop_gradient(fake), rng_of_fake)
        images = jnp.concatenate([fake, _augmented(gan, state, real, rng_of_real)])
        labels = jnp.concatenate([labels, micro_batch.labels])
        scores, d_stats = _score(gan, params, stats[1], images, labels, rng_hash)
        scores_fake, scores_real = jnp.split(scores, 2)
        loss_fake, loss_real = discriminator_hinge(scores_fake, scores_real)
        metrics = {"d_loss_fake": loss_fake, "d_loss_real": loss_real}
        if state.augment is not None:
            metrics["real_sign"] = jnp.mean(jnp.sign(scores_real))
        return loss_fake + loss_real, ((g_stats, d_stats), metrics)

    grads, (g_stats, d_stats), metrics = _accumulate(
        gan,
        loss,
        state.discriminator.params,
        (state.generator.stats, state.discriminator.stats),
        (batch, jax.random.split(rng, gan.accumulation)),
    )
    discriminator, norm = _update(gan.d_optimizer, state.discriminator, grads, gan.d_ortho)
    state = state.replace(
        generator=state.generator.replace(stats=g_stats),
        discriminator=discriminator.replace(stats=d_stats),
    )
    return state, metrics | {"d_grad_norm": norm}


def generator_step(
    gan: GAN, state: GANState, batch_size: int, rng: Key[Array, ""]
) -> tuple[GANState, Metrics]:
    """One update of the generator on accumulation x batch_size generated images."""

    def loss(params: PyTree, stats: Any, rng: Any) -> tuple[Array, Any]:
        rng_fake, rng_hash = jax.random.split(rng)
        fake, labels, g_stats = _generate(gan, params, stats[0], batch_size, rng_fake)
        fake = _augmented(gan, state, fake, jax.random.fold_in(rng, _AUGMENT))
        scores, d_stats = _score(gan, state.discriminator.params, stats[1], fake, labels, rng_hash)
        value = generator_hinge(scores)
        return value, ((g_stats, d_stats), {"g_loss": value})

    grads, (g_stats, d_stats), metrics = _accumulate(
        gan,
        loss,
        state.generator.params,
        (state.generator.stats, state.discriminator.stats),
        jax.random.split(rng, gan.accumulation),
    )
    generator, norm = _update(gan.g_optimizer, state.generator, grads, gan.g_ortho, exclude=("shared",))
    state = state.replace(
        generator=generator.replace(stats=g_stats),
        discriminator=state.discriminator.replace(stats=d_stats),
    )
    return state, metrics | {"g_grad_norm": norm}


def latents(gan: GAN, rng: Key[Array, ""], batch_size: int) -> tuple[Float[Array, "B Z"], Int[Array, " B"]]:
    """Noise and classes of this replica's samples.

    Sample i of replica r has number r * batch_size + i and a draw of its own: replicas differ, and a
    global batch has the same noise on however many replicas it is spread.
    """

    def draw(number: Array) -> tuple[Array, Array]:
        rng_noise, rng_label = jax.random.split(jax.random.fold_in(rng, number))
        noise = jax.random.normal(rng_noise, (gan.generator.noise_width,))
        return noise, jax.random.randint(rng_label, (), 0, gan.generator.num_classes)

    return jax.vmap(draw)(_numbers(gan, batch_size))


def _numbers(gan: GAN, batch_size: int) -> Int[Array, " B"]:
    """Of this replica's samples in the global batch."""
    return gan.replica() * batch_size + jnp.arange(batch_size)


def _augmented(gan: GAN, state: GANState, images: Array, rng: Key[Array, ""]) -> Array:
    """Images as the discriminator sees them. They are numbered as in `latents`, and draw alike."""
    if gan.augmentation is None:
        return images
    probability = gan.augmentation.probability if state.augment is None else state.augment.probability
    rngs = jax.vmap(lambda number: jax.random.fold_in(rng, number))(_numbers(gan, len(images)))
    return augment(images, rngs, gan.augmentation.policies, probability)


def _generate(
    gan: GAN, params: PyTree, stats: PyTree, batch_size: int, rng: Key[Array, ""]
) -> tuple[Array, Array, PyTree]:
    rng_latents, rng_hash = jax.random.split(rng)
    noise, labels = latents(gan, rng_latents, batch_size)
    images, stats = gan.generator.apply(
        {"params": params, **stats},
        noise,
        labels,
        train=True,
        mutable=["batch_stats", SPECTRAL_NORM],
        rngs={"hashing": jax.random.fold_in(rng_hash, gan.replica())},
    )
    return images, labels, stats


def _score(
    gan: GAN, params: PyTree, stats: PyTree, images: Array, labels: Array, rng: Key[Array, ""]
) -> tuple[Array, PyTree]:
    return gan.discriminator.apply(
        {"params": params, **stats},
        images,
        labels,
        train=True,
        mutable=[SPECTRAL_NORM],
        rngs={"hashing": jax.random.fold_in(rng, gan.replica())},
    )


def _accumulate(
    gan: GAN, loss: Callable[..., Any], params: PyTree, stats: Any, inputs: Any
) -> tuple[PyTree, Any, Metrics]:
    """Gradients and metrics averaged over micro-batches and replicas, and the last stats."""

    def step(stats: Any, inputs: Any) -> tuple[Any, tuple[PyTree, Metrics]]:
        grads, (stats, metrics) = jax.grad(loss, has_aux=True)(params, stats, inputs)
        return stats, (grads, metrics)

    def first(stats: Any, inputs: Any) -> tuple[Any, tuple[PyTree, Metrics]]:
        return step(stats, jax.tree.map(lambda array: array[0], inputs))

    if gan.accumulation == 1:
        # No loop of one pass: XLA's convolutions on the CPU are over 10 times slower inside a loop.
        stats, sums = first(stats, inputs)
    else:

        def add(carry: Any, inputs: Any) -> tuple[Any, None]:
            stats, sums = carry
            stats, more = step(stats, inputs)
            return (stats, jax.tree.map(jnp.add, sums, more)), None

        _, shapes = jax.eval_shape(first, stats, inputs)
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        (stats, sums), _ = jax.lax.scan(add, (stats, zeros), inputs)
    mean = jax.tree.map(lambda value: value / gan.accumulation, sums)
    grads, metrics = gan.mean_over_replicas(mean)
    return grads, stats, metrics


def _update(
    optimizer: optax.GradientTransformation,
    network: NetworkState,
    grads: PyTree,
    ortho: float,
    exclude: tuple[str, ...] = (),
) -> tuple[NetworkState, Array]:
    norm = optax.tree.norm(grads)
    if ortho:
        penalty = orthogonal_gradient(network.params, exclude)
        grads = jax.tree.map(lambda grad, extra: grad + ortho * extra, grads, penalty)
    updates, opt_state = optimizer.update(grads, network.opt_state, network.params)
    params = optax.apply_updates(network.params, updates)
    return network.replace(params=params, opt_state=opt_state), norm


def _averaged(gan: GAN, state: GANState) -> GANState:
    if state.ema is None:
        return state
    new = {"params": state.generator.params, "batch_stats": state.generator.stats["batch_stats"]}
    step_size = jnp.where(state.step < gan.ema_start, 1.0, 1.0 - gan.ema_decay)
    return state.replace(ema=optax.incremental_update(new, state.ema, step_size))
