"""Compiles attention and its gradients for TPUs that are not there, and prints what the programs hold.

    python -m tests.launch.tpu_programs v3 v4 v5e v6e
    python -m tests.launch.tpu_programs --sharded v5e

A JSON line a program: chip, dtype, name, and scatters, kernels and others, or the error of the compiler. With
--sharded, of samples and of heads that lie over an automatic mesh of four cores.
Run by test_schedule.py in the environment of `launch.schedule.environment`.
"""

import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from smyrf_jax import Canopy, Local, Scatterbrain, Smyrf, attention
from smyrf_jax.chips import compiling_for

TOPOLOGIES = {"v3": "v3:2x2", "v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}
SHAPE = (1, 256, 2, 32)
PROGRAMS: dict[str, dict[str, Any]] = {
    "smyrf": {"method": Smyrf(2, 64)},
    "smyrf, each key once": {"method": Smyrf(2, 64, deduplicate=True)},
    "canopy": {"method": Canopy(1, 64, 4)},
    "scatterbrain": {"method": Scatterbrain(2, 64, 32)},
    "local": {"method": Local(64)},
    "causal local": {"method": Local(64), "is_causal": True},
    "masked": {"method": Smyrf(2, 64), "masked": True},
    "wide": {"method": Smyrf(1, 2048), "shape_of": (1, 4096, 1, 128)},
    "large clusters": {"method": Canopy(1, 2048, 8), "shape_of": (1, 4096, 1, 64)},
    "clusters of no whole tiles": {"method": Smyrf(1, 600), "shape_of": (1, 24000, 1, 32)},
    "small clusters": {"method": Canopy(2, 8, 2), "shape_of": (1, 1000, 1, 64)},
    "padded, masked": {"method": Smyrf(2, 64), "shape_of": (1, 1000, 2, 32), "masked": True},
    "masked local": {"method": Local(64), "masked": True},
    "masked alike": {"method": Canopy(2, 64, 4), "masked": "alike"},
    "float64": {"method": Canopy(1, 64, 4), "dtype": "float64"},
    "float32 of programs with 64 bits": {"method": Canopy(1, 64, 4), "x64": True},
    "float16": {"method": Canopy(1, 64, 4), "dtype": "float16"},
}


SHARDED = {"samples": PartitionSpec("x"), "heads": PartitionSpec(None, None, "x")}
EXCHANGES = r"= \S+ (all-gather|all-to-all|collective-permute|all-reduce)(-start)?\("


def compiled(
    where: Any,
    dtype: str,
    shape_of: Any = SHAPE,
    masked: bool | str = False,
    x64: bool = False,
    **options: Any,
) -> str:
    """The program for output and gradients.

    masked: by a mask of keys; "alike": of queries too.
    x64: as with JAX_ENABLE_X64.
    """
    if x64 or dtype == "float64":
        with jax.enable_x64(True):
            return _compiled(where, dtype, shape_of, masked, **options)
    return _compiled(where, dtype, shape_of, masked, **options)


def _compiled(where: Any, dtype: str, shape_of: Any, masked: bool | str, **options: Any) -> str:

    def shape(of: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(of, dtype, sharding=where)

    def loss(query: Any, key: Any, value: Any, mask: Any = None) -> Any:
        query_mask = mask if masked == "alike" else None
        output: Any = attention(query, key, value, mask=mask, query_mask=query_mask, **options)
        return jnp.sum(output.astype(jnp.float32) ** 2), output

    arrays = [shape(shape_of, dtype)] * 3
    if masked:
        arrays.append(shape((1, 1, 1, shape_of[1]), bool))
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    return gradients.lower(*arrays).compile().as_text()


def main(chips: list[str]) -> None:
    for chip in chips:
        description = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip])
        for dtype in ("float32", "bfloat16") if chip == "v5e" else ("float32",):
            for name, options in PROGRAMS.items():
                if dtype != "float32" and "dtype" in options:
                    continue  # it has one of its own
                options = {"dtype": dtype} | options
                row: dict[str, Any] = {"chip": chip, "dtype": options["dtype"], "name": name}
                try:
                    with compiling_for(chip):
                        text = compiled(SingleDeviceSharding(description.devices[0]), **options)
                except Exception as error:  # of the compiler, for the test to show
                    row["error"] = str(error)[-2000:]
                else:
                    row["scatters"] = len(re.findall(r"[\s)]scatter\(", text))
                    row["kernels"] = text.count("tpu_custom_call")
                print(json.dumps(row), flush=True)


def sharded(chip: str) -> None:
    description = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip])
    mesh = Mesh(description.devices, ("x",))
    for name in ("smyrf, each key once", "canopy", "scatterbrain", "local"):
        for axis, spec in SHARDED.items():
            where = NamedSharding(mesh, spec)
            with compiling_for(chip):
                text = compiled(where, "float32", (4, 256, 4, 32), **PROGRAMS[name])
            exchanges = len(re.findall(EXCHANGES, text))
            print(json.dumps({"name": name, "axis": axis, "exchanges": exchanges}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--sharded":
        sharded(sys.argv[2])
    else:
        main(sys.argv[1:])
