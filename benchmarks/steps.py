"""Whole training steps of the configs on TPU slices, by the TPU's compiler. No TPU is needed.

    python -m benchmarks.steps       # 3 to 12 minutes a step of v3, 17 of v5e; extra [tpu]
    python -m benchmarks.steps --only="celeba128_smyrf on v3"

Each is what `launch.aot_check` says of it. Rows are kept in docs/results/tables/steps.jsonl, each with its
origin, and not measured again before --anew; steps.md shows all.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.tables import RESULTS, newest, table, tpu_compiler
from training.provenance import header, origin

TOPOLOGIES = ("v3:2x2", "v5e:2x4")  # eight cores each
CONFIGS = ("celeba128_smyrf", "celeba128_dense64", "celeba128_canopy", "celeba256_smyrf", "celeba256_canopy")
HALF = "celeba128_smyrf in bfloat16"


def measure(name: str, topology: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "launch.aot_check", "--json", f"--topology={topology}"]
    command.append(f"--config=configs/{name.split()[0]}.py")
    if name == HALF:
        command.append("--config.dtype=bfloat16")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"config": name} | found


def write(rows: list[dict[str, Any]]) -> None:
    order = (*CONFIGS, HALF)
    made = newest(rows)
    rows = sorted(rows, key=lambda row: (row["topology"], order.index(row["config"])))
    titles = ["", "", "M cycles", "ms", "images a second", "attention", "peak, GiB a core", "compiled in"]
    lines = [
        *header(made),
        "A whole training step on eight TPU cores, by the final schedule of the TPU's compiler: nothing ran",
        "on a TPU. Left out: waiting for memory inside gathers, sorts and kernels, and for other cores. What",
        "is not here was not run. steps.jsonl says when each row was measured.",
        "",
        *table(
            titles,
            (
                [
                    row["topology"],
                    row["config"],
                    f"{row['cycles'] / 1e6:.0f}",
                    f"{row['milliseconds']:.0f}",
                    f"{row['images_per_second']:.0f}",
                    f"{row['attention']:.0%}",
                    f"{row['peak_gib']:.2f}",
                    f"{row['compile_seconds']} s",
                ]
                for row in rows
            ),
        ),
    ]
    (RESULTS / "steps.md").write_text("\n".join(lines) + "\n")


def main(only: str, anew: bool) -> None:
    kept = RESULTS / "steps.jsonl"
    rows: list[dict[str, Any]] = []
    if kept.exists() and not anew:
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
    done = {(row["config"], row["topology"]) for row in rows}
    for name in (*CONFIGS, HALF):
        for topology in TOPOLOGIES:
            if only not in f"{name} on {topology}" or (name, topology) in done:
                continue
            rows.append(measure(name, topology) | {"origin": origin(where=tpu_compiler())})
            print(rows[-1], flush=True)
            kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="configs and slices that contain this")
    parser.add_argument("--anew", action="store_true", help="forget what was measured before")
    flags = parser.parse_args()
    main(flags.only, flags.anew)
