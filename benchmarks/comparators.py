"""Error against cost: our methods and comparators, on attention of pretrained models and on synthetic data.

    python -m benchmarks.comparators [--lengths=512,2048,8192] [--out=docs/results/tables]

Queries, keys and values are those of every layer and head of MiniLM (texts of Python's manual; positions are
interpolated past 512 tokens), of a DINOv2 on a photograph, and drawn at random. Nothing is trained. Cost is
the query-key pairs that are computed as a part of all (a mean counts as a key, a feature of a query or of a
key as a pair), and the time of one layer, forward, on this machine. Writes comparators.md and
comparators.png. Wants the extra [text,vision].
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags
from jax import Array
from matplotlib import ticker

from benchmarks.quality import data
from benchmarks.tables import table
from smyrf_jax import (
    Canopy,
    Centroids,
    Dense,
    Local,
    Method,
    Performer,
    Scatterbrain,
    Smyrf,
    attention,
)
from smyrf_jax.budget import Cost, Problem, clustered_cost
from smyrf_jax.diagnostics import attention_entropy, attention_error, largest_keys_attention
from smyrf_jax.methods import Clustered, Parts
from smyrf_jax.methods.comparators import HyperAttention, Reformer, Routing
from training.provenance import header, picture_metadata
from training.timing import medians
from transformer.probes import heads_of, open_probe

_LENGTHS = flags.DEFINE_list("lengths", ["512", "2048", "8192"], "tokens of a text.")
_OUT = flags.DEFINE_string("out", "docs/results/tables", "folder of the table and the plot.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "for the times of each set of data.")

# Families that are looked up by name below.
DENSE = "dense"
ORACLE = "oracle: largest keys"
SMYRF = "SMYRF"
ONE_TREE = "canopy (one tree)"
TREES = "tree + centroids"


@dataclasses.dataclass(frozen=True)
class SmyrfMeans(Clustered):
    """SMYRF's clusters with Canopy's means outside: what of Canopy's gain is the trees'."""

    num_hashes: int
    cluster_size: int
    means_per_cluster: int

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        smyrf = Smyrf(self.num_hashes, self.cluster_size).parts(query, key, mask, rng, query_mask)
        return Parts(smyrf.clustering, Centroids(self.means_per_cluster), complete=True)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the clusters and the means."""
        return clustered_cost(problem, self.num_hashes, self.cluster_size, means=self.means_per_cluster)


@dataclasses.dataclass(frozen=True)
class LargestKeys(Method):
    """The oracle: each query with its `count` largest keys, as if they were found for free."""

    count: int

    def attend(
        self, query: Array, key: Array, value: Array, mask: Array | None, *, scale: Any, **_: Any
    ) -> tuple[Array, Array]:
        """See `Method`. The logsumexp, which nothing here wants, is NaN."""
        output = largest_keys_attention(query, key, value, count=self.count, scale=scale)
        return output, jnp.full(query.shape[:-1], jnp.nan)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the keys."""
        return problem.cost(problem.num_queries * self.count, 0)


def compared(length: int, size: int) -> list[tuple[str, Method]]:
    """Families and their methods, the first at an eighth and a quarter of 512 tokens' pairs with size 32."""
    found: list[tuple[str, Method]] = []
    for rounds in (2, 4):
        smyrf = Smyrf(rounds, size)
        pairs = smyrf.cost(length, length).pairs
        found += [
            (SMYRF, smyrf),
            ("Reformer", Reformer(rounds // 2, size)),
            ("Routing", Routing(rounds * size)),
            ("HyperAttention's clusters", HyperAttention(rounds, size)),
            ("local window", Local(rounds * size)),
            ("Performer", Performer.for_budget(length, length, pairs=pairs)),
            ("Scatterbrain", Scatterbrain.for_budget(length, length, pairs=pairs, num_hashes=rounds)),
            ("tree", Canopy(rounds, size, means_per_cluster=0)),
            (ORACLE, LargestKeys(rounds * size)),
            ("SMYRF + centroids", SmyrfMeans(rounds, size, means_per_cluster=1)),
            *((TREES, Canopy(rounds, size, means)) for means in (1, 2)),
        ]
    # What SMYRF does with as much time.
    found += [(SMYRF, Smyrf(rounds, factor * size)) for rounds, factor in ((2, 4), (4, 2), (2, 8), (4, 4))]
    for factor, means in ((1, 2), (1, 4), (2, 4), (2, 8), (4, 8), (4, 16)):
        found.append((ONE_TREE, Canopy(1, factor * size, means)))
    return [(family, method) for family, method in found if method.cost(length, length).pairs <= 0.5]


class Figures(NamedTuple):
    """pairs: a part of T * S; errors: [rows], of every layer and head; seconds: of one layer."""

    family: str
    method: Method
    pairs: float
    errors: np.ndarray
    seconds: float


def measured(layers: list[tuple[Array, Array, Array]], size: int) -> list[Figures]:
    """Every method on every layer [1, T, N, D], the dense one first."""
    length = layers[0][0].shape[1]
    rows = [(DENSE, Dense()), *compared(length, size)]
    runs: dict[Method, Any] = {
        method: jax.jit(functools.partial(attention, method=method)) for _, method in rows
    }
    exact = [runs[Dense()](*layer) for layer in layers]
    errors = []
    for family, method in rows:
        pairs = zip(layers, exact, strict=True)
        of_layers = [attention_error(runs[method](*layer), true)[0] for layer, true in pairs]
        errors.append(np.concatenate(of_layers))
        print(f"{length} tokens, {family}, {method}: {np.mean(errors[-1]):.3f}", flush=True)
    middle = layers[len(layers) // 2]

    def step(method: Method) -> Any:
        return jax.block_until_ready(runs[method](*middle))

    # The oracle has no time: it is not a way to compute anything.
    timed = [method for family, method in rows if family != ORACLE]
    seconds = medians({repr(method): functools.partial(step, method) for method in timed}, _SECONDS.value)
    return [
        Figures(family, method, method.cost(length, length).pairs, error, seconds.get(repr(method), np.nan))
        for (family, method), error in zip(rows, errors, strict=True)
    ]


def lines_of(title: str, figures: list[Figures]) -> list[str]:
    rows = []
    for row in sorted(figures, key=lambda row: (row.family, row.pairs)):
        low, high = np.quantile(row.errors, (0.25, 0.75))
        error = f"{row.errors.mean():.3f} ({low:.2f} to {high:.2f})"
        milliseconds = "" if np.isnan(row.seconds) else f"{1e3 * row.seconds:.1f}"
        rows.append([row.family, str(row.method), f"{row.pairs:.1%}", error, milliseconds])
    header = ["", "method", "pairs", "error: mean (quartiles)", "milliseconds a layer"]
    return [f"**{title}**", "", *table(header, rows), *at_equal_time(figures), ""]


def at_equal_time(figures: list[Figures]) -> list[str]:
    """Canopy's error beside that of SMYRF with as much time: its settings' least error up to each time."""
    smyrf = [(row.seconds, row.errors.mean()) for row in figures if row.family == SMYRF]
    lines = ["At equal time, canopy's error as a part of SMYRF's (its best setting that takes no longer):"]
    for row in figures:
        if row.family != ONE_TREE:
            continue
        within = [error for seconds, error in smyrf if seconds <= row.seconds]
        found = f"{row.errors.mean() / min(within):.2f}" if within else "SMYRF takes longer"
        lines.append(f"{row.method}: {found};")
    return lines


@jax.jit
def entropies(query: Array, key: Array) -> Array:
    """[N], of a layer [1, T, N, D]; a head at a time, as what is dense here takes T x T."""
    heads = tuple(jnp.moveaxis(array, 2, 0)[..., None, :] for array in (query, key))
    return jax.lax.map(lambda head: jnp.mean(attention_entropy(*head)), heads)


def extremes(figures: list[Figures], entropies: np.ndarray) -> list[str]:
    """Who has the least error in the heads of most peaked and of flattest attention, oracle apart."""
    rows = [row for row in figures if row.family not in (DENSE, ORACLE)]
    limit = min(row.pairs for row in rows if row.family == TREES)
    rows = [row for row in rows if row.pairs <= limit]
    lines = [f"Mean error at up to {limit:.1%} of the pairs, over the tenth of the heads that is"]
    order, tenth = np.argsort(entropies), max(1, len(entropies) // 10)
    for name, heads in (("most peaked", order[:tenth]), ("flattest", order[-tenth:])):
        best: dict[str, float] = {}
        for row in rows:
            error = float(row.errors[heads].mean())
            best[row.family] = min(best.get(row.family, np.inf), error)
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
        families = dict.fromkeys(row.family for row in figures if row.family != DENSE)
        colours = dict(zip(families, plt.colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
        dense = next(row.seconds for row in figures if row.family == DENSE)
        for family in families:
            rows = sorted((row for row in figures if row.family == family), key=lambda row: row.pairs)
            style = "--" if family == ORACLE else "-"
            mean = [row.errors.mean() for row in rows]
            look: dict[str, Any] = {"marker": "o", "ms": 4, "color": colours[family]}
            column[0].plot([row.pairs for row in rows], mean, style, label=family, **look)
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
    figure.savefig(path, dpi=90, metadata=picture_metadata())
    plt.close(figure)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    sets: dict[str, tuple[list[tuple[Array, Array, Array]], int]] = {}
    for length in map(int, _LENGTHS.value):
        sets[f"MiniLM, {length} tokens"] = heads_of(open_probe("minilm", length, 1)), 32
    sets["DINOv2, 1370 tokens"] = heads_of(open_probe("focus", 1370, 1)), 32
    for kind in ("isotropic", "clustered"):
        sets[f"{kind}, 1024 tokens"] = [data(kind)], 64
    lines = [
        *header(),
        "Relative error of the attention's output, over all layers and heads. Pairs: as a part of all, a",
        "mean counted as a key, a feature of a query or of a key as a pair. Milliseconds: of one layer,",
        "forward.",
        "",
    ]
    found = {}
    for title, (layers, size) in sets.items():
        found[title] = measured(layers, size)
        lines += lines_of(title, found[title])
        if len(layers) > 1:
            lines += extremes(found[title], np.concatenate([entropies(*layer[:2]) for layer in layers]))
        (out / "comparators.md").write_text("\n".join(lines))
        plot(found, out / "comparators.png")
    print(f"wrote {out / 'comparators.md'} and comparators.png")


if __name__ == "__main__":
    app.run(main)
