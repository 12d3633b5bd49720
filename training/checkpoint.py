"""Checkpoints: one host copy of the training state, the data position and the config."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a checkpoint holds beside the state.

    examples_seen: taken from the data, over all replicas. config: as plain values.
    """

    examples_seen: int
    config: dict[str, Any]


class Checkpoints:
    """Checkpoints of a run, in `directory`. Saving is asynchronous and atomic: a checkpoint that was
    cut short by a crash is not seen again. A state is a pytree with a field `step`.

    max_to_keep: the newest ones. keep_period: every step that it divides is kept besides; None: none.
    state_fields: how the names of the config's fields begin that can change what arrays a state has.
    """

    def __init__(
        self,
        directory: str,
        max_to_keep: int = 3,
        keep_period: int | None = None,
        state_fields: tuple[str, ...] = ("",),
    ):
        self.directory = directory
        self._state_fields = state_fields
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            keep_period=keep_period,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def save(self, state: Any, progress: Progress) -> int:
        """Starts to save a state of NumPy arrays; returns its step. Saves no step twice."""
        step = int(state.step)
        if step != self._manager.latest_step():
            beside = dataclasses.asdict(progress) | {"arrays": _arrays(state)}
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(beside))
            self._manager.save(step, args=items)
        return step

    def _beside(self, step: int) -> dict[str, Any]:
        items = ocp.args.Composite(progress=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items)["progress"]

    def progress(self, step: int) -> Progress:
        """Reads what lies beside the state."""
        beside = self._beside(step)
        return Progress(beside["examples_seen"], beside["config"])

    def restore(self, step: int, template: Any, config: Mapping[str, Any]) -> Any:
        """The state of a step, as NumPy arrays.

        template: a state with the shapes and dtypes wanted (jax.eval_shape). config: of this run; it
        may differ from that of the checkpoint wherever the arrays stay the same, as with another
        attention at the same map.

        Raises:
            ValueError: the arrays differ; names the fields that do.
        """
        beside = self._beside(step)
        arrays = config_differences(beside["arrays"], _arrays(template))
        if arrays:
            fields = [
                f"config.{name} is {theirs!r} in the checkpoint and {ours!r} in this run"
                for name, theirs, ours in config_differences(beside["config"], config)
                if name.startswith(self._state_fields)
            ]
            raise ValueError(
                f"checkpoint {step} in {self.directory} does not fit this run: {'; '.join(fields)}. "
                f"({len(arrays)} arrays differ; {arrays[0][0]} is {arrays[0][1]} there and "
                f"{arrays[0][2]} here.) Set the field as it was, or take another --workdir."
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


def restore_latest(
    workdir: str,
    template: Any,
    config: Mapping[str, Any],
    *,
    step: int | None = None,
    state_fields: tuple[str, ...] = ("",),
) -> Any:
    """The state in the newest checkpoint of the run in `workdir`, or in that of `step`, as NumPy arrays.

    template, config: as `Checkpoints.restore` takes them. state_fields: as `Checkpoints` does.

    Raises:
        FileNotFoundError: there is no such checkpoint; names the folder.
        ValueError: the arrays differ; names the fields that do.
    """
    directory = os.path.join(os.path.abspath(workdir), "checkpoints")
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    missing = FileNotFoundError(f"there is {which} in {directory!r}.")
    # Before the manager is made, which makes the folder.
    if not os.path.isdir(directory if step is None else os.path.join(directory, str(step))):
        raise missing
    checkpoints = Checkpoints(directory, state_fields=state_fields)
    try:
        step = checkpoints.latest_step() if step is None else step
        if step is None:
            raise missing
        return checkpoints.restore(step, template, config)
    finally:
        checkpoints.close()


def _arrays(state: Any) -> dict[str, str]:
    """Shape and dtype of every array, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


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
