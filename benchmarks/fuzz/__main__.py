"""The command: see `benchmarks.fuzz`."""

import argparse
import collections
import sys
import time

import jax
import numpy as np

import benchmarks.fuzz
from benchmarks.fuzz.checks import check, looked_at
from benchmarks.fuzz.programs import program, quickly
from benchmarks.fuzz.refusals import refused
from benchmarks.fuzz.settings import setting_by_chance
from smyrf_jax.methods import METHODS

CASES_A_SETTING = 50


def main(seconds: float, cases: int | None, seed: int, names: list[str]) -> int:
    """Tries cases until the time or their number is up. Returns the number of faults."""
    start, number, index = time.monotonic(), 0, 0
    of_kind: collections.Counter[str] = collections.Counter()
    of_method: collections.Counter[str] = collections.Counter()

    def done() -> bool:
        return time.monotonic() - start > seconds or (cases is not None and number >= cases)

    while not done():
        setting = setting_by_chance(np.random.default_rng([seed, index]), names)
        name = type(setting.method).__name__.lower()
        shown: set[str] = set()
        for case in range(CASES_A_SETTING):
            if done():
                break
            faults = refused((seed, index, case), name) if case == 0 else check(setting, (seed, index, case))
            number, of_method[name] = number + 1, of_method[name] + 1
            for fault in faults:
                of_kind[fault.kind] += 1
                if fault.kind in shown:
                    continue
                shown.add(fault.kind)
                again = f"refused({(seed, index, case)}, '{name}')"
                if case:
                    again = f"show({setting!r}, {seed}, {index}, {case})"
                print(f'\n{fault.kind}: {fault.what}\npython -c "from benchmarks.fuzz import *; {again}"')
                sys.stdout.flush()
        index += 1
        program.cache_clear()
        if index % 10 == 0:
            jax.clear_caches()
            print(f"# {number} cases, {index} settings, {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(f"\n{number} cases of {index} settings in {time.monotonic() - start:.0f} s: {dict(of_method)}")
    print(f"Checks: {dict(looked_at)}")
    print(f"{sum(of_kind.values())} faults: {dict(of_kind)}")
    return sum(of_kind.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(benchmarks.fuzz.__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="stop after so long")
    parser.add_argument("--cases", type=int, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--method", choices=sorted(METHODS), action="append", help="only this one (or these)")
    flags = parser.parse_args()
    with quickly():
        sys.exit(main(flags.seconds, flags.cases, flags.seed, flags.method or sorted(METHODS)) > 0)
