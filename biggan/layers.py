"""Layers that the generator and the discriminator share.

Spectral norm and batch norm are linen's. Three things of theirs differ from the PyTorch BigGAN:
- linen floors a norm as sqrt(|x|^2 + epsilon), PyTorch as max(|x|, eps): `epsilon` here is eps^2.
- In evaluation both take a fresh power step from the stored vector and do not store it: the same.
- linen's running variance is the biased batch variance, PyTorch's the unbiased one (n / (n - 1) times
  larger). linen's is kept; nothing in training reads it, and converted weights bring their own.

The field `dtype` of a layer is that of its output and of what it multiplies by a kernel: float32, or
bfloat16 for half the memory. Parameters, statistics and the spectral norm stay float32. So do sums over a
whole map, the gradients of biases and gains among them.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array
from jaxtyping import Float, Int

from smyrf_jax import Method, attention
from smyrf_jax.flax_adapter import hashing_rng
from smyrf_jax.floats import float32_at_least

SPECTRAL_NORM = "spectral_norm"  # its own collection: an average of its vectors would shrink them


def _all_but_the_bias(*arrays: Array | None, dtype: Any = None, inexact: bool = True) -> list[Any]:
    """A layer's inputs, kernel and bias as it computes with them: the first two in dtype."""
    *factors, bias = arrays
    # A bfloat16 bias would have its gradient summed in bfloat16, over every pixel: 256 + 1 is 256 there.
    return [*promote_dtype(*factors, dtype=dtype, inexact=inexact), bias]


orthogonal = nn.initializers.orthogonal()
conv3x3 = functools.partial(
    nn.Conv, kernel_size=(3, 3), kernel_init=orthogonal, promote_dtype=_all_but_the_bias
)
conv1x1 = functools.partial(
    nn.Conv, kernel_size=(1, 1), kernel_init=orthogonal, promote_dtype=_all_but_the_bias
)
dense = functools.partial(nn.Dense, kernel_init=orthogonal, promote_dtype=_all_but_the_bias)


def spectral(layer: Any, eps: float) -> Callable[[Array, bool], Array]:
    """`layer` with its kernel over its largest singular value; call it with (inputs, train).

    One power iteration a call; with train the vector is stored. eps floors the vectors' norms.
    Source: Miyato et al., 2018 (arXiv:1802.05957).
    """
    normed = nn.SpectralNorm(layer, epsilon=eps**2, collection_name=SPECTRAL_NORM, name=f"{layer.name}_norm")
    return lambda inputs, train: normed(inputs, update_stats=train).astype(layer.dtype)


def batch_norm(train: bool, eps: float, axis_name: str | None, name: str, affine: bool, dtype: Any) -> Any:
    """nn.BatchNorm of the batch (train) or of the running statistics, over axis_name if given."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=BATCH_NORM_MOMENTUM,
        epsilon=eps,
        use_scale=affine,
        use_bias=affine,
        axis_name=axis_name,
        dtype=dtype,
        name=name,
    )


BATCH_NORM_MOMENTUM = 0.9  # PyTorch's 0.1


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a gain 1 + g(y) and a bias b(y) of the condition.

    Integer conditions [B] look the gain and bias up in plain class tables; vectors [B, E] go through
    linear layers with spectral norm and without bias.

    Source: BigGAN (arXiv:1809.11096), appendix B.
    """

    num_classes: int
    bn_eps: float
    sn_eps: float
    axis_name: str | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "B H W C"], condition: Array, train: bool
    ) -> Float[Array, "B H W C"]:
        channels, wide = inputs.shape[-1], float32_at_least(jnp.dtype(self.dtype))

        def linear(name: str) -> Array:
            if jnp.issubdtype(condition.dtype, jnp.integer):
                table = nn.Embed(self.num_classes, channels, dtype=wide, embedding_init=orthogonal, name=name)
                return table(condition)[:, None, None]
            layer = dense(channels, use_bias=False, dtype=wide, name=name)
            return spectral(layer, self.sn_eps)(condition, train)[:, None, None]

        norm = batch_norm(train, self.bn_eps, self.axis_name, "norm", affine=False, dtype=wide)
        output = norm(inputs) * (1 + linear("gain")) + linear("bias")
        return output.astype(self.dtype)


class AttentionBlock(nn.Module):
    """x + gamma * o(attention(theta(x), pool(phi(x)), pool(g(x)))), gamma from 0.

    1x1 convolutions without bias: C/8 channels for query and key, C/2 for value; key and value are
    max-pooled 2x2; the logits are not scaled. One head. Hashes draw from the rng collection "hashing".

    Where the collection "intermediates" is mutable it holds query [B, T, 1, C/8], key [B, S, 1, C/8],
    value [B, S, 1, C/2] and what they give, attended [B, T, 1, C/2].

    Source: SAGAN (arXiv:1805.08318), section 3, as in BigGAN.
    """

    method: Method
    sn_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        batch, height, width, channels = inputs.shape

        def conv(features: int, name: str, x: Array) -> Array:
            layer = conv1x1(features, use_bias=False, dtype=self.dtype, name=name)
            return spectral(layer, self.sn_eps)(x, train)

        def tokens(x: Array) -> Array:
            return x.reshape(batch, -1, 1, x.shape[-1])

        query = tokens(conv(channels // 8, "theta", inputs))
        key = tokens(max_pool(conv(channels // 8, "phi", inputs)))
        value = tokens(max_pool(conv(channels // 2, "g", inputs)))
        output: Any = attention(query, key, value, method=self.method, rng=hashing_rng(self), scale=1.0)
        for name, tensor in {"query": query, "key": key, "value": value, "attended": output}.items():
            self.sow("intermediates", name, tensor)
        output = conv(channels, "o", output.reshape(batch, height, width, channels // 2))
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return (gamma * output + inputs).astype(self.dtype)


class ClassProjection(nn.Module):
    """Class vectors, stored [features, num_classes], so that spectral norm starts its power step at
    the class axis, as the PyTorch BigGAN's does. A label that is no class gives NaN."""

    num_classes: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, labels: Int[Array, " B"]) -> Float[Array, "B F"]:
        kernel = self.param("kernel", orthogonal, (self.features, self.num_classes))
        # Negative numbers would count from the end.
        labels = jnp.where(labels < 0, self.num_classes, labels)
        return jnp.take(kernel, labels, axis=1, mode="fill").T.astype(self.dtype)


def upsample(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Nearest neighbour, twice the size."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def downsample(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
    """2x2 average, half the size."""
    return jnp.mean(_windows(x), axis=(2, 4))


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
    """2x2 maximum, half the size."""
    return jnp.max(_windows(x), axis=(2, 4))


def _windows(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 2 W//2 2 C"]:
    # Cheaper than a window reduction, whose gradient scatters.
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


class GeneratorBlock(nn.Module):
    """bn, relu, up, conv, bn, relu, conv; plus up, 1x1 conv. Twice the size.

    Source: BigGAN (arXiv:1809.11096), figure 15b.
    """

    channels: int
    num_classes: int
    bn_eps: float
    sn_eps: float
    axis_name: str | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool) -> Array:
        norm = functools.partial(
            ConditionalBatchNorm, self.num_classes, self.bn_eps, self.sn_eps, self.axis_name, self.dtype
        )
        conv = functools.partial(conv3x3, self.channels, dtype=self.dtype)
        hidden = jax.nn.relu(norm(name="bn1")(x, condition, train))
        hidden = spectral(conv(name="conv1"), self.sn_eps)(upsample(hidden), train)
        hidden = jax.nn.relu(norm(name="bn2")(hidden, condition, train))
        hidden = spectral(conv(name="conv2"), self.sn_eps)(hidden, train)
        shortcut = conv1x1(self.channels, dtype=self.dtype, name="conv_shortcut")
        return hidden + spectral(shortcut, self.sn_eps)(upsample(x), train)


class DiscriminatorBlock(nn.Module):
    """relu, conv, relu, conv, [down]; plus 1x1 conv, [down].

    The first block has no relu at its entrance, and its shortcut pools before the 1x1 conv.

    Source: BigGAN (arXiv:1809.11096), figure 15c.
    """

    channels: int
    first: bool
    down: bool
    sn_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = functools.partial(conv3x3, self.channels, dtype=self.dtype)
        hidden = x if self.first else jax.nn.relu(x)
        hidden = spectral(conv(name="conv1"), self.sn_eps)(hidden, train)
        hidden = jax.nn.relu(hidden)
        hidden = spectral(conv(name="conv2"), self.sn_eps)(hidden, train)
        pool = downsample if self.down else lambda x: x
        shortcut = pool(x) if self.first else x
        if self.down or x.shape[-1] != self.channels:
            layer = conv1x1(self.channels, dtype=self.dtype, name="conv_shortcut")
            shortcut = spectral(layer, self.sn_eps)(shortcut, train)
        return pool(hidden) + (shortcut if self.first else pool(shortcut))
