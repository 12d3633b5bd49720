"""Arguments of a setting, by chance: values, masks, scales, seeds."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.fuzz.settings import SHARED, Setting, by_place, pick

TOKENS = ("query", "key", "value")


class Case(NamedTuple):
    """Arguments of a setting's program, of NumPy, and what is known of them.

    kept_queries: [*B, N, T], kept_keys: [*B, N, S].
    kind: of the values.
    """

    given: dict[str, Any]
    kept_queries: Any
    kept_keys: Any
    kind: str


def case_by_chance(setting: Setting, rng: np.random.Generator) -> Case:
    """Of a setting. What is masked is zero."""
    (queries, keys), (heads, key_heads), (width, value_width) = setting.lengths, setting.heads, setting.widths
    kind = pick(rng, "normal", "normal", "normal", "normal", "equal", "repeated", "zero", "large", "huge")
    dtype, exact = jnp.dtype(setting.dtype), np.float64 if setting.dtype == "float64" else np.float32

    def values(length: int, heads: int, width: int, size: float) -> Any:
        array = rng.normal(size=(*setting.batch, length, heads, width))
        if kind == "equal" and length:
            array = np.broadcast_to(array[..., :1, :, :], array.shape)
        if kind == "repeated" and length:
            array = np.take(array, rng.integers(0, max(1, length // 3), length), axis=-3)
        if kind == "zero":
            array = array * float(rng.integers(2))
        return (size * array).astype(dtype)

    size = 1.0
    if kind == "large":
        size = pick(rng, 10.0, 30.0)
    if kind == "huge":
        size = 100.0 if setting.dtype == "float16" else pick(rng, 1e4, 1e7, 1e15)
    given = {
        "query": values(queries, heads, width, size),
        "key": values(keys, key_heads, width, size),
        "value": values(keys, key_heads, value_width, 1.0),
        "to_output": rng.normal(size=(*setting.batch, queries, heads, value_width)).astype(dtype),
        "to_logsumexp": rng.normal(size=(*setting.batch, queries, heads)).astype(exact),
        "seed": np.int32(rng.integers(1000)),
    }
    if setting.scale == "traced":
        given["scale"] = exact(pick(rng, 0.3, 1.0, -0.4, 0.0))
    of_queries, of_keys = masks_by_chance(setting, rng, given)
    case = Case(given, of_queries, of_keys, kind)
    return case._replace(given=filled(setting, case, (0.0, 0.0, 0.0)))


def masks_by_chance(setting: Setting, rng: np.random.Generator, given: dict[str, Any]) -> tuple[Any, Any]:
    """Puts masks and lengths into `given`. Returns [*B, N, T] and [*B, N, S]."""
    batch, masking, heads = setting.batch, setting.masking, setting.heads[0]
    share = pick(rng, 0.0, 0.3, 0.7, 0.9, 0.97)

    def lengths(which: int) -> Any:
        most = setting.lengths[which]
        if setting.kept is not None:
            return np.full(batch, setting.kept[which], np.int32)
        return np.asarray(rng.integers(0, most + 1, batch), np.int32)

    def before(lengths: Any, which: int) -> Any:
        return (np.arange(setting.lengths[which]) < lengths[..., None])[..., None, None, :]

    def mask(which: int, *shape: int) -> Any:
        length = setting.lengths[which]
        if setting.kept is None:
            return rng.random((*shape, 1, length)) < share
        count = setting.kept[which]
        scattered = np.argsort(rng.random((*shape, 1, length)), axis=-1) < count
        start = 0 if masking not in SHARED or rng.integers(2) else length - count
        run = (np.arange(length) >= start) & (np.arange(length) < start + count)
        # Places that matter stay the same.
        placed = by_place(setting.method) or (setting.is_causal and masking not in SHARED)
        together = placed or rng.integers(3) == 0
        return np.broadcast_to(run, scattered.shape).copy() if together else scattered

    kept: list[Any] = [None, None]
    if "lengths" in masking:
        given["key_value_seq_lengths"] = lengths(1)
        kept[1] = before(given["key_value_seq_lengths"], 1)
    if masking == "two lengths":
        given["query_seq_lengths"] = lengths(0)
        kept[0] = before(given["query_seq_lengths"], 0)
    if "mask" in masking:
        of_all = masking == "mask of all samples"
        shape = (1,) * len(batch) if of_all else batch
        given["mask"] = mask(1, *shape, heads if "heads" in masking else 1)
        kept[1] = given["mask"] if kept[1] is None else kept[1] & given["mask"]
    if masking == "two masks":
        given["query_mask"] = kept[0] = mask(0, *batch, 1)
    if masking in SHARED:
        kept[0] = kept[1]

    def full(kept: Any, length: int) -> Any:
        kept = np.ones((1,), bool) if kept is None else kept[..., 0, :]
        return np.broadcast_to(kept, (*batch, heads, length))

    return full(kept[0], setting.lengths[0]), full(kept[1], setting.lengths[1])


def kept_tokens(setting: Setting, case: Case) -> dict[str, Any]:
    """Which rows of query, key and value are kept, [*B, T, N] and so on; a key by any head of its own."""
    heads, key_heads = setting.heads
    of_keys = np.swapaxes(case.kept_keys, -1, -2)
    if key_heads:
        of_keys = of_keys.reshape(*of_keys.shape[:-1], key_heads, heads // key_heads).any(-1)
    return {"query": np.swapaxes(case.kept_queries, -1, -2), "key": of_keys, "value": of_keys}


def filled(setting: Setting, case: Case, garbage: tuple[float, float, float]) -> dict[str, Any]:
    """The arguments with garbage in masked queries, keys and values."""
    kept = kept_tokens(setting, case)
    dtype = jnp.dtype(setting.dtype)
    with np.errstate(over="ignore"):  # 1e30 is infinite in float16
        arrays = {
            name: np.where(kept[name][..., None], case.given[name], np.full((), fill).astype(dtype))
            for name, fill in zip(TOKENS, garbage, strict=True)
        }
    return case.given | arrays
