"""The command lines of programs: of those that train, and of those that look at what was trained."""

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from training.checkpoint import DamagedCheckpointError
from training.processes import connect_by_flags


def without_traceback(program: Callable[[], None]) -> None:
    """Runs a program; what its user can mend ends it with a line and status 1."""
    logging.set_verbosity(logging.WARNING)
    try:
        program()
    except (OSError, ValueError, ImportError, DamagedCheckpointError) as error:
        sys.exit(str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sys.exit(f"the device has too little memory: --batch_size. {str(error).splitlines()[0]}")


def run(train: Callable[[ml_collections.ConfigDict, str], Any]) -> None:
    """Reads --config and --workdir, meets the other processes, and calls train(config, workdir)."""
    config = config_flags.DEFINE_config_file(
        "config", None, "a file of configs/; its fields are flags: --config.num_steps=100.", lock_config=True
    )
    workdir = flags.DEFINE_string(
        "workdir", None, "folder of the run; default: runs/ and the name of the config."
    )
    flags.mark_flag_as_required("config")

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}.")
        logging.set_verbosity(logging.WARNING)
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        # configs/name.py:argument has a folder of its own for every argument.
        name = os.path.basename(path).replace(".py", "").replace(":", "_")
        connect_by_flags()
        train(config.value, workdir.value or os.path.join("runs", name))

    app.run(main)
