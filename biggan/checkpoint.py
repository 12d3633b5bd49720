"""Checkpoints: one host copy of the GANState, the data position and the config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from biggan.state import GANState

# The fields of a config that decide what arrays a state has.
_SHAPING = ("generator", "discriminator", "ema.on")


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a checkpoint holds beside the state.

    images_seen: real images taken from the pipeline, over all replicas. config: as plain values.
    """

    images_seen: int
    config: dict[str, Any]


class Checkpoints:
    """Checkpoints of a run, in `directory`. Saving is asynchronous and atomic: a checkpoint that was
    cut short by a crash is not seen again.

    max_to_keep: the newest ones. keep_period: every step that it divides is kept besides; None: none.
    """

    def __init__(self, directory: str, max_to_keep: int = 3, keep_period: int | None = None):
        self.directory = directory
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            keep_period=keep_period,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def save(self, state: GANState, progress: Progress) -> int:
        """Starts to save a state of NumPy arrays; returns its step. Saves no step twice."""
        step = int(state.step)
        if step != self._manager.latest_step():
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            )
            self._manager.save(step, args=items)
        return step

    def progress(self, step: int) -> Progress:
        """Reads what lies beside the state."""
        items = ocp.args.Composite(progress=ocp.args.JsonRestore())
        return Progress(**self._manager.restore(step, args=items)["progress"])

    def restore(self, step: int, template: GANState, config: Mapping[str, Any]) -> GANState:
        """The state of a step, as NumPy arrays.

        template: a state with the shapes and dtypes wanted (jax.eval_shape). config: of this run.

        Raises:
            ValueError: the checkpoint was written with another model; names the fields.
        """
        saved = self.progress(step).config
        different = [
            f"{name} is {theirs!r} in the checkpoint and {ours!r} in this run"
            for name, theirs, ours in config_differences(saved, config)
            if name.startswith(_SHAPING)
        ]
        if different:
            raise ValueError(
                f"checkpoint {step} in {self.directory} does not fit the config: "
                f"{'; '.join(different)}. Set --config.{different[0].split()[0]}, "
                "or take another --workdir."
            )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        state = self._manager.restore(step, args=items)["state"]
        return jax.device_get(state)

    def wait(self) -> None:
        """Until what was started is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go."""
        self._manager.close()


def config_differences(
    saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """(dotted name, saved value, current value) of every field that differs; None where absent."""
    result = []
    for name in sorted({*saved, *current}):
        theirs, ours = saved.get(name), current.get(name)
        if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
            result += config_differences(theirs, ours, f"{prefix}{name}.")
        elif theirs != ours:
            result.append((f"{prefix}{name}", theirs, ours))
    return result
