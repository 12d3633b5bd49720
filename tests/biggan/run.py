"""A tiny run in float64, in one of several processes: python -m tests.biggan.run --workdir=run"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from biggan.state import GANState
from biggan.train import GANTask
from tests.biggan.conftest import tiny_config
from tests.biggan.variables import state_of
from training import loop
from training.processes import connect_by_flags


def in_float64(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


class Task(GANTask):
    """Numbers and sums of float64, and no samples."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        networks = {
            name: getattr(self._gan, name).clone(dtype=jnp.float64) for name in ("generator", "discriminator")
        }
        self._gan = dataclasses.replace(self._gan, **networks)

    def initial_state(self) -> GANState:
        return in_float64(super().initial_state())

    def first_state(self) -> GANState:
        return in_float64(state_of(self._config, self._gan))

    def evaluate(self, *arguments: Any) -> None:
        pass


def main(argv: list[str]) -> None:
    jax.config.update("jax_enable_x64", True)
    connect_by_flags()
    config = tiny_config()
    config.num_steps = 3
    config.batch_size = 2
    config.d_steps = config.accumulation = 2
    config.generator.cross_replica_bn = True
    workdir, devices = os.path.abspath(flags.FLAGS.workdir), jax.devices()
    loop.train(Task(config, workdir, devices), config, workdir, devices)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "of the run.", required=True)
    app.run(main)
