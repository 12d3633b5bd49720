"""Seconds of causal attention on the CPU, forward and forward+backward, in the shapes of SmolLM2's layers.

    python -m benchmarks.causal          # some 10 minutes on two cores

9 query heads and 3 key heads of 64, float32: CausalCanopy by its budgets, and what would be taken instead:
torch's dense causal attention, that of JAX, and a window with the first tokens. Contenders of a row run in
turn in one process; medians. Also a step of decoding, and the keys that it reads. Writes causal.md into
docs/results/tables/. Wants the extra [bench] (torch).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array

from benchmarks.tables import RESULTS, table
from smyrf_jax import CausalCanopy, Dense, Method, attention
from smyrf_jax.decoding import prefill, step
from smyrf_jax.methods import Streaming
from training.provenance import header
from training.timing import Step, medians

HEADS, KEY_HEADS, WIDTH = 9, 3, 64
# Tokens, and the part of the causal pairs.
CASES = ((2048, 0.2), (8192, 0.1))


def arrays_of(length: int) -> list[np.ndarray]:
    """Query, key, value, and a gradient of the output; normal numbers."""
    rng = np.random.default_rng(0)
    heads = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    return [rng.standard_normal((1, length, number, WIDTH), dtype=np.float32) for number in heads]


def of_jax(method: Method, arrays: list[np.ndarray]) -> tuple[Step, Step]:
    *inputs, gradient = map(jnp.asarray, arrays)
    attend = functools.partial(attention, method=method, is_causal=True)
    forward = jax.jit(attend)

    @jax.jit
    def both(*inputs: Array) -> Any:
        output, backward = jax.vjp(attend, *inputs)
        return output, backward(gradient)

    return lambda: jax.block_until_ready(forward(*inputs)), lambda: jax.block_until_ready(both(*inputs))


def of_torch(arrays: list[np.ndarray]) -> tuple[Step, Step]:
    *inputs, gradient = (torch.from_numpy(np.ascontiguousarray(of.swapaxes(1, 2))) for of in arrays)
    inputs[1:] = [of.repeat_interleave(HEADS // KEY_HEADS, 1) for of in inputs[1:]]
    attend: Any = functools.partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)

    def forward() -> Any:
        with torch.no_grad():
            return attend(*inputs)

    def both() -> Any:
        leaves = [of.requires_grad_() for of in inputs]
        return torch.autograd.grad(attend(*leaves), leaves, gradient)

    return forward, both


def decoding_of(method: Method, length: int) -> Step:
    """One more token, after length - 1 of them."""
    query, key, value, _ = map(jnp.asarray, arrays_of(length))
    before = (of[:, : length - 1] for of in (query, key, value))
    _, cache = prefill(*before, method=method, length=length)
    last = [of[:, length - 1 :] for of in (query, key, value)]
    one = jax.jit(functools.partial(step, method=method), donate_argnums=3)

    def again() -> None:
        nonlocal cache
        # The same place each time, in the cache that the step before changed where it lies.
        _, grown = one(*last, cache)
        cache = jax.block_until_ready(dataclasses.replace(grown, length=grown.length - 1))

    return again


def main() -> None:
    rows, decoding = [], []
    for length, pairs in CASES:
        arrays = arrays_of(length)
        budget: dict[str, Any] = {"pairs": pairs, "is_causal": True, "width": WIDTH}
        canopy = CausalCanopy.for_budget(length, length, **budget)
        methods = {
            "CausalCanopy": canopy,
            "CausalCanopy, shared_choice": CausalCanopy.for_budget(
                length, length, shared_choice=True, **budget
            ),
            "window and first tokens": Streaming.for_budget(length, length, **budget),
            "dense in JAX": Dense(),
        }
        steps = {name: of_jax(method, arrays) for name, method in methods.items()}
        steps["dense in torch"] = of_torch(arrays)
        forward, both = (
            medians({name: pair[which] for name, pair in steps.items()}, 60.0) for which in range(2)
        )
        for name in steps:
            cost = (
                f"{methods[name].cost(length, length, is_causal=True).pairs:.1%}" if name in methods else ""
            )
            cells = [
                f"{of[name]:.3f} ({of['dense in torch'] / of[name]:.1f}, {of['dense in JAX'] / of[name]:.1f})"
                for of in (forward, both)
            ]
            rows.append([f"{length}", name, cost or "100.0%", *cells])
            print(*rows[-1], flush=True)
        tokens = {name: decoding_of(methods[name], length) for name in ("CausalCanopy", "dense in JAX")}
        seconds = medians(tokens, 10.0)
        sizes = canopy.sizes_of(length)
        read = sizes.block + sizes.sinks + (length + sum(sizes.levels[1:])) // sizes.branch
        read += canopy.num_branches * sizes.leaves + canopy.num_leaves * sizes.leaf
        decoding.append(
            [f"{length}", f"{read / length:.1%}", *(f"{1e3 * seconds[name]:.2f}" for name in tokens)]
        )
    lines = [
        *header(),
        "Seconds of causal attention, 9 query heads and 3 key heads of 64, float32, medians, contenders in",
        f"turn; torch {torch.__version__}. Brackets: how many times faster than dense attention in torch,",
        "and in JAX.",
        "",
        *table(["tokens", "attention", "causal pairs", "forward", "forward+backward"], rows),
        "The last token by a cache: the part of all keys that is read, means among them, and milliseconds.",
        "",
        *table(["tokens", "keys read", "CausalCanopy", "dense in JAX"], decoding),
    ]
    (RESULTS / "causal.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
