"""The BigGAN discriminator."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from biggan.architecture import DISCRIMINATOR, check_fields
from biggan.layers import (
    AttentionBlock,
    ClassProjection,
    DiscriminatorBlock,
    dense,
    spectral,
)
from smyrf_jax import Method
from smyrf_jax.floats import float32_at_least


class Discriminator(nn.Module):
    """A score of each image: high for real, low for generated ones.

    The map is summed over space; the score is a linear layer plus the inner product with the class's
    vector (projection discriminator, arXiv:1802.05637).

    resolution, channels, num_classes, attention, sn_eps, remat: as in `Generator`. The attention
        block stands behind the block with that output size: 64 at most at 128, 128 at most at 256.
    dtype: of the activations, as in `Generator`. Parameters, the sum over space and scores are float32
        with both.

    Source: BigGAN (arXiv:1809.11096), appendix B.
    """

    resolution: int
    channels: int = 96
    num_classes: int = 1
    attention: Mapping[int, Method] = nn.FrozenDict()
    sn_eps: float = 1e-6
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B R R 3"], labels: Int[Array, " B"], train: bool
    ) -> Float[Array, " B"]:
        """Returns scores [B].

        images: [B, resolution, resolution, 3] in [-1, 1]. labels: [B].
        train: store the spectral norms' vectors.

        Raises:
            ValueError: a field has no meaning (see the message), or images of another size.
        """
        check_fields("discriminator", self.resolution, self.attention)
        multipliers, num_halvings = DISCRIMINATOR[self.resolution]
        if images.shape[1:] != (self.resolution, self.resolution, 3):
            raise ValueError(
                f"images should be [B, {self.resolution}, {self.resolution}, 3], but got {images.shape}."
            )
        block_class, attention_class = DiscriminatorBlock, AttentionBlock
        if self.remat:
            block_class = nn.remat(DiscriminatorBlock, static_argnums=(2,))
            attention_class = nn.remat(AttentionBlock, static_argnums=(2,))
        x = images.astype(self.dtype)
        for index, multiplier in enumerate(multipliers):
            x = block_class(
                multiplier * self.channels,
                first=index == 0,
                down=index < num_halvings,
                sn_eps=self.sn_eps,
                dtype=self.dtype,
                name=f"block{index}",
            )(x, train)
            size = x.shape[1]
            if size in self.attention:
                attend = attention_class(
                    self.attention[size], self.sn_eps, self.dtype, name=f"attention{index}"
                )
                x = attend(x, train)
        wide = float32_at_least(jnp.dtype(self.dtype))
        features = jnp.sum(jax.nn.relu(x), axis=(1, 2), dtype=wide)
        score = spectral(dense(1, dtype=wide, name="linear"), self.sn_eps)(features, train)[:, 0]
        projection = ClassProjection(self.num_classes, features.shape[-1], wide, name="embed")
        return score + jnp.sum(spectral(projection, self.sn_eps)(labels, train) * features, axis=-1)
