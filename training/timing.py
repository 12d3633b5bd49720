"""Contenders that take turns."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Step = Callable[[], Any]


def medians(steps: Mapping[str, Step], seconds: float) -> dict[str, float]:
    """Median seconds of each step; they take turns for about so many seconds in all, three times at least.

    The order is drawn anew each turn, and a step under a second is run once more before it is timed: what ran
    before it has emptied the caches and given its memory back, which is not its fault.
    """
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    start, turns = time.perf_counter(), 0
    while turns < 4 or (turns < 50 and time.perf_counter() - start < seconds):
        for name in order.sample(list(steps), len(steps)):
            step = steps[name]
            if not times[name] or times[name][-1] < 1:
                step()
            before = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - before)
        turns += 1
    return {name: statistics.median(values[1:]) for name, values in times.items()}
