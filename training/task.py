"""What the loop trains."""

import abc
from collections.abc import Callable, Iterator
from typing import Any

import jax

from training.writers import MetricWriter


class Task(abc.ABC):
    """What is trained.

    unit: what an example is called, in the plural.
    state_fields: how the names of the config's fields begin that decide what arrays the state has.
    examples_per_step: over all replicas.
    evaluate_every: steps from one `evaluate` to the next; 0: one at the end alone.
    """

    unit: str
    state_fields: tuple[str, ...]
    examples_per_step: int
    evaluate_every: int

    @abc.abstractmethod
    def initial_state(self) -> Any:
        """The state at step 0, which the config decides. It is traced: no files are read here."""

    def first_state(self) -> Any:
        """The state that a new run begins with, on the host."""
        return jax.device_get(jax.jit(self.initial_state)())

    @abc.abstractmethod
    def batches(self, start: int) -> Iterator[Any]:
        """Batches of this process's devices, for ever, from example `start` of all processes on."""

    @abc.abstractmethod
    def step(self) -> Callable[..., Any]:
        """(state, batch, rng) -> (state, metrics) of one replica of `training.parallel.AXIS`."""

    @abc.abstractmethod
    def evaluate(self, state: Any, writer: MetricWriter, last: bool) -> None:
        """What a state on the host can do: measures it, draws. By one process, on its own devices.

        last: the run has all its steps.
        """

    def messages(self) -> list[str]:
        """What there is to tell since the last call."""
        return []

    def results(self) -> dict[str, str]:
        """Paths that the run leaves, by what they are."""
        return {}
