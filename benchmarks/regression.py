"""Is it slower or larger than another commit? Both in one run, taking turns.

    python -m benchmarks.regression --against=HEAD~1         # about 5 minutes

Each side is a process of its own that imports smyrf_jax from its tree: this one, and a checkout of the
commit in a temporary folder. Prints the median of forward and of forward+backward on this machine, and the
temporary memory by the compiler, with their ratios; writes no file.
"""

import argparse
import functools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import smyrf_jax
from smyrf_jax import Canopy, Method, Smyrf

ROOT = pathlib.Path(__file__).parent.parent


class Case(NamedTuple):
    """Of batch 1."""

    heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    method: Method


CASES = {
    "SMYRF, 12 heads, 4096 x 64, 2 x 64": Case(12, 4096, 4096, 64, 64, Smyrf(2, 64)),
    "SMYRF, 4 heads, 16,384 x 64, 4 x 128": Case(4, 16384, 16384, 64, 64, Smyrf(4, 128)),
    "SMYRF, BigGAN at 128x128, 4 x 2048": Case(1, 16384, 4096, 12, 48, Smyrf(4, 2048)),
    "canopy, 12 heads, 2048 x 32, 1 x 128, 16 means": Case(12, 2048, 2048, 32, 32, Canopy(1, 128, 16)),
    "canopy, 4 heads, 16,384 x 64, 1 x 256, 8 means": Case(4, 16384, 16384, 64, 64, Canopy(1, 256, 8)),
    "canopy, 12 heads, 2048 x 32, 4 x 32, 2 means": Case(12, 2048, 2048, 32, 32, Canopy(4, 32, 2)),
}


def serve() -> None:
    """A side: reads a case and a kind in each line, and answers with seconds and bytes."""
    assert str(pathlib.Path(smyrf_jax.__file__)).startswith(os.getcwd()), smyrf_jax.__file__

    @functools.lru_cache
    def program(label: str, kind: str) -> tuple[Callable[[], Any], int]:
        case = CASES[label]
        rngs = jax.random.split(jax.random.key(1), 3)
        sizes = (case.queries, case.width), (case.keys, case.width), (case.keys, case.value_width)
        arrays = [
            jax.random.normal(rng, (1, length, case.heads, width))
            for rng, (length, width) in zip(rngs, sizes, strict=True)
        ]
        attend: Callable[..., Any] = functools.partial(smyrf_jax.attention, method=case.method)
        run = attend
        if kind != "forward":
            run = jax.grad(lambda *arrays: jnp.sum(attend(*arrays) ** 2), argnums=(0, 1, 2))
        compiled = jax.jit(run).lower(*arrays).compile()
        memory: Any = compiled.memory_analysis()
        return lambda: jax.block_until_ready(compiled(*arrays)), memory.temp_size_in_bytes

    for request in sys.stdin:
        label, kind = json.loads(request)
        run, size = program(label, kind)
        run()  # what ran before it has emptied the caches
        before = time.perf_counter()
        run()
        print(json.dumps([time.perf_counter() - before, size]), flush=True)


class Side:
    """A process that serves from a tree."""

    def __init__(self, tree: pathlib.Path):
        # This file by its path, and smyrf_jax from the tree alone.
        command = [sys.executable, __file__, "--serve"]
        environment = os.environ | {"PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tree, env=environment
        )
        self.bytes: dict[tuple[str, str], int] = {}

    def __call__(self, label: str, kind: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([label, kind]) + "\n")
        self.process.stdin.flush()
        seconds, self.bytes[label, kind] = json.loads(self.process.stdout.readline())
        return seconds


def main(against: str, only: str, turns: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", against, "smyrf_jax"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        sides = {"before": Side(pathlib.Path(folder)), "now": Side(ROOT)}
        order = random.Random(0)
        print(f"| | | before ({against}), ms | now, ms | now / before | memory, MB | now / before |")
        print("|---|---|---|---|---|---|---|")
        for label in (label for label in CASES if only in label):
            for kind in ("forward", "forward+backward"):
                times: dict[str, list[float]] = {name: [] for name in sides}
                for _ in range(turns):
                    for name in order.sample(list(sides), 2):
                        times[name].append(sides[name](label, kind))
                before, now = (statistics.median(times[name][1:]) for name in sides)
                memory = [side.bytes[label, kind] / 1e6 for side in sides.values()]
                print(
                    f"| {label} | {kind} | {1e3 * before:.1f} | {1e3 * now:.1f} | {now / before:.2f} | "
                    f"{memory[1]:.1f} | {memory[1] / memory[0]:.2f} |",
                    flush=True,
                )
        for side in sides.values():
            assert side.process.stdin is not None
            side.process.stdin.close()
            side.process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD~1", help="the commit to compare with")
    parser.add_argument("--only", default="", help="cases that contain this")
    parser.add_argument("--turns", type=int, default=15, help="of each side in each case")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        serve()
    else:
        main(flags.against, flags.only, flags.turns)
