"""What a model is trained to do: examples, a model for them, a loss and metrics."""

import abc
from typing import Any, ClassVar

import flax.linen as nn
from jax import Array
from jaxtyping import PyTree

from smyrf_jax import Method


class Data(abc.ABC):
    """Examples in the parts "train", "validation" and "test".

    unit: what an example is called, in the plural. is_causal: whether the model sees no later tokens.
    """

    unit: ClassVar[str]
    is_causal: ClassVar[bool]

    @property
    @abc.abstractmethod
    def attention_length(self) -> int:
        """Tokens that attention has, T."""

    @abc.abstractmethod
    def num_examples(self, part: str) -> int:
        """How many there are."""

    @abc.abstractmethod
    def model(self, method: Method) -> nn.Module:
        """The model, with this attention in all layers."""

    @abc.abstractmethod
    def fresh(self, model: Any, rng: Array) -> PyTree:
        """Random parameters."""

    @abc.abstractmethod
    def batch(self, seed: int, start: int, size: int) -> Any:
        """Arrays of `size` training examples, from example `start` on of an endless stream."""

    @abc.abstractmethod
    def loss(self, model: Any, params: PyTree, batch: Any, rngs: dict[str, Array]) -> Array:
        """The mean loss of a batch, in training."""

    @abc.abstractmethod
    def metrics(
        self, model: Any, params: PyTree, part: str, batch_size: int, most: int = 0
    ) -> dict[str, float]:
        """Of a part, without dropout; of its first `most` examples, if that is not 0."""

    def baselines(self) -> dict[str, dict[str, float]]:
        """What can be had without a model, by what predicts: the metrics of the part "test"."""
        return {}
