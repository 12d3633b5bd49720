"""Trains a BigGAN: python -m biggan.train --config=configs/quickstart.py [--workdir=runs/quickstart]

The same command continues a run that was interrupted. --init_from=RUN, or G.pth or G.pth,D.pth, begins a
new one with the networks of another, or with weights of the PyTorch BigGAN.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from etils import epath

from biggan.data import Readable
from biggan.evaluation import Samples, build_best, build_evaluator, build_real, measured_by
from biggan.experiment import STATE_FIELDS, build_data, build_gan, build_state, images_per_step
from biggan.fields import FIELDS
from biggan.parallel import replica_step, shard_batch
from biggan.pictures import grid, save_picture
from biggan.restoring import adopted, initial_networks, saved_state
from biggan.sampling import Sampler, latents, sampling_keys
from biggan.state import GANState
from evaluation.evaluator import Evaluator
from evaluation.statistics import Statistics
from training import command, loop
from training.curves import save_curves
from training.files import path_of
from training.parallel import local_devices
from training.processes import is_first, say
from training.task import Task, due
from training.writers import MetricWriter, read_rows

_CONTINUE = flags.DEFINE_bool("continue_finished", False, "train a finished run for num_steps more.")
_INIT = flags.DEFINE_string(
    "init_from", None, "sets config.init_from: the folder of a run, or G.pth or G.pth,D.pth, to begin with."
)
# Parts of names of metrics that have a panel together in curves.png.
_PANELS = {
    "hinge loss": ("loss",),
    "gradient norm": ("grad_norm",),
    "augmentation": ("augment_probability", "real_sign"),
    "Fréchet distance": ("fd_",),
    "kernel distance": ("kd_",),
    "precision, recall, density, coverage": ("precision_", "recall_", "density_", "coverage_"),
    "Inception score": ("is_",),
    "memorised": ("memorisation_",),
    "distance to the nearest real image": ("nearest_ratio_",),
}


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Tells what fails of a side work of training, for want of memory too, and goes on."""
    try:
        yield
    except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        say(f"{what} ({why}). The run goes on.")


def _with_skipped_told(
    data: Iterator[dict[str, np.ndarray]], readable: Readable
) -> Iterator[dict[str, np.ndarray]]:
    """Tells of each image that was skipped, with the batch after it."""
    known = 0
    for batch in data:
        skipped = list(readable.skipped.values())
        for message in skipped[known:]:
            say(f"Skipped ({len(skipped)} of {len(readable)} so far): {message}", every_process=True)
        known = len(skipped)
        yield batch


class GANTask(Task):
    """A GAN's training; at intervals it draws samples and curves."""

    unit = "images"
    state_fields = STATE_FIELDS
    start_fields = ("init_from",)

    def __init__(self, config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device]):
        self._config, self._workdir, self._num_local = config, workdir, len(local_devices(devices))
        self._gan = build_gan(config)
        self._sampler = Sampler(self._gan.generator, devices=local_devices(devices))
        self._evaluator: Evaluator | None = None
        self._real: list[Statistics] | None = None
        if is_first():
            cache = os.path.join(workdir, "evaluation")
            self._evaluator = build_evaluator(config, cache, local_devices(devices))
        self._metrics = set(measured_by(config))
        self.best = build_best(config)
        self.examples_per_step = images_per_step(config, len(devices))

    def initial_state(self) -> GANState:
        return build_state(self._config, self._gan)

    def batches(self, start: int) -> Iterator[Any]:
        classes_file = os.path.join(self._workdir, "classes.json")
        data, readable = build_data(self._config, self._num_local, start, classes_file)
        for remark in readable.remarks:
            say(remark)
        told = _with_skipped_told(data, readable)
        return (shard_batch(self._gan, x["image"], x["label"], self._num_local) for x in told)

    def step(self) -> Callable[..., Any]:
        return replica_step(self._gan)

    def first_state(self) -> GANState:
        return initial_networks(self._config, self._gan) if self._config.init_from else super().first_state()

    def saved_state(self, config: Mapping[str, Any]) -> GANState:
        return saved_state(self._config, self._gan, config)

    def adopted(self, state: GANState) -> GANState:
        return adopted(self._config, self._gan, state)

    def is_due(self, step: int) -> bool:
        return due(step, self._config.sample.every) or self._measures(step)

    def _measures(self, step: int) -> bool:
        return bool(self._config.evaluate.metrics) and due(step, self._config.evaluate.every)

    def evaluate(self, state: GANState, writer: MetricWriter, last: bool) -> dict[str, float]:
        step = int(state.step)
        if last or due(step, self._config.sample.every):
            with _told(f"NOT DRAWN: the samples of step {step}"):
                self._draw(state, writer)
        found: dict[str, float] = {}
        if self._evaluator is not None and (last or self._measures(step)):
            with _told(f"NOT MEASURED: the samples of step {step}"):
                found = self._measure(self._evaluator, state)
                writer.write(step, found)
                writer.flush()
        names = {name for row in read_rows(writer.path)[0] for name in row}
        panels = {
            label: parts
            for label, parts in _PANELS.items()
            if any(part in name for part in parts for name in names)
        }
        save_curves(writer.path, os.path.join(self._workdir, "curves.png"), panels, log=("gradient norm",))
        return found

    def is_evaluated(self, step: int) -> bool:
        rows, _ = read_rows(os.path.join(self._workdir, "metrics.jsonl"))
        measured = any(row["step"] == step and set(row) & self._metrics for row in rows)
        return epath.Path(self._grid(step)).exists() and (measured or not self._metrics)

    def _grid(self, step: int) -> str:
        return os.path.join(self._samples, f"step{step:07d}.png")

    def _draw(self, state: GANState, writer: MetricWriter) -> None:
        rng = jax.random.fold_in(jax.random.key(self._config.seed), 2)
        rng_noise, rng_hash = jax.random.split(rng)
        noise, labels = latents(self._gan.generator, rng_noise, self._config.sample.num)
        images = self._sampler(state.sampling_variables(), noise, labels, rng_hash)
        picture = grid(images)
        save_picture(picture, self._grid(int(state.step)))
        writer.write_image(int(state.step), "samples", picture)

    def _measure(self, evaluator: Evaluator, state: GANState) -> dict[str, float]:
        """Metrics of samples, the same noise each time, by what config.evaluate names."""
        num = self._config.evaluate.num
        say(f"Measures {num} samples ({self._config.evaluate.metrics}).")
        if self._real is None:
            self._real = evaluator.real(build_real(self._config, num, self._config.evaluate.num_real))
        keys = sampling_keys(self._config.seed)
        noise, labels = latents(self._gan.generator, keys.noise, num)
        samples = Samples(self._sampler, state.sampling_variables(), noise, labels, keys.hashing)
        found = evaluator(samples, self._real)
        for line in found.lines():
            say(f"step {int(state.step)}: {line}")
        counts = ("num_fake", "num_real")
        return {name: float(value) for name, value in found.values().items() if name not in counts}

    def results(self) -> dict[str, str]:
        folder = epath.Path(self._samples)
        grids = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
        samples = {"samples": os.path.join(self._samples, grids[-1])} if grids else {}
        return samples | {"curves": os.path.join(self._workdir, "curves.png")}

    @property
    def _samples(self) -> str:
        return os.path.join(self._workdir, "samples")


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    devices: Sequence[jax.Device] | None = None,
    continue_finished: bool = False,
) -> GANState:
    """Trains to config.num_steps, from the last checkpoint in workdir if there is one.

    Args:
        config: of configs/.
        workdir: checkpoints, metrics.jsonl, curves.png, samples/, config.json, classes.json, tensorboard/,
            evaluation/ (what was measured of the data).
        devices: one replica each, of all processes; None: all there are.
        continue_finished: a run that has its steps trains config.num_steps more.

    Returns:
        The last state, on the host.

    Raises:
        ValueError: the config has no meaning, or does not fit the checkpoint.
        FloatingPointError: a loss or gradient is not finite; names the step.
    """
    workdir = str(path_of(workdir))
    devices = list(devices or jax.devices())
    return loop.train(GANTask(config, workdir, devices), config, workdir, devices, continue_finished)


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
    if _INIT.value is not None:
        config.init_from = _INIT.value
    train(config, workdir, continue_finished=_CONTINUE.value)


if __name__ == "__main__":
    command.run(main, FIELDS, "quickstart")
