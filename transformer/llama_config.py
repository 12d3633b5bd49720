"""The config of a Llama, and how config.json says it."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.encoder import ACTIVATIONS
from transformer.weights import read_json


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The fields of a Hugging Face config.json that the model reads.

    num_key_value_heads: divides num_attention_heads; neighbouring query heads share a key head.
    head_dim: width of a head; None means hidden_size / num_attention_heads.
    rope_theta: base of the rotations: pair i of D / 2 turns by rope_theta^(-2 i / D) a token.
    rope_factors: by which each of those frequencies is divided, [D / 2]; () means 1.
    eos_token_id: tokens that end a text.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_factors: tuple[float, ...] = ()
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    eos_token_id: tuple[int, ...] = ()

    @property
    def key_heads(self) -> int:
        """M."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """D."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def frequencies(self) -> np.ndarray:
        """[D / 2], radians a token by which each pair of a head's numbers turns."""
        half = self.head_width // 2
        turns = self.rope_theta ** (-np.arange(half) / half)
        return turns / np.array(self.rope_factors or 1.0)

    def with_longer_positions(self, max_length: int) -> "LlamaConfig":
        """Places for max_length tokens, in whose range the trained ones are interpolated linearly.

        All turn slower by max_length / max_position_embeddings. Nothing was trained at such lengths.

        Source: Position Interpolation (arXiv:2306.15595).
        """
        slower = max_length / self.max_position_embeddings
        factors = self.rope_factors or (1.0,) * (self.head_width // 2)
        return dataclasses.replace(
            self,
            max_position_embeddings=max_length,
            rope_factors=tuple(slower * factor for factor in factors),
        )


def read_llama_config(folder: str | os.PathLike) -> LlamaConfig:
    """The config.json of a checkpoint, with the ends of texts that a generation_config.json adds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the architecture, an activation or a kind of rotation is unknown, a field is missing, or
            the heads do not divide as they should.
    """
    path, fields = pathlib.Path(folder) / "config.json", read_json(folder, "config.json")
    fields = {name: value for name, value in fields.items() if value is not None}
    if fields.get("model_type") != "llama":
        raise ValueError(f"{path}: model_type should be 'llama', but is {fields.get('model_type')!r}.")
    names = [field.name for field in dataclasses.fields(LlamaConfig)]
    needed = [of.name for of in dataclasses.fields(LlamaConfig) if of.default is dataclasses.MISSING]
    for name in needed:
        if name not in fields:
            raise ValueError(f"{path}: the field {name!r} is missing.")
    if fields.get("hidden_act", "silu") not in ACTIVATIONS:
        raise ValueError(
            f"{path}: hidden_act should be one of {sorted(ACTIVATIONS)}, but is {fields['hidden_act']!r}."
        )
    chosen = {name: fields[name] for name in names if name in fields and name != "eos_token_id"}
    config = LlamaConfig(**chosen, eos_token_id=_ends(folder, fields))
    heads, shared = config.num_attention_heads, config.key_heads
    if heads % shared:
        raise ValueError(
            f"{path}: num_key_value_heads should divide num_attention_heads, but they are {shared} "
            f"and {heads}."
        )
    if config.head_dim is None and config.hidden_size % heads:
        raise ValueError(
            f"{path}: num_attention_heads should divide hidden_size, but they are {heads} and "
            f"{config.hidden_size}."
        )
    return _with_rotations(config, fields, path)


def _ends(folder: str | os.PathLike, fields: Mapping[str, Any]) -> tuple[int, ...]:
    """eos_token_id, one or several, of config.json and generation_config.json."""
    more = "generation_config.json"
    others = read_json(folder, more) if (pathlib.Path(folder) / more).exists() else {}
    found: set[int] = set()
    for of in (fields, others):
        ends = of.get("eos_token_id")
        found |= set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    return tuple(sorted(found))


def _with_rotations(config: LlamaConfig, fields: Mapping[str, Any], path: pathlib.Path) -> LlamaConfig:
    """With the base and factors of rope_scaling, or of rope_parameters, as newer files have it."""
    rope = {**(fields.get("rope_scaling") or {}), **(fields.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = float(rope.get("rope_theta", config.rope_theta))
    config = dataclasses.replace(config, rope_theta=theta)
    for of in (fields, rope):
        part = of.get("partial_rotary_factor", 1.0)
        if part != 1:
            raise ValueError(f"{path}: partial_rotary_factor should be 1, but is {part}.")
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    if kind not in needed:
        raise ValueError(f"{path}: rope_type should be one of {sorted(needed)}, but is {kind!r}.")
    missing = [name for name in needed[kind] if name not in rope]
    if missing:
        raise ValueError(f"{path}: rope_type {kind!r} wants the field {missing[0]!r}.")
    factors: tuple[float, ...] = ()
    if kind == "linear":
        factors = (float(rope["factor"]),) * (config.head_width // 2)
    elif kind == "llama3":
        factors = llama3_factors(config, *(float(rope[name]) for name in needed[kind]))
    return dataclasses.replace(config, rope_factors=factors)


def llama3_factors(
    config: LlamaConfig, factor: float, low: float, high: float, trained: float
) -> tuple[float, ...]:
    """By what Llama 3.1 divides its frequencies.

    Those that turn more than `high` times in `trained` tokens stay, those that turn less than `low` times are
    divided by `factor`, and between them the frequency goes from one to the other, linearly in the turns.

    Source: https://github.com/meta-llama/llama-models (rope scaling of Llama 3.1).
    """
    turns = trained * config.frequencies() / (2 * math.pi)
    part = ((turns - low) / (high - low)).clip(0, 1)
    return tuple((1 / ((1 - part) / factor + part)).tolist())
