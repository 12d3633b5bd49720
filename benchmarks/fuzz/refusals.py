"""What cannot be done, and is to be refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fuzz.cases import TOKENS
from benchmarks.fuzz.checks import Fault, looked_at
from benchmarks.fuzz.settings import method_by_chance, pick, without_clusters
from smyrf_jax import attention


def refused(seed: tuple[int, ...], name: str) -> list[Fault]:
    """What cannot be done, by a method of this name."""
    looked_at["refusal"] += 1
    rng = np.random.default_rng(seed)
    method = method_by_chance(rng, name, 1, False)
    arrays = [jnp.ones((2, 8, 2, 4)) for _ in TOKENS]
    good = dict(zip(TOKENS, arrays, strict=True))
    lengths = jnp.array([3, 4])
    changes: list[dict[str, Any]] = [
        {"query": jnp.ones((8, 4))},
        {"query": jnp.ones((2, 8, 2, 5))},
        {"query": jnp.ones((3, 8, 2, 4))},
        {"key": jnp.ones((2, 8, 3, 4)), "value": jnp.ones((2, 8, 3, 4))},
        {"key": jnp.ones((2, 8, 0, 4)), "value": jnp.ones((2, 8, 0, 4))},
        {"value": jnp.ones((2, 7, 2, 4))},
        {"mask": jnp.ones((2, 1, 1, 8))},
        {"mask": jnp.ones((2, 1, 8, 8), bool)},
        {"mask": jnp.ones((8,), bool)},
        {"query_mask": jnp.ones((2, 1, 1, 8))},
        {"query_mask": jnp.ones((2, 1, 1, 7), bool)},
        {"query_mask": jnp.ones((2, 3, 1, 8), bool)},
        {"scale": jnp.ones(2)},
        {"rng": jax.random.PRNGKey(0)},
        {"rng": jax.random.split(jax.random.key(0))},
        {"method": name},
        {"method": type(method)},
        {"method": None},
        {"bias": jnp.zeros((2, 2, 8, 8))},
        {"local_window_size": 3},
        {"query_seq_lengths": lengths.astype(jnp.float32)},
        {"query_seq_lengths": lengths[:1]},
        {"key_value_seq_lengths": lengths[None]},
        {"key_value_seq_lengths": lengths.astype(jnp.float32)},
    ]
    # In one cluster nothing leaks.
    if not without_clusters(method) and getattr(method, "cluster_size", 8) < 8:
        changes.append({"is_causal": True})
    change = pick(rng, *changes)
    what = f"{method!r}, {change}".replace("\n", " ")[:200]
    try:
        attention(**{"method": method} | good | change)
    except ValueError as error:
        return [] if str(error) else [Fault("refusal", f"a ValueError says nothing: {what}")]
    except Exception as error:
        return [Fault("refusal", f"{type(error).__name__} instead of ValueError: {what}")]
    return [Fault("refusal", f"nothing is raised: {what}")]
