"""Milliseconds of attention on a GPU, forward and backward, beside cuDNN's flash attention.

    python -m benchmarks.gpu          # three minutes on a GPU; extra [cuda]

BigGAN's attention in float32, and heads of width 64 in bfloat16 at 1,024 to 65,536 tokens. `jax.nn` runs
cuDNN's flash attention where cuDNN takes the case, and XLA's dense attention else. Contenders of a row run in
turn; medians. Before that, each method's output and gradients are compared with those on the CPU. Writes
gpu.md into docs/results/tables/, or into --folder.
"""

import argparse
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tables import RESULTS, table
from smyrf_jax import Canopy, Dense, Local, Method, Performer, Scatterbrain, Smyrf, attention
from training.provenance import header
from training.timing import Step, medians

# Dense attention keeps the logits: no more bytes of them than this.
MOST_LOGITS = 16e9


class Case(NamedTuple):
    batch: int
    num_queries: int
    num_keys: int
    heads: int
    width: int
    value_width: int
    dtype: str
    methods: dict[str, Method]


METHODS = {
    "smyrf 2 x 64": Smyrf(2, 64),
    "smyrf 4 x 128": Smyrf(4, 128),
    "canopy": Canopy(),
    "scatterbrain": Scatterbrain(2, 64, 64),
    "performer": Performer(),
    "local": Local(),
}
CASES = {
    "BigGAN 128x128, batch 4, float32": Case(
        4, 128**2, 64**2, 1, 12, 48, "float32", {"smyrf": Smyrf(4, 2048), "canopy": Canopy(1, 1024, 16)}
    ),
    "BigGAN 256x256, batch 1, float32": Case(
        1, 256**2, 128**2, 1, 12, 48, "float32", {"smyrf": Smyrf(4, 2048), "canopy": Canopy(1, 1024, 4)}
    ),
    **{
        f"12 heads, {length:,} tokens, bfloat16": Case(1, length, length, 12, 64, 64, "bfloat16", METHODS)
        for length in (1024, 4096, 16384, 65536)
    },
}


def arrays_of(case: Case) -> list[np.ndarray]:
    """query, key, value and a gradient of the output, [B, length, heads, width]."""
    rng = np.random.default_rng(0)
    sides = (
        (case.num_queries, case.width),
        (case.num_keys, case.width),
        (case.num_keys, case.value_width),
        (case.num_queries, case.value_width),
    )
    shapes = [(case.batch, length, case.heads, width) for length, width in sides]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def both_ways(attend: Callable[..., Any]) -> Callable[..., Any]:
    @jax.jit
    def run(gradient: Any, *inputs: Any) -> Any:
        output, backward = jax.vjp(attend, *inputs)
        return output, backward(gradient)

    return run


def contenders(case: Case) -> dict[str, Callable[..., Any]]:
    scale = 1.0 if case.width == 12 else 1 / math.sqrt(case.width)
    found: dict[str, Callable[..., Any]] = {}
    if case.width == case.value_width:
        found["jax.nn, cuDNN flash"] = functools.partial(
            jax.nn.dot_product_attention, scale=scale, implementation="cudnn"
        )
    if 4 * case.batch * case.heads * case.num_queries * case.num_keys <= MOST_LOGITS:
        found["dense by XLA"] = functools.partial(attention, method=Dense(), scale=scale)
    for name, method in case.methods.items():
        found[name] = functools.partial(attention, method=method, scale=scale)
    return found


def timed(case: Case, seconds: float) -> dict[str, float]:
    *inputs, gradient = (jnp.asarray(array, case.dtype) for array in arrays_of(case))

    def step_of(run: Callable[..., Any]) -> Step:
        return lambda: jax.block_until_ready(run(gradient, *inputs))

    steps: dict[str, Step] = {}
    for name, attend in contenders(case).items():
        steps[name] = step_of(both_ways(attend))
        try:
            steps[name]()  # compiles
        except Exception as error:  # what a library does not take is told, and the others run
            print(f"{name}: {str(error).splitlines()[0][:300]}", flush=True)
            del steps[name]
    return medians(steps, seconds)


def relative_rms(here: Any, there: Any) -> float:
    """Root mean square of the difference over that of `there`."""
    here, there = np.asarray(here), np.asarray(there)
    return float(np.linalg.norm(here - there) / np.linalg.norm(there))


def differences() -> dict[str, float]:
    """`relative_rms` of the outputs and gradients here and on the CPU: the worst of each method."""
    case = Case(2, 512, 512, 4, 64, 64, "float32", METHODS | {"dense": Dense()})
    *inputs, gradient = arrays_of(case)
    kept = np.arange(case.num_keys)[None] < np.array([[case.num_keys], [400]])
    mask = jnp.asarray(kept)[:, None, None]
    (cpu,) = jax.local_devices(backend="cpu")[:1]
    found = {}
    with jax.default_matmul_precision("highest"):
        for name, method in case.methods.items():
            run = both_ways(functools.partial(attention, method=method, mask=mask, query_mask=mask))
            here = jax.tree.leaves(run(gradient, *inputs))
            with jax.default_device(cpu):
                there = jax.tree.leaves(run(gradient, *inputs))
            found[name] = max(map(relative_rms, here, there))
            print(f"{name}: differs from the CPU by {found[name]:.1e}", flush=True)
    return found


def main(folder: pathlib.Path, quick: bool) -> None:
    (device, *_) = jax.devices()
    if device.platform != "gpu":
        raise SystemExit(
            f"This wants a GPU, and JAX has found {device.device_kind}: install the extra [cuda]."
        )
    far = differences()
    lines = [
        *header(),
        "Milliseconds forward and backward, medians, contenders in turn. In brackets: how many times as",
        "fast as `jax.nn` with cuDNN, or as dense attention by XLA where cuDNN has none. Float32 at JAX's",
        "default precision.",
        "",
    ]
    results: dict[str, dict[str, float]] = {}
    for label, case in CASES.items():
        results[label] = timed(case, 2.0 if quick else 6.0)
        print(label, {name: round(1e3 * s, 3) for name, s in results[label].items()}, flush=True)
    names = list(dict.fromkeys(name for times in results.values() for name in times))

    def cell(times: dict[str, float], name: str) -> str:
        if name not in times:
            return "not run"
        base = times.get("jax.nn, cuDNN flash", times.get("dense by XLA"))
        ratio = "" if base is None else f" ({base / times[name]:.2g})"
        return f"{1e3 * times[name]:.3g}{ratio}"

    lines += table(["", *names], [[label, *(cell(t, n) for n in names)] for label, t in results.items()])
    lines += [
        "Outputs and gradients against the CPU, of samples with 512 and 400 of 512 tokens, float32 at the",
        "highest precision: root mean square of the difference over that of the numbers, worst of a method:",
        ", ".join(f"{name} {difference:.0e}" for name, difference in far.items()) + ".",
    ]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--folder", type=pathlib.Path, default=RESULTS, help="where gpu.md goes")
    flags = parser.parse_args()
    main(flags.folder, flags.quick)
