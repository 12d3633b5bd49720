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
from jaxtyping import Bool, Int

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

    model_type: "bert", or "roberta" for all that are built as RoBERTa is.
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
    """What an encoder makes of texts.

    tokens: [B, T, H], of the last layer; without meaning where there is padding. first: [B, H], the first
    token's that is no padding. pooled: [B, H], made of it, or None.
    """

    tokens: Any
    first: Any
    pooled: Any


def attention_by_layer(attention: Method | Sequence[Method], num_layers: int) -> tuple[Method, ...]:
    """One method for all layers, or one a layer, as one a layer.

    Raises:
        ValueError: these are no methods, or not as many as layers.
    """
    several = isinstance(attention, Sequence) and not isinstance(attention, str)
    layers: tuple[Any, ...] = tuple(attention) if several else (attention,) * num_layers  # type: ignore[arg-type]
    strange = [layer for layer in layers if not isinstance(layer, Method)]
    if strange:
        raise ValueError(
            f"attention should be a Method such as Canopy(), or one of each of {num_layers} layers, but got "
            f"{strange[0]!r}. smyrf_jax.method_from_config makes one from a name."
        )
    if len(layers) != num_layers:
        raise ValueError(
            f"attention should be one, or one of each of {num_layers} layers, but got {len(layers)}."
        )
    return layers


def check_inputs(config: Any, tokens: Any, kept: Any = None, token_types: Any = None) -> None:
    """Raises ValueError unless shapes are one [B, T], and each token and token type has a row in its table.

    config: has vocab_size and, for token types, type_vocab_size. Values that are being traced, as under jit,
    or that lie in other processes pass: their vectors are NaN.
    """
    if tokens.ndim != 2:
        raise ValueError(f"tokens should be [B, T], but got shape {tokens.shape}.")
    for name, array in (("kept", kept), ("token_types", token_types)):
        if array is not None and array.shape != tokens.shape:
            raise ValueError(f"{name} should be {tokens.shape} as tokens are, but is {array.shape}.")
    if kept is not None and kept.dtype != bool:
        raise ValueError(f"kept should be boolean (True keeps a token), but is {kept.dtype}.")
    for name, array, field in (
        ("tokens", tokens, "vocab_size"),
        ("token_types", token_types, "type_vocab_size"),
    ):
        if array is None or isinstance(array, jax.core.Tracer):
            continue
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            continue
        size, values = getattr(config, field), np.asarray(array)
        strange = np.unique(values[(values < 0) | (values >= size)])
        if strange.size:
            shown = ", ".join(map(str, strange[:5])) + (", ..." if strange.size > 5 else "")
            raise ValueError(
                f"{name} should be 0 .. {size - 1}, for the checkpoint's {field} is {size}, but got {shown}."
            )


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

    config: has hidden_size and num_attention_heads. The mask [B, 1, 1, T] is of keys and of queries: what it
    leaves out gets zeros.
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
        # One array as both masks: a method then knows that queries and keys are padded alike.
        masks: dict[str, Any] = {"mask": mask, "query_mask": mask}
        output: Any = smyrf_jax.attention(*arrays, method=self.attention, rng=hashing_rng(self), **masks)
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
    def __call__(self, tokens: Array, token_types: Array | None, deterministic: bool) -> Array:
        config = self.config
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
        if config.model_type == "roberta":
            # Counts tokens that are not padding, whatever is masked; padding has the padding token's row.
            real = tokens != config.pad_token_id
            positions = jnp.where(real, jnp.cumsum(real, axis=-1), 0) + config.pad_token_id
        types = jnp.zeros_like(tokens) if token_types is None else token_types
        embed = functools.partial(nn.Embed, features=config.hidden_size)
        hidden = embed(config.vocab_size, name="word_embeddings")(tokens)
        hidden += embed(config.max_position_embeddings, name="position_embeddings")(positions)
        hidden += embed(config.type_vocab_size, name="token_type_embeddings")(types)
        known = (tokens >= 0) & (tokens < config.vocab_size) & (types >= 0) & (types < config.type_vocab_size)
        # Flax counts -1 from a table's end, and takes the only row of a table for any number.
        hidden = jnp.where(known[..., None], hidden, jnp.nan)
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

        A padded text has, at the places that are kept, what it has alone. Positions are those of Hugging
        Face. BERT's are places, padding included, so that it wants padding on the right. RoBERTa's count the
        tokens that are not pad_token_id, so that padding with that token may stand on either side.

        Args:
            tokens: [B, T] token numbers.
            kept: [B, T], False for padding; None keeps all.
            token_types: [B, T], the segment of each token; None means 0.
            deterministic: False drops out hidden units, by the rng collection "dropout".

        Raises:
            ValueError: shapes differ, there are more tokens than positions, a token or token type is in no
                table, or attentions do not fit the layers. Under jit, where tokens have no values yet, what
                is in no table gives NaN instead (`check_inputs` looks before).
        """
        config = self.config
        check_inputs(config, tokens, kept, token_types)
        tokens = jnp.asarray(tokens)
        padding = None if kept is None else jnp.asarray(kept)
        types = None if token_types is None else jnp.asarray(token_types)
        if tokens.shape[-1] > config.longest:
            raise ValueError(
                f"the checkpoint has positions for {config.longest} tokens, but got {tokens.shape[-1]}; load "
                f"it with max_length={tokens.shape[-1]} to interpolate them."
            )
        layers = attention_by_layer(self.attention, config.num_hidden_layers)
        hidden = Embeddings(config, name="embeddings")(tokens, types, deterministic)
        mask = None if padding is None else padding[:, None, None, :]
        hidden = Layers(config, layers, name="encoder")(hidden, mask, deterministic)
        first = hidden[:, 0] if padding is None else _first_of(hidden, padding)
        pooled = Pooler(config, name="pooler")(first) if self.has_pooler else None
        return EncoderOutput(hidden, first, pooled)


def _first_of(hidden: Array, kept: Array) -> Array:
    """[B, H], of each text's first place that is kept."""
    places = jnp.argmax(kept, axis=-1)[:, None, None]
    return jnp.take_along_axis(hidden, places, axis=1)[:, 0]
