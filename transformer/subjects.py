"""Pretrained encoders together with inputs on which to look at their attention."""

import json
import pathlib
import pydoc_data.topics
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax import Array

from transformer.encoder import AttentionFn
from transformer.pretrained import load_encoder, load_vision
from transformer.vision import normalised
from transformer.weights import folder_of


class Subject(NamedTuple):
    """An encoder and a batch for it.

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

    def output(self, attention: Any, params: Any, inputs: Array) -> Any:
        """What the encoder returns with `attention`, of all layers or one a layer; hashes always alike."""
        encoder = self.encoder.clone(attention=attention)
        return encoder.apply({"params": params}, inputs, rngs={"hashing": jax.random.key(0)})

    def embedding(self, attention: Any, params: Any, inputs: Array) -> Array:
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


def open_subject(model: str, length: int, count: int) -> Subject:
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
    if path.suffix == ".onnx" or _model_type(path) == "dinov2":
        vision = load_vision(path)
        side = round((length - 1) ** 0.5)
        if side**2 + 1 != length:
            raise ValueError(f"an image has one token and a square number, such as 1370, not {length}.")
        images = photographs(side * vision.encoder.config.patch_size, count)
        return Subject(vision.encoder, vision.params, normalised(jnp.asarray(images)), length, "image")
    text = load_encoder(path, max_length=length)
    if text.tokenizer is None:
        raise FileNotFoundError(f"{path / 'tokenizer.json'} is missing.")
    tokens = jnp.asarray(passages(text.tokenizer, length, count))
    return Subject(text.encoder, text.params, tokens, length, "text")


def _model_type(folder: pathlib.Path) -> str:
    config = folder / "config.json"
    return json.loads(config.read_text()).get("model_type", "") if config.exists() else ""


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
    import skimage.data
    from PIL import Image

    names = ("chelsea", "coffee", "astronaut", "rocket")
    if count > len(names):
        raise ValueError(f"there are {len(names)} photographs, fewer than {count}.")
    images = []
    for name in names[:count]:
        image = Image.fromarray(getattr(skimage.data, name)())
        small = min(image.size)
        left, top = ((length - small) // 2 for length in image.size)
        square = image.crop((left, top, left + small, top + small))
        images.append(np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255)
    return np.stack(images)


def heads_of(subject: Subject) -> list[tuple[Array, Array, Array]]:
    """query, key and value [B, T, N, D] of each layer, as the model has them with its own attention."""

    @jax.jit
    def run(params: Any, inputs: Array) -> Any:
        _, variables = subject.encoder.apply(
            {"params": params}, inputs, rngs={"hashing": jax.random.key(0)}, mutable="intermediates"
        )
        return variables["intermediates"]

    layers: list[dict[str, Array]] = [{} for _ in range(subject.num_layers)]
    for path, sown in flax.traverse_util.flatten_dict(run(subject.params, subject.inputs)).items():
        of = [int(scope.removeprefix("layer_")) for scope in path if scope.startswith("layer_")]
        if of:
            layers[of[0]][path[-1]] = sown[0]
    return [(layer["queries"], layer["keys"], layer["values"]) for layer in layers]


def mixed(attention: AttentionFn, other: AttentionFn, heads: Array) -> AttentionFn:
    """`attention` for the heads [N] that are True, and `other` for the rest."""

    def attend(*arrays: Array | None, rng: Array) -> Array:
        chosen = heads[None, None, :, None]
        return jnp.where(chosen, attention(*arrays, rng=rng), other(*arrays, rng=rng))

    return attend
