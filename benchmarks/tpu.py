"""Cycles of attention on a TPU core, by the final schedule of the TPU's compiler. No TPU is needed.

    python -m benchmarks.tpu                # an hour or two on two cores; wants the extra [tpu]
    python -m benchmarks.tpu --chips=v5e --only="12 heads, 4096"

Forward and backward: BigGAN's attention in float32, and 12 heads of width 64 in bfloat16 at 1,024 to 65,536
tokens, for dense attention by XLA, JAX's flash and splash attention for TPUs with the best of a few block
sizes, and the methods of smyrf_jax. `launch.schedule` says how cycles are read and what they leave out. Rows
are kept in docs/results/tables/tpu.jsonl, and not measured again before --anew; tpu.md and tpu.png show all.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.fitting import Sample, cost_of_pairs_and_rows, in_words
from benchmarks.tables import RESULTS, newest, table, tpu_compiler
from benchmarks.tpu_methods import SHORT, function_of
from launch import schedule
from training.provenance import header, origin, picture_metadata

TOPOLOGIES = {"v3": "v3:2x2", "v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}
CHIPS = ["v3", "v5e", "v6e"]
LENGTHS = [4096, 65536, 16384, 1024, 2048, 8192, 32768]  # in the order of their weight
# Dense attention by XLA has all logits in memory: no core holds more than these.
LONGEST_DENSE = 8192
# Where dense attention may be faster: `smyrf_attention(implementation="auto")` goes by what is fitted here.
SHORT_LENGTHS = [256, 512, 1024, 2048]
CAUSAL_LENGTHS = [8192, 32768]
BLOCKS = (256, 512, 1024)
# Methods of the plot.
LINES = (
    "dense",
    "flash, default blocks",
    "flash",
    "splash",
    "smyrf 2 x 64",
    "canopy",
    "scatterbrain",
    "performer",
    "local",
)


class Case(NamedTuple):
    """What is measured. name: of the problem; method: a key of `methods`."""

    name: str
    method: str
    batch: int
    num_queries: int
    num_keys: int
    heads: int
    width: int
    value_width: int
    dtype: str


def cases() -> Iterator[Case]:
    for name, batch, length in (("128x128, batch 4", 4, 128**2), ("256x256, batch 1", 1, 256**2)):
        for method in ("dense", "smyrf 4 x 2048", "canopy gan"):
            yield Case(name, method, batch, length, length // 4, 1, 12, 48, "float32")
    for method in ("flash, default blocks", "flash", "splash", "smyrf 4 x 128", "canopy"):
        yield Case("4 heads, 16384", method, 1, 16384, 16384, 4, 64, 64, "bfloat16")
    for length in LENGTHS:
        for method in LINES:
            if method != "dense" or length <= LONGEST_DENSE:
                yield Case(f"12 heads, {length}", method, 1, length, length, 12, 64, 64, "bfloat16")
    for length in CAUSAL_LENGTHS:
        for method in ("splash, causal", "causal canopy"):
            yield Case(f"12 heads, {length}", method, 1, length, length, 12, 64, 64, "bfloat16")
    yield Case("12 heads, 4096", "smyrf 2 x 64, masked", 1, 4096, 4096, 12, 64, 64, "bfloat16")
    for length in SHORT_LENGTHS:
        for method in ("dense", *settings_of(length)):
            if length not in LENGTHS or method not in LINES:
                yield Case(f"12 heads, {length}", method, 1, length, length, 12, 64, 64, "bfloat16")


def settings_of(length: int) -> dict[str, tuple[int, int]]:
    """SMYRF's rounds and cluster sizes, of several clusters."""
    return {name: numbers for name, numbers in SHORT.items() if numbers[1] < length}


def compile_one(case: Case, chip: str, block: int | None, folder: str) -> None:
    """Writes the program's text, and its memory, into a folder. In a process of its own: see `measure`."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from smyrf_jax.chips import compiling_for

    device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip]).devices[0]
    where = SingleDeviceSharding(device)
    shapes = (
        (case.batch, case.num_queries, case.heads, case.width),
        (case.batch, case.num_keys, case.heads, case.width),
        (case.batch, case.num_keys, case.heads, case.value_width),
    )
    arrays = [jax.ShapeDtypeStruct(shape, jnp.dtype(case.dtype), sharding=where) for shape in shapes]
    attend = function_of(case, block)

    def loss(query: Any, key: Any, value: Any) -> Any:
        return jnp.sum(attend(query, key, value).astype(jnp.float32) ** 2)

    with compiling_for(chip):
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()
    with open(os.path.join(folder, "program"), "w") as file:
        file.write(str(compiled.as_text()))
    with open(os.path.join(folder, "memory"), "w") as file:
        memory: Any = compiled.memory_analysis()
        file.write(str(memory.peak_memory_in_bytes))


def measure(case: Case, chip: str, block: int | None = None) -> dict[str, Any]:
    """A row of results; `error` where the compiler gives none."""
    with tempfile.TemporaryDirectory() as folder:
        dumps = os.path.join(folder, "dumps")
        os.mkdir(dumps)
        command = [
            sys.executable,
            "-m",
            "benchmarks.tpu",
            "--compile",
            json.dumps([case, chip, block, folder]),
        ]
        environment = os.environ | schedule.environment(dumps)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        row: dict[str, Any] = {**case._asdict(), "chip": chip, "block": block}
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return row | {
                "error": next((line for line in lines if "RESOURCE_EXHAUSTED" in line), lines[-1])[:200]
            }
        with open(os.path.join(folder, "program")) as file:
            found = schedule.read(file.read(), dumps, chip)
        with open(os.path.join(folder, "memory")) as file:
            memory = int(file.read())
    kinds = {kind: found.kinds()[kind] for kind in ("sort", "gather", "scatter", "kernel", "rest")}
    return row | {
        "cycles": found.cycles,
        "milliseconds": found.seconds * 1e3,
        "memory": memory,
        "unknown": len(found.unknown),
        **kinds,
    }


def best(case: Case, chip: str) -> dict[str, Any]:
    """The row of the best blocks, for kernels that want them."""
    if case.method not in ("flash", "splash", "splash, causal"):
        return measure(case, chip)
    # Blocks that suit one length suit the others.
    blocks = BLOCKS if case.num_queries == 4096 else (1024,) if case.num_queries > 4096 else (512,)
    rows = [measure(case, chip, block) for block in blocks]
    return min(rows, key=lambda row: row.get("cycles", math.inf))


def cells_of(row: dict[str, Any]) -> list[str]:
    head = [row["chip"], row["name"], row["method"]]
    if "error" in row:
        return [*head, "does not compile", "", "", "", "", "", ""]
    parts = [f"{row[kind] / row['cycles']:.0%}" for kind in ("sort", "gather", "kernel", "rest")]
    return [
        *head,
        f"{row['cycles'] / 1e6:.2f}",
        f"{row['milliseconds']:.2f}",
        *parts,
        f"{row['memory'] / 1e6:,.0f}",
    ]


def exponent(rows: list[dict[str, Any]], chip: str, method: str) -> float | None:
    """Of cycles against length, 4,096 to 65,536 tokens."""
    found = {
        row["num_queries"]: row["cycles"]
        for row in rows
        if row["chip"] == chip and row["method"] == method and row["heads"] == 12 and "cycles" in row
    }
    if 4096 not in found or 65536 not in found:
        return None
    return math.log(found[65536] / found[4096], 16)


def costs_of_rows(rows: list[dict[str, Any]], chip: str) -> tuple[float, float] | None:
    """What a pair and a row of SMYRF's cost, where dense attention was measured too."""
    rows = [row for row in rows if row["chip"] == chip and "cycles" in row]
    dense = {row["name"]: row["cycles"] for row in rows if row["method"] == "dense"}
    samples = []
    for row in rows:
        if not row["method"].startswith("smyrf") or "," in row["method"] or row["name"] not in dense:
            continue
        rounds, size = map(int, row["method"].removeprefix("smyrf ").split(" x "))
        num_queries, num_keys = row["num_queries"], row["num_keys"]
        part = row["cycles"] / dense[row["name"]]
        samples.append(
            Sample(num_queries * num_keys, rounds * size * num_keys, rounds * (num_queries + num_keys), part)
        )
    return cost_of_pairs_and_rows(samples) if len(samples) > 2 else None


def write(rows: list[dict[str, Any]]) -> None:
    made = newest(rows)
    titles = ["", "", "", "M cycles", "ms", "sort", "gather", "kernels", "rest", "MB"]
    order = [(case.name, case.method) for case in cases()]
    rows = sorted(rows, key=lambda row: (row["chip"], order.index((row["name"], row["method"]))))
    lines = [
        *header(made),
        "Attention, forward and backward, on one TPU core, by the final schedule of the TPU's compiler:",
        "nothing ran on a TPU. BigGAN's shapes in float32 (widths 12 and 48, a key for four queries), heads",
        "of width 64 in bfloat16. canopy gan: as in celeba*_canopy. flash, splash: JAX's kernels for TPUs,",
        "the best of blocks of 256 to 1024, where not their default. Left out: waiting for memory inside",
        "gathers, sorts, kernels.",
        "MB: peak memory. tpu.jsonl says when each row was measured. What is not here was not run.",
        "",
        *table(titles, map(cells_of, rows)),
        "",
        "Cycles grow with length, 4,096 to 65,536 tokens, 12 heads, as length to the power of:",
        "",
    ]
    methods = list(dict.fromkeys(row["method"] for row in rows if row["heads"] == 12))
    chips = list(dict.fromkeys(row["chip"] for row in rows))
    every, methods = methods, [of for of in methods if any(exponent(rows, chip, of) for chip in chips)]
    powers = {(chip, method): exponent(rows, chip, method) for chip in chips for method in methods}
    lines += table(
        ["", *chips],
        (
            [
                method,
                *("" if powers[chip, method] is None else f"{powers[chip, method]:.2f}" for chip in chips),
            ]
            for method in methods
        ),
    )
    for chip in chips:
        costs = costs_of_rows(rows, chip)
        if costs is not None:
            lines += ["", f"SMYRF on {chip}. {in_words(costs)}"]
    (RESULTS / "tpu.md").write_text("\n".join(lines) + "\n")
    draw(rows, chips, [name for name in every if name in LINES], made)


def draw(rows: list[dict[str, Any]], chips: list[str], methods: list[str], made: dict[str, str]) -> None:
    """made: the origin that the picture tells."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(chips), figsize=(5 * len(chips) + 2, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for chip, axis in zip(chips, axes[0], strict=True):
        for number, method in enumerate(methods):
            of = [row for row in rows if (row["chip"], row["method"], row["heads"]) == (chip, method, 12)]
            of = sorted((row for row in of if "cycles" in row), key=lambda row: row["num_queries"])
            if not of:
                continue
            axis.plot(
                [row["num_queries"] for row in of],
                [row["cycles"] / 1e6 for row in of],
                ".-",
                color=f"C{number}",
                label=method,
            )
        axis.set(xscale="log", yscale="log", title=chip, xlabel="tokens, 12 heads of width 64")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("M cycles, forward and backward")
    fullest = max(axes[0], key=lambda axis: len(axis.lines))
    figure.legend(*fullest.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(RESULTS / "tpu.png", dpi=110, metadata=picture_metadata(made))
    plt.close(figure)


def main(chips: list[str], only: str, anew: bool) -> None:
    kept = RESULTS / "tpu.jsonl"
    rows: list[dict[str, Any]] = []
    if kept.exists() and not anew:
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
    done = {(row["chip"], row["name"], row["method"]) for row in rows}
    for case in cases():
        for chip in chips:
            if only not in f"{case.name}, {case.method}" or (chip, case.name, case.method) in done:
                continue
            if chip == "v3" and case.method.startswith(("flash", "splash")):
                continue  # they multiply bfloat16, which v3's kernels cannot
            rows.append(best(case, chip) | {"origin": origin(where=tpu_compiler())})
            print("  ".join(cells_of(rows[-1])), flush=True)
            kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", default=",".join(CHIPS), help="of v3, v4, v5e, v6e")
    parser.add_argument("--only", default="", help="problems and methods that contain this")
    parser.add_argument("--anew", action="store_true", help="forget what was measured before")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.compile:
        fields, chip, block, folder = json.loads(flags.compile)
        compile_one(Case(*fields), chip, block, folder)
    else:
        main(flags.chips.split(","), flags.only, flags.anew)
