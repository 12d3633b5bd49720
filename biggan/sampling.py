"""Images from a generator's variables."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key, PyTree, UInt8

from biggan.generator import Generator
from biggan.layers import BATCH_NORM_MOMENTUM, SPECTRAL_NORM
from biggan.pictures import to_uint8


class Sampler:
    """Draws images of one generator; compiles once.

    generator: the network. truncation: noise is drawn from a normal distribution cut off at
    +-truncation; None: whole. batch_size: images at once.

    Raises:
        ValueError: truncation is not positive.
    """

    def __init__(self, generator: Generator, truncation: float | None = None, batch_size: int = 16):
        if truncation is not None and not truncation > 0:
            raise ValueError(f"truncation must be positive, got truncation={truncation}.")
        self._num_classes, self._batch_size = generator.num_classes, batch_size

        @jax.jit
        def draw(variables: PyTree, rng: Array, numbers: Array, labels: Array) -> Array:
            rng_noise, rng_hash = jax.random.split(rng)
            noise = _noise(rng_noise, numbers, generator.noise_width, truncation)
            rngs = {"hashing": rng_hash}
            images = generator.apply(variables, noise, labels, train=False, rngs=rngs)
            return jnp.asarray(images)

        self._draw = draw

    def __call__(
        self,
        variables: Mapping[str, PyTree],
        rng: Key[Array, ""],
        num: int,
        label: int | None = None,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """`num` images; the noise of image i depends on the rng and i alone.

        variables: params, batch_stats, spectral_norm. label: the class of all; None: one class after
        the other.

        Raises:
            ValueError: label out of range.
        """
        if label is not None and not 0 <= label < self._num_classes:
            raise ValueError(f"label should be in 0 .. {self._num_classes - 1}, but got label={label}.")
        images = []
        for first in range(0, num, self._batch_size):
            # Always batch_size images, so that one program serves.
            numbers = np.arange(first, first + self._batch_size, dtype=np.int32)
            labels = numbers % self._num_classes if label is None else np.full_like(numbers, label)
            images.append(to_uint8(self._draw(dict(variables), rng, numbers, labels)))
        return np.concatenate(images)[:num]


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

    Source: BigGAN (arXiv:1809.11096), section 4.1.
    """
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
