"""The best checkpoint of a run, by a metric."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from training.checkpoint import Checkpoints, DamagedCheckpointError, Progress, config_differences
from training.processes import say
from training.task import Best


class BestCheckpoint:
    """Keeps, in `directory`, the state whose metric was the best that was offered, of runs before too.

    Checkpoints are numbered in the order in which they were kept, so that the newest is the best. One of a
    run before counts if it was measured in the same way: the others are the best until something is measured.

    best: the metric. config: of this run, as plain values.
    """

    def __init__(self, directory: str, best: Best, config: Mapping[str, Any]):
        self._best = best
        self._checkpoints = Checkpoints(directory, max_to_keep=1)
        newest = self._checkpoints.latest_step()
        self._number = -1 if newest is None else newest
        self._value: float | None = None
        if newest is not None:
            self._value = self._value_of(newest, config)

    def _value_of(self, number: int, config: Mapping[str, Any]) -> float | None:
        try:
            progress = self._checkpoints.progress(number)
        except DamagedCheckpointError as error:
            say(f"DAMAGED: {error}")
            return None
        differences = [
            name
            for name, _, _ in config_differences(progress.config, config)
            if name.startswith(self._best.fields)
        ]
        if differences:
            say(
                f"The best checkpoint was measured in another way ({', '.join(differences)}): the next one "
                "that is measured takes its place."
            )
            return None
        return progress.metrics.get(self._best.metric)

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self._value is None:
            return True
        return value < self._value if self._best.smaller_is_better else value > self._value

    def offer(self, state: Any, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Keeps a state of NumPy arrays, if its metric is better. progress: of the state."""
        value = metrics.get(self._best.metric)
        if value is None or not self._is_better(value):
            return
        number = self._number + 1
        self._checkpoints.save(state, dataclasses.replace(progress, metrics=dict(metrics)), number)
        if not self._checkpoints.settled():
            return  # `unsaved` tells
        self._number, self._value = number, value
        say(f"step {int(state.step)}: the best {self._best.metric} so far, {value:.5g}")

    def unsaved(self) -> list[str]:
        """A line for each save that has failed since the last call."""
        return self._checkpoints.unsaved()

    def close(self) -> None:
        """Waits, and lets go."""
        self._checkpoints.close()
