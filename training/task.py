"""What the loop trains."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from training.writers import MetricWriter


@dataclasses.dataclass(frozen=True)
class Best:
    """A metric's name, and whether smaller is better.

    fields: how the names of the config's fields begin that decide what its values can be compared with.
    """

    metric: str
    smaller_is_better: bool
    fields: tuple[str, ...] = ()


class Task(abc.ABC):
    """What is trained.

    unit: what an example is called, in the plural.
    state_fields: how the names of the config's fields begin that decide what arrays the state has.
    examples_per_step: over all replicas.
    best: by which of the metrics that `evaluate` returns the best checkpoint is kept; None: none is.
    start_fields: how the names of the config's fields begin that count at the start of a run alone.
    """

    unit: str
    state_fields: tuple[str, ...]
    examples_per_step: int
    best: "Best | None" = None
    start_fields: tuple[str, ...] = ()

    @abc.abstractmethod
    def initial_state(self) -> Any:
        """The state at step 0, which the config decides. It is traced: no files are read here."""

    def first_state(self) -> Any:
        """The state that a new run begins with, on the host."""
        return jax.device_get(jax.jit(self.initial_state)())

    def saved_state(self, config: Mapping[str, Any]) -> Any:
        """The state that a checkpoint of a run with this config has, as `adopted` takes it. It is traced."""
        return self.initial_state()

    def adopted(self, state: Any) -> Any:
        """A `saved_state`, on the host, as this run goes on with it."""
        return state

    @abc.abstractmethod
    def batches(self, start: int) -> Iterator[Any]:
        """Batches of this process's devices, for ever, from example `start` of all processes on."""

    @abc.abstractmethod
    def step(self) -> Callable[..., Any]:
        """(state, batch, rng) -> (state, metrics) of one replica of `training.parallel.AXIS`."""

    @abc.abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether `evaluate` is called after this step. After the last one it always is."""

    @abc.abstractmethod
    def evaluate(self, state: Any, writer: MetricWriter, last: bool) -> Mapping[str, float]:
        """What a state on the host can do: measures it, draws. By one process, on its own devices.

        last: the run has all its steps.

        Returns:
            What it has measured, if anything.
        """

    def is_evaluated(self, step: int) -> bool:
        """Whether the last step of a run was evaluated: `evaluate` may have been cut short."""
        return all(epath.Path(path).exists() for path in self.results().values())

    def results(self) -> dict[str, str]:
        """Paths that the run leaves, by what they are."""
        return {}


def due(step: int, every: int) -> bool:
    """Whether a step is one of every so many; 0: none is."""
    return every > 0 and step % every == 0
