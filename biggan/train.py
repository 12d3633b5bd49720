"""Trains a BigGAN: python -m biggan.train --config=configs/quickstart.py [--workdir=runs/quickstart]

The same command continues a run that was interrupted.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
from absl import flags
from etils import epath

from biggan.data import Readable
from biggan.experiment import STATE_FIELDS, build_data, build_gan, build_state, images_per_step
from biggan.parallel import replica_step, shard_batch
from biggan.pictures import save_grid
from biggan.sampling import Sampler, latents
from biggan.state import GANState
from training import command, loop
from training.curves import save_curves
from training.files import path_of
from training.parallel import local_devices
from training.processes import is_first
from training.task import Task
from training.writers import MetricWriter

_CONTINUE = flags.DEFINE_bool("continue_finished", False, "train a finished run for num_steps more.")


class GANTask(Task):
    """A GAN's training; at intervals it draws samples and curves."""

    unit = "images"
    state_fields = STATE_FIELDS

    def __init__(self, config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device]):
        self._config, self._workdir, self._num_local = config, workdir, len(local_devices(devices))
        self._gan = build_gan(config)
        self._sampler = Sampler(self._gan.generator)
        self._readable: Readable | None = None
        self._num_skipped = 0
        self._remarks: list[str] = []
        self.examples_per_step = images_per_step(config, len(devices))

    def initial_state(self) -> GANState:
        return build_state(self._config, self._gan)

    def batches(self, start: int) -> Iterator[Any]:
        classes_file = os.path.join(self._workdir, "classes.json")
        data, self._readable = build_data(self._config, self._num_local, start, classes_file)
        self._remarks = list(self._readable.remarks) if is_first() else []
        return (shard_batch(self._gan, x["image"], x["label"], self._num_local) for x in data)

    def step(self) -> Callable[..., Any]:
        return replica_step(self._gan)

    def evaluate(self, state: GANState, writer: MetricWriter, last: bool) -> None:
        rng = jax.random.fold_in(jax.random.key(self._config.seed), 2)
        rng_noise, rng_hash = jax.random.split(rng)
        noise, labels = latents(self._gan.generator, rng_noise, self._config.sample.num)
        images = self._sampler(state.sampling_variables(), noise, labels, rng_hash)
        save_grid(images, os.path.join(self._samples, f"step{int(state.step):07d}.png"))
        panels = {"loss": "hinge loss", "grad_norm": "gradient norm"}
        save_curves(writer.path, os.path.join(self._workdir, "curves.png"), panels, log=("grad_norm",))

    def messages(self) -> list[str]:
        if self._readable is None:
            return []
        skipped, before = self._readable.skipped, self._num_skipped
        remarks, self._remarks, self._num_skipped = self._remarks, [], len(skipped)
        count = f"{len(skipped)} of {len(self._readable)}"
        return remarks + [
            f"Skipped ({count} so far): {message}" for message in list(skipped.values())[before:]
        ]

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
        workdir: checkpoints, metrics.jsonl, curves.png, samples/, config.json, classes.json, tensorboard/.
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


if __name__ == "__main__":
    command.run(lambda config, workdir: train(config, workdir, continue_finished=_CONTINUE.value))
