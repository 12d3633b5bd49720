"""Checkpoints: one host copy of the training state, the data position and the config."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from training.digests import arrays_of, digest_of_plain, digests_of, filled
from training.files import free_name, make_folder, move_folder, path_of
from training.processes import is_first, of_first

# What orbax logs are tracebacks of its threads, and its options; what matters of them is told here in a line.
logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)


class UnsavedError(Exception):
    """A checkpoint could not be written; names it, and why."""


class DamagedCheckpointError(Exception):
    """A checkpoint cannot be read, or is not what was written; names it."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a checkpoint holds beside the state.

    examples_seen: taken from the data, over all replicas. config: as plain values. metrics: of an evaluation
    of the state, if that is why it is kept.
    """

    examples_seen: int
    config: dict[str, Any]
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


Template = Callable[[Mapping[str, Any]], Any]


class Restored(NamedTuple):
    """A checkpoint's state, as NumPy arrays, its progress, and what newer ones suffer from."""

    state: Any
    progress: Progress
    damaged: list[DamagedCheckpointError]


class Checkpoints:
    """Checkpoints of a run, in `directory`. Saving is asynchronous and atomic: a checkpoint that was
    cut short by a crash is not seen again. A state is a pytree with a field `step`. Beside it lies a digest
    of each array, by which damage on the disk is found.

    max_to_keep: the newest ones. keep_period: every step that it divides is kept besides; None: none.
    state_fields: how the names of the config's fields begin that can change what arrays a state has.
    read_only: neither saves nor tidies up.
    """

    def __init__(
        self,
        directory: str,
        max_to_keep: int = 3,
        keep_period: int | None = None,
        state_fields: tuple[str, ...] = ("",),
        read_only: bool = False,
    ):
        self.directory = directory
        self._state_fields = state_fields
        if max_to_keep < 1 or (keep_period or 0) < 0:
            raise ValueError(
                "config.checkpoint.max_to_keep must be positive and keep_period not negative, got "
                f"{max_to_keep} and {keep_period}."
            )
        # Every process has the whole state: the first one saves it, and nobody waits for the others.
        read_only = read_only or not is_first()
        mine = jax.process_index()
        if not read_only:
            make_folder(path_of(directory))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            keep_period=keep_period,
            create=False,
            cleanup_tmp_directories=not read_only,  # a run may be saving what others look at
            read_only=read_only,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"process{mine}"
            ),
        )
        self._manager = ocp.CheckpointManager(directory, options=options)
        self._saving: int | None = None
        self._lost: str | None = None  # what is wrong with the newest
        self._unsaved: list[str] = []

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        if not is_first():  # it does not know what the first one has saved
            self._manager.reload()
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All there are, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: Any, progress: Progress, number: int | None = None) -> int:
        """Starts to save a state of NumPy arrays; returns its step. Saves no number twice.

        The first process does. What fails is told by `unsaved`, and by `wait`.

        number: of the checkpoint; None: the state's step.
        """
        self._settle()
        step = int(state.step)
        number = step if number is None else number
        if is_first() and number != self._manager.latest_step():
            beside = dataclasses.asdict(progress) | {"number": number}
            beside |= {"arrays": arrays_of(state), "digests": digests_of(state)}
            beside["digest"] = digest_of_plain(beside)
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(beside))
            self._saving = number
            try:
                if not self._manager.save(number, args=items):
                    raise ValueError("one of a later step is there: move it away")
            except Exception as error:  # of a disk: orbax has many
                self._failed(error)
        return step

    def settled(self) -> bool:
        """Waits for what was started; whether it is on disk."""
        self._settle()
        return self._lost is None

    def unsaved(self) -> list[str]:
        """A line for each save that has failed since the last call. Waits for none."""
        if not self._manager.is_saving_in_progress():
            self._settle()
        found, self._unsaved = self._unsaved, []
        return found

    def _settle(self) -> None:
        """Until what was started is on disk, or has failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # of the thread that saves
            self._failed(error)
        else:
            if self._saving is not None:
                self._saving = self._lost = None

    def _failed(self, error: Exception) -> None:
        step, self._saving = self._saving, None
        if step is None:  # told before
            return
        with contextlib.suppress(Exception):  # what ails the disk may ail this too
            self._manager.reload()
            # It may be what fills the disk.
            for part in epath.Path(self.directory).glob(f"{step}.orbax-checkpoint-tmp*"):
                part.rmtree(missing_ok=True)
        latest = self._manager.latest_step()
        # Without the names of files in files, which orbax has many of.
        why = re.sub(r'"[^"]*"', '"..."', " ".join(str(error).split()))[:300]
        self._lost = (
            f"checkpoint {step} could not be written to {self.directory}: {why.rstrip('.')}. "
            f"The last one is {'none' if latest is None else f'that of step {latest}'}."
        )
        self._unsaved.append(self._lost)

    def _read(self, step: int, **items: Any) -> Any:
        """Items of a checkpoint. Whatever orbax says of what it finds there, the step is named."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            missing = FileNotFoundError, NotADirectoryError, IsADirectoryError
            if isinstance(error, MemoryError | OSError) and not isinstance(error, missing):
                raise  # not the checkpoint's fault: no rights, no connection, no memory
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} cannot be read ({what[:300]})."
            ) from error

    def _beside(self, step: int) -> dict[str, Any]:
        beside = self._read(step, progress=ocp.args.JsonRestore())["progress"]
        missing = {"examples_seen", "config", "arrays"} - set(beside if isinstance(beside, dict) else ())
        if missing:
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} cannot be read (no {', '.join(sorted(missing))})."
            )
        digest = beside.pop("digest", None)
        # Checkpoints of before have none at all.
        if (digest is not None or "digests" in beside) and digest != digest_of_plain(beside):
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} is not what was saved: its progress differs."
            )
        return beside

    def progress(self, step: int) -> Progress:
        """Reads what lies beside the state."""
        beside = self._beside(step)
        # Checkpoints of before have no metrics.
        return Progress(beside["examples_seen"], beside["config"], beside.get("metrics", {}))

    def newest(self, template: Template, config: Mapping[str, Any]) -> Restored | None:
        """The newest checkpoint that can be read, as `restore` gives it; None: there is none at all.

        Raises:
            DamagedCheckpointError: none can be read.
            ValueError: as `restore` does.
        """
        damaged: list[DamagedCheckpointError] = []
        for step in self.steps():
            try:
                return Restored(self.restore(step, template, config), self.progress(step), damaged)
            except DamagedCheckpointError as error:
                damaged.append(error)
        if damaged:
            raise DamagedCheckpointError(
                f"{' '.join(map(str, damaged))} No other is left: take another --workdir, or remove "
                f"{self.directory} to begin anew."
            )
        return None

    def of_step(self, step: int, template: Template, config: Mapping[str, Any]) -> Restored:
        """The checkpoint of a step, which may have been written since this was made. Raises as `restore`."""
        self._manager.reload()
        return Restored(self.restore(step, template, config), self.progress(step), [])

    def set_aside(self, step: int) -> list[str]:
        """Moves the checkpoints after a step out of the way, into a folder of their own; returns where to.

        The first process does.
        """
        self._settle()
        moved = []
        for newer in self.steps():
            if newer > step:
                target = free_name(epath.Path(f"{self.directory}.damaged/{newer}"))
                move_folder(epath.Path(self.directory) / str(newer), target)
                moved.append(str(target))
        self._manager.reload()
        return moved

    def restore(self, step: int, template: Template, config: Mapping[str, Any]) -> Any:
        """The state of a step, as NumPy arrays.

        template: from the checkpoint's config to a state with the shapes and dtypes that it should have
        (jax.eval_shape). config: of this run; it may differ from that of the checkpoint wherever the arrays
        stay the same, as with another attention at the same map.

        Raises:
            DamagedCheckpointError: it cannot be read, or an array is not what was saved.
            ValueError: the arrays differ; names the fields that do.
        """
        beside = self._beside(step)
        wanted = template(beside["config"])
        arrays = config_differences(beside["arrays"], arrays_of(wanted))
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
        saved = self._read(step, state=ocp.args.StandardRestore())["state"]
        try:
            state = filled(wanted, saved)
        except KeyError as error:
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} cannot be read (no {error})."
            ) from error
        # Checkpoints of before are numbered by their step.
        if beside.get("number", int(state.step)) != step:
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} is not what was saved: it has another name, its "
                f"state is of step {int(state.step)}."
            )
        # Checkpoints of before have no digests.
        digests = beside.get("digests", {})
        broken = [name for name, digest in digests_of(state).items() if digests.get(name, digest) != digest]
        if broken:
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} is not what was saved: {len(broken)} arrays differ, "
                f"{broken[0]} for one."
            )
        return state

    def wait(self) -> None:
        """Until what was started is on disk. All processes call it.

        Raises:
            UnsavedError: the newest could not be written.
        """
        self._settle()
        lost = bool(of_first(self._lost is not None))
        if lost:
            what = self._lost or "the first process could not write the last checkpoint: see what it says."
            raise UnsavedError(f"{what} Make room: the same command goes on from there.")

    def close(self) -> None:
        """Waits, and lets go."""
        self._settle()
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
