"""Seconds of SMYRF and dense attention on the CPU, forward and forward+backward.

    python -m benchmarks.speed            # about 10 minutes on two cores; --quick for a look
    python -m benchmarks.speed --crossover

Wants the extra [bench] (torch). Contenders of a row run in turn, again and again, in one process; medians.
Writes speed.md and speed.png into docs/results/tables/; --crossover writes crossover.md, from which the
constants of smyrf_jax/budget.py come.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import torch
from jax import Array

from benchmarks.fitting import Sample, cost_of_pairs_and_rows, in_words
from benchmarks.tables import RESULTS, line, table
from smyrf_jax import Dense, Method, Smyrf, attention, e2lsh, gaussian_directions, xbox_plus
from training.provenance import header, picture_metadata
from training.timing import Step, medians

# Dense attention in JAX keeps all logits; above this many bytes of them it is not run. Nor is jax.nn where
# values are not as wide as queries.
MOST_LOGITS = 3e9


class Case(NamedTuple):
    rows: int
    queries: int
    keys: int
    width: int
    value_width: int
    method: Smyrf


CASES = {
    "12 heads, 4096 tokens, width 64; 2 x 64": Case(12, 4096, 4096, 64, 64, Smyrf(2, 64)),
    "4 heads, 16,384 tokens, width 64; 4 x 128": Case(4, 16384, 16384, 64, 64, Smyrf(4, 128)),
    "BigGAN 128x128: 16,384 x 4096, widths 12 and 48; 4 x 2048": Case(1, 16384, 4096, 12, 48, Smyrf(4, 2048)),
}
LENGTHS = [2**power for power in range(9, 17)]


def arrays_of(case: Case) -> list[np.ndarray]:
    """query, key, value [1, length, heads, width], and a gradient of the output."""
    rng = np.random.default_rng(0)
    sizes = [(case.queries, case.width), (case.keys, case.width), (case.keys, case.value_width)]
    sizes.append((case.queries, case.value_width))
    return [rng.standard_normal((1, n, case.rows, w), dtype=np.float32) for n, w in sizes]


def plain_composition(query: Array, key: Array, value: Array, *, method: Smyrf) -> Array:
    """The paper's links as they are commonly put together: every round at once, differentiated by JAX.

    Sorts with argsort, inverts the orders with argsort, and keeps all rounds' logits for the backward
    pass. The clusters divide the lengths.
    """
    query, key, value = (jnp.swapaxes(x, 1, 2)[:, None] for x in (query, key, value))  # [B, 1, N, T, D]
    mapped = xbox_plus(*(jnp.moveaxis(jax.lax.stop_gradient(x[:, 0]), 1, 2) for x in (query, key)))
    directions = gaussian_directions(jax.random.key(0), method.num_hashes, mapped[0].shape[-1])
    orders = [jnp.argsort(jnp.moveaxis(e2lsh(x, directions), 2, 1), axis=-1) for x in mapped]  # [B, R, N, T]
    clusters = query.shape[3] // method.cluster_size

    def gathered(x: Array, order: Array) -> Array:
        x = jnp.take_along_axis(x, order[..., None], axis=3)
        return x.reshape(*x.shape[:3], clusters, x.shape[3] // clusters, x.shape[4])

    its_query, its_key, its_value = (
        gathered(x, order) for x, order in ((query, orders[0]), (key, orders[1]), (value, orders[1]))
    )
    logits = jnp.einsum("brnlcd,brnlkd->brnlck", its_query, its_key) / np.sqrt(query.shape[-1])
    logsumexp = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    output = jnp.einsum("brnlck,brnlkv->brnlcv", jnp.exp(logits - logsumexp), its_value)
    inverse = jnp.argsort(orders[0], axis=-1)[..., None]
    output, logsumexp = (
        jnp.take_along_axis(x.reshape(*x.shape[:3], -1, x.shape[5]), inverse, axis=3)
        for x in (output, logsumexp)
    )
    return jnp.moveaxis(jnp.sum(output * jax.nn.softmax(logsumexp, axis=1), axis=1), 1, 2)


def of_jax(attend: Callable[..., Any], arrays: list[np.ndarray]) -> tuple[Step, Step]:
    *inputs, gradient = (jnp.asarray(x) for x in arrays)
    forward = jax.jit(attend)

    @jax.jit
    def both(*inputs):
        output, backward = jax.vjp(attend, *inputs)
        return output, backward(gradient)

    return lambda: jax.block_until_ready(forward(*inputs)), lambda: jax.block_until_ready(both(*inputs))


def of_torch(arrays: list[np.ndarray]) -> tuple[Step, Step]:
    # [1, heads, length, width], in memory in this order: what torch is fastest with.
    *inputs, gradient = (torch.from_numpy(np.ascontiguousarray(x.swapaxes(1, 2))) for x in arrays)
    scaled: Any = torch.nn.functional.scaled_dot_product_attention

    def forward():
        with torch.no_grad():
            return scaled(*inputs)

    def both():
        leaves = [x.requires_grad_() for x in inputs]
        return torch.autograd.grad(scaled(*leaves), leaves, gradient)

    return forward, both


def of_method(method: Method, arrays: list[np.ndarray]) -> tuple[Step, Step]:
    return of_jax(functools.partial(attention, method=method), arrays)


def contenders(case: Case) -> dict[str, tuple[Step, Step]]:
    arrays = arrays_of(case)
    steps = {
        "SMYRF": of_method(case.method, arrays),
        "SMYRF, deduplicated": of_method(dataclasses.replace(case.method, deduplicate=True), arrays),
        "plain composition": of_jax(functools.partial(plain_composition, method=case.method), arrays),
        "torch SDPA": of_torch(arrays),
    }
    if 4 * case.rows * case.queries * case.keys <= MOST_LOGITS:
        steps["dense in JAX"] = of_method(Dense(), arrays)
        if case.width == case.value_width:
            steps["jax.nn"] = of_jax(jax.nn.dot_product_attention, arrays)
    return steps


def check() -> None:
    """The contenders compute what they are said to."""
    case = Case(2, 256, 128, 16, 8, Smyrf(2, 64))
    results = {name: both() for name, (_, both) in contenders(case).items()}
    smyrf, plain = (jax.tree.leaves(results[name]) for name in ("SMYRF", "plain composition"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), smyrf, plain)
    dense = results["dense in JAX"][1]
    scaled = [np.asarray(x).swapaxes(1, 2) for x in results["torch SDPA"]]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), list(dense), scaled)


def timed(case: Case, seconds: float) -> dict[str, tuple[float, float]]:
    steps = contenders(case)
    forward = medians({name: pair[0] for name, pair in steps.items()}, seconds)
    both = medians({name: pair[1] for name, pair in steps.items()}, seconds)
    return {name: (forward[name], both[name]) for name in steps}


def lines_of(title: str, results: Mapping[str, Mapping[str, tuple[float, float]]]) -> list[str]:
    """results: a row's label -> contender -> seconds forward, and forward+backward."""
    names = list(dict.fromkeys(name for times in results.values() for name in times))

    def cell(times: Mapping[str, tuple[float, float]], name: str) -> str:
        if name not in times:
            return "not run"
        faster = [torch / ours for torch, ours in zip(times["torch SDPA"], times[name], strict=True)]
        return "{:.4f} / {:.4f} ({:.1f}, {:.1f})".format(*times[name], *faster)

    rows = [[label, *(cell(times, name) for name in names)] for label, times in results.items()]
    return table([title, *names], rows)


def main(quick: bool) -> None:
    check()
    seconds = 5.0 if quick else 15.0
    lines = [
        *header(),
        "Seconds forward / forward+backward, float32, medians, contenders in turn in one process on "
        f"{torch.get_num_threads()} threads; torch {torch.__version__}. In "
        "brackets: how many times faster than torch's dense attention.",
        "",
    ]

    results = {}
    for label, case in CASES.items():
        results[label] = timed(case, seconds)
        print(label, results[label], flush=True)
    lines += lines_of("case", results)
    sweep = {}
    for length in LENGTHS[:-2] if quick else LENGTHS:
        sweep[f"{length:,}"] = timed(Case(1, length, length, 64, 64, Smyrf(4, 128)), seconds)
        print(length, sweep[f"{length:,}"], flush=True)
    lines += lines_of("tokens (1 head, width 64; 4 x 128)", sweep)
    for which, name in enumerate(("forward", "forward+backward")):
        for contender in ("SMYRF", "torch SDPA"):
            power = exponent(sweep, contender, which)
            lines.append(f"Exponent of {contender}, {name}, from 4096 tokens on: {power:.2f}.")
    (RESULTS / "speed.md").write_text("\n".join(lines) + "\n")
    plot(sweep)


def exponent(sweep: dict[str, dict[str, tuple[float, float]]], contender: str, which: int) -> float:
    """The slope of log seconds against log length, from 4096 tokens on."""
    points = [(int(length.replace(",", "")), times[contender][which]) for length, times in sweep.items()]
    lengths, times = zip(*(point for point in points if point[0] >= 4096), strict=True)
    return float(np.polyfit(np.log(lengths), np.log(times), 1)[0])


def plot(sweep: dict[str, dict[str, tuple[float, float]]]) -> None:
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    for name in ("SMYRF", "plain composition", "torch SDPA", "dense in JAX", "jax.nn"):
        points = [(int(n.replace(",", "")), t[name][1]) for n, t in sweep.items() if name in t]
        axis.loglog(*zip(*points, strict=True), marker="o", label=name)
    axis.set_xlabel("tokens")
    axis.set_ylabel("seconds, forward+backward")
    axis.set_title("One head of width 64 on two CPU cores; 4 rounds of clusters of 128")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(RESULTS / "speed.png", dpi=100, metadata=picture_metadata())
    plt.close(figure)


def crossover(quick: bool) -> None:
    """Fits the time of SMYRF to its pairs and rows; the unit is a dense pair of that length."""
    lines = [
        *header(),
        "Milliseconds forward+backward, 8 heads, width 64, medians.",
        "",
    ]
    cells = []
    samples = []
    for length in (128, 256, 512, 1024):
        methods = [
            Smyrf(rounds, size)
            for rounds, size in ((1, 32), (2, 32), (2, 64), (4, 64), (4, 128), (4, 256))
            if size < length
        ]
        arrays = arrays_of(Case(8, length, length, 64, 64, methods[0]))
        steps = {repr(method): of_method(method, arrays)[1] for method in (Dense(), *methods)}
        times = medians(steps, 2.0 if quick else 15.0)
        dense = times[repr(Dense())]
        for method in methods:
            seconds, pairs = times[repr(method)], method.cost(length, length).pairs
            rows = 2 * method.num_hashes * length
            samples.append(Sample(length**2, round(pairs * length**2), rows, seconds / dense))
            setting = f"{method.num_hashes} x {method.cluster_size}"
            cells.append([f"{length}", setting, f"{1e3 * seconds:.2f}", f"{1e3 * dense:.2f}"])
            print(line(cells[-1]), flush=True)
    lines += [
        *table(["tokens", "settings", "SMYRF", "dense in JAX"], cells),
        "",
        in_words(cost_of_pairs_and_rows(samples)),
    ]
    print(lines[-1])
    (RESULTS / "crossover.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns, and no 32,768 and 65,536 tokens")
    parser.add_argument("--crossover", action="store_true", help="where dense attention is faster")
    flags = parser.parse_args()
    (crossover if flags.crossover else main)(flags.quick)
