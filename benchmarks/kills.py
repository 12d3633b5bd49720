"""Ends runs at random moments, again and again, and compares them with a run that nobody disturbed.

    python -m benchmarks.kills              # a quarter of an hour; extra [test]
    python -m benchmarks.kills --single=5 --paired=2

The task costs nothing but its state: it saves after every step, so that most moments are within a save. Runs
are one process, or two that meet on loopback. Each end is SIGKILL, or SIGTERM, on one process or on all; then
all are started anew. Writes kills.md into docs/results/tables/.
"""

import argparse
import pathlib
import random
import signal
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks.tables import RESULTS, table
from tests.training.many import ended, start
from tests.training.numbers import State, rows
from training.provenance import header
from training.restoring import restore

# Two processes agree on each save, which takes a second on loopback.
STEPS, WIDTH = {1: 60, 2: 20}, 300_000
FLAGS = (f"--width={WIDTH}", "--every=1", "--seconds=0.05")


def begin(workdir: pathlib.Path, processes: int) -> Any:
    return start(
        "tests.training.numbers",
        processes,
        2 // processes,
        *FLAGS,
        f"--num_steps={STEPS[processes]}",
        f"--workdir={workdir}",
    )


def end_of(workdir: pathlib.Path) -> tuple[Any, list[dict[str, float]]]:
    template = jax.eval_shape(lambda: State(np.zeros((), np.int32), np.ones(WIDTH, np.float32)))
    return restore(str(workdir), lambda saved: template, {}), rows(workdir)


def holds(workdir: pathlib.Path, process: Any) -> bool:
    lock = workdir / "run.lock"
    return lock.exists() and f"process {process.pid} on" in lock.read_text()


def within_a_save(checkpoints: pathlib.Path) -> bool:
    return any(checkpoints.glob("*tmp*"))


def disturbed(workdir: pathlib.Path, processes: int, kills: int, rng: random.Random) -> dict[str, int]:
    """Ends a run so often, then lets it end; counts what it took."""
    counts = {"SIGKILL": 0, "SIGTERM": 0, "of one process": 0, "before its first save": 0, "within a save": 0}
    while counts["SIGKILL"] + counts["SIGTERM"] < kills:
        found = begin(workdir, processes)
        if rng.random() < 0.2:  # while it starts
            time.sleep(rng.uniform(0, 6))
        else:
            while not holds(workdir, found[0]) and found[0].poll() is None:
                time.sleep(0.1)
            time.sleep(rng.uniform(0, 4))
        if any(process.poll() is not None for process in found):
            ended(found, 600)
            break  # it has all its steps
        saved, deadline = workdir / "checkpoints", time.monotonic() + 5 * (rng.random() < 0.5)
        while not within_a_save(saved) and time.monotonic() < deadline:
            time.sleep(0.001)
        which = rng.choice([signal.SIGKILL, signal.SIGTERM])
        one = processes > 1 and rng.random() < 0.3
        while one and not holds(workdir, found[0]) and found[0].poll() is None:
            time.sleep(0.1)  # until they have met: the others would wait five minutes for it
        counts["before its first save"] += not any(saved.glob("[0-9]*"))
        counts["within a save"] += within_a_save(saved)
        for process in [rng.choice(found)] if one else found:
            process.send_signal(which)
        counts[which.name] += 1
        counts["of one process"] += one
        ended(found)
    return counts


def write(kinds: list[str], table_rows: list[list[str]]) -> None:
    titles = ["", "runs", *kinds, "same end, bit by bit"]
    lines = [
        *header(),
        f"Runs of {STEPS[1]} steps (of two processes {STEPS[2]}) that save after each, ended at random",
        "moments and started anew, against one that nobody disturbed: the last state and all rows of",
        "metrics.",
        "",
        *table(titles, table_rows),
    ]
    (RESULTS / "kills.md").write_text("\n".join(lines))


def main(single: int, paired: int) -> None:
    rng = random.Random(0)
    table_rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, processes, kills in (("one process", 1, single), ("two processes", 2, paired)):
            whole = pathlib.Path(folder) / f"whole-{processes}"
            ended(begin(whole, processes), 600)
            expected = end_of(whole)
            counts: dict[str, int] = {}
            runs = same = 0
            while sum(counts.get(kind, 0) for kind in ("SIGKILL", "SIGTERM")) < kills:
                runs += 1
                workdir = pathlib.Path(folder) / f"{processes}-{runs}"
                left = kills - counts.get("SIGKILL", 0) - counts.get("SIGTERM", 0)
                for kind, count in disturbed(workdir, processes, min(10, left), rng).items():
                    counts[kind] = counts.get(kind, 0) + count
                ended(begin(workdir, processes), 600)
                state, its_rows = end_of(workdir)
                alike = np.array_equal(state.values, expected[0].values) and its_rows == expected[1]
                same += alike
                print(
                    f"{name}, run {runs}: {counts}, {'the same end' if alike else 'ANOTHER END'}", flush=True
                )
            table_rows.append([name, str(runs), *map(str, counts.values()), f"{same} of {runs}"])
            write(list(counts), table_rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--single", type=int, default=70, help="ends of runs of one process")
    parser.add_argument("--paired", type=int, default=30, help="ends of runs of two")
    flags = parser.parse_args()
    main(flags.single, flags.paired)
