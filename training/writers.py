"""Metrics to a JSONL file and to TensorBoard."""

import json
import os
from collections.abc import Mapping
from types import TracebackType

import tensorboardX


class MetricWriter:
    """Writes scalars to workdir/metrics.jsonl and to TensorBoard files beside it.

    step: where the run continues. Rows past it are of an attempt that was cut short, and are dropped.
    """

    def __init__(self, workdir: str, step: int):
        os.makedirs(workdir, exist_ok=True)
        self.path = os.path.join(workdir, "metrics.jsonl")
        _drop_rows_after(self.path, step)
        self._file = open(self.path, "a")  # noqa: SIM115
        self._tensorboard = tensorboardX.SummaryWriter(
            os.path.join(workdir, "tensorboard"), purge_step=step + 1
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a row; it is on disk when this returns."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._tensorboard.close()


def _drop_rows_after(path: str, step: int) -> None:
    if not os.path.exists(path):
        return
    kept = []
    with open(path) as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the crash came in the middle of the last row
                continue
            if row["step"] <= step:
                kept.append(line)
    with open(f"{path}.part", "w") as file:
        file.writelines(kept)
    os.replace(f"{path}.part", path)
