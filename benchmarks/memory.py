"""Memory of BigGAN's attention, forward+backward, by the compilers of TPUs and of the CPU.

    python -m benchmarks.memory                              # about 4 minutes; wants the extra [tpu]
    python -m benchmarks.memory --tpu=v5e --only=128x128 --json

Peak memory of one core, as the compiler lays it out: no TPU is needed. Beside it what `Method.cost` counts.
Writes memory.md into docs/results/tables/ where all chips and cases are asked for; otherwise it only prints.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

# Read when libtpu is loaded; on a TPU host they keep it from asking for its own topology.
os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks.tables import RESULTS, line, table, tpu_compiler
from smyrf_jax import Canopy, Dense, Method, Smyrf, attention
from smyrf_jax.chips import compiling_for
from training.provenance import header, origin

TOPOLOGIES = {"v3": "v3:2x2", "v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}


class Case(NamedTuple):
    """Pooled self-attention of BigGAN on CelebA-HQ: a key for four queries, one head.

    canopy: as in configs/celeba*_canopy.py.
    """

    batch: int
    queries: int
    canopy: Canopy
    smyrf: Smyrf = Smyrf(num_hashes=4, cluster_size=2048)

    @property
    def keys(self) -> int:
        return self.queries // 4


WIDTH, VALUE_WIDTH = 12, 48
CASES = {
    "128x128, batch 4": Case(4, 128**2, Canopy(1, 1024, 16)),
    "256x256, batch 1": Case(1, 256**2, Canopy(1, 1024, 4)),
}


def compiled(case: Case, method: Method, dtype: Any, device: Any, chip: str) -> Any:
    """The program for the gradients of query, key and value."""

    def shape(length: int, width: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (case.batch, length, 1, width), dtype, sharding=SingleDeviceSharding(device)
        )

    def loss(query, key, value):
        output: Any = attention(query, key, value, method=method, scale=1.0)
        return jnp.sum(output.astype(jnp.float32) ** 2)

    arrays = shape(case.queries, WIDTH), shape(case.keys, WIDTH), shape(case.keys, VALUE_WIDTH)
    with compiling_for(chip) if chip != "cpu" else contextlib.nullcontext():
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()


def rows_of(chips: list[str], only: str) -> Iterator[dict[str, Any]]:
    for chip in chips:
        if chip == "cpu":
            device = jax.devices("cpu")[0]
        else:
            description = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip])
            device = description.devices[0]
        for label, case in CASES.items():
            if only not in label:
                continue
            for dtype in ("float32", "bfloat16"):
                methods = {"dense": Dense(), "clustered": case.smyrf, "canopy": case.canopy}
                row: dict[str, Any] = {"chip": chip, "case": label, "dtype": dtype, "counted": {}}
                for name, method in methods.items():
                    sizes = compiled(case, method, jnp.dtype(dtype), device, chip).memory_analysis()
                    # The CPU's compiler leaves temporary memory out of the peak.
                    row[name] = (
                        sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
                        if chip == "cpu"
                        else sizes.peak_memory_in_bytes
                    )
                    row["counted"][name] = counted(case, method, dtype, chip)
                yield row


def counted(case: Case, method: Method, dtype: str, chip: str) -> int:
    """Bytes that the method's cost counts."""
    return method.cost(
        case.queries,
        case.keys,
        width=WIDTH,
        value_width=VALUE_WIDTH,
        batch=case.batch,
        dtype=dtype,
        lanes=1 if chip == "cpu" else 128,
    ).memory


def cells_of(row: dict[str, Any]) -> list[str]:
    cells = [row["chip"], row["case"], row["dtype"], f"{row['dense'] / 1e9:.3f}"]
    for name in ("clustered", "canopy"):
        part = row[name] / row["dense"]
        cells += [f"{row[name] / 1e9:.3f}", f"{part:.1%}", f"{row['counted'][name] / 1e9:.3f}"]
    return cells


def main(tpu: str | None, only: str, as_json: bool) -> None:
    rows = []
    for row in rows_of([tpu] if tpu else [*TOPOLOGIES, "cpu"], only):
        rows.append(row)
        if not as_json:
            print(line(cells_of(row)), flush=True)
    if as_json:
        print(json.dumps(rows))
    if as_json or tpu or only:
        return
    titles = ["", "", "", "dense", "SMYRF", "of dense", "counted", "canopy", "of dense", "counted"]
    lines = [
        *header(origin(where=tpu_compiler())),
        "Peak memory of one core, GB, by its compiler: BigGAN's attention, forward+backward (16,384 x 4,096",
        "and 65,536 x 16,384 tokens, widths 12 and 48): SMYRF 4 x 2048; canopy as in celeba*_canopy, a tree",
        "with 1024 queries and 16 (4) means a cluster. Counted: by the methods' `cost`.",
        "",
        *table(titles, map(cells_of, rows)),
    ]
    (RESULTS / "memory.md").write_text("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tpu",
        choices=[*TOPOLOGIES, "cpu"],
        help="this one only, and write no file; default: all, and the CPU",
    )
    parser.add_argument("--only", default="", help="cases whose name contains this; write no file")
    parser.add_argument("--json", action="store_true", help="print rows of JSON; write no file")
    flags = parser.parse_args()
    main(flags.tpu, flags.only, flags.json)
