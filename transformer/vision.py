"""The vision transformer of DINOv2, with the attention of any method of smyrf_jax.

Modules are named as the tensors of checkpoints are, so that weights map name to name.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from smyrf_jax import Dense, Method
from transformer.encoder import SelfAttention, attention_by_layer

# Mean and deviation of ImageNet's pixels, by which photographs are normalised.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The fields of a DINOv2 config.json that the transformer reads. image_size: of the position table."""

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    mlp_ratio: int = 4
    patch_size: int = 14
    image_size: int = 518
    layer_norm_eps: float = 1e-6

    @property
    def table_side(self) -> int:
        """Rows and columns of the position table."""
        return self.image_size // self.patch_size


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VisionOutput:
    """tokens: [B, T, H], the class token first; importance: [B, height, width] in 0 .. 1, or None."""

    tokens: Any
    importance: Any


def normalised(images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Images in 0 .. 1 as the transformer wants them."""
    mean, deviation = (jnp.array(values)[None, None, None] for values in (_MEAN, _DEVIATION))
    return (images - mean) / deviation


def pixels(images: Float[Array, "B H W 3"]) -> Float[np.ndarray, "B H W 3"]:
    """The inverse of `normalised`, in 0 .. 1."""
    return np.clip(np.asarray(images) * np.array(_DEVIATION) + np.array(_MEAN), 0, 1)


def cubic_weights(size: int, new_size: int) -> np.ndarray:
    """[new_size, size], interpolation by cubic convolution with a = -0.75 and repeated borders.

    Source: torch.nn.functional.interpolate(mode="bicubic"), with which the tables were trained;
    jax.image.resize has a = -0.5.
    """
    places = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(places).astype(int) - 1
    weights = np.zeros((new_size, size))
    for tap in range(4):
        distance = np.abs(places - (first + tap))
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
        rows, columns = np.arange(new_size), np.clip(first + tap, 0, size - 1)
        np.add.at(weights, (rows, columns), np.where(distance <= 1, near, far))
    return weights


class LayerScale(nn.Module):
    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        scale = self.param("lambda1", nn.initializers.ones, hidden.shape[-1:])
        return hidden * scale[None, None]


class Output(nn.Module):
    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        return nn.Dense(hidden.shape[-1], name="dense")(hidden)


class AttentionBlock(nn.Module):
    config: VisionConfig
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        attended = SelfAttention(self.config, self.attention, name="attention")(hidden, None)
        return Output(name="output")(attended)


class Mlp(nn.Module):
    """inner: width between the two matrices."""

    inner: int

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        inner = nn.gelu(nn.Dense(self.inner, name="fc1")(hidden), approximate=False)
        return nn.Dense(hidden.shape[-1], name="fc2")(inner)


class Layer(nn.Module):
    config: VisionConfig
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        epsilon = self.config.layer_norm_eps
        inner = nn.LayerNorm(epsilon, name="norm1")(hidden)
        inner = AttentionBlock(self.config, self.attention, name="attention")(inner)
        hidden += LayerScale(name="layer_scale1")(inner)
        normed = nn.LayerNorm(epsilon, name="norm2")(hidden)
        inner = Mlp(self.config.mlp_ratio * self.config.hidden_size, name="mlp")(normed)
        return hidden + LayerScale(name="layer_scale2")(inner)


class Layers(nn.Module):
    config: VisionConfig
    attention: tuple[Method, ...]

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        for i, attention in enumerate(self.attention):
            hidden = Layer(self.config, attention, name=f"layer_{i}")(hidden)
        return hidden


class Patches(nn.Module):
    config: VisionConfig

    @nn.compact
    def __call__(self, images: Array) -> Array:
        side = (self.config.patch_size,) * 2
        return nn.Conv(self.config.hidden_size, side, side, padding="VALID", name="projection")(images)


class Embeddings(nn.Module):
    config: VisionConfig

    @nn.compact
    def __call__(self, images: Array) -> Array:
        width, side = self.config.hidden_size, self.config.table_side
        normal = nn.initializers.normal(0.02)
        patches = Patches(self.config, name="patch_embeddings")(images)
        first = self.param("cls_token", normal, (1, 1, width))
        table = self.param("position_embeddings", normal, (1, side**2 + 1, width))
        rows, columns = (cubic_weights(side, size).astype(table.dtype) for size in patches.shape[1:3])
        grid = table[0, 1:].reshape(side, side, width)
        places = jnp.einsum("ai,bj,ijh->abh", rows, columns, grid, precision=jax.lax.Precision.HIGHEST)
        hidden = (patches + places[None]).reshape(len(images), -1, width)
        first = jnp.broadcast_to(first + table[:, :1], (len(images), 1, width))
        return jnp.concatenate([first, hidden], axis=1)


class Backbone(nn.Module):
    config: VisionConfig
    attention: Method | Sequence[Method]

    @nn.compact
    def __call__(self, images: Array) -> Array:
        config = self.config
        layers = attention_by_layer(self.attention, config.num_hidden_layers)
        hidden = Embeddings(config, name="embeddings")(images)
        hidden = Layers(config, layers, name="encoder")(hidden)
        return nn.LayerNorm(config.layer_norm_eps, name="layernorm")(hidden)


class FrozenBatchNorm(nn.Module):
    """A batch norm by its running statistics, which are parameters here."""

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        def of(name: str, initial: Any) -> Any:
            return self.param(name, initial, hidden.shape[-1:])[None, None, None]

        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale = of("scale", ones) * jax.lax.rsqrt(of("running_var", ones) + 1e-5)
        return (hidden - of("running_mean", zeros)) * scale + of("bias", zeros)


class ImportanceHead(nn.Module):
    """Three upsamplings of the map of tokens to one of importance, at the size of the image."""

    @nn.compact
    def __call__(self, tokens: Float[Array, "B h w D"], height: int, width: int) -> Float[Array, "B H W"]:
        hidden = tokens
        for i, features in enumerate((256, 128, 64), 1):
            up = nn.ConvTranspose(features, (4, 4), (2, 2), transpose_kernel=True, name=f"upconv{i}")
            hidden = nn.relu(FrozenBatchNorm(name=f"bn{i}")(up(hidden)))
        logits = nn.Conv(1, (1, 1), name="final_conv")(hidden)
        shape = (len(tokens), height, width, 1)
        return nn.sigmoid(jax.image.resize(logits, shape, "linear", antialias=False))[..., 0]


class VisionTransformer(nn.Module):
    """Images to vectors.

    config: of the checkpoint.
    attention: of all layers, or one a layer. Methods draw by the rng collection "hashing"; without it they
        draw the same every time.
    has_head: whether there are weights for `importance`.
    """

    config: VisionConfig
    attention: Method | Sequence[Method] = Dense()
    has_head: bool = True

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "B H W 3"]) -> VisionOutput:
        """Encodes normalised images (`normalised`) of any size that patches divide.

        The table of positions is interpolated to that size. Every layer sows "queries", "keys", "values" and
        "attended".

        Raises:
            ValueError: patches do not divide the size, or attentions do not fit the layers.
        """
        images, patch = jnp.asarray(images), self.config.patch_size
        height, width = images.shape[1:3]
        if height % patch or width % patch:
            raise ValueError(f"height and width should be multiples of {patch}, but got {height} x {width}.")
        tokens = Backbone(self.config, self.attention, name="backbone")(images)
        if not self.has_head:
            return VisionOutput(tokens, None)
        grid = tokens[:, 1:].reshape(len(images), height // patch, width // patch, -1)
        return VisionOutput(tokens, ImportanceHead(name="decoder")(grid, height, width))
