"""The loop over training steps, for whatever is trained: it resumes, records, saves and stops."""

import abc
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from training.checkpoint import Checkpoints, Progress, Restored, config_differences
from training.parallel import local_devices, replicate, to_host, voting_step
from training.processes import is_first
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


class StopRequest:
    """Becomes true when the process is asked to end (SIGTERM, Ctrl-C): the run saves and leaves."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C
        self.requested = True

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(
    task: Task,
    config: ml_collections.ConfigDict,
    workdir: str,
    devices: Sequence[jax.Device],
    continue_finished: bool = False,
) -> Any:
    """Trains to config.num_steps, from the last checkpoint in workdir if there is one.

    Where several processes train one run, each calls this alike. The first of them writes and speaks.

    Args:
        task: what is trained.
        config: with seed, num_steps, log_every and checkpoint.{every, max_to_keep, keep_period}.
        workdir: checkpoints, metrics.jsonl, config.json, tensorboard/, and what the task leaves. All
            processes see the same folder.
        devices: one replica each, of all processes.
        continue_finished: a run that has its steps trains config.num_steps more.

    Returns:
        The last state, on the host.

    Raises:
        DamagedCheckpointError: there are checkpoints, and none can be read.
        ValueError: the config does not fit the checkpoint.
        FloatingPointError: a metric is not finite; names the step.
    """
    where = f"{len(devices)} x {devices[0].device_kind}"
    if jax.process_count() > 1:
        where += f" of {jax.process_count()} processes"
    template = jax.eval_shape(task.initial_state)
    # Until all is on disk: what is announced is not lost to a second signal.
    with StopRequest() as stop:
        checkpoints = Checkpoints(
            os.path.join(workdir, "checkpoints"),
            config.checkpoint.max_to_keep,
            config.checkpoint.keep_period or None,
            task.state_fields,
        )
        try:
            plain = json.loads(config.to_json())
            restored = _newest(checkpoints, template, plain, workdir, where)
            examples_seen, first = 0, 0
            if restored is not None:
                state = restored.state
                examples_seen, first = restored.progress.examples_seen, int(state.step)
            if continue_finished and first >= config.num_steps:
                config = config.copy_and_resolve_references()
                config.num_steps += first
                say(f"The run has its steps; trains on to step {config.num_steps}.")
            if first >= config.num_steps:
                say(
                    f"The run has its {config.num_steps} steps. For more: "
                    f"--config.num_steps={2 * config.num_steps}."
                )
                if is_first() and not all(os.path.exists(path) for path in task.results().values()):
                    # It was cut after its last checkpoint.
                    with MetricWriter(workdir, first) as writer:
                        task.evaluate(state, writer, True)
            else:
                # The data before the compilation: a wrong path is told at once.
                data = task.batches(examples_seen)
                if restored is None:
                    state = task.first_state()
                run = _Run(task, config, plain, devices, checkpoints, data, examples_seen)
                with contextlib.ExitStack() as stack:
                    writer = None
                    if is_first():
                        os.makedirs(workdir, exist_ok=True)
                        with open(os.path.join(workdir, "config.json"), "w") as file:
                            json.dump(plain, file, indent=1)
                        writer = stack.enter_context(MetricWriter(workdir, first))
                    state = run(state, writer, stop)
        except Exception as error:
            if jax.process_count() > 1:
                say(
                    f"Failed with {type(error).__name__}: {str(error)[:300]}\nIf another process died, JAX "
                    "names it within a minute and ends this one. Start all processes again: the run goes on "
                    "from its last checkpoint.",
                    every_process=True,
                )
            raise
        finally:  # a save under way is finished also when something failed
            checkpoints.close()
    step = checkpoints.latest_step()
    saved = {} if step is None else {"checkpoint": os.path.join(checkpoints.directory, str(step))}
    for name, path in (task.results() | saved).items():
        if os.path.exists(path):
            say(f"{name}: {path}")
    return state


def _newest(
    checkpoints: Checkpoints, template: Any, config: dict[str, Any], workdir: str, where: str
) -> Restored | None:
    """What the run goes on from, and says so; what is damaged is set aside."""
    restored = checkpoints.newest(template, config)
    if restored is None:
        say(f"A new run in {workdir} on {where}.")
        return None
    step = int(restored.state.step)
    for error in restored.damaged:
        say(f"DAMAGED: {error}")
    if restored.damaged:
        moved = ", ".join(checkpoints.set_aside(step))
        say(f"DAMAGED: what came after step {step} is lost. It is kept in {moved}.")
    say(f"Continues {workdir} at step {step} on {where}.")
    for name, saved, now in config_differences(restored.progress.config, config):
        say(f"  config.{name} was {saved!r}, is {now!r} from here on.")
    return restored


@dataclasses.dataclass
class _Run:
    """The loop over the steps, and what is done at intervals."""

    task: Task
    config: ml_collections.ConfigDict
    plain: dict[str, Any]  # the config as a checkpoint keeps it
    devices: Sequence[jax.Device]
    checkpoints: Checkpoints
    data: Iterator[Any]
    examples_seen: int

    def __call__(self, state: Any, writer: MetricWriter | None, stop: StopRequest) -> Any:
        """Trains `state` to config.num_steps, or until one process is asked to stop. writer: of the first."""
        config, task, first = self.config, self.task, int(state.step)
        local = local_devices(self.devices)
        step_fn = voting_step(task.step(), self.devices)
        rng = jax.random.fold_in(jax.random.key(config.seed), 1)
        replicas, step = replicate(state, local), first
        say("Compiling the training step; this takes a minute or more for a large model.")
        bar = tqdm(
            total=config.num_steps,
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
        while step < config.num_steps and not stopping:
            batch = next(self.data)
            votes = np.full(len(local), stop.requested, np.int32)
            replicas, (metrics, votes) = step_fn(replicas, (batch, votes), rng)
            step += 1
            self.examples_seen += task.examples_per_step
            # The metrics of the step before: the device works on while they are looked at.
            if pending is not None:
                self._record(*pending, clock, writer, bar)
            pending = (step, metrics)
            bar.update()
            stopping, counted = self._agreed(stop, counted), votes
            last = step == config.num_steps or stopping
            save = self._due(step, config.checkpoint.every, last)
            evaluate = self._due(step, task.evaluate_every, last)
            if save or evaluate:
                # Nothing is saved before it is known to be finite.
                self._record(*pending, clock, writer, bar)
                pending = None
                state = self._save(replicas) if save else to_host(replicas)
                if evaluate and writer is not None:
                    task.evaluate(state, writer, step == config.num_steps)
                clock.pause()
                stopping = stopping or self._agreed(stop, None)
            for message in task.messages():
                say(message, every_process=True)
        bar.close()
        if stopping:
            if pending is not None:
                self._record(*pending, clock, writer, bar)
            state = self._save(replicas)
            self.checkpoints.wait()
            say(f"Asked to stop after step {step}. The same command continues.")
        return state

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
        self.checkpoints.save(state, Progress(self.examples_seen, self.plain))
        return state

    @staticmethod
    def _due(step: int, every: int, last: bool) -> bool:
        return last or (every > 0 and step % every == 0)

    def _record(
        self, step: int, metrics: Any, clock: "_Clock", writer: MetricWriter | None, bar: tqdm
    ) -> None:
        values = {name: float(_of_first_replica(value)) for name, value in metrics.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            self.checkpoints.wait()
            latest = self.checkpoints.latest_step()
            raise FloatingPointError(
                f"step {step}: {', '.join(broken)} is not finite. The last good checkpoint is "
                f"{'none' if latest is None else f'step {latest}'} in {self.checkpoints.directory}."
            )
        rate = clock.rate(step, self.task.examples_per_step)
        unit = self.task.unit
        if writer is not None and self._due(step, self.config.log_every, step == self.config.num_steps):
            writer.write(step, values | ({f"{unit}_per_second": rate} if rate else {}))
            shown = " ".join(f"{name}={value:.3g}" for name, value in values.items())
            speed = f" {rate:.1f} {unit}/s" if rate else ""
            bar.write(f"step {step}: {shown}{speed}", file=sys.stdout)
            sys.stdout.flush()
        if rate:
            bar.set_postfix_str(f"{rate:.1f} {unit}/s")


class _Clock:
    """Examples a second, smoothed, without the first step, which compiles, and without pauses."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._rate = 0.0

    def pause(self) -> None:
        """What came since the last call of `rate` does not count."""
        if self._last is not None:
            self._last = (self._last[0], time.perf_counter())

    def rate(self, step: int, per_step: int) -> float:
        now = time.perf_counter()
        if self._last is not None and step > self._last[0]:
            rate = (step - self._last[0]) * per_step / (now - self._last[1])
            self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        self._last = (step, now)
        return self._rate


def _of_first_replica(value: Any) -> Any:
    return np.asarray(value.addressable_shards[0].data)[0]


def say(message: str, every_process: bool = False) -> None:
    """A line to stdout that does not break the progress bar: of the first process, or of every one."""
    if not is_first():
        if not every_process:
            return
        message = f"Process {jax.process_index()}: {message}"
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()
