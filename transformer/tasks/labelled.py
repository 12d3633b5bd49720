"""Sequences, or pairs of them, and their classes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from smyrf_jax import Method
from transformer.buckets import drawn
from transformer.glue import accuracy
from transformer.plain import PairClassifier, PlainConfig, SequenceClassifier
from transformer.tasks.data import Data
from transformer.updates import loss_of


class Labelled(NamedTuple):
    """tokens: [B, T], or [B, 2, T] of pairs, integers. lengths: [B] or [B, 2]. labels: [B], 0 .. K - 1."""

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    def first(self, size: int) -> "Labelled":
        """The first `size` of them; 0: all."""
        return Labelled(*(array[: size or None] for array in self))


class Batch(NamedTuple):
    """tokens: int32, as of `Labelled`. kept: of their shape, False for padding; None: there is none."""

    tokens: Any
    kept: Any
    labels: Any


class LabelledData(Data):
    """A classifier's data. config: of its model, with the longest sequence's length."""

    unit = "sequences"
    is_causal = False

    def __init__(self, config: PlainConfig, parts: Mapping[str, Labelled], num_classes: int):
        self.config, self.parts, self.num_classes = config, parts, num_classes
        for name, part in parts.items():
            if not len(part.labels):
                raise ValueError(f"the part {name!r} has no {self.unit}: give more.")
        self._padded = any(np.any(part.lengths < config.length) for part in parts.values())

    @property
    def attention_length(self) -> int:
        return self.config.length + (self.config.pooling == "cls")

    def num_examples(self, part: str) -> int:
        return len(self.parts[part].labels)

    def model(self, method: Method) -> Any:
        paired = self.parts["train"].tokens.ndim == 3
        kind = PairClassifier if paired else SequenceClassifier
        return kind(self.config, self.num_classes, method)

    def fresh(self, model: Any, rng: Array) -> PyTree:
        return model.init(rng, *self._rows("train", np.arange(1))[:2])["params"]

    def _rows(self, part: str, rows: np.ndarray) -> Batch:
        tokens, lengths, labels = (array[rows] for array in self.parts[part])
        kept = np.arange(tokens.shape[-1]) < lengths[..., None] if self._padded else None
        return Batch(tokens.astype(np.int32), kept, labels.astype(np.int32))

    def batch(self, seed: int, start: int, size: int) -> Batch:
        """All come once in a random order, then all once more in another, and so on."""
        return self._rows("train", drawn(self.num_examples("train"), seed, start, size))

    def loss(self, model: Any, params: PyTree, batch: Batch, rngs: dict[str, Array]) -> Array:
        logits = model.apply({"params": params}, batch.tokens, batch.kept, deterministic=False, rngs=rngs)
        return loss_of(logits, jnp.asarray(batch.labels))

    def metrics(
        self, model: Any, params: PyTree, part: str, batch_size: int, most: int = 0
    ) -> dict[str, float]:
        """accuracy: part of the sequences whose class is found."""
        apply, number = _apply(model), most or self.num_examples(part)
        predicted = []
        for start in range(0, number, batch_size):
            rows = np.arange(start, min(start + batch_size, number))
            # The last batch is filled up: one program.
            tokens, kept, _ = self._rows(part, np.resize(rows, batch_size))
            predicted.append(np.argmax(np.asarray(apply(params, tokens, kept)), axis=-1)[: len(rows)])
        return {"accuracy": accuracy(np.concatenate(predicted), self.parts[part].labels[:number])}

    def baselines(self) -> dict[str, dict[str, float]]:
        """The class that is the most frequent in training."""
        labels = np.zeros(self.num_examples("train"), np.int64), np.zeros(self.num_examples("test"), np.int64)
        return {"most frequent class": self.by_table(*labels)}

    def by_table(self, of_train: np.ndarray, of_test: np.ndarray) -> dict[str, float]:
        """The metrics where all that is known of a sequence is a number, 0 .. : its class by training.

        of_train, of_test: [B].
        """
        counts = np.zeros((max(of_train.max(), of_test.max()) + 1, self.num_classes))
        np.add.at(counts, (of_train, self.parts["train"].labels), 1)
        return {"accuracy": accuracy(np.argmax(counts, axis=1)[of_test], self.parts["test"].labels)}


@functools.lru_cache(maxsize=4)
def _apply(model: Any) -> Callable[..., Array]:
    def apply(params: PyTree, tokens: Array, kept: Array | None) -> Any:
        return model.apply({"params": params}, tokens, kept)

    return jax.jit(apply)


def flat(parts: Mapping[str, Labelled]) -> dict[str, np.ndarray]:
    """All arrays by one name each, as `stored` keeps them."""
    return {
        f"{name}_{field}": array for name, part in parts.items() for field, array in part._asdict().items()
    }


def unflat(arrays: Mapping[str, np.ndarray]) -> dict[str, Labelled]:
    """What `flat` was given."""
    names = dict.fromkeys(name.partition("_")[0] for name in arrays)
    return {name: Labelled(*(arrays[f"{name}_{field}"] for field in Labelled._fields)) for name in names}
