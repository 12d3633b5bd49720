"""Several processes that train one run: how they find each other, and who speaks for all."""

import sys
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from tqdm import tqdm

# Seconds after which a process that gives no sign of life is given up, and the others end.
_HEARTBEAT = 30

_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, where the processes of one run meet."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes train one run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0 on.")


def connect_by_flags() -> None:
    """`connect` with what the command line says.

    Raises:
        ValueError: some flags are given, others are missing.
    """
    given: dict[str, Any] = {flag.name: flag.value for flag in (_ADDRESS, _NUM_PROCESSES, _PROCESS_ID)}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(
            f"{' and '.join(missing)} should be given too: a process that is told of others wants all of "
            f"{', '.join(f'--{name}' for name in given)}."
        )
    connect(**given)


def connect(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a run. To be called before anything asks for devices.

    All None: what JAX finds out by itself on Cloud TPU, GKE and Slurm; elsewhere this process is alone.
    When one of the processes dies, the others are ended.
    """
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT,
            # One that leaves with an error does not wait for the others.
            shutdown_timeout_seconds=_HEARTBEAT,
        )
    except ValueError as error:
        # JAX has no other way to ask whether there is a cluster.
        if coordinator_address is not None or "coordinator_address should be defined" not in str(error):
            raise


def is_first() -> bool:
    """Whether this process writes what a run leaves, and speaks: one of them does."""
    return jax.process_index() == 0


def of_first(number: int) -> int:
    """The number that the first process gives. All processes call it, and wait for each other."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def say(message: str, every_process: bool = False) -> None:
    """A line to stdout that does not break the progress bar: of the first process, or of every one."""
    if not is_first():
        if not every_process:
            return
        message = f"Process {jax.process_index()}: {message}"
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()
