"""The best checkpoint of a run, by a metric."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from training.checkpoint import Checkpoints, DamagedCheckpointError, Progress
from training.processes import say
from training.task import Best


class BestCheckpoint:
    """Keeps, in `directory`, the state whose metric was the best that was offered, of runs before too.

    best: the metric.
    """

    def __init__(self, directory: str, best: Best):
        self._best = best
        # Two: the one before stays until its successor is on disk.
        self._checkpoints = Checkpoints(directory, max_to_keep=2)
        self._value: float | None = None
        for step in self._checkpoints.steps():
            try:
                value = self._checkpoints.progress(step).metrics.get(best.metric)
            except DamagedCheckpointError as error:
                say(f"DAMAGED: {error}")
                continue
            if value is not None and self._is_better(value):
                self._value = value

    def _is_better(self, value: float) -> bool:
        if self._value is None:
            return True
        return value < self._value if self._best.smaller_is_better else value > self._value

    def offer(self, state: Any, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Keeps a state of NumPy arrays, if its metric is better. progress: of the state."""
        value = metrics.get(self._best.metric)
        if value is None or not self._is_better(value):
            return
        kept = dataclasses.replace(progress, metrics=dict(metrics))
        if not self._checkpoints.replace(state, kept):
            return  # `unsaved` tells
        self._value = value
        say(f"step {int(state.step)}: the best {self._best.metric} so far, {value:.5g}")

    def unsaved(self) -> list[str]:
        """A line for each save that has failed since the last call."""
        return self._checkpoints.unsaved()

    def close(self) -> None:
        """Waits, and lets go."""
        self._checkpoints.close()
