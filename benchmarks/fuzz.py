"""Does `attention` keep its promises with any arguments? Random ones, by the thousand.

    python -m benchmarks.fuzz --seconds=600                  # what fits
    python -m benchmarks.fuzz --cases=10000 --seconds=7200   # half an hour to an hour of one core

A setting is what is compiled: a method with its fields, shapes, a dtype, a way to mask. Each is drawn by
chance, compiled (without most optimisations, as that takes most of the time), and tried with many cases:
values (normal, equal, repeated, zero, large, huge), masks, scales and rngs. Every case counts as one, however
many checks it passes:

- finite: nothing is NaN or infinite (nor are gradients, but for huge values).
- masked: rows that are masked, or have no keys, are zero, their logsumexp is -inf, and what is masked has
  gradients of zero.
- garbage: NaN, infinities and 1e30 under the mask change neither output nor gradients.
- alone: a padded sample gives what its kept tokens give alone, gradients too.
- vmap: mapping over the batch gives what the batch gives.
- dense: where one cluster holds everything, output and logsumexp are dense attention's (NumPy, float64).
- convex: where no features estimate, outputs lie between the least and the largest of the kept values. (Not
  of several trees with means where logits are 1e8 or more: what is taken off for a pair that is met again is
  rounded otherwise than what was added.)
- causal: earlier rows and their gradients do not change with later tokens and their masks.
- refusal: what cannot be done raises ValueError with a message; what can be done raises nothing.

The order of equal or almost equal hash values depends on rounding, which depends on shapes. So `alone` and
`vmap` are looked at only where that decides nothing: in float64 with values in general position, or without
hashed clusters. `dense` leaves out rows whose two largest logits are nearer together than they are exact.

Prints one fault of a kind in each setting, as a command that shows it again, and the number of cases and
faults by kind. The exit status is 1 if there are faults.
"""

import argparse
import collections
import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smyrf_jax import Canopy, Dense, Local, Method, Performer, Scatterbrain, Smyrf, attention
from smyrf_jax.methods import METHODS, HyperAttention, Reformer, Routing

CASES_A_SETTING = 50
# How often each check has found something to look at.
looked_at: collections.Counter[str] = collections.Counter()
GARBAGE = (np.nan, np.inf, -np.inf, 1e30)
TOKENS = ("query", "key", "value")
# One array for queries and keys, so that a cluster has no more slots than it needs.
SHARED = ("shared mask", "shared mask of heads", "shared lengths")
MASKINGS = (
    "none",
    "mask",
    "mask of heads",
    "mask of all samples",
    "two masks",
    "two lengths",
    "lengths and mask",
    *SHARED,
)
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2, "float16": 4e-3}


class Setting(NamedTuple):
    """What is compiled.

    batch: *B; lengths: T and S; heads: N and M; widths: D and V.
    masking: one of MASKINGS.
    kept: queries and keys that each sample keeps, where that is a number, for `alone`.
    scale: as for attention, or "traced".
    """

    method: Method
    batch: tuple[int, ...]
    lengths: tuple[int, int]
    heads: tuple[int, int]
    widths: tuple[int, int]
    dtype: str
    masking: str
    kept: tuple[int, int] | None
    scale: float | str | None
    is_causal: bool
    residual: bool


class Case(NamedTuple):
    """Arguments of a setting's program, of NumPy, and what is known of them.

    kept_queries: [*B, N, T], kept_keys: [*B, N, S].
    kind: of the values.
    """

    given: dict[str, Any]
    kept_queries: Any
    kept_keys: Any
    kind: str


class Fault(NamedTuple):
    """A promise that was not kept."""

    kind: str
    what: str


# Settings.


def method_by_chance(rng: np.random.Generator, name: str, clusters: int, is_causal: bool) -> Method:
    """A method of random fields. clusters: where hashed clusters are wanted large, their least size."""
    size, rounds = max(clusters, pick(rng, 1, 2, 3, 8, 8, 16)), pick(rng, 1, 2, 3)
    window, features = pick(rng, 1, 2, 5, 9, 200), pick(rng, 2, 8, 16)
    future: dict[str, Any] = {"clusters_see_future": True} if is_causal else {}
    if name == "smyrf":
        return Smyrf(rounds, size, bool(rng.integers(2)), **future)
    if name == "canopy":
        return Canopy(pick(rng, 1, 1, 2), size, 0 if is_causal else pick(rng, 0, 1, 2, 8), **future)
    if name == "scatterbrain":
        if rng.integers(2):
            return Scatterbrain(num_features=features, window=window)
        return Scatterbrain(rounds, size, features, **future)
    simple: dict[str, Callable[[], Method]] = {
        "dense": Dense,
        "performer": lambda: Performer(features),
        "local": lambda: Local(window),
        "reformer": lambda: Reformer(rounds, size, **future),
        "routing": lambda: Routing(size, **future),
        "hyperattention": lambda: HyperAttention(rounds, size, **future),
    }
    return simple[name]()


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    """One of them."""
    return choices[rng.integers(len(choices))]


def setting_by_chance(rng: np.random.Generator, names: list[str]) -> Setting:
    """One that `attention` takes."""
    name, is_causal = pick(rng, *names), bool(rng.integers(3) == 0)
    lengths = tuple(pick(rng, 1, 2, 3, 5, 8, 13, 16, 24, 33, 40, 64) for _ in range(2))
    masking = pick(rng, *MASKINGS)
    if masking in SHARED or rng.integers(2):
        lengths = (lengths[0], lengths[0])
    batch = pick(rng, (), (1,), (2,), (3,), (2, 2))
    key_heads = pick(rng, 1, 1, 2)
    heads, widths = (key_heads * pick(rng, 1, 2), key_heads), (pick(rng, 1, 3, 8, 16), pick(rng, 1, 5, 8))
    match rng.integers(40):  # something is missing
        case 0:
            lengths = pick(rng, (0, 5), (5, 0), (0, 0))
            lengths = (0, 0) if masking in SHARED else lengths
        case 1:
            batch = (0,)
        case 2:
            heads = (0, 0)
        case 3:
            widths = pick(rng, (0, 3), (3, 0), (0, 0))
    method = method_by_chance(rng, name, lengths[0] if rng.integers(4) == 0 else 1, is_causal)
    kept = None
    alike = ("mask", "two masks", "two lengths", "shared mask", "shared lengths")  # in all heads
    if masking in alike and min(lengths) and rng.integers(2):
        queries, keys = (int(rng.integers(1, length + 1)) for length in lengths)
        kept = (lengths[0] if masking == "mask" else queries, queries if masking in SHARED else keys)
    return Setting(
        method,
        batch,
        lengths,
        heads,
        widths,
        pick(rng, "float32", "float32", "float64", "float64", "bfloat16", "float16"),
        masking,
        kept,
        pick(rng, "traced", "traced", "traced", None, 0.7, -0.7, 0.0),
        is_causal,
        bool(rng.integers(4)),
    )


def without_clusters(method: Method) -> bool:
    """Which keys a query sees depends on places alone."""
    window = isinstance(method, Scatterbrain) and method.window is not None
    return window or isinstance(method, (Dense, Performer, Local))


def by_place(method: Method) -> bool:
    """Distances between tokens matter."""
    return without_clusters(method) and not isinstance(method, (Dense, Performer))


# Cases.


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


# Programs.


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


# Checks.


def distance(ours: Any, theirs: Any) -> float:
    """The largest difference, beside the largest number; what is equal, infinities too, does not differ."""
    if ours.shape != theirs.shape:
        return math.inf
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(all="ignore"):
        apart = np.where(same, 0.0, np.abs(ours.astype(np.float64) - theirs))
    if not apart.size:
        return 0.0
    large = np.max(np.abs(theirs), where=np.isfinite(theirs), initial=0.0)
    return float(np.nan_to_num(np.max(apart), nan=math.inf, posinf=math.inf) / (1 + large))


def differences(
    kind: str, ours: dict[str, Any], theirs: dict[str, Any], tolerance: float, what: str = ""
) -> Iterator[Fault]:
    """Where results are not the same."""
    for name, expected in theirs.items():
        apart = distance(ours[name], expected)
        if apart > tolerance:
            yield Fault(kind, f"{name} differs by {apart:.2g} {what}".strip())


def check_finite(setting: Setting, case: Case, results: dict[str, Any]) -> Iterator[Fault]:
    looked_at["finite"] += 1
    for name, array in results.items():
        if case.kind == "huge" and name.startswith("gradient"):
            continue
        # As many as the dtype has: it is the caller's sum that is too large for it.
        bad = np.isnan(array) | ((array == np.inf) if name == "logsumexp" else np.isinf(array))
        if np.any(bad):
            yield Fault(
                "finite", f"{int(bad.sum())} of {bad.size} of {name} are not finite ({case.kind} values)"
            )


def check_masked(setting: Setting, case: Case, results: dict[str, Any]) -> Iterator[Fault]:
    looked_at["masked"] += 1
    empty = ~case.kept_queries | ~np.any(case.kept_keys, axis=-1, keepdims=True)
    empty = np.swapaxes(empty, -1, -2)  # [*B, T, N]
    if np.any(results["output"][empty] != 0):
        yield Fault("masked", "output is not zero in rows that are masked or have no keys")
    if setting.residual:
        logsumexp = results["logsumexp"]
        if np.any(logsumexp[empty] != -np.inf):
            yield Fault("masked", "logsumexp is not -inf in rows that are masked or have no keys")
        if np.any(results["output"][logsumexp == -np.inf] != 0):
            yield Fault("masked", "output is not zero where logsumexp is -inf")
    for name, kept in kept_tokens(setting, case).items():
        if np.any(results[f"gradient of {name}"][~kept] != 0):
            yield Fault("masked", f"the gradient of {name} is not zero where it is masked")


def check_garbage(
    setting: Setting, case: Case, results: dict[str, Any], rng: np.random.Generator
) -> Iterator[Fault]:
    if all(np.all(kept) for kept in kept_tokens(setting, case).values()):
        return
    looked_at["garbage"] += 1
    worst = pick(rng, *GARBAGE)
    garbage = pick(rng, (worst, worst, worst), (worst, 0.0, 0.0), (0.0, worst, 0.0), (0.0, 0.0, worst))
    again = program(setting)(filled(setting, case, garbage))
    tolerance = max(1e-5, 0.1 * TOLERANCES[setting.dtype])
    yield from differences("garbage", again, results, tolerance, f"with {garbage} under the mask")


def general(setting: Setting, case: Case) -> bool:
    """Rounding does not decide who shares a cluster."""
    return without_clusters(setting.method) or (
        setting.dtype == "float64" and case.kind in ("normal", "large")
    )


def check_alone(setting: Setting, case: Case, results: dict[str, Any]) -> Iterator[Fault]:
    if setting.kept is None or not setting.heads[0] or not general(setting, case) or case.kind == "huge":
        return
    if setting.masking not in SHARED and not roomy(setting, *setting.kept):
        return
    looked_at["alone"] += 1
    kept = {"query": case.kept_queries[..., 0, :], "key": case.kept_keys[..., 0, :]}
    of = dict.fromkeys(("query", "to_output", "to_logsumexp", "output", "logsumexp"), kept["query"])
    of |= dict.fromkeys(("key", "value"), kept["key"])
    of |= {f"gradient of {name}": of[name] for name in TOKENS}

    def taken(name: str, array: Any) -> Any:
        if name not in of:
            return array
        count = setting.kept[0 if of[name] is kept["query"] else 1]  # type: ignore[index]
        return array[of[name]].reshape(*setting.batch, count, *array.shape[len(setting.batch) + 1 :])

    unmasked = {
        name: taken(name, array)
        for name, array in case.given.items()
        if "mask" not in name and "lengths" not in name
    }
    alone = program(setting._replace(lengths=setting.kept, masking="none", kept=None))(unmasked)
    ours = {name: taken(name, array) for name, array in results.items()}
    yield from differences("alone", ours, alone, 10 * TOLERANCES[setting.dtype])


def roomy(setting: Setting, queries: int, keys: int) -> bool:
    """Whether clusters have room for so many kept keys, where those are not padded as the queries are."""
    size = getattr(setting.method, "cluster_size", None)
    if size is None or without_clusters(setting.method):
        return True
    clusters = -(-setting.lengths[0] // size)
    a_cluster = -(-keys // max(1, -(-queries // size)))
    return a_cluster <= 4 * max(size, -(-setting.lengths[1] // max(1, clusters)))


def check_vmap(setting: Setting, case: Case, results: dict[str, Any]) -> Iterator[Fault]:
    if not setting.batch or not setting.batch[0] or not general(setting, case) or case.kind == "huge":
        return
    looked_at["vmap"] += 1
    mapped = program(setting._replace(batch=setting.batch[1:]), mapped=True)(case.given)
    if "scale" in case.given:
        mapped["gradient of scale"] = mapped["gradient of scale"].sum(0)
    yield from differences("vmap", mapped, results, 10 * TOLERANCES[setting.dtype])


def check_dense(setting: Setting, case: Case, results: dict[str, Any]) -> Iterator[Fault]:
    """Samples and heads in which one cluster holds every query that is kept."""
    method, (queries, keys) = setting.method, setting.lengths
    count, of_keys = (np.sum(kept, axis=-1) for kept in (case.kept_queries, case.kept_keys))
    if isinstance(method, Performer):
        return
    if by_place(method):
        whole = np.full(count.shape, getattr(method, "window", 0) >= 2 * max(queries, keys))
    elif isinstance(method, Dense):
        whole = np.full(count.shape, True)
    else:
        size: int = getattr(method, "cluster_size", 0)
        room = 4 * max(size, -(-keys // max(1, -(-queries // size))))
        whole = (count <= size) & ((of_keys <= room) | (setting.masking in SHARED))
    if not np.any(whole):
        return
    looked_at["dense"] += 1
    output, logsumexp, fuzzy = dense(setting, case)
    of_rows = np.broadcast_to(np.swapaxes(whole[..., None], -1, -2), logsumexp.shape)
    tolerance = 3 * TOLERANCES[setting.dtype] + 4 * fuzzy
    rows = of_rows & (tolerance < 0.1)
    large = 1 + np.max(np.abs(case.given["value"].astype(np.float64)), initial=0.0)
    apart = np.max(np.abs(results["output"] - output), axis=-1, initial=0.0) / large
    if np.any(bad := rows & ~(apart <= tolerance)):
        yield Fault(
            "dense", f"output of one cluster differs by {np.max(apart[bad]):.2g} ({case.kind} values)"
        )
    if setting.residual and not np.any(bad):
        if isinstance(method, Smyrf) and not method.deduplicate:
            logsumexp = logsumexp + math.log(method.num_hashes)
        with np.errstate(invalid="ignore"):
            apart = np.abs(results["logsumexp"] - logsumexp) / (1 + np.abs(logsumexp))
        apart = np.where(results["logsumexp"] == logsumexp, 0.0, apart)
        if np.any(bad := rows & ~(apart <= tolerance)):
            yield Fault(
                "dense", f"logsumexp of one cluster differs by {np.max(apart[bad]):.2g} ({case.kind} values)"
            )


def dense(setting: Setting, case: Case) -> tuple[Any, Any, Any]:
    """Dense attention's output, logsumexp, and how inexact its weights are in the dtype's logits."""
    group = setting.heads[0] // max(1, setting.heads[1])
    query, key, value = (case.given[name].astype(np.float64) for name in TOKENS)
    key, value = (np.repeat(array, group, axis=-2) for array in (key, value))
    scale = case.given.get("scale", setting.scale)
    scale = 1 / math.sqrt(max(1, setting.widths[0])) if scale is None else float(scale)
    logits = scale * np.einsum("...tnd,...snd->...tns", query, key)
    sizes = abs(scale) * np.einsum("...tnd,...snd->...tns", np.abs(query), np.abs(key))
    keep = np.swapaxes(case.kept_queries, -1, -2)[..., None] & np.moveaxis(
        np.broadcast_to(
            case.kept_keys[..., None, :], (*case.kept_keys.shape[:-1], setting.lengths[0], setting.lengths[1])
        ),
        -3,
        -2,
    )
    if setting.is_causal:
        keep = keep & (np.arange(setting.lengths[1]) <= np.arange(setting.lengths[0])[:, None, None])
    logits = np.where(keep, logits, -np.inf)
    top = np.max(logits, axis=-1, initial=-np.inf)
    found = top > -np.inf
    safe = np.where(found, top, 0.0)
    weights = np.exp(logits - safe[..., None])
    total = np.sum(weights, axis=-1)
    output = np.einsum("...tns,...snv->...tnv", weights, value) / np.where(found, total, 1.0)[..., None]
    logsumexp = np.where(found, safe + np.log(np.where(found, total, 1.0)), -np.inf)
    precision = 2.0**-52 if setting.dtype == "float64" else 2.0**-23
    inexact = 4 * precision * np.max(np.where(keep, sizes, 0.0), axis=-1, initial=0.0)
    if setting.lengths[1] > 1:  # one key far above the others is all there is, however large it is
        gap = safe - np.partition(logits, -2, axis=-1)[..., -2]
        inexact = np.where(found & (gap > 40 + 10 * inexact), 0.0, inexact)
    else:
        inexact = np.zeros_like(inexact)
    return output, logsumexp, inexact


def check_convex(setting: Setting, case: Case, results: dict[str, Any]) -> Iterator[Fault]:
    if isinstance(setting.method, (Performer, Scatterbrain)) or not setting.lengths[1]:
        return
    if case.kind == "huge" and isinstance(setting.method, Canopy) and setting.method.num_trees > 1:
        return
    looked_at["convex"] += 1
    group = setting.heads[0] // max(1, setting.heads[1])
    value = np.repeat(case.given["value"].astype(np.float64), group, axis=-2)
    kept = np.broadcast_to(np.swapaxes(case.kept_keys, -1, -2)[..., None], value.shape)
    # Rows that see nothing are zero.
    least = np.minimum(np.min(value, axis=-3, where=kept, initial=np.inf), np.inf)[..., None, :, :]
    most = np.max(value, axis=-3, where=kept, initial=-np.inf)[..., None, :, :]
    slack = TOLERANCES[setting.dtype] * (1 + np.max(np.abs(value), initial=0.0))
    output = results["output"]
    outside = ((output < least - slack) | (output > most + slack)) & np.any(
        output != 0, axis=-1, keepdims=True
    )
    if np.any(outside):
        yield Fault(
            "convex", f"{int(outside.sum())} outputs lie outside of the kept values ({case.kind} values)"
        )


def check_causal(
    setting: Setting, case: Case, results: dict[str, Any], rng: np.random.Generator
) -> Iterator[Fault]:
    """Later tokens, and whether they are masked, are changed; the loss is of earlier rows."""
    shortest = min(setting.lengths)
    if not setting.is_causal or not without_clusters(setting.method) or shortest < 2 or case.kind == "huge":
        return
    looked_at["causal"] += 1
    cut, drawn = int(rng.integers(1, shortest)), case_by_chance(setting, rng)
    # Products of later tokens stay finite.
    most = {"float16": 30.0}.get(setting.dtype, 1e4)
    other, size = drawn.given, 1.0 if drawn.kind == "huge" else pick(rng, 1.0, 30.0, most)

    def later(name: str) -> Any:
        length = setting.lengths[0 if name in ("query", "to_output", "to_logsumexp", "query_mask") else 1]
        after = np.arange(length) >= cut
        if "mask" in name:
            return after
        return after.reshape(-1, *(1,) * (1 if name == "to_logsumexp" else 2))

    earlier_loss = {
        name: np.where(later(name), np.zeros_like(case.given[name]), case.given[name])
        for name in ("to_output", "to_logsumexp")
    }
    changed: dict[str, Any] = {}
    for name in (*TOKENS, "mask", "query_mask"):
        if name in case.given:
            new = other[name] if "mask" in name else (size * other[name]).astype(other[name].dtype)
            changed[name] = np.where(later(name), new, case.given[name])
    axis = len(setting.batch)

    def earlier(found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: np.take(array, np.arange(cut), axis=axis)
            for name, array in found.items()
            if name != "gradient of scale"
        }

    before, after = (
        earlier(program(setting)(case.given | earlier_loss | change)) for change in ({}, changed)
    )
    tolerance = TOLERANCES[setting.dtype]
    yield from differences(
        "causal", after, before, tolerance, f"with other tokens after {cut}, size {size:g}"
    )


def check(setting: Setting, seed: tuple[int, ...]) -> list[Fault]:
    """The faults of a case."""
    rng = np.random.default_rng(seed)
    case = case_by_chance(setting, rng)
    try:
        results = program(setting)(case.given)
        faults = list(check_finite(setting, case, results))
        if faults:
            return faults
        return [
            *check_masked(setting, case, results),
            *check_garbage(setting, case, results, rng),
            *check_alone(setting, case, results),
            *check_vmap(setting, case, results),
            *check_dense(setting, case, results),
            *check_convex(setting, case, results),
            *check_causal(setting, case, results, rng),
        ]
    except Exception as error:
        text = str(error).splitlines() or [""]
        return [Fault("refusal", f"{type(error).__name__}: {text[0][:200]}")]


# Refusals.


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
    if (
        not without_clusters(method) and getattr(method, "cluster_size", 0) < 8
    ):  # in one cluster nothing leaks
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


# The run.


def show(setting: Setting, *seed: int) -> None:
    """Prints the faults of a case."""
    with quickly():
        for fault in check(setting, seed):
            print(f"{fault.kind}: {fault.what}")


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Compiling quickly."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def main(seconds: float, cases: int | None, seed: int, names: list[str]) -> int:
    """Tries cases until the time or their number is up. Returns the number of faults."""
    start, number, index = time.monotonic(), 0, 0
    of_kind: collections.Counter[str] = collections.Counter()
    of_method: collections.Counter[str] = collections.Counter()

    def done() -> bool:
        return time.monotonic() - start > seconds or (cases is not None and number >= cases)

    while not done():
        setting = setting_by_chance(np.random.default_rng([seed, index]), names)
        name = type(setting.method).__name__.lower()
        shown: set[str] = set()
        for case in range(CASES_A_SETTING):
            if done():
                break
            faults = refused((seed, index, case), name) if case == 0 else check(setting, (seed, index, case))
            number, of_method[name] = number + 1, of_method[name] + 1
            for fault in faults:
                of_kind[fault.kind] += 1
                if fault.kind in shown:
                    continue
                shown.add(fault.kind)
                again = f"refused({(seed, index, case)}, '{name}')"
                if case:
                    again = f"show({setting!r}, {seed}, {index}, {case})"
                print(f'\n{fault.kind}: {fault.what}\npython -c "from benchmarks.fuzz import *; {again}"')
                sys.stdout.flush()
        index += 1
        program.cache_clear()
        if index % 10 == 0:
            jax.clear_caches()
            print(f"# {number} cases, {index} settings, {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(f"\n{number} cases of {index} settings in {time.monotonic() - start:.0f} s: {dict(of_method)}")
    print(f"Checks: {dict(looked_at)}")
    print(f"{sum(of_kind.values())} faults: {dict(of_kind)}")
    return sum(of_kind.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="stop after so long")
    parser.add_argument("--cases", type=int, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--method", choices=sorted(METHODS), action="append", help="only this one (or these)")
    flags = parser.parse_args()
    with quickly():
        sys.exit(main(flags.seconds, flags.cases, flags.seed, flags.method or sorted(METHODS)) > 0)
