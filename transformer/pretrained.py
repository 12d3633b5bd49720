"""Encoders of texts and images from the checkpoints that people have."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from smyrf_jax import Dense, Method
from transformer.encoder import ACTIVATIONS, Encoder, EncoderConfig
from transformer.vision import VisionConfig, VisionTransformer
from transformer.weights import params_of, read_json, read_onnx, read_weights

# What config.json calls a model, and how it is built; tensors have the latter as a prefix.
_ARCHITECTURES = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}
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
    attention: Method | Sequence[Method] = Dense(),  # noqa: B008
    max_length: int | None = None,
) -> Pretrained:
    """Reads a BERT or RoBERTa checkpoint; XLM-RoBERTa and CamemBERT are RoBERTa.

    Args:
        folder: with config.json, model.safetensors (or its shards and their index) and, if texts are to be
            read, tokenizer.json.
        attention: of all layers, or one a layer.
        max_length: tokens; when the checkpoint has fewer positions, its table is interpolated linearly.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the architecture is unknown, a file cannot be read, a tensor is missing, left over or of
            another shape, or attention or max_length is not what it should be.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length should be a number of tokens, but got {max_length}.")
    config = read_config(folder)
    weights = read_weights(folder)
    has_pooler = any("pooler." in name for name in weights)
    encoder = Encoder(config, attention, has_pooler)
    params = encoder_params(encoder, weights)
    if max_length is not None and max_length > config.longest:
        config, params = with_longer_positions(config, params, max_length)
        encoder = encoder.clone(config=config)
    return Pretrained(encoder, params, read_tokenizer(pathlib.Path(folder) / "tokenizer.json"))


def read_tokenizer(path: pathlib.Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of a file, which neither cuts nor pads; None where there is no such file."""
    if not path.exists():
        return None
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # it has no other kind
        raise ValueError(f"{path} cannot be read as a tokenizer: {error}.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def read_config(folder: str | os.PathLike) -> EncoderConfig:
    """The config.json of a checkpoint.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the architecture, an activation or kind of positions is unknown, or a field is missing.
    """
    path, fields = pathlib.Path(folder) / "config.json", read_json(folder, "config.json")
    fields = {name: value for name, value in fields.items() if value is not None}
    known: dict[str, Collection[str]] = {
        "model_type": _ARCHITECTURES,
        "hidden_act": ACTIVATIONS,
        "position_embedding_type": ("absolute",),
    }
    for name, values in known.items():
        value = fields.get(name, "absolute" if name == "position_embedding_type" else None)
        if value not in values:
            raise ValueError(f"{path}: {name} should be one of {sorted(values)}, but is {value!r}.")
    fields["model_type"] = _ARCHITECTURES[fields["model_type"]]
    if fields["model_type"] == "roberta":
        fields.setdefault("pad_token_id", 1)
    names = [field.name for field in dataclasses.fields(EncoderConfig)]
    needed = [of.name for of in dataclasses.fields(EncoderConfig) if of.default is dataclasses.MISSING]
    _check_fields(path, fields, needed)
    return EncoderConfig(**{name: fields[name] for name in names if name in fields})


def _check_fields(path: pathlib.Path, fields: Mapping[str, Any], needed: Sequence[str]) -> None:
    """Raises ValueError unless a config has the fields, and its heads divide its width."""
    missing = [name for name in needed if name not in fields]
    if missing:
        raise ValueError(f"{path}: the field {missing[0]!r} is missing.")
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if width % heads:
        raise ValueError(
            f"{path}: num_attention_heads should divide hidden_size, but they are {heads} and {width}."
        )


def encoder_params(encoder: Encoder, weights: Mapping[str, Any]) -> Any:
    """The parameters of an encoder, float32, from a checkpoint's tensors.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape; it names them all.
    """
    template = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 1), int)))["params"]
    return params_of(template, weights, str(encoder.config), _modern, _NOT_OF_ENCODERS)


def _modern(name: str) -> str:
    """A tensor's name without the model's prefix, and with the layer norms' present names."""
    name = re.sub(rf"^({'|'.join(_ARCHITECTURES.values())})\.", "", name)
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


class PretrainedVision(NamedTuple):
    """A vision transformer and its parameters."""

    encoder: VisionTransformer
    params: Any


def load_vision(
    path: str | os.PathLike,
    *,
    attention: Method | Sequence[Method] = Dense(),  # noqa: B008
) -> PretrainedVision:
    """Reads a DINOv2 checkpoint: a folder with config.json and model.safetensors, or an ONNX file.

    An ONNX file, whose weights are read without a runtime, may have a head that makes a map of importance.
    The number of heads is not in it: they are 64 wide in every DINOv2.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the architecture is unknown, or a tensor is missing, left over or of another shape.
    """
    if pathlib.Path(path).suffix == ".onnx":
        weights = read_onnx(path)
        config = _vision_config_of(weights, path)
    else:
        weights, config = read_weights(path), _read_vision_config(path)
    has_head = any(name.startswith("decoder.") for name in weights)
    encoder = VisionTransformer(config, attention, has_head)
    images = jnp.zeros((1, config.patch_size, config.patch_size, 3))
    template = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images))["params"]
    foreign = re.compile(r"classifier\.|embeddings\.mask_token$")
    params = params_of(template, weights, str(config), _unprefixed, foreign)
    return PretrainedVision(encoder, params)


def _unprefixed(name: str) -> str:
    return re.sub(r"^(backbone|dinov2)\.", "", name)


def _vision_config_of(weights: Mapping[str, Any], path: str | os.PathLike) -> VisionConfig:
    try:
        width, _, patch, _ = weights["backbone.embeddings.patch_embeddings.projection.weight"].shape
        table = weights["backbone.embeddings.position_embeddings"].shape[1] - 1
        inner = weights["backbone.encoder.layer.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"{path}: the tensor {error} of a DINOv2 is missing.") from error
    layers = {name.split(".")[3] for name in weights if name.startswith("backbone.encoder.layer.")}
    side = round(table**0.5) * patch
    return VisionConfig(width, len(layers), width // 64, inner // width, patch, side)


def _read_vision_config(folder: str | os.PathLike) -> VisionConfig:
    path, fields = pathlib.Path(folder) / "config.json", read_json(folder, "config.json")
    known = {"model_type": "dinov2", "hidden_act": "gelu", "qkv_bias": True, "use_swiglu_ffn": False}
    for name, value in known.items():
        if fields.get(name, value if name != "model_type" else None) != value:
            raise ValueError(f"{path}: {name} should be {value!r}, but is {fields.get(name)!r}.")
    names = [field.name for field in dataclasses.fields(VisionConfig)]
    _check_fields(path, fields, names)
    sides = {name: _side(path, name, fields[name]) for name in ("image_size", "patch_size")}
    return VisionConfig(**{name: fields[name] for name in names} | sides)


def _side(path: pathlib.Path, name: str, value: Any) -> int:
    """The side of a square, which a config gives as one number or as two that are equal."""
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(isinstance(side, int) and side == sides[0] > 0 for side in sides):
        raise ValueError(f"{path}: {name} should be a number or two equal ones, but is {value!r}.")
    return sides[0]
