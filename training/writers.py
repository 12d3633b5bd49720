"""Metrics to a JSONL file and to TensorBoard."""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from training.files import is_remote, keep_aside, make_folder, path_of, write_whole
from training.processes import say

_JSONL = "metrics.jsonl"
# Seconds between two writes of the metrics to a bucket, which knows no appending.
_REWRITE = 30.0
# Seconds after which a new file of events is begun, where one could not be written.
_RETRY = 60.0


class MetricWriter:
    """Writes scalars to workdir/metrics.jsonl and to TensorBoard files beside it.

    A row is on disk when `write` returns; in a bucket within half a minute, or with `flush`.

    step: where the run continues. Rows past it are of an attempt that was cut short, and are dropped. So are
    rows that cannot be read; a copy of the file is kept then.
    """

    def __init__(self, workdir: str, step: int):
        folder = path_of(workdir)
        self.path = str(folder / _JSONL)
        rows, damaged = read_rows(self.path)
        if damaged:
            copy = keep_aside(epath.Path(self.path))
            say(f"DAMAGED: {damaged} rows of {self.path} cannot be read and are dropped. A copy: {copy}.")
        self._rows = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
        write_whole(self.path, "".join(self._rows).encode())
        self._file = None if is_remote(folder) else open(self.path, "a")  # noqa: SIM115
        self._written = time.monotonic()
        self._tensorboard = _TensorBoard(folder / "tensorboard", step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a row."""
        row = json.dumps({"step": step, **metrics}) + "\n"
        if self._file is not None:
            self._file.write(row)
            self._file.flush()
        else:
            self._rows.append(row)
            if time.monotonic() - self._written > _REWRITE:
                self._written = time.monotonic()
                try:
                    self.flush()
                except Exception as error:  # of networks, of many kinds
                    say(f"NOT WRITTEN: {self.path} ({error}). It is tried again.")
        self._tensorboard.write(step, [summary.scalar(name, value) for name, value in metrics.items()])

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Shows the config in TensorBoard, as a table and as hyperparameters."""
        fields = _flat(config)
        rows = "".join(f"| {name} | {value} |\n" for name, value in fields.items())
        shown = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in fields.items()
        }
        self._tensorboard.write(0, [summary.text("config", f"| field | value |\n|---|---|\n{rows}")])
        self._tensorboard.write(0, summary.hparams(shown, {}))

    def write_image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Shows a picture in TensorBoard."""
        self._tensorboard.write(step, [summary.image(name, pixels, dataformats="HWC")])

    def flush(self) -> None:
        """All rows are in the file when this returns."""
        self._tensorboard.flush()
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
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
            self._tensorboard.close()


class _TensorBoard:
    """A file of events, written at once, without a thread: a full disk costs a run these and no more.

    step: the first to be written. What an earlier attempt has from there on, TensorBoard leaves out.
    """

    def __init__(self, folder: epath.Path, step: int):
        make_folder(folder)
        self._folder, self._told, self._again = folder, False, 0.0
        self._writer: Any = None
        self._attempt(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, summaries: Iterable[Any]) -> None:
        values = [value for of_one in summaries for value in of_one.value]
        self._attempt(Event(step=step, summary=summary.Summary(value=values)))

    def flush(self) -> None:
        if self._writer is not None:
            self._attempt(None)

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.close()

    def _attempt(self, event: Any) -> None:
        if time.monotonic() < self._again:
            return
        try:
            if self._writer is None:
                # A name of its own, also within a second.
                suffix = f".{os.getpid()}.{time.perf_counter_ns()}"
                self._writer = EventsWriter(str(self._folder / "events"), suffix)
            if event is not None:
                event.wall_time = time.time()
                self._writer.write_event(event)
            if event is None or not is_remote(self._folder):
                self._writer.flush()
        except Exception as error:  # of disks and networks, of many kinds
            self.close()
            self._writer = None
            self._again = time.monotonic() + _RETRY
            if not self._told:
                say(f"NOT WRITTEN: events of {self._folder} ({error}). {_JSONL} has all rows.")
            self._told = True


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
    return found


def read_rows(path: str) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many lines are none.

    A last line without an end is none of these, if it cannot be read: it was being written as a run was cut.
    """
    file = epath.Path(path)
    if not file.exists():
        return [], 0
    lines = file.read_bytes().split(b"\n")
    rows, damaged = [], 0
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if type(row["step"]) is not int or not all(type(value) in (int, float) for value in row.values()):
                raise ValueError
            rows.append(row)
        # Not JSON, not UTF-8, no object, no step, no numbers; nested without end.
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += bool(line) and number < len(lines)
    return rows, damaged
