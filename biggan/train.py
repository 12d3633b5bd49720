"""Trains a BigGAN: python -m biggan.train --config=configs/quickstart.py [--workdir=runs/quickstart]

The same command continues a run that was interrupted.
"""

import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from biggan.checkpoint import Checkpoints, Progress, config_differences
from biggan.data import Readable
from biggan.experiment import build_data, build_gan, build_state, images_per_step
from biggan.parallel import parallel_step, replicate, shard_batch, to_host
from biggan.pictures import save_curves, save_grid
from biggan.sampling import Sampler
from biggan.state import GANState
from biggan.steps import GAN
from biggan.writers import MetricWriter

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run; default: runs/ and the name of the config."
)
_CONTINUE = flags.DEFINE_bool("continue_finished", False, "train a finished run for num_steps more.")


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
    config: ml_collections.ConfigDict,
    workdir: str,
    devices: Sequence[jax.Device] | None = None,
    continue_finished: bool = False,
) -> GANState:
    """Trains to config.num_steps, from the last checkpoint in workdir if there is one.

    Args:
        config: of configs/.
        workdir: checkpoints, metrics.jsonl, curves.png, samples/, config.json, tensorboard/.
        devices: one replica each; None: all local devices.
        continue_finished: a run that has its steps trains config.num_steps more.

    Returns:
        The last state, on the host.

    Raises:
        ValueError: the config has no meaning, or does not fit the checkpoint.
        FloatingPointError: a loss or gradient is not finite; names the step.
    """
    workdir = os.path.abspath(workdir)
    devices = list(devices or jax.local_devices())
    num_replicas = len(devices) * jax.process_count()
    gan = build_gan(config)
    template = jax.eval_shape(lambda: build_state(config, gan))
    checkpoints = Checkpoints(
        os.path.join(workdir, "checkpoints"),
        config.checkpoint.max_to_keep,
        config.checkpoint.keep_period or None,
    )
    try:
        latest, plain = checkpoints.latest_step(), json.loads(config.to_json())
        if latest is None:
            images_seen = 0
            state = jax.device_get(jax.jit(lambda: build_state(config, gan))())
            say(f"A new run in {workdir} on {num_replicas} x {devices[0].device_kind}.")
        else:
            state = checkpoints.restore(latest, template, plain)
            progress = checkpoints.progress(latest)
            images_seen = progress.images_seen
            say(f"Continues {workdir} at step {latest} on {num_replicas} x {devices[0].device_kind}.")
            for name, saved, now in config_differences(progress.config, plain):
                say(f"  config.{name} was {saved!r}, is {now!r} from here on.")
        if continue_finished and int(state.step) >= config.num_steps:
            config = config.copy_and_resolve_references()
            config.num_steps += int(state.step)
            say(f"The run has its steps; trains on to step {config.num_steps}.")
        if int(state.step) >= config.num_steps:
            say(
                f"The run has its {config.num_steps} steps. For more: "
                f"--config.num_steps={2 * config.num_steps}."
            )
        else:
            # The pipeline before the compilation: a wrong path is told at once.
            data, readable = build_data(config, len(devices), images_seen)
            os.makedirs(workdir, exist_ok=True)
            with open(os.path.join(workdir, "config.json"), "w") as file:
                json.dump(plain, file, indent=1)
            run = _Run(config, plain, gan, workdir, devices, checkpoints, data, readable, images_seen)
            with MetricWriter(workdir, int(state.step)) as writer, StopRequest() as stop:
                state = run(state, writer, stop)
    finally:  # a save under way is finished also when something failed
        checkpoints.close()
    _report(workdir, checkpoints)
    return state


@dataclasses.dataclass
class _Run:
    """The loop over the steps, and what is done at intervals."""

    config: ml_collections.ConfigDict
    plain: dict[str, Any]  # the config as a checkpoint keeps it
    gan: GAN
    workdir: str
    devices: Sequence[jax.Device]
    checkpoints: Checkpoints
    data: Iterator[dict[str, np.ndarray]]
    readable: Readable
    images_seen: int
    num_skipped: int = 0

    def __call__(self, state: GANState, writer: MetricWriter, stop: StopRequest) -> GANState:
        """Trains `state` to config.num_steps, or until it is asked to stop."""
        self.per_step = images_per_step(self.config, len(self.devices) * jax.process_count())
        self.sampler = Sampler(self.gan.generator)
        config, first = self.config, int(state.step)
        step_fn = parallel_step(self.gan, self.devices)
        rng = jax.random.fold_in(jax.random.key(config.seed), 1)
        replicas, step = replicate(state, self.devices), first
        say("Compiling the training step; this takes a minute or more for a large model.")
        bar = tqdm(total=config.num_steps, initial=first, unit="step", dynamic_ncols=True, mininterval=1)
        pending: tuple[int, Any] | None = None
        clock = _Clock()
        while step < config.num_steps and not stop.requested:
            images = next(self.data)
            batch = shard_batch(self.gan, images["image"], images["label"], len(self.devices))
            replicas, metrics = step_fn(replicas, batch, rng)
            step += 1
            self.images_seen += self.per_step
            # The metrics of the step before: the device works on while they are looked at.
            if pending is not None:
                self._record(*pending, clock, writer, bar)
            pending = (step, metrics)
            bar.update()
            last = step == config.num_steps or stop.requested
            due = self._due(step, config.checkpoint.every, last)
            grid = self._due(step, config.sample.every, last)
            if due or grid:
                # Nothing is saved before it is known to be finite.
                self._record(*pending, clock, writer, bar)
                pending = None
                state = self._save(replicas) if due else to_host(replicas)
                if grid:
                    self._pictures(state, writer)
            self._report_skipped()
        bar.close()
        if stop.requested:
            if pending is not None:
                self._record(*pending, clock, writer, bar)
            state = self._save(replicas)
            say(f"Asked to stop after step {step}. The same command continues.")
        return state

    def _save(self, replicas: GANState) -> GANState:
        state = to_host(replicas)
        self.checkpoints.save(state, Progress(self.images_seen, self.plain))
        return state

    @staticmethod
    def _due(step: int, every: int, last: bool) -> bool:
        return last or (every > 0 and step % every == 0)

    def _record(self, step: int, metrics: Any, clock: "_Clock", writer: MetricWriter, bar: tqdm) -> None:
        values = {
            name: float(np.asarray(value.addressable_shards[0].data)[0]) for name, value in metrics.items()
        }
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            self.checkpoints.wait()
            latest = self.checkpoints.latest_step()
            raise FloatingPointError(
                f"step {step}: {', '.join(broken)} is not finite. The last good checkpoint is "
                f"{'none' if latest is None else f'step {latest}'} in {self.checkpoints.directory}."
            )
        rate = clock.images_per_second(step, self.per_step)
        if self._due(step, self.config.log_every, step == self.config.num_steps):
            writer.write(step, values | ({"images_per_second": rate} if rate else {}))
            shown = " ".join(f"{name}={value:.3g}" for name, value in values.items())
            speed = f" {rate:.1f} images/s" if rate else ""
            bar.write(f"step {step}: {shown}{speed}", file=sys.stdout)
            sys.stdout.flush()
        if rate:
            bar.set_postfix_str(f"{rate:.1f} images/s")

    def _pictures(self, state: GANState, writer: MetricWriter) -> None:
        if jax.process_index():
            return
        rng = jax.random.fold_in(jax.random.key(self.config.seed), 2)
        images = self.sampler(state.sampling_variables(), rng, self.config.sample.num)
        folder = os.path.join(self.workdir, "samples")
        save_grid(images, os.path.join(folder, f"step{int(state.step):07d}.png"))
        save_curves(writer.path, os.path.join(self.workdir, "curves.png"))

    def _report_skipped(self) -> None:
        skipped = self.readable.skipped
        if len(skipped) > self.num_skipped:
            for message in list(skipped.values())[self.num_skipped :]:
                say(f"Skipped ({len(skipped)} of {len(self.readable)} so far): {message}")
            self.num_skipped = len(skipped)


class _Clock:
    """Images a second between two looks, without the first step, which compiles."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._rate = 0.0

    def images_per_second(self, step: int, per_step: int) -> float:
        now = time.perf_counter()
        if self._last is not None and step > self._last[0]:
            rate = (step - self._last[0]) * per_step / (now - self._last[1])
            self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        self._last = (step, now)
        return self._rate


def say(message: str) -> None:
    """A line to stdout that does not break the progress bar."""
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()


def _report(workdir: str, checkpoints: Checkpoints) -> None:
    folder = os.path.join(workdir, "samples")
    grids = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    step = checkpoints.latest_step()
    found = {
        "samples": os.path.join(folder, grids[-1]) if grids else None,
        "curves": os.path.join(workdir, "curves.png"),
        "checkpoint": None if step is None else os.path.join(checkpoints.directory, str(step)),
    }
    for name, path in found.items():
        if path and os.path.exists(path):
            say(f"{name}: {path}")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    name = os.path.splitext(os.path.basename(config_flags.get_config_filename(flags.FLAGS["config"])))
    workdir = _WORKDIR.value or os.path.join("runs", name[0])
    train(_CONFIG.value, workdir, continue_finished=_CONTINUE.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
