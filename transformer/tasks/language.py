"""Language modelling: what comes next, and the perplexity."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from smyrf_jax import Method
from transformer.buckets import permutation
from transformer.plain import LanguageModel, PlainConfig
from transformer.tasks.data import Data


class Windows(NamedTuple):
    """tokens, targets: [B, T] int32. A target comes after its token; negative: it does not count."""

    tokens: Any
    targets: Any


class LanguageData(Data):
    """What has windows of tokens as examples. config: of the model."""

    is_causal = True

    def __init__(self, config: PlainConfig):
        self.config = config

    @property
    def attention_length(self) -> int:
        return self.config.length

    def model(self, method: Method) -> LanguageModel:
        return LanguageModel(self.config, method)

    def fresh(self, model: LanguageModel, rng: Array) -> PyTree:
        return model.init(rng, jnp.zeros((1, self.config.length), jnp.int32))["params"]

    def windows(self, part: str) -> Windows:
        """All of a part."""
        raise NotImplementedError

    def words(self, part: str) -> int:
        """Words whose tokens are the targets of a part, ends of texts among them; 0: there are none."""
        return 0

    def loss(self, model: LanguageModel, params: PyTree, batch: Windows, rngs: dict[str, Array]) -> Array:
        losses: Any = model.apply(
            {"params": params}, *batch, deterministic=False, rngs=rngs, method=model.losses
        )
        return jnp.sum(losses) / jnp.maximum(jnp.sum(batch.targets >= 0), 1)

    def metrics(
        self, model: LanguageModel, params: PyTree, part: str, batch_size: int, most: int = 0
    ) -> dict[str, float]:
        """perplexity: exp of the mean of -log p, of all tokens that count; perplexity_per_word: of words."""
        windows = self.windows(part)
        number = most or len(windows.tokens)
        apply, total, counted = _losses(model), 0.0, 0
        for start in range(0, number, batch_size):
            tokens, targets = (array[start : min(start + batch_size, number)] for array in windows)
            missing = ((0, batch_size - len(tokens)), (0, 0))  # the last batch is filled up: one program
            losses = apply(params, np.pad(tokens, missing), np.pad(targets, missing, constant_values=-1))
            total += float(np.sum(np.asarray(losses), dtype=np.float64))
            counted += int(np.sum(targets >= 0))
        found = {"perplexity": float(np.exp(total / counted))}
        if not most and self.words(part):
            found["perplexity_per_word"] = float(np.exp(total / self.words(part)))
        return found


@functools.lru_cache(maxsize=4)
def _losses(model: LanguageModel) -> Callable[..., Array]:
    def losses(params: PyTree, tokens: Array, targets: Array) -> Any:
        return model.apply({"params": params}, tokens, targets, method=model.losses)

    return jax.jit(losses)


class Stream(NamedTuple):
    """Texts one after the other. tokens: [L], of any type of integers. words: see `LanguageData.words`."""

    tokens: np.ndarray
    words: int


class TextData(LanguageData):
    """Windows of T tokens of a stream, which follow each other. The first of a window has no context.

    In training an epoch begins somewhere among the first T tokens, and has its windows in an order of its
    own. In the other parts every token but the first of all is predicted once.
    """

    unit = "windows"

    def __init__(self, config: PlainConfig, parts: Mapping[str, Stream]):
        super().__init__(config)
        for name, part in parts.items():
            if len(part.tokens) < 2 * config.length + 1:
                raise ValueError(
                    f"the part {name!r} has {len(part.tokens)} tokens, but should have two windows of "
                    f"config.data.length={config.length} at least."
                )
        self._parts = parts

    def num_examples(self, part: str) -> int:
        return self._of_epoch if part == "train" else len(self.windows(part).tokens)

    @property
    def _of_epoch(self) -> int:
        return len(self._parts["train"].tokens) // self.config.length - 1

    def batch(self, seed: int, start: int, size: int) -> Windows:
        stream, length, number = self._parts["train"].tokens, self.config.length, self._of_epoch
        places = []
        for example in range(start, start + size):
            epoch, place = divmod(example, number)
            first = np.random.default_rng((2, seed, epoch)).integers(length)
            places.append(first + length * permutation(seed, epoch, number)[place])
        found = stream[np.array(places)[:, None] + np.arange(length + 1)].astype(np.int32)
        return Windows(found[:, :-1], found[:, 1:])

    def windows(self, part: str) -> Windows:
        stream, length = self._parts[part].tokens.astype(np.int32), self.config.length
        number = -(-(len(stream) - 1) // length)
        missing = number * length + 1 - len(stream)
        return Windows(
            np.pad(stream[:-1], (0, missing)).reshape(number, length),
            np.pad(stream[1:], (0, missing), constant_values=-1).reshape(number, length),
        )

    def words(self, part: str) -> int:
        return self._parts[part].words


@dataclasses.dataclass(frozen=True)
class Copying:
    """The copying task: "0 w 0 w", w being random symbols 1 .. num_symbols; the second w counts.

    length: tokens in all; w has length / 2 - 1. Chance is a perplexity of num_symbols.

    Raises:
        ValueError: the length is odd, or num_symbols does not divide 256.

    Source: Reformer (arXiv:2001.04451), section 4; Scatterbrain (arXiv:2110.15343), section 5.
    """

    length: int
    num_symbols: int = 16

    def __post_init__(self) -> None:
        if self.length < 4 or self.length % 2:
            raise ValueError(f"config.data.length should be even and 4 at least, but is {self.length}.")
        if self.num_symbols < 1 or 256 % self.num_symbols:
            raise ValueError(f"config.data.num_symbols should divide 256, but is {self.num_symbols}.")

    def windows(self, stream: tuple[int, int], start: int, size: int) -> Windows:
        """Examples from `start` on of an endless stream that two numbers name."""
        half = self.length // 2
        blocks = -(-half // 32)  # of the generator, 32 bytes each: an example begins with a block
        generator = np.random.Philox(key=np.array(stream, np.uint64), counter=start * blocks)
        drawn = generator.random_raw(size * blocks * 4).view(np.uint8).reshape(size, -1)
        halves = np.zeros((size, 2, half), np.int32)
        halves[:, :, 1:] = 1 + drawn[:, None, : half - 1] % self.num_symbols
        tokens = halves.reshape(size, self.length)
        targets = np.full_like(tokens, -1)
        targets[:, half:-1] = tokens[:, half + 1 :]
        return Windows(tokens, targets)


class CopyData(LanguageData):
    """Examples of `Copying`: endless to train on, and the same few others in every run."""

    unit = "sequences"

    def __init__(self, config: PlainConfig, copying: Copying, sizes: Mapping[str, int]):
        super().__init__(config)
        for part, size in sizes.items():
            if size < 1:
                raise ValueError(f"config.data.{part}_size must be positive, got {size}.")
        self._copying, self._sizes = copying, sizes

    def num_examples(self, part: str) -> int:
        return self._sizes[part]

    def batch(self, seed: int, start: int, size: int) -> Windows:
        return self._copying.windows((seed, 0), start, size)

    def windows(self, part: str) -> Windows:
        return self._copying.windows((0, ("train", "validation", "test").index(part)), 0, self._sizes[part])

    def baselines(self) -> dict[str, dict[str, float]]:
        return {"chance": {"perplexity": float(self._copying.num_symbols)}}
