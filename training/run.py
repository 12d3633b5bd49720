"""The loop over the steps of a run, and what is done at intervals."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from training.best import BestCheckpoint
from training.checkpoint import Checkpoints, Progress
from training.parallel import local_devices, replicate, to_host, voting_step
from training.processes import is_first, say
from training.profiling import Profile
from training.stopping import StopRequest
from training.task import Task, due
from training.writers import MetricWriter


@dataclasses.dataclass
class Run:
    """A task's steps, from a state on.

    data: of this process. best: keeps the best checkpoint, if anyone does. writer: of the first process.
    progress: where the data begins, and the config.
    num_steps: of the whole run. log_every, save_every: steps from one row or checkpoint to the next.
    """

    task: Task
    devices: Sequence[jax.Device]
    checkpoints: Checkpoints
    best: BestCheckpoint | None
    data: Iterator[Any]
    writer: MetricWriter | None
    profile: Profile
    progress: Progress
    seed: int
    num_steps: int
    log_every: int
    save_every: int

    def __call__(self, state: Any, stop: StopRequest) -> Any:
        """Trains `state` to num_steps, or until one process is asked to stop."""
        task, first = self.task, int(state.step)
        local = local_devices(self.devices)
        step_fn = voting_step(task.step(), self.devices)
        rng = jax.random.fold_in(jax.random.key(self.seed), 1)
        replicas, step = replicate(state, local), first
        say("Compiling the training step; this takes a minute or more for a large model.")
        bar = tqdm(
            total=self.num_steps,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            mininterval=1,
            disable=not is_first(),
        )
        pending: tuple[int, Any] | None = None
        counted: Any = None  # votes of the step before
        clock = _Clock()
        stopping = self._agreed(stop, counted)
        while step < self.num_steps and not stopping:
            self.profile.before(step + 1)
            with clock.waiting():
                batch = next(self.data)
            votes = np.full(len(local), stop.requested, np.int32)
            replicas, (metrics, votes) = step_fn(replicas, (batch, votes), rng)
            step += 1
            self.profile.after(step, metrics)
            self.progress = dataclasses.replace(
                self.progress, examples_seen=self.progress.examples_seen + task.examples_per_step
            )
            # The metrics of the step before: the device works on while they are looked at.
            if pending is not None:
                self._record(*pending, clock, bar)
            pending = (step, metrics)
            bar.update()
            stopping, counted = self._agreed(stop, counted), votes
            last = step == self.num_steps or stopping
            save = last or due(step, self.save_every)
            # Not for who is asked to stop: there may be half a minute left.
            evaluate = step == self.num_steps or (task.is_due(step) and not stopping)
            if save or evaluate:
                # Nothing is saved before it is known to be finite.
                self._record(*pending, clock, bar)
                pending = None
                state = self._save(replicas) if save else to_host(replicas)
                if evaluate and self.writer is not None:
                    self.writer.flush()
                    metrics = task.evaluate(state, self.writer, step == self.num_steps)
                    if self.best is not None:
                        self.best.offer(state, self.progress, metrics)
                clock.pause()
                stopping = stopping or self._agreed(stop, None)
            self._tell_of_unsaved()
        bar.close()
        if stopping:
            if pending is not None:
                self._record(*pending, clock, bar)
            state = self._save(replicas)
            stop.obeyed = True
        return state

    def _tell_of_unsaved(self) -> None:
        unsaved = self.checkpoints.unsaved() + ([] if self.best is None else self.best.unsaved())
        for message in unsaved:
            say(f"NOT SAVED: {message} The run goes on, and saves again as always.", every_process=True)

    @staticmethod
    def _agreed(stop: StopRequest, counted: Any) -> bool:
        """Whether to stop after this step: all processes find the same.

        counted: votes of the step before, whose result is there or soon will be; None: there are none.
        """
        if jax.process_count() == 1:
            return stop.requested
        return counted is not None and bool(_of_first_replica(counted) > 0)

    def _save(self, replicas: Any) -> Any:
        state = to_host(replicas)
        self.checkpoints.save(state, self.progress)
        return state

    def _record(self, step: int, metrics: Any, clock: "_Clock", bar: tqdm) -> None:
        values = {name: float(_of_first_replica(value)) for name, value in metrics.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            latest = self.checkpoints.latest_step()
            raise FloatingPointError(
                f"step {step}: {', '.join(broken)} is not finite. The last good checkpoint is "
                f"{'none' if latest is None else f'step {latest}'} in {self.checkpoints.directory}."
            )
        clock.tick(step)
        unit, rate = self.task.unit, clock.rate * self.task.examples_per_step
        if self.writer is not None and (step == self.num_steps or due(step, self.log_every)):
            speed = {}
            if rate:
                speed = {f"{unit}_per_second": rate, "seconds_per_step": 1 / clock.rate}
            speed |= {"seconds_waiting_for_data": clock.wait} | _device_memory(self.devices)
            self.writer.write(step, values | speed)
            shown = " ".join(f"{name}={value:.3g}" for name, value in values.items())
            bar.write(f"step {step}: {shown}" + (f" {rate:.1f} {unit}/s" if rate else ""), file=sys.stdout)
            sys.stdout.flush()
        if rate:
            bar.set_postfix_str(f"{rate:.1f} {unit}/s", refresh=False)  # a line a second, not a step


class _Clock:
    """What the speed of a run is, smoothed.

    rate: steps a second, without the first step, which compiles, and without pauses; 0 before it is known.
    wait: seconds that a step waits for its data.
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self.rate = self.wait = 0.0

    def pause(self) -> None:
        """What came since the last tick does not count."""
        if self._last is not None:
            self._last = (self._last[0], time.perf_counter())

    def tick(self, step: int) -> None:
        """A step is done."""
        now = time.perf_counter()
        if self._last is not None and step > self._last[0]:
            rate = (step - self._last[0]) / (now - self._last[1])
            self.rate = rate if not self.rate else 0.9 * self.rate + 0.1 * rate
        self._last = (step, now)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for a step's data."""
        start = time.perf_counter()
        yield
        waited = time.perf_counter() - start
        self.wait = waited if self._last is None else 0.9 * self.wait + 0.1 * waited


def _of_first_replica(value: Any) -> Any:
    return np.asarray(value.addressable_shards[0].data)[0]


def _device_memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """The most memory that one of this process's devices has had in use, where the platform counts it."""
    counted = [device.memory_stats() or {} for device in local_devices(devices)]
    most = max(stats.get("peak_bytes_in_use", 0) for stats in counted)
    return {"device_peak_gib": most / 2**30} if most else {}
