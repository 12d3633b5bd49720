"""Trains a task: resumes, records, saves and stops."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from training.best import BestCheckpoint
from training.checkpoint import Checkpoints, Progress, Restored, config_differences
from training.files import path_of
from training.processes import is_first, of_first, say
from training.profiling import Profile
from training.restoring import BEST
from training.run import Run
from training.stopping import StopRequest
from training.task import Task
from training.workdir import Workdir
from training.writers import MetricWriter


def train(
    task: Task,
    config: ml_collections.ConfigDict,
    workdir: str,
    devices: Sequence[jax.Device],
    continue_finished: bool = False,
) -> Any:
    """Trains to config.num_steps, from the last checkpoint in workdir if there is one.

    Where several processes train one run, each calls this alike. The first of them writes and speaks.

    Args:
        task: what is trained.
        config: with seed, num_steps, log_every and checkpoint.{every, max_to_keep, keep_period}.
        workdir: checkpoints, metrics.jsonl, config.json, tensorboard/, and what the task leaves. All
            processes see the same folder.
        devices: one replica each, of all processes.
        continue_finished: a run that has its steps trains config.num_steps more.

    Returns:
        The last state, on the host.

    Raises:
        DamagedCheckpointError: there are checkpoints, and none can be read.
        UnsavedError: the last checkpoint could not be written.
        ValueError: the config does not fit the checkpoint; another run is at work in workdir, or other
            programs' files are in the way there.
        OSError: workdir cannot be written; names it.
        FloatingPointError: a metric is not finite; names the step.
    """
    workdir = str(path_of(workdir))
    # Until all is on disk: what is announced is not lost to a second signal.
    with StopRequest() as stop, _told_to_all(), _explained(workdir), Workdir(workdir) as folder:
        checkpoints = Checkpoints(
            os.path.join(workdir, "checkpoints"),
            config.checkpoint.max_to_keep,
            config.checkpoint.keep_period or None,
            task.state_fields,
        )
        try:
            state = _train(task, config, folder, devices, checkpoints, continue_finished, stop)
            checkpoints.wait()
            if stop.obeyed:
                say(f"Asked to stop after step {int(state.step)}. The same command continues.")
        finally:  # a save under way is finished also when something failed
            checkpoints.close()
    step = checkpoints.latest_step()
    saved = {} if step is None else {"checkpoint": os.path.join(checkpoints.directory, str(step))}
    if task.best is not None:
        saved[f"checkpoint with the best {task.best.metric}"] = os.path.join(checkpoints.directory, BEST)
    for name, path in (task.results() | saved).items():
        if epath.Path(path).exists():
            say(f"{name}: {path}")
    return state


def _train(
    task: Task,
    config: ml_collections.ConfigDict,
    folder: Workdir,
    devices: Sequence[jax.Device],
    checkpoints: Checkpoints,
    continue_finished: bool,
    stop: StopRequest,
) -> Any:
    workdir = str(folder.path)
    profile = Profile.of_flags(workdir)
    plain = json.loads(config.to_json())
    restored = _newest(checkpoints, task, plain, workdir, devices)
    examples_seen, first = 0, 0
    if restored is not None:
        state = task.adopted(restored.state)
        examples_seen, first = restored.progress.examples_seen, int(state.step)
    if continue_finished and first >= config.num_steps:
        config = config.copy_and_resolve_references()
        config.num_steps += first
        say(f"The run has its steps; trains on to step {config.num_steps}.")
    if first >= config.num_steps:
        profile.close()
        say(f"The run has its {config.num_steps} steps. For more: --config.num_steps={2 * config.num_steps}.")
        if is_first() and not task.is_evaluated(first):
            # It was cut after its last checkpoint.
            with MetricWriter(workdir, first) as last_writer, _kept_best(task, checkpoints, plain) as keeper:
                metrics = task.evaluate(state, last_writer, True)
                if keeper is not None:
                    keeper.offer(state, Progress(examples_seen, plain), metrics)
                    for message in keeper.unsaved():
                        say(f"NOT SAVED: {message}")
        return state
    # The data before the compilation: a wrong path is told at once.
    data = task.batches(examples_seen)
    if restored is None:
        state = task.first_state()
    with contextlib.ExitStack() as stack:
        writer: MetricWriter | None = None
        if is_first():
            folder.write_config(plain)
            writer = stack.enter_context(MetricWriter(workdir, first))
            writer.write_config(plain)
        best = stack.enter_context(_kept_best(task, checkpoints, plain))
        stack.callback(profile.close)
        run = Run(
            task,
            devices,
            checkpoints,
            best,
            data,
            writer,
            profile,
            Progress(examples_seen, plain),
            seed=config.seed,
            num_steps=config.num_steps,
            log_every=config.log_every,
            save_every=config.checkpoint.every,
        )
        return run(state, stop)


@contextlib.contextmanager
def _kept_best(
    task: Task, checkpoints: Checkpoints, config: dict[str, Any]
) -> Iterator[BestCheckpoint | None]:
    """What keeps the best checkpoint, in the first process, if the task has one."""
    if not is_first() or task.best is None:
        yield None
        return
    keeper = BestCheckpoint(os.path.join(checkpoints.directory, BEST), task.best, config)
    try:
        yield keeper
    finally:
        keeper.close()


# Steps that are none.
_NONE, _FAILED = -1, -2


@contextlib.contextmanager
def _told_to_all() -> Iterator[None]:
    """Where there are several processes, says what failed at once: what follows may wait for the others."""
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1:
            say(
                f"Failed with {type(error).__name__}: {str(error)[:300]}\nIf another process died, JAX "
                "names it within a minute and ends this one. Start all processes again: the run goes on "
                "from its last checkpoint.",
                every_process=True,
            )
        raise


@contextlib.contextmanager
def _explained(workdir: str) -> Iterator[None]:
    """Says what to do about errors of the disk."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) or error.errno not in _OF_DISKS:
            raise
        named = epath.Path(os.fspath(error.filename or workdir))
        folder = epath.Path(workdir)
        if folder not in (named, *named.parents) and named not in folder.parents:
            raise
        raise OSError(
            error.errno,
            f"{error.strerror}. --workdir={workdir} cannot be written: make room or give rights, and the "
            "same command goes on from the last checkpoint; or take another folder",
            error.filename,
        ) from error


_OF_DISKS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
}


def _newest(
    checkpoints: Checkpoints,
    task: Task,
    config: dict[str, Any],
    workdir: str,
    devices: Sequence[jax.Device],
) -> Restored | None:
    """What the run goes on from, and says so; what is damaged is set aside.

    The first process finds it, and the others take the same: it may have waited for the folder, and they not.
    """

    def template(saved: Mapping[str, Any]) -> Any:
        return jax.eval_shape(lambda: task.saved_state(saved))

    where = f"{len(devices)} x {devices[0].device_kind}"
    if jax.process_count() > 1:
        where += f" of {jax.process_count()} processes"
    restored: Restored | None = None
    failed: Exception | None = None
    step = _NONE
    if is_first():
        try:
            restored = checkpoints.newest(template, config)
            step = _NONE if restored is None else int(restored.state.step)
        except Exception as found:
            failed, step = found, _FAILED
    step = of_first(step)
    if failed is not None:
        raise failed
    if step == _FAILED:
        raise RuntimeError("the first process could not read the checkpoints: see what it says.")
    if step != _NONE and not is_first():
        restored = checkpoints.of_step(step, template, config)
    if restored is None:
        say(f"A new run in {workdir} on {where}.")
        return None
    for error in restored.damaged:
        say(f"DAMAGED: {error}")
    if restored.damaged:
        moved = ", ".join(checkpoints.set_aside(step))
        say(f"DAMAGED: what came after step {step} is lost. It is kept in {moved}.")
    say(f"Continues {workdir} at step {step} on {where}.")
    for name, saved, now in config_differences(restored.progress.config, config):
        if name.startswith(task.start_fields):
            say(f"  config.{name} is {now!r} now, but counts at the start of a run alone.")
        else:
            say(f"  config.{name} was {saved!r}, is {now!r} from here on.")
    return restored
