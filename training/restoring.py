"""What other programs read of a run's checkpoints."""

import contextlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from training.checkpoint import Checkpoints, DamagedCheckpointError, Template
from training.files import path_of

NEWEST, BEST = "newest", "best"


def restore(
    workdir: str,
    template: Template,
    config: Mapping[str, Any],
    *,
    step: int | str = NEWEST,
    state_fields: tuple[str, ...] = ("",),
) -> Any:
    """The state in a checkpoint of the run in `workdir`, as NumPy arrays.

    template, config: as `Checkpoints.restore` takes them. step: a number, "newest" or "best".
    state_fields: as `Checkpoints` does.

    Raises:
        FileNotFoundError: there is no such checkpoint; names the folder.
        DamagedCheckpointError: it cannot be read; of the newest: none can.
        ValueError: the arrays differ; names the fields that do. Or step is neither.
    """
    if isinstance(step, str) and step not in (NEWEST, BEST):
        raise ValueError(f"--step should be a number, {NEWEST!r} or {BEST!r}, but got {step!r}.")
    directory = path_of(workdir) / "checkpoints"
    numbered = not isinstance(step, str)
    which = f"no checkpoint of step {step}" if numbered else "no checkpoint"
    if step == BEST:
        directory, which = directory / BEST, "no best checkpoint"
    missing = FileNotFoundError(f"there is {which} in {str(directory)!r}.")
    # Before the manager is made, which makes the folder.
    if not (directory / str(step) if numbered else directory).is_dir():
        raise missing
    checkpoints = Checkpoints(str(directory), state_fields=state_fields, read_only=True)
    try:
        if not isinstance(step, str):
            return checkpoints.restore(step, template, config)
        restored = checkpoints.newest(template, config)
        if restored is None:
            raise missing
        for error in restored.damaged:
            logging.warning("%s The one before it is taken.", error)
        return restored.state
    finally:
        checkpoints.close()


def latest_config(workdir: str) -> dict[str, Any] | None:
    """The config in the newest checkpoint of the run in `workdir` that can be read; None: there is none."""
    directory = path_of(workdir) / "checkpoints"
    if not directory.is_dir():
        return None
    checkpoints = Checkpoints(str(directory), read_only=True)
    try:
        for step in checkpoints.steps():
            with contextlib.suppress(DamagedCheckpointError):
                return checkpoints.progress(step).config
        return None
    finally:
        checkpoints.close()
