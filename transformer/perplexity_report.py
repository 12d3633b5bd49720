"""Tables and pictures of perplexities with other attentions."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from training.provenance import header, picture_metadata


class Needle(NamedTuple):
    """How well a needle is copied: part of its tokens that are the likeliest, and their mean log likelihood.

    depth: 0 at the beginning of the window, 1 at its end (transformer.needle). log_likelihood: nats a token.
    """

    depth: float
    accuracy: float
    log_likelihood: float


class Row(NamedTuple):
    """One length and method.

    pairs: that it computes, as a part of the causal ones, of which `budget` were allowed. seconds: median of
    a window's forward pass, with its losses. sees_later: its clusters are cut from later tokens too.
    perplexity_by_position: of equal parts of the windows, from the first on.
    """

    method: str
    length: int
    pairs: float
    perplexity: float
    seconds: float
    budget: float
    settings: str
    sees_later: bool
    perplexity_by_position: tuple[float, ...]
    needle: tuple[Needle, ...]

    def as_json(self) -> dict[str, Any]:
        return self._asdict() | {"needle": [needle._asdict() for needle in self.needle]}


HEADER = "| tokens | method | pairs | perplexity | seconds | setting |"


def line(row: Row) -> str:
    mark = " *" if row.sees_later else ""
    return (
        f"| {row.length} | {row.method}{mark} | {row.pairs:.1%} | {row.perplexity:.4g} | {row.seconds:.2f} | "
        f"{row.settings} |"
    )


def table(rows: Sequence[Row]) -> str:
    lines = [
        *header(),
        "Perplexity of windows of a text, every layer's attention swapped, nothing trained. Pairs: part of",
        "the causal query-key pairs that are computed. Seconds: median of a window's forward pass.",
        "",
        HEADER,
        "|---|---|---|---|---|---|",
        *map(line, rows),
    ]
    if any(row.sees_later for row in rows):
        lines += ["", "\\* clusters see later tokens: no such model could write a text token by token."]
    if any(row.needle for row in rows):
        depths = [needle.depth for needle in rows[0].needle]
        lines += [
            "",
            "A random run of tokens at a depth of the window, half of which comes again at its end: part of",
            "the other half that is predicted (mean log likelihood of a token, nats).",
            "",
            "| tokens | method | pairs |" + "".join(f" {depth:.0%} |" for depth in depths),
            "|---|---|---|" + "---|" * len(depths),
        ]
        for row in rows:
            mark = " *" if row.sees_later else ""
            cells = "".join(f" {of.accuracy:.0%} ({of.log_likelihood:.2f}) |" for of in row.needle)
            lines.append(f"| {row.length} | {row.method}{mark} | {row.pairs:.1%} |{cells}")
    return "\n".join([*lines, ""])


def _lengths(rows: Sequence[Row]) -> list[int]:
    return list(dict.fromkeys(row.length for row in rows))


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    """dense is black."""
    others = dict.fromkeys(row.method for row in rows if row.method != "dense")
    return {"dense": "black"} | {name: f"C{i % 10}" for i, name in enumerate(others)}


def _name(row: Row) -> str:
    return f"{row.method}, clusters see later tokens" if row.sees_later else row.method


def plot_pairs(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Perplexity by the part of the pairs, a line a method; a panel a length."""
    lengths, colours = _lengths(rows), _colours(rows)
    figure, axes = plt.subplots(
        1, len(lengths), figsize=(5 * len(lengths), 4), squeeze=False, layout="constrained"
    )
    for axis, length in zip(axes[0], lengths, strict=True):
        for name, colour in colours.items():
            own = [row for row in rows if (row.length, row.method) == (length, name)]
            if name == "dense" and own:
                axis.axhline(own[0].perplexity, color=colour, linestyle="--", label=name)
            elif own:
                own.sort(key=lambda row: row.pairs)
                points = [row.pairs for row in own], [row.perplexity for row in own]
                axis.plot(*points, color=colour, marker="o", label=_name(own[0]))
        axis.set(title=f"{length} tokens", xlabel="part of the causal pairs", yscale="log")
        _plain(axis)
    axes[0, 0].set_ylabel("perplexity")
    _legend(figure, axes)
    figure.savefig(path, dpi=100, metadata=picture_metadata())
    plt.close(figure)


def plot_positions(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Perplexity by the place in the window, a line a method; a column a length, a row a budget."""
    lengths, colours = _lengths(rows), _colours(rows)
    budgets = sorted({row.budget for row in rows if row.method != "dense"}) or [1.0]
    figure, axes = plt.subplots(
        len(budgets),
        len(lengths),
        figsize=(5 * len(lengths), 3.5 * len(budgets)),
        squeeze=False,
        layout="constrained",
    )
    for of_budget, budget in zip(axes, budgets, strict=True):
        for axis, length in zip(of_budget, lengths, strict=True):
            for row in rows:
                if row.length == length and (row.budget == budget or row.method == "dense"):
                    parts = len(row.perplexity_by_position)
                    places = (np.arange(parts) + 0.5) * length / parts
                    style = "--" if row.method == "dense" else "-"
                    colour, label = colours[row.method], _name(row)
                    axis.plot(places, row.perplexity_by_position, color=colour, linestyle=style, label=label)
            title = f"{length} tokens, at most {budget:.3g} of the pairs"
            axis.set(title=title, xlabel="place in the window", yscale="log")
            _plain(axis)
        of_budget[0].set_ylabel("perplexity")
    _legend(figure, axes)
    figure.savefig(path, dpi=100, metadata=picture_metadata())
    plt.close(figure)


def _legend(figure: Any, axes: Any) -> None:
    """One for all panels, below them."""
    found: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    # As wide as the panels are.
    columns = 2 * axes.shape[1]
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, fontsize=8)


def _plain(axis: Any) -> None:
    """Marks at 1, 2 and 5 of each decade of a logarithmic axis, as plain numbers."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
