"""A setting compiled: attention and its gradients."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.fuzz.cases import TOKENS
from benchmarks.fuzz.settings import SHARED, Setting
from smyrf_jax import attention


def pulled(setting: Setting, given: dict[str, Any]) -> dict[str, Any]:
    """Output, logsumexp (if it is asked for) and gradients."""
    options: dict[str, Any] = {"scale": setting.scale}
    names = "mask", "query_mask", "query_seq_lengths", "key_value_seq_lengths"
    options |= {name: given[name] for name in names if name in given}
    if setting.masking == "shared lengths":
        options["query_seq_lengths"] = options["key_value_seq_lengths"]
    elif setting.masking in SHARED:
        options["query_mask"] = options["mask"]

    def attended(of: dict[str, Any]) -> dict[str, Any]:
        results = attention(
            of["query"],
            of["key"],
            of["value"],
            method=setting.method,
            is_causal=setting.is_causal,
            rng=jax.random.key(given["seed"]),
            return_residual=setting.residual,
            **options | ({"scale": of["scale"]} if "scale" in of else {}),
        )
        if not setting.residual:
            return {"output": results}
        return dict(zip(("output", "logsumexp"), results, strict=True))

    of = {name: given[name] for name in (*TOKENS, "scale") if name in given}
    results, pull = jax.vjp(attended, of)
    (gradients,) = pull({name: given[f"to_{name}"] for name in results})
    return results | {f"gradient of {name}": gradient for name, gradient in gradients.items()}


@functools.lru_cache(maxsize=8)
def program(setting: Setting, mapped: bool = False) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Compiled on its first call; mapped over the first axis of the batch, if so wanted."""
    of_one = functools.partial(pulled, setting)

    def samples(given: dict[str, Any]) -> dict[str, Any]:
        axes = {name: None if name in ("scale", "seed") else 0 for name in given}
        if setting.masking == "mask of all samples":
            given = given | {"mask": given["mask"][0]}
            axes["mask"] = None
        return jax.vmap(of_one, in_axes=(axes,))(given)

    compiled = jax.jit(samples if mapped else of_one)

    def run(given: dict[str, Any]) -> dict[str, Any]:
        with jax.enable_x64(setting.dtype == "float64"):
            wide = (np.float32, np.float64)
            results = jax.device_get(compiled(given))
            return {
                name: array if array.dtype in wide else array.astype(np.float32)
                for name, array in results.items()
            }

    return run


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Compiling quickly."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
