"""Llama's causal language model, with the attention of any method of smyrf_jax.

Modules are named as the tensors of Hugging Face's checkpoints are, so that weights map name to name.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

import smyrf_jax
from smyrf_jax import Dense, Method, decoding
from smyrf_jax.flax_adapter import hashing_rng
from smyrf_jax.floats import float32_at_least
from transformer.encoder import ACTIVATIONS, attention_by_layer, check_inputs
from transformer.llama_config import LlamaConfig
from transformer.next_tokens import Predictions, logits_of, predictions_of

# (method, query, key, value, rng) -> output, and the cache of the layer or None.
Attend = Callable[[Method, Array, Array, Array, Array | None], tuple[Any, Any]]


def attend_at_once(
    mask: Array | None, method: Method, query: Array, key: Array, value: Array, rng: Array | None
) -> tuple[Any, None]:
    """Causal attention of all tokens; the mask [B, 1, 1, T] is of keys and of queries."""
    # One array as both masks: a method then knows that queries and keys are padded alike.
    masks: dict[str, Any] = {"mask": mask, "query_mask": mask, "rng": rng}
    return smyrf_jax.attention(query, key, value, method=method, is_causal=True, **masks), None


def rotate(vectors: Float[Array, "*B T N D"], angles: Float[Array, "T _"]) -> Float[Array, "*B T N D"]:
    """Turns the pairs (i, i + D / 2) of each vector by the angles [T, D / 2] of its place."""
    angles = angles[:, None].astype(float32_at_least(vectors.dtype))
    angles = angles.reshape((1,) * (vectors.ndim - 3) + angles.shape)
    first, second = jnp.split(vectors.astype(angles.dtype), 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(vectors.dtype)


class SelfAttention(nn.Module):
    """Heads, turned by their places, and the attention; sows "queries", "keys", "values", "attended"."""

    config: LlamaConfig
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array, angles: Array, attend: Attend) -> tuple[Array, Any]:
        config = self.config
        arrays = []
        for name, sown, heads in (
            ("q_proj", "queries", config.num_attention_heads),
            ("k_proj", "keys", config.key_heads),
            ("v_proj", "values", config.key_heads),
        ):
            dense = nn.Dense(heads * config.head_width, use_bias=config.attention_bias, name=name)
            projected = dense(hidden).reshape(*hidden.shape[:-1], heads, config.head_width)
            arrays.append(projected if sown == "values" else rotate(projected, angles))
            self.sow("intermediates", sown, arrays[-1])
        output, cache = attend(self.attention, arrays[0], arrays[1], arrays[2], hashing_rng(self))
        self.sow("intermediates", "attended", output)
        output = output.reshape(*hidden.shape[:-1], -1)
        return nn.Dense(config.hidden_size, use_bias=config.attention_bias, name="o_proj")(output), cache


class Gated(nn.Module):
    """down(act(gate(hidden)) * up(hidden))."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        config = self.config
        dense = functools.partial(nn.Dense, use_bias=config.mlp_bias)
        gate = ACTIVATIONS[config.hidden_act](dense(config.intermediate_size, name="gate_proj")(hidden))
        inner = gate * dense(config.intermediate_size, name="up_proj")(hidden)
        return dense(config.hidden_size, name="down_proj")(inner)


class Layer(nn.Module):
    config: LlamaConfig
    attention: Method

    @nn.compact
    def __call__(self, hidden: Array, angles: Array, attend: Attend) -> tuple[Array, Any]:
        norm = functools.partial(nn.RMSNorm, epsilon=self.config.rms_norm_eps)
        inner = norm(name="input_layernorm")(hidden)
        attended, cache = SelfAttention(self.config, self.attention, name="self_attn")(inner, angles, attend)
        hidden = hidden + attended
        inner = norm(name="post_attention_layernorm")(hidden)
        return hidden + Gated(self.config, name="mlp")(inner), cache


class Head(nn.Module):
    """The matrix [H, vocabulary] that makes logits."""

    config: LlamaConfig

    @nn.compact
    def __call__(self) -> Array:
        shape = (self.config.hidden_size, self.config.vocab_size)
        return jnp.asarray(self.param("kernel", nn.initializers.lecun_normal(), shape))


class Llama(nn.Module):
    """Tokens to logits of the next token; all of it is causal.

    config: of the checkpoint.
    attention: of all layers, or one a layer. Methods draw by the rng collection "hashing"; without it they
        draw the same every time.

    `apply` takes the name of another of its methods: `model.apply(variables, tokens, method="predictions")`.
    """

    config: LlamaConfig
    attention: Method | Sequence[Method] = Dense()

    def setup(self) -> None:
        config = self.config
        methods = attention_by_layer(self.attention, config.num_hidden_layers)
        self.embed_tokens = nn.Embed(config.vocab_size, config.hidden_size)
        self.layers = [Layer(config, method) for method in methods]
        self.norm = nn.RMSNorm(epsilon=config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = Head(config)

    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B S"] | None = None,
    ) -> Float[Array, "B T _"]:
        """Logits [B, T, vocabulary], float32 or float64: of what follows each token.

        A padded text has, at the places that are kept, what it has alone: padding may stand on either side,
        for a rotation only tells how far apart two tokens are.

        Args:
            tokens: [B, T] token numbers.
            kept: [B, T], False for padding; None keeps all.

        Raises:
            ValueError: shapes differ, there are more tokens than max_position_embeddings, a token is in no
                table, attentions do not fit the layers, or one cannot be causal. Under jit, where tokens
                have no values yet, what is in no table gives NaN instead.
        """
        return self.logits_of(self.hidden_states(tokens, kept))

    def hidden_states(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B S"] | None = None,
    ) -> Float[Array, "B T H"]:
        """[B, T, H] of the last layer after its norm, of which `logits_of` makes logits; else as a call."""
        mask = None if kept is None else jnp.asarray(kept)[:, None, None, :]
        attends = [functools.partial(attend_at_once, mask)] * len(self.layers)
        return self._run(tokens, kept, jnp.arange(tokens.shape[-1]), attends)[0]

    def logits_of(self, hidden: Float[Array, "*B H"]) -> Float[Array, "*B _"]:
        """Logits [*B, vocabulary], float32 or float64, of hidden states."""
        return logits_of(hidden, self._head())

    def predictions(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B S"] | None = None,
    ) -> Predictions:
        """How well the tokens are predicted, by few logits at a time; arguments as of a call."""
        return self.predictions_of(self.hidden_states(tokens, kept), tokens, kept)

    def predictions_of(
        self,
        hidden: Float[Array, "B T H"],
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B T"] | None = None,
    ) -> Predictions:
        """`predictions` of the tokens' `hidden_states`."""
        return predictions_of(hidden, self._head(), tokens, kept)

    def prefill(
        self, tokens: Int[Array | np.ndarray, "B T"], *, length: int
    ) -> tuple[Float[Array, "B _"], tuple[decoding.Cache, ...]]:
        """Reads prompts of T tokens: logits [B, vocabulary] of what follows, and a cache a layer.

        length: tokens in all, with those that `step` adds, that the caches have room for.

        Raises:
            ValueError: as a call; there are more tokens than length or than max_position_embeddings, or a
                method cannot decode token by token.
        """
        self._check_length(length)

        def attend(
            method: Method, query: Array, key: Array, value: Array, rng: Array | None
        ) -> tuple[Any, Any]:
            return decoding.prefill(query, key, value, method=method, length=length, rng=rng)

        places = jnp.arange(tokens.shape[-1])
        hidden, caches = self._run(tokens, None, places, [attend] * len(self.layers))
        return self.logits_of(hidden[:, -1]), caches

    def step(
        self, tokens: Int[Array | np.ndarray, " B"], caches: tuple[decoding.Cache, ...]
    ) -> tuple[Float[Array, "B _"], tuple[decoding.Cache, ...]]:
        """Reads one more token of each text: logits [B, vocabulary] of what follows, and the caches.

        Raises:
            ValueError: the caches are full. Under jit, where their lengths have no values, logits are NaN.
        """

        def attend_with(cache: decoding.Cache) -> Attend:
            def attend(
                method: Method, query: Array, key: Array, value: Array, rng: Array | None
            ) -> tuple[Any, Any]:
                return decoding.step(query, key, value, cache, method=method, rng=rng)

            return attend

        attends = [attend_with(cache) for cache in caches]
        hidden, caches = self._run(tokens[:, None], None, caches[0].length[None], attends)
        return self.logits_of(hidden[:, 0]), caches

    def _run(
        self, tokens: Any, kept: Any, places: Array, attends: Sequence[Attend]
    ) -> tuple[Array, tuple[Any, ...]]:
        """Hidden states [B, T, H] of tokens at their places [T], and what each layer's attention keeps."""
        check_inputs(self.config, tokens, kept)
        hidden, angles = self.embed(tokens, places)
        kept_by_layer = []
        for layer, attend in zip(self.layers, attends, strict=True):
            hidden, cache = layer(hidden, angles, attend)
            kept_by_layer.append(cache)
        return self.norm(hidden), tuple(kept_by_layer)

    def embed(
        self, tokens: Int[Array | np.ndarray, "B T"], places: Int[Array, " T"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "T _"]]:
        """What the first layer gets: vectors [B, T, H] of tokens, and angles [T, D / 2] of their places."""
        tokens = jnp.asarray(tokens)
        self._check_length(tokens.shape[-1])
        hidden = self.embed_tokens(tokens)
        known = (tokens >= 0) & (tokens < self.config.vocab_size)
        hidden = jnp.where(known[..., None], hidden, jnp.nan)  # Flax counts -1 from a table's end
        dtype = float32_at_least(hidden.dtype)
        frequencies = jnp.asarray(self.config.frequencies(), dtype)
        return hidden, places.astype(dtype)[:, None] * frequencies[None]

    def _head(self) -> Array:
        """[H, vocabulary]."""
        return (
            jnp.asarray(self.embed_tokens.embedding).T if self.config.tie_word_embeddings else self.lm_head()
        )

    def _check_length(self, length: int) -> None:
        longest = self.config.max_position_embeddings
        if length > longest:
            raise ValueError(
                f"the checkpoint has positions for {longest} tokens, but got {length}; load it with "
                f"max_length={length} to interpolate them."
            )
