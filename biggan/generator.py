"""The BigGAN generator."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from biggan.architecture import GENERATOR, check_fields
from biggan.layers import (
    AttentionBlock,
    GeneratorBlock,
    batch_norm,
    conv3x3,
    dense,
    orthogonal,
    spectral,
)
from smyrf_jax import Method
from smyrf_jax.floats import float32_at_least

OUTPUT_BN_EPS = 1e-5  # whatever bn_eps is, as in the original


class Generator(nn.Module):
    """Images in (-1, 1) from noise and classes.

    resolution: 32, 64, 128 or 256.
    channels: `ch` of the paper; a block has a multiple of it.
    dim_z: width of the noise; with `hierarchical` rounded down to a multiple of the number of slots.
    num_classes: 1 for data without classes.
    shared_dim: width of the class embedding that all conditional batch norms share; 0: a plain
        table of gains and biases at each of them.
    hierarchical: a chunk of the noise goes to every block's batch norms; wants shared_dim.
    attention: map size -> method of attention, e.g. {128: Smyrf(num_hashes=4, cluster_size=2048)}; the
        block stands behind the generator block with that output size. Hashes draw from the rng collection
        "hashing"; without it they are always the same.
    axis_name: the batch statistics are those of all replicas on this axis; None: of the own one.
    remat: blocks recompute their activations in the backward pass: less memory, more time.
    dtype: of the activations: float32, or bfloat16 for half their memory. Parameters, statistics and
        images are float32 with both.

    Source: BigGAN (arXiv:1809.11096), appendix B.
    """

    resolution: int
    channels: int = 96
    dim_z: int = 120
    num_classes: int = 1
    shared_dim: int = 0
    hierarchical: bool = False
    attention: Mapping[int, Method] = nn.FrozenDict()
    bn_eps: float = 1e-5
    sn_eps: float = 1e-6
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def num_slots(self) -> int:
        """Chunks of the noise: one for the 4x4 map and, if hierarchical, one a block."""
        return len(GENERATOR[self.resolution]) if self.hierarchical else 1

    @property
    def noise_width(self) -> int:
        """Width of the noise that the generator takes."""
        return self.dim_z // self.num_slots * self.num_slots

    @nn.compact
    def __call__(
        self, noise: Float[Array, "B Z"], labels: Int[Array, " B"], train: bool
    ) -> Float[Array, "B R R 3"]:
        """Returns images [B, resolution, resolution, 3] in (-1, 1).

        noise: [B, noise_width], standard normal. labels: [B] in 0 .. num_classes - 1.
        train: use the statistics of the batch, and store them and the spectral norms' vectors.

        Raises:
            ValueError: a field has no meaning (see the message).
        """
        check_fields("generator", self.resolution, self.attention)
        if self.hierarchical and not self.shared_dim:
            raise ValueError("generator.hierarchical wants generator.shared_dim > 0, got 0.")
        multipliers = GENERATOR[self.resolution]
        condition, chunks = labels, [noise]
        if self.shared_dim:
            embed = nn.Embed(self.num_classes, self.shared_dim, embedding_init=orthogonal, name="shared")
            condition = embed(labels)
        if self.hierarchical:
            chunks = jnp.split(noise, self.num_slots, axis=-1)
        # Channel-major, as in the original, so that its weights need no shuffling.
        width = multipliers[0] * self.channels
        x = spectral(dense(width * 16, dtype=self.dtype, name="linear"), self.sn_eps)(chunks[0], train)
        x = x.reshape(-1, width, 4, 4).transpose(0, 2, 3, 1)
        block_class, attention_class = GeneratorBlock, AttentionBlock
        if self.remat:
            block_class = nn.remat(GeneratorBlock, static_argnums=(3,))
            attention_class = nn.remat(AttentionBlock, static_argnums=(2,))
        for index, multiplier in enumerate(multipliers[1:]):
            block = block_class(
                multiplier * self.channels,
                self.num_classes,
                self.bn_eps,
                self.sn_eps,
                self.axis_name,
                self.dtype,
                name=f"block{index}",
            )
            of_block = condition
            if self.hierarchical:
                of_block = jnp.concatenate([condition, chunks[index + 1]], axis=-1)
            x = block(x, of_block, train)
            size = x.shape[1]
            if size in self.attention:
                attend = attention_class(
                    self.attention[size], self.sn_eps, self.dtype, name=f"attention{index}"
                )
                x = attend(x, train)
        x = batch_norm(train, OUTPUT_BN_EPS, self.axis_name, "output_norm", affine=True, dtype=self.dtype)(x)
        x = spectral(conv3x3(3, dtype=self.dtype, name="output_conv"), self.sn_eps)(jax.nn.relu(x), train)
        return jnp.tanh(x.astype(float32_at_least(jnp.dtype(self.dtype))))
