"""The wish of somebody outside that a run ends."""

import signal
from typing import Any


class StopRequest:
    """What the process is asked from outside (SIGTERM, Ctrl-C): to save and leave.

    requested: of this process. obeyed: the run has ended for it, or for the wish of another process.
    """

    def __init__(self) -> None:
        self.requested = self.obeyed = False
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C
        self.requested = True

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
