"""Error against cost: ours and its peers, on attention of pretrained models and on synthetic data.

    python -m benchmarks.peers [--lengths=512,2048,8192] [--out=benchmarks/results]

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
from matplotlib import ticker

from benchmarks.quality import data
from benchmarks.timing import medians
from smyrf_jax import (
    canopy_attention,
    clustered_attention,
    dense_attention,
    local_clustering,
    orthogonal_projection,
    performer_far_field,
    smyrf_attention,
)
from smyrf_jax.dense import dense_weights
from smyrf_jax.diagnostics import attention_entropy, attention_error
from smyrf_jax.peers import reformer_clustering, routing_clustering, sign_clustering
from transformer.subjects import heads_of, open_subject

_LENGTHS = flags.DEFINE_list("lengths", ["512", "2048", "8192"], "tokens of a text.")
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


def peer_attention(make: Callable[..., Any], settings: dict[str, int], deduplicate: bool) -> Attention:
    """Attention in the clusters that another method makes."""

    def attend(query: Array, key: Array, value: Array) -> Any:
        clustering = make(query, key, rng=jax.random.key(0), **settings)
        return clustered_attention(query, key, value, clustering, deduplicate=deduplicate)

    return attend


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

    def of_head(arrays: tuple[Array, ...]) -> Array:
        query, key, value = (array[:, None] for array in arrays)  # [T, 1, D]
        weights = dense_weights(query, key)[0]
        # The least of them by bisection; sorting 8192 x 8192 weights takes minutes.
        low, high = jnp.zeros(len(query)), jnp.ones(len(query))

        def halved(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = jnp.where(low > 1e-30, jnp.sqrt(low * high), 1e-6 * high)
            enough = jnp.sum(weights >= middle[:, None], axis=-1) >= count
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

        low, high = jax.lax.fori_loop(0, 40, halved, (low, high))
        kept = jnp.where(weights >= low[:, None], weights, 0)
        return (kept / jnp.sum(kept, axis=-1, keepdims=True)) @ value[:, 0]

    heads = tuple(jnp.moveaxis(array[0], 1, 0) for array in (query, key, value))
    return jnp.moveaxis(jax.lax.map(of_head, heads), 0, 1)[None]


def peers(length: int, size: int) -> list[Peer]:
    """What is compared, at an eighth and a quarter of 512 tokens' pairs with clusters of 32 queries."""
    found = []
    for rounds in (2, 4):
        settings: dict[str, Any] = {"num_hashes": rounds, "cluster_size": size}
        name, cost, count = f"{rounds} x {size}", rounds * size / length, rounds * size
        if cost > 0.5:
            continue
        half: dict[str, Any] = {"num_hashes": rounds // 2, "cluster_size": size}
        centres: dict[str, Any] = {"num_hashes": 1, "cluster_size": count}
        smyrf = functools.partial(canopy_attention, **settings, clusters="smyrf")
        tree = functools.partial(canopy_attention, **settings)
        plain: dict[tuple[str, str], Attention] = {
            ("SMYRF", name): _with_key(functools.partial(smyrf_attention, **settings)),
            ("Reformer", f"{rounds // 2} x 2 x {size}"): peer_attention(reformer_clustering, half, True),
            ("Routing", f"{-(-length // count)} centres"): peer_attention(routing_clustering, centres, False),
            ("HyperAttention's clusters", name): peer_attention(sign_clustering, settings, True),
            ("local window", f"{count}"): functools.partial(window_attention, window=count),
            ("Performer", f"{count} features"): functools.partial(performer_attention, features=count),
            ("tree", name): _with_key(functools.partial(tree, outside="nothing")),
            ("oracle: largest keys", f"{count}"): functools.partial(oracle_attention, count=count),
        }
        found += [Peer(*labels, cost, attention) for labels, attention in plain.items()]
        scatterbrain = _with_key(functools.partial(smyrf, outside="features"))
        found.append(Peer("Scatterbrain", f"{name}, 64 features", cost + 64 / length, scatterbrain))
        for label, means in (("SMYRF + centroids", 1), ("tree + centroids", 1), ("tree + centroids", 2)):
            far = functools.partial(smyrf if label.startswith("SMYRF") else tree, means_per_cluster=means)
            setting = f"{name}, {means} mean{'s' * (means > 1)}"
            found.append(Peer(label, setting, cost + means / size, _with_key(far)))
    # What SMYRF does with as much time.
    for rounds, factor in ((2, 4), (4, 2), (2, 8), (4, 4)):
        settings = {"num_hashes": rounds, "cluster_size": factor * size}
        cost = rounds * factor * size / length
        if cost <= 0.5:
            attention = _with_key(functools.partial(smyrf_attention, **settings))
            found.append(Peer("SMYRF", f"{rounds} x {factor * size}", cost, attention))
    for factor, means in ((1, 2), (1, 4), (2, 4), (2, 8), (4, 8), (4, 16)):
        settings = {"num_hashes": 1, "cluster_size": factor * size, "means_per_cluster": means}
        cost = factor * size / length + means / (factor * size)
        if cost <= 0.5:
            attention = _with_key(functools.partial(canopy_attention, **settings))
            found.append(Peer("canopy (one tree)", f"{factor * size}, {means} means", cost, attention))
    return found


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

    dense = jax.jit(lambda *arrays: dense_attention(*arrays))
    exact = [dense(*layer) for layer in layers]
    runs = {"dense": dense}
    errors = []
    for peer in compared:
        name = f"{peer.family} {peer.setting}"
        run = jax.jit(lambda *arrays, attention=peer.attention: attention(*arrays))
        pairs = zip(layers, exact, strict=True)
        errors.append(np.concatenate([attention_error(run(*layer), true)[0] for layer, true in pairs]))
        if not peer.family.startswith("oracle"):
            runs[name] = run
        print(f"{length} tokens, {name}: {np.mean(errors[-1]):.3f}", flush=True)
    middle = layers[len(layers) // 2]
    waiting = {
        name: functools.partial(lambda run: jax.block_until_ready(run(*middle)), run)
        for name, run in runs.items()
    }
    seconds = medians(waiting, _SECONDS.value)
    return [
        Figures(Peer("dense", "", 1.0, dense_attention), np.zeros(1), seconds["dense"]),
        *(
            Figures(peer, of_peer, seconds.get(f"{peer.family} {peer.setting}", np.nan))
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
            f"({low:.2f} to {high:.2f}) | {'' if np.isnan(seconds) else f'{1e3 * seconds:.1f}'} |"
        )
    return [*lines, "", *at_equal_time(figures), ""]


def at_equal_time(figures: list[Figures]) -> list[str]:
    """Canopy's error beside that of SMYRF with as much time: its settings' least error up to each time."""
    smyrf = sorted((row.seconds, row.errors.mean()) for row in figures if row.peer.family == "SMYRF")
    lines = ["At equal time, canopy's error as a part of SMYRF's (its best setting that takes no longer):"]
    for row in figures:
        if row.peer.family != "canopy (one tree)":
            continue
        within = [error for seconds, error in smyrf if seconds <= row.seconds]
        found = f"{row.errors.mean() / min(within):.2f}" if within else "SMYRF takes longer"
        lines.append(f"{row.peer.setting}: {found};")
    return lines


@jax.jit
def entropies(query: Array, key: Array) -> Array:
    """[N], of a layer [1, T, N, D]; a head at a time, as what is dense here takes T x T."""
    heads = tuple(jnp.moveaxis(array, 2, 0)[..., None, :] for array in (query, key))
    return jax.lax.map(lambda head: jnp.mean(attention_entropy(*head)), heads)


def extremes(figures: list[Figures], entropies: np.ndarray) -> list[str]:
    """Who has the least error in the heads of most peaked and of flattest attention, oracle apart."""
    rows = [row for row in figures if row.peer.family not in ("dense", "oracle: largest keys")]
    limit = min(row.peer.pairs for row in rows if row.peer.family.startswith("tree + centroids"))
    rows = [row for row in rows if row.peer.pairs <= limit]
    lines = [f"Mean error at up to {limit:.1%} of the pairs, over the tenth of the heads that is"]
    order, tenth = np.argsort(entropies), max(1, len(entropies) // 10)
    for name, heads in (("most peaked", order[:tenth]), ("flattest", order[-tenth:])):
        best: dict[str, float] = {}
        for row in rows:
            error = float(row.errors[heads].mean())
            best[row.peer.family] = min(best.get(row.peer.family, np.inf), error)
        ranked = sorted(best.items(), key=lambda found: found[1])
        said = ", ".join(f"{family} {error:.2f}" for family, error in ranked)
        lines.append(f"{name} (entropy {np.exp(entropies[heads]).mean():.0f} keys): {said};")
    return [*lines, ""]


def plot(sets: dict[str, list[Figures]], path: pathlib.Path) -> None:
    """Mean error against pairs (above) and against time (below), a column a set of data."""
    figure, axes = plt.subplots(
        2, len(sets), figsize=(4.2 * len(sets), 8), sharey="col", squeeze=False, layout="constrained"
    )
    for column, (title, figures) in zip(axes.T, sets.items(), strict=True):
        families = dict.fromkeys(row.peer.family for row in figures if row.peer.family != "dense")
        colours = dict(zip(families, plt.colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
        dense = next(row.seconds for row in figures if row.peer.family == "dense")
        for family in families:
            rows = sorted(
                (row for row in figures if row.peer.family == family), key=lambda row: row.peer.pairs
            )
            style = "--" if family.startswith("oracle") else "-"
            mean = [row.errors.mean() for row in rows]
            look: dict[str, Any] = {"marker": "o", "ms": 4, "color": colours[family]}
            column[0].plot([row.peer.pairs for row in rows], mean, style, label=family, **look)
            column[1].plot([1e3 * row.seconds for row in rows], mean, linestyle="", **look)
        column[1].axvline(1e3 * dense, color="k", lw=1, ls=":")
        column[0].set(title=title, xscale="log", xlabel="pairs, as a part of all", yscale="log")
        column[1].set(xscale="log", xlabel="milliseconds a layer (dotted: dense)", yscale="log")
        for axis in column:
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                scale.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
                scale.set_minor_formatter(ticker.NullFormatter())
            axis.grid(alpha=0.3, which="both")
            axis.set_ylabel("relative error of the output")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
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
        if len(layers) > 1:
            lines += extremes(found[title], np.concatenate([entropies(*layer[:2]) for layer in layers]))
        (out / "peers.md").write_text("\n".join(lines))
        plot(found, out / "peers.png")
    print(f"wrote {out / 'peers.md'} and peers.png")


if __name__ == "__main__":
    app.run(main)
