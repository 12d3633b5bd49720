"""BigGAN in Flax, with any attention of smyrf_jax."""

from biggan.discriminator import Discriminator
from biggan.generator import Generator
from biggan.state import GANState

__all__ = ["Discriminator", "GANState", "Generator"]
