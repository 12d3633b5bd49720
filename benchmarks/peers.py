"""Error against cost: ours and its peers, on attention of pretrained models and on synthetic data.

    python -m benchmarks.peers [--lengths=512,2048] [--out=benchmarks/results]

Queries, keys and values are those of every layer and head of MiniLM (texts of Python's manual; positions are
interpolated past 512 tokens), of a DINOv2 on a photograph, and drawn at random. Nothing is trained. Cost is
the query-key pairs that are computed as a part of all (a feature or a mean counts as a key), and the time of
one layer, forward, on this machine. Writes peers.md and peers.png. Wants the extra [text,vision].
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags
from jax import Array

from benchmarks.quality import centred, data, gray_signs
from benchmarks.timing import medians
from smyrf_jax import (
    canopy_attention,
    clustered_attention,
    dense_attention,
    local_clustering,
    orthogonal_projection,
    performer_far_field,
    smyrf_attention,
    sort_clustering,
)
from smyrf_jax.dense import dense_weights
from smyrf_jax.diagnostics import attention_error
from transformer.subjects import heads_of, open_subject

_LENGTHS = flags.DEFINE_list("lengths", ["512", "2048"], "tokens of a text.")
_OUT = flags.DEFINE_string("out", "benchmarks/results", "folder of the table and the plot.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "for the times of each set of data.")

# attention(query, key, value) of [1, T, N, D]
Attention = Callable[[Array, Array, Array], Any]


class Peer(NamedTuple):
    """A family at one setting. pairs: its cost, as a part of T * S."""

    family: str
    setting: str
    pairs: float
    attention: Attention


def gray_attention(query: Array, key: Array, value: Array, *, rounds: int, size: int, bits: int) -> Any:
    """Clusters by signs of projections in Gray order, keys centred (HyperAttention's sortLSH)."""
    hashes = gray_signs(jax.random.key(0), *centred(query, key), rounds, bits)
    clustering = sort_clustering(*hashes, cluster_size=size)
    return clustered_attention(query, key, value, clustering, deduplicate=True)


def window_attention(query: Array, key: Array, value: Array, *, window: int) -> Any:
    """Each query with its neighbours."""
    shape = (len(query), query.shape[2])
    clustering = local_clustering(shape, query.shape[1], key.shape[1], window=window)
    return clustered_attention(query, key, value, clustering, window=window)


def performer_attention(query: Array, key: Array, value: Array, *, features: int) -> Any:
    projection = orthogonal_projection(jax.random.key(0), features // 2, query.shape[-1])
    return performer_far_field(query, key, value, projection=projection).output


def oracle_attention(query: Array, key: Array, value: Array, *, count: int) -> Array:
    """Each query with its `count` largest keys."""
    weights = dense_weights(query, key)
    least = jax.lax.top_k(weights, count)[0][..., -1:]
    kept = jnp.where(weights >= least, weights, 0)
    return jnp.einsum("bnts,bsnv->btnv", kept / jnp.sum(kept, -1, keepdims=True), value)


def peers(length: int, size: int) -> list[Peer]:
    """What is compared, with clusters of `size` queries."""
    found = []
    clusters = length / size
    bits = max(1, round(np.log2(clusters)) + 1)
    for rounds in (2, 4):
        settings: dict[str, Any] = {"num_hashes": rounds, "cluster_size": size}
        name, cost = f"{rounds} x {size}", rounds * size / length
        if cost > 0.5:
            continue
        tree = functools.partial(canopy_attention, **settings)
        gray = functools.partial(gray_attention, rounds=rounds, size=size, bits=bits)
        found += [
            Peer("SMYRF", name, cost, functools.partial(smyrf_attention, **settings)),
            Peer("signs in Gray order", name, cost, gray),
            Peer("tree", name, cost, functools.partial(tree, outside="nothing")),
            Peer("tree + centroids (canopy)", name, cost + clusters / length, tree),
            Peer(
                "SMYRF + centroids",
                name,
                cost + clusters / length,
                functools.partial(tree, clusters="smyrf"),
            ),
            Peer(
                "Scatterbrain",
                f"{name}, 64 features",
                cost + 64 / length,
                functools.partial(tree, clusters="smyrf", outside="features"),
            ),
        ]
        count = round(cost * length)
        found += [
            Peer(
                "local window", f"{count}", count / length, functools.partial(window_attention, window=count)
            ),
            Peer(
                "Performer",
                f"{count}",
                count / length,
                functools.partial(performer_attention, features=count),
            ),
            Peer(
                "oracle: largest keys",
                f"{count}",
                count / length,
                functools.partial(oracle_attention, count=count),
            ),
        ]
    seeded = ("SMYRF", "tree", "tree + centroids (canopy)", "SMYRF + centroids", "Scatterbrain")
    return [
        peer._replace(attention=_with_key(peer.attention)) if peer.family in seeded else peer
        for peer in found
    ]


def _with_key(attention: Attention) -> Attention:
    return lambda *arrays: attention(*arrays, rng=jax.random.key(0))  # type: ignore[call-arg]


class Figures(NamedTuple):
    """errors: [rows], of every layer and head; seconds: of one layer."""

    peer: Peer
    errors: np.ndarray
    seconds: float


def measured(layers: list[tuple[Array, Array, Array]], size: int) -> list[Figures]:
    """Every peer on every layer [1, T, N, D]."""
    length = layers[0][0].shape[1]
    compared = peers(length, size)

    @functools.partial(jax.jit, static_argnums=3)
    def error(query: Array, key: Array, value: Array, attention: Attention) -> Array:
        exact: Any = dense_attention(query, key, value)
        return attention_error(attention(query, key, value), exact)[0]

    runs = {"dense": jax.jit(lambda *arrays: dense_attention(*arrays))}
    errors = []
    for peer in compared:
        errors.append(np.concatenate([error(*layer, peer.attention) for layer in layers]))
        name = f"{peer.family} {peer.setting}"
        runs[name] = jax.jit(lambda *arrays, attention=peer.attention: attention(*arrays))
        print(f"{length} tokens, {name}: {np.mean(errors[-1]):.3f}", flush=True)
    middle = layers[len(layers) // 2]
    waiting = {
        name: functools.partial(lambda run: jax.block_until_ready(run(*middle)), run)
        for name, run in runs.items()
    }
    seconds = medians(waiting, _SECONDS.value)
    dense = Peer("dense", "", 1.0, dense_attention)
    return [
        Figures(dense, np.zeros(1), seconds["dense"]),
        *(
            Figures(peer, of_peer, seconds[f"{peer.family} {peer.setting}"])
            for peer, of_peer in zip(compared, errors, strict=True)
        ),
    ]


def table(title: str, figures: list[Figures]) -> list[str]:
    lines = [
        f"**{title}**",
        "",
        "| | setting | pairs | error: mean (quartiles) | milliseconds a layer |",
        "|---|---|---|---|---|",
    ]
    for peer, errors, seconds in sorted(figures, key=lambda row: (row.peer.family, row.peer.pairs)):
        low, high = np.quantile(errors, (0.25, 0.75))
        lines.append(
            f"| {peer.family} | {peer.setting} | {peer.pairs:.1%} | {errors.mean():.3f} "
            f"({low:.2f} to {high:.2f}) | {1e3 * seconds:.1f} |"
        )
    return [*lines, ""]


def plot(sets: dict[str, list[Figures]], path: pathlib.Path) -> None:
    """Mean error against pairs (above) and against time (below), a column a set of data."""
    figure, axes = plt.subplots(
        2, len(sets), figsize=(4.2 * len(sets), 8), sharey="col", squeeze=False, layout="constrained"
    )
    for column, (title, figures) in zip(axes.T, sets.items(), strict=True):
        families = dict.fromkeys(row.peer.family for row in figures if row.peer.family != "dense")
        dense = next(row.seconds for row in figures if row.peer.family == "dense")
        for family in families:
            rows = [row for row in figures if row.peer.family == family]
            style = "--" if family.startswith("oracle") else "-"
            mean = [row.errors.mean() for row in rows]
            column[0].plot([row.peer.pairs for row in rows], mean, style, marker="o", label=family, ms=4)
            if not family.startswith("oracle"):
                column[1].plot([1e3 * row.seconds for row in rows], mean, marker="o", ms=4)
            else:
                column[1].plot([], [])
        column[1].axvline(1e3 * dense, color="k", lw=1, ls=":")
        column[0].set(title=title, xscale="log", xlabel="pairs, as a part of all", yscale="log")
        column[1].set(xscale="log", xlabel="milliseconds a layer (dotted: dense)", yscale="log")
        for axis in column:
            axis.grid(alpha=0.3, which="both")
            axis.set_ylabel("relative error of the output")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    sets: dict[str, tuple[list[tuple[Array, Array, Array]], int]] = {}
    for length in map(int, _LENGTHS.value):
        sets[f"MiniLM, {length} tokens"] = heads_of(open_subject("minilm", length, 1)), 32
    sets["DINOv2, 1370 tokens"] = heads_of(open_subject("focus", 1370, 1)), 32
    for kind in ("isotropic", "clustered"):
        sets[f"{kind}, 1024 tokens"] = [data(kind)], 64
    lines = [
        "Relative error of the attention's output, over all layers and heads. Pairs: as a part of all, a",
        "feature or a mean counted as a key. Milliseconds: of one layer, forward, two CPU cores.",
        "`python -m benchmarks.peers`",
        "",
    ]
    found = {}
    for title, (layers, size) in sets.items():
        found[title] = measured(layers, size)
        lines += table(title, found[title])
        (out / "peers.md").write_text("\n".join(lines))
        plot(found, out / "peers.png")
    print(f"wrote {out / 'peers.md'} and peers.png")


if __name__ == "__main__":
    app.run(main)
