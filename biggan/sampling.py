"""Images from a generator's variables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key, PyTree, UInt8

from biggan.generator import Generator
from biggan.layers import BATCH_NORM_MOMENTUM, SPECTRAL_NORM
from biggan.pictures import to_uint8
from training.parallel import AXIS, replicate


class SamplingKeys(NamedTuple):
    """noise: of `latents`. hashing: of `Sampler`. standing: of `standing_statistics`."""

    noise: Key[Array, ""]
    hashing: Key[Array, ""]
    standing: Key[Array, ""]


def sampling_keys(seed: int) -> SamplingKeys:
    """The keys of a seed, so that all programs draw the same images with it."""
    rng_samples, rng_standing = jax.random.split(jax.random.key(seed))
    rng_noise, rng_hash = jax.random.split(rng_samples)
    return SamplingKeys(rng_noise, rng_hash, rng_standing)


def latents(
    generator: Generator,
    rng: Key[Array, ""],
    num: int,
    truncation: float | None = None,
    classes: Sequence[int] | None = None,
) -> tuple[Float[np.ndarray, "B Z"], Int[np.ndarray, " B"]]:
    """Noise and labels of `num` images; the noise of image i depends on the rng and i alone.

    Args:
        generator: says the width of the noise and the number of classes.
        rng: a typed key.
        num: B.
        truncation: noise is drawn from a normal distribution cut off at +-truncation; None: whole.
        classes: labels, given in turn; None: all classes.

    Raises:
        ValueError: truncation is not positive, or a class is none of the generator's.
    """
    _check_truncation(truncation)
    noise = _noise(rng, jnp.arange(num), generator.noise_width, truncation)
    return np.asarray(noise), labels_in_turn(generator, num, classes)


def labels_in_turn(
    generator: Generator, num: int, classes: Sequence[int] | None = None
) -> Int[np.ndarray, " B"]:
    """Labels of `num` images: `classes` one after the other, and again; None: all of the generator's.

    Raises:
        ValueError: a class is none of the generator's; names the flag --classes and the range.
    """
    if classes is None:
        classes = range(generator.num_classes)
    wrong = [label for label in classes if not 0 <= label < generator.num_classes]
    if wrong or not len(classes):
        raise ValueError(
            f"--classes should be numbers in 0 .. {generator.num_classes - 1}, as the generator has "
            f"num_classes={generator.num_classes}, but got {wrong or 'none'}."
        )
    return np.resize(np.array(classes, np.int32), num)


class Sampler:
    """Draws images of one generator; compiles once.

    generator: the network. batch_size: images at once on a device. devices: of this process, among which
    a batch is spread; None: the first. The images are the same on however many.
    """

    def __init__(
        self, generator: Generator, batch_size: int = 16, devices: Sequence[jax.Device] | None = None
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got batch_size={batch_size}.")
        self._generator = generator
        self._devices = list(devices or jax.local_devices()[:1])

        def draw(variables: PyTree, noise: Array, labels: Array, rng: Array) -> tuple[Array, Array]:
            return images_of(generator, variables, noise, labels, rng)

        self.images_at_once = batch_size * len(self._devices)
        self._draw = jax.pmap(draw, axis_name=AXIS, in_axes=(0, 0, 0, None), devices=self._devices)

    def batches(
        self,
        variables: Mapping[str, PyTree],
        noise: Float[np.ndarray, "B Z"],
        labels: Int[np.ndarray, " B"],
        rng: Key[Array, ""],
    ) -> Iterator[UInt8[np.ndarray, "b H W 3"]]:
        """The images in order, some at a time, so that no more than two batches are held.

        While one is used the devices draw the next.

        Args:
            variables: params, batch_stats, spectral_norm.
            noise: of `latents`.
            labels: of `latents`.
            rng: of the hashes, the same for all images.

        Raises:
            ValueError: noise or labels do not fit the generator, or an image is not finite.
        """
        self._check(noise, labels)
        size, replicas = self.images_at_once, replicate(dict(variables), self._devices)

        def spread(array: np.ndarray) -> np.ndarray:
            # Always as many images, so that one program serves.
            padding = [(0, size - len(array)), *[(0, 0)] * (array.ndim - 1)]
            return np.pad(array, padding).reshape(len(self._devices), -1, *array.shape[1:])

        drawn: tuple[int, Any] | None = None
        for first in range(0, len(noise), size):
            of_batch = slice(first, first + size)
            following = first, self._draw(replicas, spread(noise[of_batch]), spread(labels[of_batch]), rng)
            if drawn is not None:
                yield _on_host(*drawn, len(noise))
            drawn = following
        if drawn is not None:
            yield _on_host(*drawn, len(noise))

    def __call__(
        self,
        variables: Mapping[str, PyTree],
        noise: Float[np.ndarray, "B Z"],
        labels: Int[np.ndarray, " B"],
        rng: Key[Array, ""],
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """All images of `batches`."""
        side = self._generator.resolution
        none = np.zeros((0, side, side, 3), np.uint8)
        return np.concatenate([none, *self.batches(variables, noise, labels, rng)])

    def _check(self, noise: np.ndarray, labels: np.ndarray) -> None:
        width, num_classes = self._generator.noise_width, self._generator.num_classes
        if noise.ndim != 2 or noise.shape[1] != width:
            raise ValueError(f"noise should be [B, {width}], but got {noise.shape=}.")
        if labels.shape != noise.shape[:1]:
            raise ValueError(f"labels should be [{len(noise)}], as the noise is, but got {labels.shape=}.")
        if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(
                f"labels should be in 0 .. {num_classes - 1}, but got {labels.min()} .. {labels.max()}."
            )


def images_of(
    generator: Generator,
    variables: Mapping[str, PyTree],
    noise: Float[Array, "B Z"],
    labels: Int[Array, " B"],
    rng: Key[Array, ""],
) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, " B"]]:
    """The program of one device: images of the running statistics, as 0 .. 255, and which were finite.

    rng: of the hashes.
    """
    images = jnp.asarray(generator.apply(variables, noise, labels, train=False, rngs={"hashing": rng}))
    return to_uint8(images), jnp.isfinite(images).all(axis=(1, 2, 3))


def _on_host(first: int, drawn: tuple[Array, Array], num: int) -> np.ndarray:
    """Images [devices, b, H, W, 3] from number `first` on as [devices * b, H, W, 3], up to number `num`."""
    images, finite = (np.asarray(x).reshape(-1, *x.shape[2:])[: num - first] for x in drawn)
    if not finite.all():
        raise ValueError(
            f"image {first + int(np.argmin(finite))} of the generator is not finite: its weights are damaged "
            "or training has diverged. --step names an earlier checkpoint."
        )
    return images


def _check_truncation(truncation: float | None) -> None:
    if truncation is not None and not truncation > 0:
        raise ValueError(f"truncation must be positive, got truncation={truncation}.")


def _noise(rng: Array, numbers: Array, width: int, truncation: float | None) -> Array:
    def one(number: Array) -> Array:
        key = jax.random.fold_in(rng, number)
        if truncation is None:
            return jax.random.normal(key, (width,))
        return jax.random.truncated_normal(key, -truncation, truncation, (width,))

    return jax.vmap(one)(numbers)


def standing_statistics(
    generator: Generator,
    variables: Mapping[str, PyTree],
    rng: Key[Array, ""],
    *,
    truncation: float | None = None,
    passes: int = 16,
    batch_size: int = 16,
) -> dict[str, PyTree]:
    """`variables` with batch statistics measured anew, at the noise that will be sampled.

    The mean of the moments of `passes` training-mode batches; they change with the truncation.

    Raises:
        ValueError: truncation is not positive.

    Source: BigGAN (arXiv:1809.11096), section 4.1.
    """
    _check_truncation(truncation)
    generator = generator.clone(axis_name=None)

    @jax.jit
    def moments(variables: PyTree, rng: Array) -> PyTree:
        rng_noise, rng_hash, rng_label = jax.random.split(rng, 3)
        noise = _noise(rng_noise, jnp.arange(batch_size), generator.noise_width, truncation)
        labels = jax.random.randint(rng_label, (batch_size,), 0, generator.num_classes)
        # From zero, one running average is (1 - momentum) times the batch's moments.
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        _, updates = generator.apply(
            variables | {"batch_stats": zeros},
            noise,
            labels,
            train=True,
            mutable=["batch_stats", SPECTRAL_NORM],
            rngs={"hashing": rng_hash},
        )
        return jax.tree.map(lambda x: x / (1 - BATCH_NORM_MOMENTUM), updates["batch_stats"])

    variables = dict(variables)
    total = [moments(variables, key) for key in jax.random.split(rng, passes)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / passes, *total)
    return variables | {"batch_stats": mean}
