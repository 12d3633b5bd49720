"""Compiles attention and its gradients for TPUs that are not there, and prints what the programs hold.

    python -m tests.launch.tpu_programs v3 v4 v5e v6e

A JSON line a program: chip, dtype, name, and scatters, kernels and others, or the error of the compiler.
Run by test_schedule.py in the environment of `launch.schedule.environment`.
"""

import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

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
}


def compiled(device: Any, dtype: str, masked: bool = False, **options: Any) -> str:
    """The program for output and gradients."""

    def shape(of: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(of, dtype, sharding=SingleDeviceSharding(device))

    def loss(query: Any, key: Any, value: Any, mask: Any = None) -> Any:
        output: Any = attention(query, key, value, mask=mask, **options)
        return jnp.sum(output.astype(jnp.float32) ** 2), output

    arrays = [shape(SHAPE, dtype)] * 3
    if masked:
        arrays.append(shape((1, 1, 1, SHAPE[1]), bool))
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    return gradients.lower(*arrays).compile().as_text()


def main(chips: list[str]) -> None:
    for chip in chips:
        description = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip])
        for dtype in ("float32", "bfloat16") if chip == "v5e" else ("float32",):
            for name, options in PROGRAMS.items():
                row: dict[str, Any] = {"chip": chip, "dtype": dtype, "name": name}
                try:
                    with compiling_for(chip):
                        text = compiled(description.devices[0], dtype, **options)
                except Exception as error:  # of the compiler, for the test to show
                    row["error"] = str(error)[-2000:]
                else:
                    row["scatters"] = len(re.findall(r"[\s)]scatter\(", text))
                    row["kernels"] = text.count("tpu_custom_call")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
