"""Metrics to a JSONL file and to TensorBoard."""

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import tensorboardX
from etils import epath

from training.files import is_remote, keep_aside, path_of, write_whole
from training.processes import say

# Seconds between two writes of the metrics to a bucket, which knows no appending.
_REWRITE = 30.0


class MetricWriter:
    """Writes scalars to workdir/metrics.jsonl and to TensorBoard files beside it.

    A row is on disk when `write` returns; in a bucket within half a minute, or with `flush`.

    step: where the run continues. Rows past it are of an attempt that was cut short, and are dropped. So are
    rows that cannot be read; a copy of the file is kept then.
    """

    def __init__(self, workdir: str, step: int):
        folder = path_of(workdir)
        self.path = str(folder / "metrics.jsonl")
        rows, damaged = read_rows(self.path)
        if damaged:
            copy = keep_aside(epath.Path(self.path))
            say(f"DAMAGED: {damaged} rows of {self.path} cannot be read and are dropped. A copy: {copy}.")
        self._rows = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
        write_whole(self.path, "".join(self._rows).encode())
        self._file = None if is_remote(folder) else open(self.path, "a")  # noqa: SIM115
        self._written = time.monotonic()
        self._tensorboard = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a row."""
        row = json.dumps({"step": step, **metrics}) + "\n"
        if self._file is not None:
            self._file.write(row)
            self._file.flush()
        else:
            self._rows.append(row)
            if time.monotonic() - self._written > _REWRITE:
                self.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)

    def flush(self) -> None:
        """All rows are in the file when this returns."""
        if self._file is None:
            write_whole(self.path, "".join(self._rows).encode())
            self._written = time.monotonic()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
        self._tensorboard.close()


def read_rows(path: str) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many lines are none.

    A last line without an end is neither: it was being written when a run was cut.
    """
    file = epath.Path(path)
    if not file.exists():
        return [], 0
    *lines, last = file.read_bytes().split(b"\n")
    rows, damaged = [], 0
    for line in (*lines, last):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise ValueError
            rows.append(row)
        except (ValueError, TypeError, KeyError):  # not JSON, not UTF-8, no object, no step
            damaged += bool(line) and line is not last
    return rows, damaged
