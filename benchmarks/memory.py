"""Memory of BigGAN's attention, forward+backward, by the compilers of TPUs and of the CPU.

    python -m benchmarks.memory                              # about 5 minutes; wants the extra [tpu]
    python -m benchmarks.memory --tpu=v5e --only=128x128 --json

Peak memory of one core, as the compiler lays it out: no TPU is needed. For v3 also the compiler's own
estimate of the time; it counts the body of a loop once, so the body is found by compiling the loop
unrolled twice, and counted as often as it runs. Writes memory.md into benchmarks/results/.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
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

from smyrf_jax import Clustering, canopy_attention, dense_attention, smyrf_attention
from smyrf_jax.budget import cost
from smyrf_jax.steps import steps_of

RESULTS = pathlib.Path(__file__).parent / "results"
TOPOLOGIES = {"v3": "v3:2x2", "v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}


class Case(NamedTuple):
    """Pooled self-attention of BigGAN on CelebA-HQ: a key for four queries, widths 12 and 48, one head."""

    batch: int
    queries: int
    num_hashes: int = 4
    cluster_size: int = 2048
    width: int = 12
    value_width: int = 48
    means_per_cluster: int = 16  # of canopy's one tree with 1024 queries a cluster


CASES = {
    "128x128, batch 4": Case(4, 128**2),
    "256x256, batch 1": Case(1, 256**2, means_per_cluster=4),
}


def compiled(case: Case, attend: Callable[..., Any], dtype: Any, device: Any) -> Any:
    """The program for the gradients of query, key and value."""

    def shape(length: int, width: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (case.batch, length, 1, width), dtype, sharding=SingleDeviceSharding(device)
        )

    def loss(query, key, value):
        return jnp.sum(attend(query, key, value, scale=1.0).astype(jnp.float32) ** 2)

    keys = case.queries // 4
    arrays = shape(case.queries, case.width), shape(keys, case.width), shape(keys, case.value_width)
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()


def attentions(case: Case) -> dict[str, Callable[..., Any]]:
    clustered = functools.partial(
        smyrf_attention,
        rng=jax.random.key(0),
        num_hashes=case.num_hashes,
        cluster_size=case.cluster_size,
    )
    canopy = functools.partial(
        canopy_attention,
        rng=jax.random.key(0),
        num_hashes=1,
        cluster_size=1024,
        means_per_cluster=case.means_per_cluster,
    )
    return {"dense": dense_attention, "clustered": clustered, "canopy": canopy}


@contextlib.contextmanager
def unrolled(times: int) -> Iterator[None]:
    scan = jax.lax.scan
    jax.lax.scan = functools.partial(scan, unroll=times)
    try:
        yield
    finally:
        jax.lax.scan = scan


def estimated_seconds(case: Case, device: Any) -> dict[str, float]:
    """The TPU compiler's estimate of the time, loops in full."""

    def seconds(name: str, unroll: int) -> float:
        with unrolled(unroll):
            program = compiled(case, attentions(case)[name], jnp.float32, device)
        return program.cost_analysis()["optimal_seconds"]

    once, twice = (seconds("clustered", unroll) for unroll in (1, 2))
    orders = [
        jax.ShapeDtypeStruct((1, case.num_hashes, case.queries // case.cluster_size, size), jnp.int32)
        for size in (case.cluster_size, case.cluster_size // 4)
    ]
    steps = jax.eval_shape(
        lambda *orders: steps_of(Clustering(*orders), case.queries, case.queries // 4, 1, case.batch),
        *orders,
    ).queries.shape[0]
    return {"dense": seconds("dense", 1), "clustered": once + (steps - 1) * (twice - once)}


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
                row: dict[str, Any] = {"chip": chip, "case": label, "dtype": dtype}
                for name, attend in attentions(case).items():
                    program = compiled(case, attend, jnp.dtype(dtype), device)
                    sizes = program.memory_analysis()
                    # The CPU's compiler leaves temporary memory out of the peak.
                    row[name] = (
                        sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
                        if chip == "cpu"
                        else sizes.peak_memory_in_bytes
                    )
                counted = cost(
                    case.queries,
                    case.queries // 4,
                    dtype=dtype,
                    lanes=1 if chip == "cpu" else 128,
                    **settings(case),
                )
                row["counted"] = counted.memory
                if chip == "v3" and dtype == "float32":
                    row["seconds"] = estimated_seconds(case, device)
                yield row


def settings(case: Case) -> dict[str, Any]:
    names = ("batch", "num_hashes", "cluster_size", "width", "value_width")
    return {name: getattr(case, name) for name in names}


def main(chips: list[str], only: str, as_json: bool) -> None:
    rows = []
    lines = [
        "Peak memory of one core, GB, by its compiler: BigGAN's attention, forward+backward (16,384 x 4,096",
        "and 65,536 x 16,384 tokens, widths 12 and 48): SMYRF 4 x 2048; canopy as in celeba*_ours, a tree",
        "with 1024 queries and 16 (4) means a cluster. `python -m benchmarks.memory`",
        "",
        "| | | | dense | clustered | | counted by `budget.cost` | canopy | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows_of(chips, only):
        rows.append(row)
        part = row["clustered"] / row["dense"]
        lines.append(
            f"| {row['chip']} | {row['case']} | {row['dtype']} | {row['dense'] / 1e9:.3f} | "
            f"{row['clustered'] / 1e9:.3f} | {part:.1%} | {row['counted'] / 1e9:.3f} | "
            f"{row['canopy'] / 1e9:.3f} | {row['canopy'] / row['dense']:.1%} |"
        )
        if not as_json:
            print(lines[-1], flush=True)
    if as_json:
        print(json.dumps(rows))
        return
    lines.append("")
    for row in rows:
        if "seconds" in row:
            dense, clustered = row["seconds"].values()
            lines.append(
                f"The compiler's estimate of the time on v3, {row['case']}: dense {dense:.4f} s, clustered "
                f"{clustered:.4f} s."
            )
            print(lines[-1])
    (RESULTS / "memory.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tpu", choices=[*TOPOLOGIES, "cpu"], help="this one only; default: all, and the CPU"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", action="store_true", help="print rows of JSON; write no file")
    flags = parser.parse_args()
    main([flags.tpu] if flags.tpu else [*TOPOLOGIES, "cpu"], flags.only, flags.json)
