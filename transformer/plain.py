"""A plain Transformer to be trained from random weights: pre-norm, with any method of attention.

Attention weights are not dropped, which the methods do not support; what attention adds to its layer is.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

import smyrf_jax
from smyrf_jax import Dense, Method
from smyrf_jax.flax_adapter import hashing_rng

# Logits of a language model that are in memory at once.
_LOGITS = 1 << 26


@dataclasses.dataclass(frozen=True)
class PlainConfig:
    """Sizes.

    vocab_size, length: tokens that there are, and that a sequence has at most.
    hidden_size: between the layers. attention_size: of queries, keys and values of all heads; 0: hidden_size.
    intermediate_size: inside a layer's feed-forward part, and of the hidden layer of a classifier's head.
    dropout: of the embeddings, of what attention and feed-forward part add, and between the two parts of it.
    positions: "learned", or "sinusoidal", which are fixed.
    pooling: of an encoder: "cls", a vector of its own in front of the tokens, or "mean" of the tokens.

    Raises:
        ValueError: a size is none, positions or pooling are none of these, or heads do not divide the width.
    """

    vocab_size: int
    length: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    attention_size: int = 0
    dropout: float = 0.1
    positions: str = "sinusoidal"
    pooling: str = "mean"

    def __post_init__(self) -> None:
        for name, known in (("positions", ("learned", "sinusoidal")), ("pooling", ("cls", "mean"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"config.model.{name} should be one of {known}, but is {getattr(self, name)!r}."
                )
        for name in ("hidden_size", "num_layers", "num_heads", "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"config.model.{name} must be positive, got {getattr(self, name)}.")
        if self.attention_size < 0:
            raise ValueError(f"config.model.attention_size must not be negative, got {self.attention_size}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"config.model.dropout should be in [0, 1), got {self.dropout}.")
        if self.width % self.num_heads:
            raise ValueError(
                f"config.model.num_heads should divide the width of attention, {self.width}, but is "
                f"{self.num_heads}."
            )

    @property
    def width(self) -> int:
        """Of queries, keys and values, all heads together."""
        return self.attention_size or self.hidden_size


def sinusoids(length: int, width: int) -> Float[np.ndarray, "T H"]:
    """Fixed positions: sines of `width` / 2 wave lengths, geometric from 2 pi to 10,000 * 2 pi, then cosines.

    Source: Attention Is All You Need (arXiv:1706.03762), section 3.5.
    """
    rates = np.exp(-math.log(10_000.0) * np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)[:, :width].astype(np.float32)


class Block(nn.Module):
    """A layer: hidden + attention(norm(hidden)), and the same with the feed-forward part."""

    config: PlainConfig
    attention: Method
    is_causal: bool

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None, deterministic: bool) -> Array:
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=deterministic)
        normed = nn.LayerNorm(name="attention_norm")(hidden)
        arrays = []
        for name in ("query", "key", "value"):
            projected = _dense(config.width, name, use_bias=False)(normed)
            arrays.append(projected.reshape(*hidden.shape[:-1], config.num_heads, -1))
        # One array as both masks: a method then knows that queries and keys are padded alike.
        masks: dict[str, Any] = {"mask": mask, "query_mask": mask, "is_causal": self.is_causal}
        attended: Any = smyrf_jax.attention(*arrays, method=self.attention, rng=hashing_rng(self), **masks)
        attended = attended.reshape(*hidden.shape[:-1], config.width)
        hidden += dropout(_dense(config.hidden_size, "output")(attended))
        normed = nn.LayerNorm(name="feed_forward_norm")(hidden)
        inner = nn.gelu(_dense(config.intermediate_size, "inner")(normed))
        hidden += dropout(_dense(config.hidden_size, "outer")(dropout(inner)))
        return hidden


def _dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(features, use_bias, kernel_init=nn.initializers.xavier_uniform(), name=name)


class Stack(nn.Module):
    """Tokens to vectors [B, T, H], or [B, 1 + T, H] with a vector of its own in front (has_cls)."""

    config: PlainConfig
    attention: Method
    is_causal: bool = False
    has_cls: bool = False

    @nn.compact
    def __call__(self, tokens: Array, kept: Array | None, deterministic: bool) -> Array:
        config = self.config
        if tokens.shape[-1] > config.length:
            raise ValueError(
                f"tokens should be {config.length} at most, the positions there are, but got shape "
                f"{tokens.shape}."
            )
        # Small where the positions are, as large as sinusoids where they are fixed.
        init = nn.initializers.normal(0.02 if config.positions == "learned" else 1.0)
        hidden = nn.Embed(config.vocab_size, config.hidden_size, embedding_init=init, name="tokens")(tokens)
        places = np.arange(tokens.shape[-1])
        if config.positions == "learned":
            table = nn.Embed(config.length, config.hidden_size, embedding_init=init, name="positions")
            hidden += table(jnp.asarray(places))[None]
        else:
            hidden += sinusoids(config.length, config.hidden_size)[places][None]
        if self.has_cls:
            first = self.param("cls", nn.initializers.zeros, (config.hidden_size,))
            first = jnp.broadcast_to(first, (hidden.shape[0], 1, config.hidden_size))
            hidden = jnp.concatenate([first, hidden], axis=1)
        hidden = nn.Dropout(config.dropout)(hidden, deterministic)
        mask = None if kept is None else kept[:, None, None, :]
        for i in range(config.num_layers):
            block = Block(config, self.attention, self.is_causal, name=f"block_{i}")
            hidden = block(hidden, mask, deterministic)
        return nn.LayerNorm(name="norm")(hidden)


class LanguageModel(nn.Module):
    """A decoder: what comes after each token, by it and the tokens before it.

    attention: that of all layers. One whose clusters see future tokens leaks them: see `smyrf_jax`.
    """

    config: PlainConfig
    attention: Method = Dense()

    def setup(self) -> None:
        self.stack = Stack(self.config, self.attention, is_causal=True)
        self.head = nn.Dense(self.config.vocab_size)

    def __call__(
        self, tokens: Int[Array | np.ndarray, "B T"], *, deterministic: bool = True
    ) -> Float[Array, "B T K"]:
        """Logits of the next tokens."""
        logits: Array = self.head(self.stack(jnp.asarray(tokens), None, deterministic))
        return logits

    def losses(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        targets: Int[Array | np.ndarray, "B T"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T"]:
        """-log p of the targets, which come after the tokens; 0 where a target is negative.

        The logits of a vocabulary of many words are made a piece at a time, and again for the gradient.
        """
        hidden = self.stack(jnp.asarray(tokens), None, deterministic)
        targets = jnp.asarray(targets)

        def of_piece(head: nn.Module, piece: tuple[Array, Array]) -> Array:
            hidden, targets = piece
            logits = head(hidden)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
            return jnp.where(targets >= 0, losses, 0.0)

        pieces = _pieces(targets.size * self.config.vocab_size, targets.shape[-1])
        if pieces == 1:
            return of_piece(self.head, (hidden, targets))
        cut = tuple(
            jnp.moveaxis(array.reshape(len(array), pieces, -1, *array.shape[2:]), 1, 0)
            for array in (hidden, targets)
        )
        scanned = nn.scan(
            nn.remat(lambda head, carry, piece: (carry, of_piece(head, piece))),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, losses = scanned(self.head, (), cut)
        return jnp.moveaxis(losses, 0, 1).reshape(targets.shape)


def _pieces(logits: int, length: int) -> int:
    """The least number that divides the length and makes pieces of a size that memory has."""
    return next((n for n in range(1, length) if length % n == 0 and logits <= n * _LOGITS), length)


class SequenceClassifier(nn.Module):
    """An encoder of sequences with a head of two layers: their classes."""

    config: PlainConfig
    num_classes: int
    attention: Method = Dense()

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B K"]:
        """Logits. kept: False for padding, on the right."""
        pooled = Pooled(self.config, self.attention, name="encoder")(tokens, kept, deterministic)
        return _head(pooled, self.config.intermediate_size, self.num_classes)


class PairClassifier(nn.Module):
    """Two towers: an encoder of each of two sequences, with the same weights, and a head over both."""

    config: PlainConfig
    num_classes: int
    attention: Method = Dense()

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B 2 T"],
        kept: Bool[Array | np.ndarray, "B 2 T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B K"]:
        """Logits, of both vectors, their product and their difference."""
        length = tokens.shape[-1]
        flat = None if kept is None else kept.reshape(-1, length)
        encoder = Pooled(self.config, self.attention, name="encoder")
        pooled = encoder(tokens.reshape(-1, length), flat, deterministic).reshape(len(tokens), 2, -1)
        one, other = pooled[:, 0], pooled[:, 1]
        both = jnp.concatenate([one, other, one * other, one - other], axis=-1)
        return _head(both, self.config.intermediate_size, self.num_classes)


class Pooled(nn.Module):
    """One vector of each sequence: [B, H]."""

    config: PlainConfig
    attention: Method

    @nn.compact
    def __call__(self, tokens: Any, kept: Any, deterministic: bool) -> Array:
        has_cls = self.config.pooling == "cls"
        mask = None if kept is None else jnp.asarray(kept)
        if mask is not None and has_cls:
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        stack = Stack(self.config, self.attention, has_cls=has_cls, name="stack")
        hidden = stack(jnp.asarray(tokens), mask, deterministic)
        if has_cls:
            return hidden[:, 0]
        if mask is None:
            return jnp.mean(hidden, axis=1)
        weights = mask[..., None].astype(hidden.dtype)
        return jnp.sum(weights * hidden, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)


def _head(vectors: Array, width: int, num_classes: int) -> Array:
    hidden = nn.relu(_dense(width, "head_inner")(vectors))
    logits: Array = _dense(num_classes, "head_outer")(hidden)
    return logits


def num_params(params: Any) -> int:
    """Numbers in the arrays of a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
