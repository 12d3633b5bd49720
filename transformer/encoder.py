"""BERT's and RoBERTa's encoder, with the attention of any method of smyrf_jax.

Modules are named as the tensors of Hugging Face's checkpoints are, so that weights map name to name.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

import smyrf_jax
from smyrf_jax import Dense, Method
from smyrf_jax.flax_adapter import hashing_rng

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The fields of a Hugging Face config.json that the encoder reads.

    model_type: "bert" or "roberta".
    pad_token_id: of RoBERTa, whose positions start one above it.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    model_type: str = "bert"
    hidden_act: str = "gelu"
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    hidden_dropout_prob: float = 0.1

    @property
    def first_position(self) -> int:
        """The row of the position table that belongs to the first token."""
        return self.pad_token_id + 1 if self.model_type == "roberta" else 0

    @property
    def longest(self) -> int:
        """Tokens that the position table has rows for."""
        return self.max_position_embeddings - self.first_position


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderOutput:
    """tokens: [B, T, H], of the last layer; first: [B, H], the first token's; pooled: [B, H] or None."""

    tokens: Any
    first: Any
    pooled: Any


def attention_by_layer(attention: Method | Sequence[Method], num_layers: int) -> tuple[Method, ...]:
    """One method for all layers, or one a layer, as one a layer.

    Raises:
        ValueError: there are not as many as layers.
    """
    layers = (attention,) * num_layers if isinstance(attention, Method) else tuple(attention)
    if len(layers) != num_layers:
        raise ValueError(
            f"attention should be one, or one of each of {num_layers} layers, but got {len(layers)}."
        )
    return layers


class Residual(nn.Module):
    """LayerNorm(residual + dropout(dense(hidden)))."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: Array, residual: Array, deterministic: bool) -> Array:
        hidden = nn.Dense(self.config.hidden_size, name="dense")(hidden)
        hidden = nn.Dropout(self.config.hidden_dropout_prob)(hidden, deterministic)
        return nn.LayerNorm(self.config.layer_norm_eps, name="LayerNorm")(hidden + residual)


class SelfAttention(nn.Module):
    """Heads of queries, keys and values, and the attention; sows "queries", "keys", "values", "attended".

    config: has hidden_size and num_attention_heads.
    """

    config: Any
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None) -> Array:
        heads = self.config.num_attention_heads
        width = self.config.hidden_size // heads
        arrays = []
        for name, sown in (("query", "queries"), ("key", "keys"), ("value", "values")):
            projected = nn.Dense(self.config.hidden_size, name=name)(hidden)
            arrays.append(projected.reshape(*hidden.shape[:-1], heads, width))
            self.sow("intermediates", sown, arrays[-1])
        output: Any = smyrf_jax.attention(*arrays, method=self.attention, mask=mask, rng=hashing_rng(self))
        self.sow("intermediates", "attended", output)
        return output.reshape(hidden.shape)


class AttentionBlock(nn.Module):
    config: EncoderConfig
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None, deterministic: bool) -> Array:
        attended = SelfAttention(self.config, self.attention, name="self")(hidden, mask)
        return Residual(self.config, name="output")(attended, hidden, deterministic)


class Intermediate(nn.Module):
    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        hidden = nn.Dense(self.config.intermediate_size, name="dense")(hidden)
        return ACTIVATIONS[self.config.hidden_act](hidden)


class Layer(nn.Module):
    config: EncoderConfig
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None, deterministic: bool) -> Array:
        hidden = AttentionBlock(self.config, self.attention, name="attention")(hidden, mask, deterministic)
        inner = Intermediate(self.config, name="intermediate")(hidden)
        return Residual(self.config, name="output")(inner, hidden, deterministic)


class Embeddings(nn.Module):
    config: EncoderConfig

    @nn.compact
    def __call__(
        self, tokens: Array, kept: Array | None, token_types: Array | None, deterministic: bool
    ) -> Array:
        config = self.config
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
        if config.model_type == "roberta":
            # Counts tokens that are not padding; padding has the row of the padding token.
            real = tokens != config.pad_token_id if kept is None else kept
            positions = jnp.where(real, jnp.cumsum(real, axis=-1), 0) + config.pad_token_id
        types = jnp.zeros_like(tokens) if token_types is None else token_types
        embed = functools.partial(nn.Embed, features=config.hidden_size)
        hidden = embed(config.vocab_size, name="word_embeddings")(tokens)
        hidden += embed(config.max_position_embeddings, name="position_embeddings")(positions)
        hidden += embed(config.type_vocab_size, name="token_type_embeddings")(types)
        hidden = nn.LayerNorm(config.layer_norm_eps, name="LayerNorm")(hidden)
        return nn.Dropout(config.hidden_dropout_prob)(hidden, deterministic)


class Layers(nn.Module):
    config: EncoderConfig
    attention: tuple[Method, ...]

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None, deterministic: bool) -> Array:
        for i, attention in enumerate(self.attention):
            hidden = Layer(self.config, attention, name=f"layer_{i}")(hidden, mask, deterministic)
            self.sow("intermediates", "hidden", hidden)
        return hidden


class Pooler(nn.Module):
    config: EncoderConfig

    @nn.compact
    def __call__(self, first: Array) -> Array:
        return jnp.tanh(nn.Dense(self.config.hidden_size, name="dense")(first))


class Encoder(nn.Module):
    """Tokens to vectors.

    config: of the checkpoint.
    attention: of all layers, or one a layer. Methods draw by the rng collection "hashing"; without it they
        draw the same every time.
    has_pooler: whether there are weights for `pooled`.
    """

    config: EncoderConfig
    attention: Method | Sequence[Method] = Dense()
    has_pooler: bool = True

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B T"] | None = None,
        token_types: Int[Array | np.ndarray, "B T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> EncoderOutput:
        """Encodes a batch.

        Args:
            tokens: [B, T] token numbers.
            kept: [B, T], False for padding; None keeps all.
            token_types: [B, T], the segment of each token; None means 0.
            deterministic: False drops out hidden units, by the rng collection "dropout".

        Raises:
            ValueError: there are more tokens than positions, or attentions do not fit the layers.
        """
        config = self.config
        tokens = jnp.asarray(tokens)
        padding = None if kept is None else jnp.asarray(kept)
        types = None if token_types is None else jnp.asarray(token_types)
        if tokens.shape[-1] > config.longest:
            raise ValueError(
                f"the checkpoint has positions for {config.longest} tokens, but got {tokens.shape[-1]}; load "
                f"it with max_length={tokens.shape[-1]} to interpolate them."
            )
        layers = attention_by_layer(self.attention, config.num_hidden_layers)
        hidden = Embeddings(config, name="embeddings")(tokens, padding, types, deterministic)
        mask = None if padding is None else padding[:, None, None, :]
        hidden = Layers(config, layers, name="encoder")(hidden, mask, deterministic)
        first = hidden[:, 0]
        pooled = Pooler(config, name="pooler")(first) if self.has_pooler else None
        return EncoderOutput(hidden, first, pooled)


class Classifier(nn.Module):
    """An encoder and a head: BERT's, on the pooled output, or RoBERTa's, on the first token.

    encoder: whose weights are at "bert" or "roberta", as in checkpoints.
    num_labels: classes, or 1 for a number.
    """

    config: EncoderConfig
    num_labels: int
    attention: Method | Sequence[Method] = Dense()

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B T"] | None = None,
        token_types: Int[Array | np.ndarray, "B T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B K"]:
        """Logits [B, num_labels]. Arguments as for `Encoder`."""
        roberta = self.config.model_type == "roberta"
        encoder = Encoder(self.config, self.attention, has_pooler=not roberta, name=self.config.model_type)
        output = encoder(tokens, kept, token_types, deterministic=deterministic)
        dropout = nn.Dropout(self.config.hidden_dropout_prob, deterministic=deterministic)
        if roberta:
            return ClassificationHead(self.config, self.num_labels, name="classifier")(output.first, dropout)
        return nn.Dense(self.num_labels, name="classifier")(dropout(output.pooled))


class ClassificationHead(nn.Module):
    config: EncoderConfig
    num_labels: int

    @nn.compact
    def __call__(self, first: Array, dropout: Callable[[Array], Array]) -> Array:
        hidden = jnp.tanh(nn.Dense(self.config.hidden_size, name="dense")(dropout(first)))
        return nn.Dense(self.num_labels, name="out_proj")(dropout(hidden))
