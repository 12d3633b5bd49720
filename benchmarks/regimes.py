"""Sparse, low rank, or both? Error of attention by the temperature of its softmax, at an equal budget.

    python -m benchmarks.regimes [--draws=2] [--out=docs/results/tables]

What Scatterbrain claims (arXiv:2110.15343): sparse and low-rank attention excel in different regimes of the
softmax's temperature, both together err less than either, in its experiment 2.1 times less. Queries and keys
are Gaussian, clustered, those of a MiniLM's layers on a text and of a DINOv2's on a photograph, 1024 tokens
each (of the image without the class token). The scale of the logits is multiplied by 1/8 to 8; nothing is
trained. A query may look at N/8 or N/32: keys in clusters and windows, and features, its own and those of
keys, count alike. Oracles: the largest keys of each query, the truncated singular value decomposition, and
both, found by turns. Writes regimes.md and regimes.png; some ten minutes of two CPU cores.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags
from jax import Array

from benchmarks.oracles import Estimate, oracle
from benchmarks.quality import data
from benchmarks.tables import table
from smyrf_jax import Method, attention
from smyrf_jax.budget import BudgetError
from smyrf_jax.dense import dense_weights
from training.provenance import header, picture_metadata
from transformer.contenders import contender
from transformer.probes import heads_of, open_probe

_DRAWS = flags.DEFINE_integer("draws", 2, "of hashes and features, for each head.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "docs/results/tables", "folder of the table and the plot.")

LENGTH = 1024
FACTORS = tuple(2.0**power for power in range(-3, 4))
BUDGETS = (1 / 8, 1 / 32)
SPARSE, LOW_RANK, BOTH = "SMYRF", "Performer", "Scatterbrain"
WINDOW, BOTH_IN_WINDOW = "local window", "Scatterbrain, local window"
AVERAGE = "average of SMYRF and Performer"
# Names in the table, and among the contenders.
METHODS: Mapping[str, str] = {
    SPARSE: "smyrf",
    LOW_RANK: "performer",
    BOTH: "scatterbrain",
    WINDOW: "local",
    BOTH_IN_WINDOW: "scatterbrain_local",
    "canopy": "canopy",
    "trees": "trees",
}
LARGEST, RANK, LARGEST_AND_RANK = "oracle: largest keys", "oracle: low rank", "oracle: both"

Head = tuple[Array, Array, Array]


class Figures(NamedTuple):
    """Errors, both [heads, factors].

    output: relative, in the Frobenius norm. weights: the sum over keys of |weight - estimate|, a query.
    """

    output: np.ndarray
    weights: np.ndarray


def sets_of_heads() -> dict[str, list[Head]]:
    """query, key and value [T, D] of some heads, by where they are from."""
    found: dict[str, list[Head]] = {}
    for kind, name in (("isotropic", "Gaussian"), ("clustered", "clustered")):
        arrays = data(kind)
        found[name] = [_head(arrays, head) for head in range(2)]
    minilm = heads_of(open_probe("minilm", LENGTH, 1))
    found["MiniLM"] = [_head(arrays, 2 * layer) for layer, arrays in enumerate(minilm)]
    dinov2 = heads_of(open_probe("focus", LENGTH + 1, 1))[1::2]
    found["DINOv2"] = [_head(arrays, layer) for layer, arrays in enumerate(dinov2)]
    return found


def _head(arrays: tuple[Array, Array, Array], head: int) -> Head:
    query, key, value = (array[0, -LENGTH:, head] for array in arrays)
    return query, key, value


def weights_by(method: Method) -> Estimate:
    """What a method makes of the weights: its output for values that tell keys apart."""

    def estimate(query: Array, key: Array, scale: Array, rng: Array) -> Array:
        tells = jnp.eye(len(key))[:, None]
        output: Any = attention(query, key, tells, method=method, scale=scale, rng=rng)
        return output[:, 0]

    return estimate


def average(pairs: float) -> Estimate:
    """Half of SMYRF's output and half of Performer's, each with half of the budget."""
    halves = [weights_by(contender(name, LENGTH, pairs / 2)) for name in ("smyrf", "performer")]

    def estimate(query: Array, key: Array, scale: Array, rng: Array) -> Array:
        rngs = jax.random.split(rng)
        found = [half(query, key, scale, rng) for half, rng in zip(halves, rngs, strict=True)]
        return (found[0] + found[1]) / 2

    return estimate


def estimates(pairs: float) -> dict[str, tuple[Estimate, str]]:
    """By name, and with what settings. A method for which the budget is too small is left out."""
    found: dict[str, tuple[Estimate, str]] = {}
    for name, own in METHODS.items():
        try:
            method = contender(own, LENGTH, pairs)
        except BudgetError as error:
            print(f"{name}, {pairs:.2%}: {error}", flush=True)
            continue
        found[name] = weights_by(method), str(method)
    found[AVERAGE] = average(pairs), "each with half of the budget"
    keys = round(pairs * LENGTH)
    found[LARGEST] = oracle(keys, 0), f"{keys} keys"
    found[RANK] = oracle(0, keys // 2), f"rank {keys // 2}"
    found[LARGEST_AND_RANK] = oracle(keys // 2, keys // 4), f"{keys // 2} keys, rank {keys // 4}"
    return found


def runner(estimate: Estimate) -> Callable[[Head, Array], tuple[Array, Array]]:
    """The means over draws of both figures, [factors], of a head and keys [draws]."""

    def of_draw(head: Head, factor: Array, rng: Array) -> tuple[Array, Array]:
        query, key = (array[:, None] for array in head[:2])
        scale = factor / jnp.sqrt(query.shape[-1])
        exact = dense_weights(query, key, scale=scale)[0]
        wrong = estimate(query, key, scale, rng) - exact
        output = jnp.linalg.norm(wrong @ head[2]) / jnp.linalg.norm(exact @ head[2])
        return output, jnp.mean(jnp.sum(jnp.abs(wrong), axis=1))

    @jax.jit
    def run(head: Head, rngs: Array) -> tuple[Array, Array]:
        def of_factor(given: tuple[Array, Array]) -> Any:
            factor, rngs = given
            both = jax.lax.map(functools.partial(of_draw, head, factor), rngs)
            return tuple(map(jnp.mean, both))

        split = jax.vmap(functools.partial(jax.random.split, num=len(FACTORS)), out_axes=1)(rngs)
        return jax.lax.map(of_factor, (jnp.array(FACTORS), split))

    return run


@jax.jit
def spread_of(head: Head) -> Array:
    """[factors], e to the mean entropy: keys over which attention is spread."""

    def of_factor(factor: Array) -> Array:
        query, key = (array[:, None] for array in head[:2])
        weights = dense_weights(query, key, scale=factor / jnp.sqrt(query.shape[-1]))
        entropy = -jnp.sum(weights * jnp.log(jnp.maximum(weights, 1e-30)), axis=-1)
        return jnp.exp(jnp.mean(entropy))

    return jax.lax.map(of_factor, jnp.array(FACTORS))


def measured(heads: list[Head], runs: Mapping[str, Any]) -> dict[str, Figures]:
    found = {}
    for name, run in runs.items():
        draws = 1 if name.startswith("oracle") else _DRAWS.value
        rngs = [jax.random.split(jax.random.key(place), draws) for place in range(len(heads))]
        both = [run(head, rng) for head, rng in zip(heads, rngs, strict=True)]
        found[name] = Figures(*(np.array(column) for column in zip(*both, strict=True)))
        print(f"{name}: {np.array2string(found[name].output.mean(axis=0), precision=3)}", flush=True)
    return found


def shown(factor: float) -> str:
    return f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}"


def claims(found: Mapping[str, Figures]) -> list[str]:
    """What the figures say to the paper's claims."""
    lines = []
    for sparse, low, both in (
        (SPARSE, LOW_RANK, BOTH),
        (WINDOW, LOW_RANK, BOTH_IN_WINDOW),
        (LARGEST, RANK, LARGEST_AND_RANK),
    ):
        errors = [found[name].output.mean(axis=0) for name in (sparse, low, both)]
        ratio = np.minimum(*errors[:2]) / errors[2]
        own = ratio[FACTORS.index(1.0)]
        lines.append(
            f"- {low} errs less than {sparse} at {_where(errors[1] < errors[0])}; {both} less than either at "
            f"{_where(ratio > 1)}. The better one's error is {own:.2f} times that of both "
            f"at factor 1, {ratio.min():.2f} to {ratio.max():.2f} times at all factors."
        )
    return [*lines, ""]


def _where(chosen: np.ndarray) -> str:
    factors = [shown(factor) for factor, of in zip(FACTORS, chosen, strict=True) if of]
    return ", ".join(factors) or "no factor"


def lines_of(found: Mapping[str, Figures]) -> list[str]:
    rows = []
    for name, figures in found.items():
        both = zip(figures.output.mean(axis=0), figures.weights.mean(axis=0), strict=True)
        rows.append([name, *(f"{output:.3f} ({weights:.2f})" for output, weights in both)])
    return table(["factor of the scale", *map(shown, FACTORS)], rows)


def plot(results: Mapping[tuple[str, float], dict[str, Figures]], path: pathlib.Path) -> None:
    """Error of the output by factor: a row a budget, a column a set."""
    sets = list(dict.fromkeys(name for name, _ in results))
    figure, axes = plt.subplots(
        len(BUDGETS),
        len(sets),
        figsize=(4.1 * len(sets), 4 * len(BUDGETS)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    names = [*METHODS, AVERAGE, LARGEST, RANK, LARGEST_AND_RANK]
    colours = dict(zip(names, plt.colormaps["tab20"].colors[::2], strict=False))  # type: ignore[attr-defined]
    colours |= {LARGEST: colours[SPARSE], RANK: colours[LOW_RANK], LARGEST_AND_RANK: colours[BOTH]}
    for (name, pairs), found in results.items():
        axis = axes[BUDGETS.index(pairs), sets.index(name)]
        for label, figures in found.items():
            style = {"ls": "--", "lw": 1} if label.startswith("oracle") else {"marker": "o", "ms": 4}
            axis.plot(FACTORS, figures.output.mean(axis=0), label=label, color=colours[label], **style)
        axis.set(xscale="log", yscale="log", ylim=(5e-3, 5), title=f"{name}, 1/{1 / pairs:g} of the pairs")
        axis.set_xticks(FACTORS, list(map(shown, FACTORS)))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("factor of the logits' scale")
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error of the output")
    handles = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [name for name in names if name in handles]
    figure.legend([handles[name] for name in order], order, loc="outside lower center", ncols=6, fontsize=9)
    figure.savefig(path, dpi=90, metadata=picture_metadata())
    plt.close(figure)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    sets = sets_of_heads()
    spreads = {name: np.mean([spread_of(head) for head in heads], axis=0) for name, heads in sets.items()}
    lines = [
        *header(),
        "Relative error of the attention's output (in brackets the sum over keys of |weight - estimate|,",
        f"0 to 2 where the estimate is a distribution), by the factor of the logits' scale: {LENGTH} tokens,",
        f"means over heads and {_DRAWS.value} draws. Factor 1 is the model's own scale, 1 / sqrt(D).",
        "",
        "Keys over which dense attention is spread (e to the mean entropy):",
        "",
        *table(
            ["factor of the scale", *map(shown, FACTORS)],
            [
                [f"{name} ({len(sets[name])} heads)", *(f"{of:.0f}" for of in row)]
                for name, row in spreads.items()
            ],
        ),
    ]
    results: dict[tuple[str, float], dict[str, Figures]] = {}
    for pairs in BUDGETS:
        kinds = estimates(pairs)
        runs = {name: runner(estimate) for name, (estimate, _) in kinds.items()}
        lines += [f"**1/{1 / pairs:g} of the pairs**", ""]
        lines += [f"- {name}: {settings}" for name, (_, settings) in kinds.items()]
        lines.append("")
        for name, heads in sets.items():
            results[name, pairs] = found = measured(heads, runs)
            own = [f"{name}, 1/{1 / pairs:g} of the pairs", "", *lines_of(found), *claims(found)]
            print("\n".join(own), flush=True)
            lines += own
            (out / "regimes.md").write_text("\n".join(lines))
            plot(results, out / "regimes.png")
    print(f"wrote {out / 'regimes.md'} and regimes.png")


if __name__ == "__main__":
    app.run(main)
