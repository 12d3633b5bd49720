"""Pretrained encoders together with inputs on which to look at their attention."""

import dataclasses
import pydoc_data.topics
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax import Array
from jaxtyping import Bool
from PIL import Image

from smyrf_jax import Method
from training.photographs import middle_square, photograph
from transformer.encoder import check_inputs
from transformer.pretrained import load_encoder, load_vision
from transformer.vision import normalised
from transformer.weights import folder_of, read_json

# Of fewer, the first ones are taken.
_PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")


class Probe(NamedTuple):
    """An encoder and a batch on which its attention is looked at.

    encoder, params: of an Encoder or a VisionTransformer.
    inputs: [B, T] tokens, or [B, H, W, 3] normalised images.
    length: T, tokens of each input.
    unit: what an input is called.
    """

    encoder: Any
    params: Any
    inputs: Array
    length: int
    unit: str

    def output(self, attention: Method | Sequence[Method], params: Any, inputs: Array) -> Any:
        """What the encoder returns with `attention`, of all layers or one a layer; it draws always alike."""
        return self.encoder.clone(attention=attention).apply({"params": params}, inputs)

    def embedding(self, attention: Method | Sequence[Method], params: Any, inputs: Array) -> Array:
        """[B, H] of length one: the mean of a text's tokens, or an image's class token."""
        tokens = self.output(attention, params, inputs).tokens
        vector = jnp.mean(tokens, axis=1) if self.unit == "text" else tokens[:, 0]
        return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True)

    @property
    def num_layers(self) -> int:
        return self.encoder.config.num_hidden_layers

    @property
    def num_heads(self) -> int:
        return self.encoder.config.num_attention_heads

    @property
    def head_width(self) -> int:
        return self.encoder.config.hidden_size // self.num_heads


def open_probe(model: str, length: int, count: int) -> Probe:
    """A model with `count` inputs of `length` tokens.

    Args:
        model: a name of weights.PACKAGES, a checkpoint's folder or an ONNX file.
        length: tokens of a text; of an image one and a square number.
        count: texts from the manual that comes with Python, or photographs that scikit-image ships.

    Raises:
        FileNotFoundError: a file or package is missing.
        ValueError: the checkpoint, the length or the count does not fit.
    """
    path = folder_of(model)
    if path.suffix == ".onnx" or read_json(path, "config.json").get("model_type") == "dinov2":
        vision = load_vision(path)
        side = round((length - 1) ** 0.5)
        if side**2 + 1 != length:
            raise ValueError(f"an image has one token and a square number, such as 1370, not {length}.")
        images = photographs(side * vision.encoder.config.patch_size, count)
        return Probe(vision.encoder, vision.params, normalised(jnp.asarray(images)), length, "image")
    text = load_encoder(path, max_length=length)
    if text.tokenizer is None:
        raise FileNotFoundError(f"{path / 'tokenizer.json'} is missing.")
    tokens = passages(text.tokenizer, length, count)
    check_inputs(text.encoder.config, tokens)
    return Probe(text.encoder, text.params, jnp.asarray(tokens), length, "text")


def passages(tokenizer: tokenizers.Tokenizer, length: int, count: int) -> np.ndarray:
    """[count, length] tokens of consecutive text, with the tokenizer's first and last token around each."""
    text = "\n\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    first, *_, last = tokenizer.encode("a").ids
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    inner = length - 2
    if len(tokens) < count * inner:
        raise ValueError(f"the text has {len(tokens)} tokens, too few for {count} passages of {length}.")
    # Spread over the manual, so that passages differ.
    starts = np.linspace(0, len(tokens) - inner, count).astype(int)
    return np.array([[first, *tokens[start : start + inner], last] for start in starts])


def photographs(side: int, count: int) -> np.ndarray:
    """[count, side, side, 3] float32 in 0 .. 1: the middle squares of scikit-image's photographs."""
    if count > len(_PHOTOGRAPHS):
        raise ValueError(f"there are {len(_PHOTOGRAPHS)} photographs, fewer than {count}.")
    squares = [
        middle_square(photograph(name), side, Image.Resampling.BICUBIC) for name in _PHOTOGRAPHS[:count]
    ]
    return np.stack(squares).astype(np.float32) / 255


def heads_of(probe: Probe) -> list[tuple[Array, Array, Array]]:
    """query, key and value [B, T, N, D] of each layer, as the model has them with its own attention."""

    @jax.jit
    def run(params: Any, inputs: Array) -> Any:
        _, variables = probe.encoder.apply({"params": params}, inputs, mutable="intermediates")
        return variables["intermediates"]

    layers: list[dict[str, Array]] = [{} for _ in range(probe.num_layers)]
    for path, sown in flax.traverse_util.flatten_dict(run(probe.params, probe.inputs)).items():
        of = [int(scope.removeprefix("layer_")) for scope in path if scope.startswith("layer_")]
        if of:
            layers[of[0]][path[-1]] = sown[0]
    return [(layer["queries"], layer["keys"], layer["values"]) for layer in layers]


@dataclasses.dataclass(frozen=True, eq=False)
class Mixed(Method):
    """One method for some heads, and another for the rest.

    chosen: whose heads are True in `heads` [N], which may be traced. other: of the rest.
    """

    chosen: Method
    other: Method
    heads: Bool[Array, "N"]

    def attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        *,
        rng: Array,
        scale: Any,
        is_causal: bool,
        query_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        options: dict[str, Any] = {"rng": rng, "scale": scale, "is_causal": is_causal}
        if query_mask is not None:
            options["query_mask"] = query_mask
        chosen, other = (
            method.attend(query, key, value, mask, **options) for method in (self.chosen, self.other)
        )
        heads = jnp.expand_dims(self.heads, tuple(range(query.ndim - 2)))  # [1, 1, N]
        return jnp.where(heads[..., None], chosen[0], other[0]), jnp.where(heads, chosen[1], other[1])
