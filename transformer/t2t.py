"""T2T-ViT_t, whose first two attentions are long, with any method of smyrf_jax in their place.

Modules are named as the tensors of the published checkpoints are, so that weights map name to name.
Source: Tokens-to-Token ViT (arXiv:2101.11986), the models with Transformer tokens; Scatterbrain
(arXiv:2110.15343) swaps their two token-to-token attentions without training.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

import smyrf_jax
from smyrf_jax import Dense, Method
from smyrf_jax.flax_adapter import hashing_rng
from training.state_dicts import read_state_dict
from transformer.encoder import attention_by_layer
from transformer.vision import Mlp
from transformer.weights import params_of, read_safetensors, read_weights

# Kernel, stride and padding of the three unfoldings. Together the strides are 16: a token's side in pixels.
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
_STRIDE = 16
# In every published T2T-ViT_t; the number of heads is not in a checkpoint.
_HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class T2TConfig:
    """The sizes of a T2T-ViT_t; the defaults are those of T2T-ViT_t-14.

    image_size: height and width, which 16 divides. token_size: width of the token-to-token attentions' one
    head. num_labels: classes.
    """

    image_size: int = 224
    hidden_size: int = 384
    num_hidden_layers: int = 14
    num_attention_heads: int = 6
    mlp_ratio: int = 3
    token_size: int = 64
    num_labels: int = 1000
    layer_norm_eps: float = 1e-5

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the two token-to-token attentions: 3136 and 784 of 224 x 224 pixels."""
        side = self.image_size // _STRIDE
        return (4 * side) ** 2, (2 * side) ** 2

    @property
    def scales(self) -> tuple[float, float]:
        """Of the logits of the two: by the widths of their input, not of the head."""
        return (3 * SPLITS[0][0] ** 2) ** -0.5, (self.token_size * SPLITS[1][0] ** 2) ** -0.5


def unfold(images: Float[Array, "B H W C"], size: int, stride: int, padding: int) -> Float[Array, "B h w CK"]:
    """Each place's window of size x size pixels, as one vector: channel by channel, row by row in each.

    Source: torch.nn.Unfold.
    """
    places = [(length + 2 * padding - size) // stride + 1 for length in images.shape[1:3]]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    ends = [(place - 1) * stride + 1 for place in places]
    taps = [
        padded[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.stack(taps, axis=-1).reshape(len(images), *places, -1)


def sinusoids(length: int, width: int) -> np.ndarray:
    """[1, length, width], sines at even places and cosines at odd ones, of positions / 10000^(2i / width).

    Source: Attention Is All You Need (arXiv:1706.03762), section 3.5.
    """
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(width)[None] // 2 * 2 / width)
    return np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles))[None]


class Attention(nn.Module):
    """Heads without biases, the attention and its projection; sows "queries", "keys", "values", "attended".

    width: of all heads. scale: of the logits. Returns the output and the values, both [B, T, width].
    """

    width: int
    heads: int
    scale: float
    method: Method

    @nn.compact
    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        projected = nn.Dense(3 * self.width, use_bias=False, name="qkv")(hidden)
        shape = (*hidden.shape[:-1], self.heads, self.width // self.heads)
        arrays = [array.reshape(shape) for array in jnp.split(projected, 3, axis=-1)]
        for name, array in zip(("queries", "keys", "values"), arrays, strict=True):
            self.sow("intermediates", name, array)
        output: Any = smyrf_jax.attention(
            *arrays, method=self.method, rng=hashing_rng(self), scale=self.scale
        )
        self.sow("intermediates", "attended", output)
        merged = (*hidden.shape[:-1], self.width)
        return nn.Dense(self.width, name="proj")(output.reshape(merged)), arrays[2].reshape(merged)


class TokenTransformer(nn.Module):
    """A layer that narrows tokens: its first residual is of the values, not of the wider input."""

    config: T2TConfig
    attention: Method
    scale: float

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        epsilon, width = self.config.layer_norm_eps, self.config.token_size
        attend = Attention(width, 1, self.scale, self.attention, name="attn")
        output, values = attend(nn.LayerNorm(epsilon, name="norm1")(hidden))
        hidden = values + output
        return hidden + Mlp(width, name="mlp")(nn.LayerNorm(epsilon, name="norm2")(hidden))


class TokensToToken(nn.Module):
    config: T2TConfig
    attention: tuple[Method, ...]

    @nn.compact
    def __call__(self, images: Array) -> Array:
        grid = unfold(images, *SPLITS[0])
        stages = zip(self.attention, self.config.scales, SPLITS[1:], strict=True)
        for number, (attention, scale, split) in enumerate(stages, 1):
            tokens = grid.reshape(len(grid), -1, grid.shape[-1])
            narrow = TokenTransformer(self.config, attention, scale, name=f"attention{number}")
            narrowed = narrow(tokens)
            grid = unfold(narrowed.reshape(*grid.shape[:-1], -1), *split)
        tokens = grid.reshape(len(grid), -1, grid.shape[-1])
        return nn.Dense(self.config.hidden_size, name="project")(tokens)


class Block(nn.Module):
    config: T2TConfig
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        config, epsilon = self.config, self.config.layer_norm_eps
        width, heads = config.hidden_size, config.num_attention_heads
        attend = Attention(width, heads, (width // heads) ** -0.5, self.attention, name="attn")
        hidden += attend(nn.LayerNorm(epsilon, name="norm1")(hidden))[0]
        inner = nn.LayerNorm(epsilon, name="norm2")(hidden)
        return hidden + Mlp(config.mlp_ratio * width, name="mlp")(inner)


class T2TViT(nn.Module):
    """Images to logits.

    config: of the checkpoint.
    attention: of both token-to-token attentions, or one each. Methods draw by the rng collection "hashing";
        without it they draw the same every time.
    backbone: of all layers behind, or one a layer: they are short (197 tokens).
    """

    config: T2TConfig
    attention: Method | Sequence[Method] = Dense()
    backbone: Method | Sequence[Method] = Dense()

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B K"]:
        """Classifies normalised images (`vision.normalised`) of config.image_size.

        Every attention sows "queries", "keys", "values" and "attended".

        Raises:
            ValueError: images are of another size, or attentions do not fit the layers.
        """
        config, images = self.config, jnp.asarray(images)
        if images.shape[1:3] != (config.image_size,) * 2:
            raise ValueError(
                f"images should be {config.image_size} x {config.image_size}, but are "
                f"{images.shape[1]} x {images.shape[2]}."
            )
        methods = attention_by_layer(self.attention, len(SPLITS) - 1)
        tokens = TokensToToken(config, methods, name="tokens_to_token")(images)
        width = config.hidden_size
        first = self.param("cls_token", nn.initializers.truncated_normal(0.02), (1, 1, width))
        hidden = jnp.concatenate([jnp.broadcast_to(first, (len(images), 1, width)), tokens], axis=1)
        positions = self.param(
            "pos_embed", lambda _: jnp.asarray(sinusoids(hidden.shape[1], width), hidden.dtype)
        )
        hidden += jax.lax.stop_gradient(positions)  # fixed, though checkpoints hold them
        for i, method in enumerate(attention_by_layer(self.backbone, config.num_hidden_layers)):
            hidden = Block(config, method, name=f"blocks_{i}")(hidden)
        hidden = nn.LayerNorm(config.layer_norm_eps, name="norm")(hidden[:, 0])
        return nn.Dense(config.num_labels, name="head")(hidden)


class PretrainedT2T(NamedTuple):
    """A T2T-ViT_t and its parameters."""

    model: T2TViT
    params: Any


def load_t2t(
    path: str | os.PathLike,
    *,
    attention: Method | Sequence[Method] = Dense(),  # noqa: B008
    backbone: Method | Sequence[Method] = Dense(),  # noqa: B008
    name: str = "path",
) -> PretrainedT2T:
    """Reads a T2T-ViT_t checkpoint, such as 81.7_T2T_ViTt_14.pth.tar of the authors.

    Args:
        path: a file of torch (its averaged weights "state_dict_ema" where there are several; wants torch),
            .npz or .safetensors, or a folder with model.safetensors.
        attention, backbone: as for `T2TViT`.
        name: what the user typed the path behind.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: it is a file of torch, which is not installed.
        ValueError: it cannot be read, is of another model, or a tensor is missing, left over or of another
            shape.
    """
    path = pathlib.Path(path)
    weights: Mapping[str, Any]
    if path.is_dir():
        weights = read_weights(path)
    elif path.suffix == ".safetensors" and path.exists():
        weights = read_safetensors(path)
    else:
        weights = read_state_dict(str(path), preferred="state_dict_ema", name=name)
    config = _config_of(weights, path)
    model = T2TViT(config, attention, backbone)
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    dense = model.clone(attention=Dense(), backbone=Dense())  # no method has parameters
    template = jax.eval_shape(lambda: dense.init(jax.random.key(0), images))["params"]
    return PretrainedT2T(model, params_of(template, weights, str(config), _numbered))


def _numbered(name: str) -> str:
    return re.sub(r"^blocks_", "blocks.", name)


def _config_of(weights: Mapping[str, Any], path: pathlib.Path) -> T2TConfig:
    tokens = "tokens_to_token"
    performer = sorted(name for name in weights if re.match(rf"{tokens}\.attention\d\.w$", name))
    if performer:
        raise ValueError(
            f"{path} is a T2T-ViT with Performer tokens ({performer[0]}); wanted is one with Transformer "
            "tokens, such as 81.7_T2T_ViTt_14."
        )
    try:
        places, width = np.shape(weights["pos_embed"])[1:]
        inner = len(weights["blocks.0.mlp.fc1.weight"])
        token_size = len(weights[f"{tokens}.attention1.attn.proj.weight"])
        num_labels = len(weights["head.weight"])
    except KeyError as error:
        raise ValueError(f"{path}: the tensor {error} of a T2T-ViT_t is missing.") from error
    layers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    side, heads = round((places - 1) ** 0.5) * _STRIDE, max(1, width // _HEAD_WIDTH)
    return T2TConfig(side, width, len(layers), heads, inner // width, token_size, num_labels)
