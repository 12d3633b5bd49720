"""Trains a Transformer from random weights, with any method of attention:

    python -m transformer.train --config=configs/copy.py [--workdir=runs/copy] [--config.attention=performer]

The same command continues a run that was interrupted, exactly. At the end the weights are tested, with the
attention that they were trained with; the figures are in results.json, beside what can be had without a
model. The attentions have the sizes that config.pairs allows, a part of dense attention's pairs. Wants the
extra [text].
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
from jax import Array
from jaxtyping import Key, PyTree

from smyrf_jax import Method
from smyrf_jax.budget import BudgetError
from training import command, loop
from training.files import path_of
from training.parallel import local_devices
from training.processes import say
from transformer.budgeted import budgeted, leaks, part_of_pairs
from transformer.fields import FIELDS
from transformer.learning import (
    LearningTask,
    Results,
    check_chosen,
    check_positive,
    checked,
    steps_of,
    tell,
)
from transformer.tasks import Data, open_task
from transformer.updates import TrainState, build_optimizer


def data_of(config: ml_collections.ConfigDict) -> Data:
    """The data that a config names, and the sizes of its model."""
    return open_task(model=config.model.to_dict(), **config.data.to_dict())


def method_of(config: ml_collections.ConfigDict, data: Data) -> Method:
    """The attention that a config trains with.

    Raises:
        ValueError: it is not one of config.attentions, or no method.
    """
    attentions = checked(config.attentions.to_dict())
    check_chosen(config.attention, attentions)
    options: dict[str, Any] = {"length": data.attention_length, "is_causal": data.is_causal}
    try:
        return budgeted(pairs=config.pairs, **options, **attentions[config.attention])
    except BudgetError as error:
        raise ValueError(f"--config.pairs={config.pairs}: {error}") from error
    except ValueError as error:
        raise ValueError(f"config.attentions.{config.attention}: {error}") from error


class TrainTask(LearningTask):
    """A model's training on a task's data."""

    state_fields = ("model.", "data.", "optimizer.")

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        data: Data,
        workdir: str,
        devices: Sequence[jax.Device],
    ):
        super().__init__(
            workdir=workdir,
            seed=config.seed,
            optimizer=build_optimizer(config.optimizer.to_dict(), config.num_steps),
            evaluate_every=config.evaluate.every,
        )
        self.unit, self._config, self._data = data.unit, config, data
        self._num_local = len(local_devices(devices))
        self.examples_per_step = config.batch_size * len(devices)
        method, length = method_of(config, data), data.attention_length
        self._model = data.model(method)
        leak = "; its clusters are cut from all tokens, later ones too"
        pairs = "causal pairs" if data.is_causal else "pairs"
        say(
            f"{config.attention} attention: {method}, {part_of_pairs(method, length, data.is_causal):.2%} "
            f"of the {pairs} at {length} tokens"
            f"{leak if data.is_causal and leaks(method, length) else ''}."
        )

    def fresh(self, rng: Key[Array, ""]) -> PyTree:
        return self._data.fresh(self._model, rng)

    def loss(self, params: PyTree, batch: Any, rngs: dict[str, Array]) -> Array:
        return self._data.loss(self._model, params, batch, rngs)

    def batches(self, start: int) -> Iterator[Any]:
        per_replica, num_local = self._config.batch_size, self._num_local
        mine = per_replica * num_local
        first = start + jax.process_index() * mine
        while True:
            batch = self._data.batch(self._config.seed, first, mine)
            yield jax.tree.map(lambda array: array.reshape(num_local, per_replica, *array.shape[1:]), batch)
            first += self.examples_per_step

    def validate(self, params: PyTree) -> dict[str, float]:
        most, size = self._config.evaluate.validation_size, self._config.evaluate.batch_size
        if not most:
            return {}
        most = min(most, self._data.num_examples("validation"))
        return self._data.metrics(self._model, params, "validation", size, most)

    def test(self, params: PyTree) -> Results:
        """Tests parameters, and tells, beside what can be had without a model."""
        size = f"{self._data.num_examples('test')} {self.unit}"
        results: Results = {name: {"test": found} for name, found in self._data.baselines().items()}
        for name, parts in results.items():
            tell("test", size, name, parts["test"])
        trained = self._config.attention
        found = self._data.metrics(self._model, params, "test", self._config.evaluate.batch_size)
        tell("test", size, f"{trained} attention", found)
        return {trained: {"test": found}} | results


def train(
    config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None
) -> TrainState:
    """Trains to config.num_steps, from the last checkpoint in workdir if there is one.

    Args:
        config: as in configs/copy.py.
        workdir: checkpoints, metrics.jsonl, curves.png, results.json, config.json, tensorboard/.
        devices: one replica each, of all processes; None: all there are.

    Returns:
        The last state, on the host.

    Raises:
        FileNotFoundError, ValueError: the config names what is not there or has no meaning, or the run's
            checkpoint does not fit it.
        FloatingPointError: the loss is not finite; names the step.
    """
    workdir = str(path_of(workdir))
    devices = list(devices or jax.devices())
    check_positive(**{"batch_size": config.batch_size, "evaluate.batch_size": config.evaluate.batch_size})
    if config.seed < 0:
        raise ValueError(f"config.seed must not be negative, got {config.seed}.")
    data = data_of(config)
    config = config.copy_and_resolve_references()
    per_step = config.batch_size * len(devices)
    config.num_steps = steps_of(config.num_steps, config.epochs, data.num_examples("train"), per_step)
    return loop.train(TrainTask(config, data, workdir, devices), config, workdir, devices)


if __name__ == "__main__":
    command.run(train, FIELDS, "copy")
