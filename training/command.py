"""The command line of a training program."""

import os
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from training.processes import connect_by_flags


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
