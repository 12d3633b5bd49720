"""What finetune.py and train.py share: a run that updates a model, tries it, and tests it at the end."""

import abc
import functools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Key, PyTree

from smyrf_jax import Method, method_from_config
from training.curves import save_curves
from training.files import write_whole
from training.processes import say
from training.task import Task, due
from training.writers import MetricWriter
from transformer.updates import TrainState, train_step

# What tested parameters: attention, or what else predicts -> part of the data -> metric.
Results = dict[str, dict[str, dict[str, float]]]


def methods_of(attentions: Mapping[str, Any]) -> dict[str, Method]:
    """The attentions that config.attentions names.

    Raises:
        ValueError: one of them is not the name and the fields of a method.
    """
    found = {}
    for name, options in checked(attentions).items():
        try:
            found[name] = method_from_config(**options)
        except ValueError as error:
            raise ValueError(f"config.attentions.{name}: {error}") from error
    return found


def checked(attentions: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The same. Raises ValueError unless each is a mapping with a name."""
    for name, options in attentions.items():
        if not isinstance(options, Mapping) or "name" not in options:
            raise ValueError(
                f"config.attentions.{name} should be the name and fields of a method, such as "
                f"{{'name': 'canopy'}}, but is {options!r}."
            )
    return dict(attentions)


def check_chosen(attention: str, attentions: Mapping[str, Any]) -> None:
    """Raises ValueError unless the attention is one of those."""
    if attention not in attentions:
        raise ValueError(
            f"config.attention should be one of config.attentions, {sorted(attentions)}, but is "
            f"{attention!r}."
        )


def check_positive(**sizes: int) -> None:
    """Raises ValueError unless these fields of the config are positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"config.{name} must be positive, got {size}.")


def steps_of(num_steps: int, epochs: float, num_examples: int, per_step: int) -> int:
    """config.num_steps, or, where it is 0, as many as config.epochs have.

    Raises:
        ValueError: there are none.
    """
    num_steps = num_steps or round(epochs * num_examples / per_step)
    if num_steps < 1:
        raise ValueError(
            f"config.num_steps, or the steps of config.epochs, must be positive, got {num_steps}."
        )
    return num_steps


class LearningTask(Task):
    """A model's training; at intervals it is tried on the validation part, and tested at the end.

    workdir: gets curves.png and results.json.
    seed: of the parameters.
    evaluate_every: steps from one try to the next; 0: there is none but the last.
    """

    def __init__(
        self, *, workdir: str, seed: int, optimizer: optax.GradientTransformation, evaluate_every: int
    ):
        self._workdir, self._seed, self._evaluate_every = workdir, seed, evaluate_every
        self._optimizer = optimizer

    @abc.abstractmethod
    def fresh(self, rng: Key[Array, ""]) -> PyTree:
        """Random parameters."""

    @abc.abstractmethod
    def loss(self, params: PyTree, batch: Any, rngs: dict[str, Array]) -> Array:
        """The mean loss of a replica's batch, in training."""

    @abc.abstractmethod
    def validate(self, params: PyTree) -> dict[str, float]:
        """The metrics of the validation part; {} where there is none."""

    @abc.abstractmethod
    def test(self, params: PyTree) -> Results:
        """Tests parameters, and tells."""

    def initial_state(self) -> TrainState:
        # The first of two keys: so were the recorded runs begun.
        rng, _ = jax.random.split(jax.random.key(self._seed))
        params = self.fresh(rng)
        return TrainState(jnp.zeros((), jnp.int32), params, self._optimizer.init(params))

    def step(self) -> Callable[..., Any]:
        return functools.partial(train_step, self.loss, self._optimizer)

    def is_due(self, step: int) -> bool:
        return due(step, self._evaluate_every)

    def evaluate(self, state: TrainState, writer: MetricWriter, last: bool) -> dict[str, float]:
        values = {f"validation_{name}": value for name, value in self.validate(state.params).items()}
        if values:
            writer.write(int(state.step), values)
            say(f"step {int(state.step)}: {shown(values)}")
        panels = {"loss": ("loss",), "gradient norm": ("grad_norm",), "validation": ("validation",)}
        save_curves(writer.path, os.path.join(self._workdir, "curves.png"), panels, log=("gradient norm",))
        if last:
            results = json.dumps(self.test(state.params), indent=1)
            write_whole(self.results()["results"], results.encode())
        return values

    def results(self) -> dict[str, str]:
        return {name: os.path.join(self._workdir, name + end) for name, end in _RESULTS}


_RESULTS = (("results", ".json"), ("curves", ".png"))


def shown(values: Mapping[str, float]) -> str:
    """Metrics in a line."""
    return " ".join(f"{name}={value:.4f}" for name, value in values.items())


def tell(part: str, size: str, tested: str, values: Mapping[str, float]) -> None:
    """Says how a part of the data was predicted."""
    say(f"{part} ({size}) with {tested}: {shown(values)}")
