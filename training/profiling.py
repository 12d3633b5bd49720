"""A trace of some steps, for TensorBoard or Perfetto: --profile=10:15."""

import re
from typing import Any

import jax
from absl import flags

from training.files import is_remote, path_of
from training.processes import is_first, say

_PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "steps to trace, first:last, into profile/ of the workdir, for TensorBoard and Perfetto.",
)


class Profile:
    """Traces the steps from `first` to `last`, in the first process; None: none."""

    def __init__(self, steps: tuple[int, int] | None, workdir: str):
        self._steps, self._running, self._traced = steps if is_first() else None, False, False
        self._folder = str(path_of(workdir) / "profile")
        if self._steps is not None and is_remote(self._folder):
            raise ValueError("--profile writes to disks alone: take a --workdir without gs:// for it.")

    @classmethod
    def of_flags(cls, workdir: str) -> "Profile":
        """What --profile says.

        Raises:
            ValueError: it is not first:last.
        """
        given = _PROFILE.value if flags.FLAGS.is_parsed() else None
        if given is None:
            return cls(None, workdir)
        match = re.fullmatch(r"([0-9]+):([0-9]+)", given)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--profile should be first:last, steps from 1 on such as 10:15, got {given!r}.")
        return cls((int(match[1]), int(match[2])), workdir)

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._steps is not None and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = self._traced = True

    def after(self, step: int, results: Any) -> None:
        """To be called after each step, with what it computes."""
        if self._running and self._steps is not None and step >= self._steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._steps is not None and not self._traced:
            say(f"Not traced: the run came by none of the steps {self._steps[0]} to {self._steps[1]}.")
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            say(f"Traced: {self._folder} (tensorboard --logdir={self._folder}, or ui.perfetto.dev).")
