"""Whether a case keeps what `attention` promises."""

import collections
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fuzz.cases import TOKENS, Case, case_by_chance, filled, kept_tokens
from benchmarks.fuzz.programs import program
from benchmarks.fuzz.settings import SHARED, Setting, by_place, pick, without_clusters
from smyrf_jax import Canopy, CausalCanopy, Dense, Performer, Scatterbrain, Smyrf

# How often each check has found something to look at.
looked_at: collections.Counter[str] = collections.Counter()
GARBAGE = (np.nan, np.inf, -np.inf, 1e30)
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2, "float16": 4e-3}


class Fault(NamedTuple):
    """A promise that was not kept."""

    kind: str
    what: str


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
    elif isinstance(method, CausalCanopy):
        whole = np.full(count.shape, max(queries, keys) <= method.block_size)
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
    strict = without_clusters(setting.method) or isinstance(setting.method, CausalCanopy)
    if not setting.is_causal or not strict or shortest < 2 or case.kind == "huge":
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
