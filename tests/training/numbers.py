r"""A task that costs nothing, and a program that trains it in one of several processes.

python -m tests.training.numbers --workdir=run --coordinator_address=localhost:1234 \
    --num_processes=2 --process_id=0
"""

import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import ConfigDict

from training import loop
from training.parallel import AXIS
from training.processes import connect_by_flags, say
from training.restoring import restore
from training.task import Best, Task

BATCH = 16  # over all replicas


class State(flax.struct.PyTreeNode):
    step: Any
    values: Any


def step(state, batch, rng):
    """The step of all runs: it takes in the batch, the key and the state."""
    mean = jax.lax.pmean(jnp.mean(batch), AXIS)
    noise = jax.random.uniform(jax.random.fold_in(rng, state.step), state.values.shape)
    values = state.values / 2 + mean + noise
    return State(state.step + 1, values), {"mean": mean, "norm": jnp.linalg.norm(values)}


class Numbers(Task):
    """Its batches are the numbers from 0 on.

    at_batch: called with the number of each batch, from 1 on. at_evaluation: called with the step.
    """

    unit = "numbers"
    state_fields = ("width",)
    examples_per_step = BATCH
    best = Best("distance", smaller_is_better=True)

    def __init__(
        self,
        workdir: pathlib.Path | epath.Path,
        config: ConfigDict,
        num_devices: int,
        at_batch: Callable[[int], object] = lambda number: None,
        at_evaluation: Callable[[int], object] = lambda step: None,
    ):
        self.path = epath.Path(workdir) / "evaluations.txt"
        self.config, self.num_devices = config, num_devices
        self.at_batch, self.at_evaluation = at_batch, at_evaluation

    def initial_state(self):
        return State(jnp.zeros((), jnp.int32), jnp.ones(self.config.width))

    def batches(self, start):
        say("a message of the task", every_process=True)
        for first in itertools.count(start, BATCH):
            self.at_batch(first // BATCH + 1)
            numbers = np.arange(first, first + BATCH, dtype=np.float32)
            if first // BATCH + 1 == self.config.broken:
                numbers[3] = np.nan
            mine = np.split(numbers, jax.process_count())[jax.process_index()]
            yield mine.reshape(self.num_devices // jax.process_count(), -1)

    def step(self):
        return step

    def is_due(self, step):
        return step % self.config.evaluate_every == 0

    def evaluate(self, state, writer, last):
        self.at_evaluation(int(state.step))
        before = self.path.read_text() if self.path.exists() else ""
        self.path.write_text(f"{before}{int(state.step)} {'last' if last else 'on the way'}\n")
        return {"distance": float(abs(int(state.step) - self.config.best_step))}

    def results(self):
        return {"evaluations": str(self.path)}


def make_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "num_steps": 6,
            "width": 3,
            "broken": 0,  # the batch with a NaN
            "evaluate_every": 4,
            "best_step": 4,
            "log_every": 1,
            "checkpoint": {"every": 2, "max_to_keep": 3, "keep_period": 0},
        }
    )


def rows(workdir):
    """The metrics on disk, without what depends on the clock."""
    return rows_of((workdir / "metrics.jsonl").read_text())


def rows_of(text):
    found = [json.loads(line) for line in text.splitlines()]
    return [{name: row[name] for name in ("step", "mean", "norm")} for row in found]


def saved(workdir):
    template = jax.eval_shape(lambda: State(jnp.zeros((), jnp.int32), jnp.ones(3)))
    return restore(str(workdir), lambda config: template, {})


def main(argv: list[str]) -> None:
    connect_by_flags()
    config = make_config()
    config.checkpoint.every = flags.FLAGS.every
    config.num_steps, config.width = flags.FLAGS.num_steps, flags.FLAGS.width

    def at_batch(number: int) -> None:
        time.sleep(flags.FLAGS.seconds)
        if number == flags.FLAGS.at:
            os.kill(os.getpid(), flags.FLAGS.signal)

    devices = jax.devices()
    time.sleep(flags.FLAGS.late)
    task = Numbers(epath.Path(flags.FLAGS.workdir), config, len(devices), at_batch)
    loop.train(task, config, flags.FLAGS.workdir, devices)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "of the run.", required=True)
    flags.DEFINE_integer("signal", 0, "that this process sends to itself.")
    flags.DEFINE_integer("at", 0, "the batch at which it does.")
    flags.DEFINE_integer("num_steps", 6, "of the run.")
    flags.DEFINE_integer("width", 3, "of the state.")
    flags.DEFINE_float("late", 0.0, "seconds that this process begins after it has met the others.")
    flags.DEFINE_float("seconds", 0.0, "that each batch takes.")
    flags.DEFINE_integer("every", 2, "steps from one checkpoint to the next.")
    app.run(main)
