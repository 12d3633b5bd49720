"""Encoders from folders in Hugging Face's format: config.json, model.safetensors, tokenizer.json."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.flax
import tokenizers

from smyrf_jax import dense_attention
from transformer.encoder import ACTIVATIONS, AttentionFn, Encoder, EncoderConfig

_ARCHITECTURES = ("bert", "roberta")
# Tensors of a checkpoint that are no part of an encoder: heads, and buffers of counted positions.
_NOT_OF_ENCODERS = re.compile(
    r"(cls|lm_head|classifier|qa_outputs)\.|embeddings\.(position_ids|token_type_ids)$"
)


class Pretrained(NamedTuple):
    """An encoder, its parameters and its tokenizer (None where the folder has none)."""

    encoder: Encoder
    params: Any
    tokenizer: tokenizers.Tokenizer | None


def load_encoder(
    folder: str | os.PathLike,
    *,
    attention: AttentionFn | Sequence[AttentionFn] = dense_attention,
    max_length: int | None = None,
) -> Pretrained:
    """Reads a BERT or RoBERTa checkpoint.

    Args:
        folder: with config.json, model.safetensors and, if texts are to be read, tokenizer.json.
        attention: of all layers, or one a layer.
        max_length: tokens; when the checkpoint has fewer positions, its table is interpolated linearly.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the architecture is unknown, or a tensor is missing, left over or of another shape.
    """
    config = read_config(folder)
    weights = read_weights(folder)
    has_pooler = any("pooler." in name for name in weights)
    encoder = Encoder(config, attention, has_pooler)
    params = encoder_params(encoder, weights)
    if max_length is not None and max_length > config.longest:
        config, params = with_longer_positions(config, params, max_length)
        encoder = encoder.clone(config=config)
    tokenizer = None
    if (pathlib.Path(folder) / "tokenizer.json").exists():
        tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return Pretrained(encoder, params, tokenizer)


def _file(folder: str | os.PathLike, name: str) -> pathlib.Path:
    path = pathlib.Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing. A checkpoint is a folder with config.json, model.safetensors and "
            "tokenizer.json."
        )
    return path


def read_config(folder: str | os.PathLike) -> EncoderConfig:
    """The config.json of a checkpoint.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the architecture, an activation or kind of positions is unknown, or a field is missing.
    """
    path = _file(folder, "config.json")
    fields = json.loads(path.read_text())
    known = {
        "model_type": _ARCHITECTURES,
        "hidden_act": ACTIVATIONS,
        "position_embedding_type": ("absolute",),
    }
    for name, values in known.items():
        value = fields.get(name, "absolute" if name == "position_embedding_type" else None)
        if value not in values:
            raise ValueError(f"{path}: {name} should be one of {sorted(values)}, but is {value!r}.")
    try:
        return EncoderConfig(
            **{
                field.name: fields[field.name]
                for field in dataclasses.fields(EncoderConfig)
                if field.name in fields or field.default is dataclasses.MISSING
            }
        )
    except KeyError as error:
        raise ValueError(f"{path}: the field {error} is missing.") from error


def read_weights(folder: str | os.PathLike) -> dict[str, Any]:
    """The tensors of model.safetensors, by their names there."""
    return safetensors.flax.load_file(_file(folder, "model.safetensors"))


def tensor_name(path: tuple[str, ...]) -> str:
    """The name in a checkpoint of the parameter at `path` of ours: encoder.layer.0.output.dense.weight."""
    *scopes, leaf = path
    leaf = "bias" if leaf == "bias" else "weight"
    return ".".join([*(re.sub(r"^layer_(\d+)$", r"layer.\1", scope) for scope in scopes), leaf])


def encoder_params(encoder: Encoder, weights: Mapping[str, Any]) -> Any:
    """The parameters of an encoder, float32, from a checkpoint's tensors.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape; it names them all.
    """
    weights = {_modern(name): tensor for name, tensor in weights.items()}
    template = jax.eval_shape(
        lambda: encoder.init(
            {"params": jax.random.key(0), "hashing": jax.random.key(1)}, jnp.zeros((1, 1), int)
        )
    )["params"]
    faults, used = [], set()

    def of(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        keys = tuple(entry.key for entry in path)
        name = tensor_name(keys)
        if name not in weights:
            faults.append(f"{name} is missing")
            return leaf
        used.add(name)
        tensor = np.asarray(weights[name], np.float32)
        tensor = tensor.T if keys[-1] == "kernel" else tensor
        if tensor.shape != leaf.shape:
            faults.append(f"{name} is {tensor.shape}, not {leaf.shape}")
        return tensor

    params = jax.tree_util.tree_map_with_path(of, template)
    left = [name for name in weights if name not in used and not _NOT_OF_ENCODERS.match(name)]
    faults.extend(f"{name} is left over" for name in left)
    if faults:
        raise ValueError(f"the checkpoint does not fit {encoder.config}: " + "; ".join(faults) + ".")
    return params


def _modern(name: str) -> str:
    """A tensor's name without the model's prefix, and with the layer norms' present names."""
    name = re.sub(rf"^({'|'.join(_ARCHITECTURES)})\.", "", name)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def with_longer_positions(config: EncoderConfig, params: Any, max_length: int) -> tuple[EncoderConfig, Any]:
    """A position table for max_length tokens, between whose rows the trained ones are interpolated.

    The ends stay: the first token and the last have the rows they had. Nothing was trained at such lengths.
    """
    first = config.first_position
    table = np.asarray(params["embeddings"]["position_embeddings"]["embedding"])
    special, trained = table[:first], table[first:]
    places = np.linspace(0, len(trained) - 1, max_length)
    below = np.minimum(places.astype(int), len(trained) - 2)
    part = (places - below)[:, None].astype(table.dtype)
    longer = np.concatenate([special, (1 - part) * trained[below] + part * trained[below + 1]])
    embeddings = params["embeddings"] | {"position_embeddings": {"embedding": longer}}
    config = dataclasses.replace(config, max_position_embeddings=first + max_length)
    return config, params | {"embeddings": embeddings}
