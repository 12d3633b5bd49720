"""The state of a training run: one pytree, the same on every replica."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Key, PyTree

from biggan.discriminator import Discriminator
from biggan.generator import Generator


class NetworkState(flax.struct.PyTreeNode):
    """params; stats: the other collections (batch_stats, spectral_norm); opt_state."""

    params: PyTree
    stats: dict[str, PyTree]
    opt_state: PyTree

    @property
    def variables(self) -> dict[str, PyTree]:
        """What the network's `apply` takes."""
        return {"params": self.params, **self.stats}

    def with_variables(self, variables: Mapping[str, PyTree]) -> "NetworkState":
        """The state with these `variables`; the optimiser's stays."""
        stats = {name: of for name, of in variables.items() if name != "params"}
        return self.replace(params=variables["params"], stats=stats)


class GANState(flax.struct.PyTreeNode):
    """step: updates of the generator so far. ema: averaged params and batch_stats of the generator, or None.

    augment: AugmentState of an adaptive augmentation, or None.
    """

    step: Any  # a scalar; with a leading axis while it is replicated
    generator: NetworkState
    discriminator: NetworkState
    # Not narrower: orbax puts values of its own in the place of None.
    ema: Any
    augment: Any = None

    def sampling_variables(self) -> dict[str, PyTree]:
        """The generator's variables for sampling: averaged where there is an average.

        Spectral-norm vectors are the live ones: an average of them would shrink.
        """
        return {**self.generator.variables, **(self.ema or {})}

    def with_average(self, on: bool) -> "GANState":
        """The state with an average, which begins as a copy of the generator, or without one."""
        if not on or self.ema is not None:
            return self if on else self.replace(ema=None)
        average = {"params": self.generator.params, "batch_stats": self.generator.stats["batch_stats"]}
        # Copies: a donated state must not hold one buffer twice.
        return self.replace(ema=jax.tree.map(lambda leaf: leaf.copy(), average))


def init_state(
    rng: Key[Array, ""],
    generator: Generator,
    discriminator: Discriminator,
    g_optimizer: optax.GradientTransformation,
    d_optimizer: optax.GradientTransformation,
) -> GANState:
    """A fresh state without an average: orthogonal kernels, zero biases.

    The original program keeps PyTorch's small random biases.
    """
    rngs = dict(zip(["g", "d", "g_hashing", "d_hashing"], jax.random.split(rng, 4), strict=True))
    labels = jnp.zeros(1, jnp.int32)
    noise = jnp.zeros((1, generator.noise_width))
    images = jnp.zeros((1, discriminator.resolution, discriminator.resolution, 3))

    def network(module: Any, name: str, inputs: Array, optimizer: Any) -> NetworkState:
        streams = {"params": rngs[name], "hashing": rngs[f"{name}_hashing"]}
        variables = module.init(streams, inputs, labels, train=False)
        params = variables.pop("params")
        return NetworkState(params, variables, optimizer.init(params))

    return GANState(
        step=jnp.zeros((), jnp.int32),
        generator=network(generator, "g", noise, g_optimizer),
        discriminator=network(discriminator, "d", images, d_optimizer),
        ema=None,
    )
