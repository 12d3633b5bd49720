"""Differentiable augmentation of the images that a discriminator sees, and its adaptive probability."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

Image = Float[Array, "H W 3"]
# Images over which the mean sign of the scores is taken: ADA's four batches of 64.
_MEMORY = 256


def _uniform(rng: Key[Array, ""], image: Image, low: float, high: float) -> Float[Array, ""]:
    """Drawn in float32, so that images of any dtype have the same draw."""
    return jax.random.uniform(rng, (), jnp.float32, low, high).astype(image.dtype)


def _color(image: Image, rng: Key[Array, ""]) -> Image:
    rng_brightness, rng_saturation, rng_contrast = jax.random.split(rng, 3)
    image = image + _uniform(rng_brightness, image, -0.5, 0.5)
    grey = image.mean(2, keepdims=True)
    image = (image - grey) * _uniform(rng_saturation, image, 0.0, 2.0) + grey
    mean = image.mean()
    return (image - mean) * _uniform(rng_contrast, image, 0.5, 1.5) + mean


def _translation(image: Image, rng: Key[Array, ""]) -> Image:
    # Products with 0/1 matrices: shifts that differ from image to image are gathers, and scatters backward,
    # which are slow on a TPU. HIGHEST: without it a TPU would round the image to bfloat16.
    def shifts(rng: Key[Array, ""], size: int) -> Float[Array, "size size"]:
        most = int(size / 8 + 0.5)
        shift = jax.random.randint(rng, (), -most, most + 1)
        place = jnp.arange(size)
        return (place[:, None] - shift == place[None, :]).astype(image.dtype)

    rng_rows, rng_columns = jax.random.split(rng)
    rows, columns = shifts(rng_rows, image.shape[0]), shifts(rng_columns, image.shape[1])
    image = jnp.einsum("yh,hwc->ywc", rows, image, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("xw,ywc->yxc", columns, image, precision=jax.lax.Precision.HIGHEST)


def _cutout(image: Image, rng: Key[Array, ""]) -> Image:
    # A mask of two ranges: writing zeros at drawn places would be a scatter.
    def inside(rng: Key[Array, ""], size: int) -> Array:
        side = int(size / 2 + 0.5)
        # The centre of an even side lies between pixels, and has one place more.
        start = jax.random.randint(rng, (), 0, size + 1 - side % 2) - side // 2
        place = jnp.arange(size)
        return (place >= start) & (place < start + side)

    rng_rows, rng_columns = jax.random.split(rng)
    rows, columns = inside(rng_rows, image.shape[0]), inside(rng_columns, image.shape[1])
    return jnp.where(rows[:, None, None] & columns[None, :, None], 0, image)


POLICIES: Mapping[str, Callable[[Image, Key[Array, ""]], Image]] = {
    "color": _color,
    "translation": _translation,
    "cutout": _cutout,
}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What real and generated images go through before a discriminator sees them.

    policies: names of POLICIES, in the order in which they are applied.
    probability: with which each is applied to each image; where adaptive, at the start of training.
    adaptive: the probability moves, as `adapted` says.
    target, images: of that.
    """

    policies: tuple[str, ...]
    probability: float = 1.0
    adaptive: bool = False
    target: float = 0.6
    images: int = 500_000


class AugmentState(flax.struct.PyTreeNode):
    """probability: of each policy now. real_sign: r_t, the smoothed mean sign of real images' scores."""

    probability: Any  # scalars; with a leading axis while they are replicated
    real_sign: Any


def init_augment(augmentation: Augmentation | None) -> AugmentState | None:
    """The state at step 0; None where nothing is adaptive.

    r_t is 0: a discriminator that has learned nothing calls as many real images real as not.
    """
    if augmentation is None or not augmentation.adaptive:
        return None
    return AugmentState(jnp.float32(augmentation.probability), jnp.zeros((), jnp.float32))


def augment(
    images: Float[Array, "B H W 3"],
    rngs: Key[Array, " B"],
    policies: tuple[str, ...],
    probability: float | Float[Array, ""],
) -> Float[Array, "B H W 3"]:
    """Images in [-1, 1] after the policies, each of which is applied to each image with a probability.

    color: brightness x + U(-.5, .5), then saturation (distance to the mean of the channels times U(0, 2)),
    then contrast (distance to the mean of the image times U(.5, 1.5)). The result may leave [-1, 1].
    translation: by up to 1/8 of the side along each axis; zeros come in.
    cutout: a square of half the side, whose centre is anywhere in the image, is 0.

    rngs: a key for each image: its draws depend on nothing else.

    Source: DiffAugment (arXiv:2006.10738), section 3 and the authors' program.
    """

    def one(image: Image, rng: Key[Array, ""]) -> Image:
        for name, rng_policy in zip(policies, jax.random.split(rng, len(policies)), strict=True):
            rng_choice, rng_draw = jax.random.split(rng_policy)
            chosen = jax.random.uniform(rng_choice, (), jnp.float32) < probability
            image = jnp.where(chosen, POLICIES[name](image, rng_draw), image)
        return image

    return jax.vmap(one)(images, rngs)


def adapted(
    state: AugmentState, augmentation: Augmentation, real_sign: Float[Array, ""], num_images: int
) -> AugmentState:
    """The state after a step on `num_images` real images, of all replicas.

    r_t, the exponential mean of the steps' mean signs with a time constant of 256 images, tells how well the
    discriminator knows the real images: 0 at first, 1 where it knows all by heart. Above `target` the
    probability rises by num_images / images, below it falls by as much, within [0, 1]: from 0 to 1 takes
    `images` at the least.

    Source: ADA (arXiv:2006.06676), section 3.1, where r_t is the mean over four batches.
    """
    new = 1 - jnp.exp(-num_images / _MEMORY)
    mean = state.real_sign + new * (real_sign - state.real_sign)
    change = jnp.sign(mean - augmentation.target) * (num_images / augmentation.images)
    return AugmentState(jnp.clip(state.probability + change, 0, 1), mean)
