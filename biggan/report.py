"""The table and the pictures of what swapped attention changes in a generator's images."""

import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biggan.attention_maps import Block, Decomposition
from biggan.pictures import grid
from biggan.swaps import AS_TRAINED, DENSE, LARGEST_KEYS, REMOVED, TRUNCATED, Row
from training.files import write_whole
from training.provenance import picture_metadata

_ENERGIES = (0.9, 0.99)
_TICKS = [2.0**-power for power in range(6, -1, -1)]


class DenseMap(NamedTuple):
    """An attention block, the entropies [B, T] of its dense maps in nats, and what they are made of."""

    block: Block
    entropy: Float[np.ndarray, "B T"]
    parts: Decomposition


def write_report(
    folder: str,
    rows: Sequence[Row],
    maps: Sequence[DenseMap],
    images: Mapping[str, UInt8[np.ndarray, "B H W 3"]],
    heading: Sequence[str],
    remarks: Sequence[str],
) -> None:
    """table.md, rows.json, curves.png, grid.png and map.png; what is there is replaced.

    images: of `draw_grid`. heading: how it was made. remarks: what is missing, and why.
    """

    def at(name: str) -> str:
        return os.path.join(folder, name)

    write_rows(rows, at("rows.json"))
    write_table(rows, maps, heading, remarks, at("table.md"))
    draw_curves(rows, at("curves.png"))
    draw_grid(images, at("grid.png"))
    draw_maps(maps, at("map.png"))


def write_rows(rows: Sequence[Row], path: str) -> None:
    """A list of objects, one a row; null: not measured."""
    write_whole(path, json.dumps([dataclasses.asdict(row) for row in rows], indent=1).encode())


def write_table(
    rows: Sequence[Row], maps: Sequence[DenseMap], heading: Sequence[str], remarks: Sequence[str], path: str
) -> None:
    """See `write_report`."""
    text = "\n".join([*heading, "", *_of_maps(maps), "", *_of_rows(rows), "", _LEGEND, "", *remarks])
    write_whole(path, (text.rstrip() + "\n").encode())


_LEGEND = f"""\
Nothing is trained: each method has the settings that a part of the pairs allows. Pairs and memory: of dense
attention's, counted. Error of the attention: of its output, relative, on the queries, keys and values that
the dense generator has there; the mean over samples and blocks. Error of the image: |x' - x| / |x| with the
dense image of the same noise, pixels in 0 .. 255; of the features the same; means over images. FD and KD:
from the dense images of the same noise; for KD no image is compared with its own. KD to real: from real
images. ± is the deviation over subsets of images. {REMOVED}: the attention's output is zero. A local window
is of places in the two sequences: as there are more queries than keys, most queries see none until it is as
wide as all keys.

{LARGEST_KEYS}: each query with its so many largest keys. {TRUNCATED}: the dense map cut off at the rank. Both
know the whole map, and save nothing: they tell what a sparse and a low-rank attention could do."""


def _of_maps(maps: Sequence[DenseMap]) -> list[str]:
    lines = [
        "| block | queries x keys | gamma | entropy in nats: mean (5 %, 95 %), of at most | singular values "
        "for 90 %, 99 % of the energy |",
        "|---|---|---|---|---|",
    ]
    for block, entropy, parts in maps:
        low, high = np.quantile(entropy, (0.05, 0.95))
        num_queries, num_keys = block.problem.num_queries, block.problem.num_keys
        needed = ", ".join(f"{parts.needed(part).mean():.3g}" for part in _ENERGIES)
        lines.append(
            f"| {block.size}x{block.size} | {num_queries} x {num_keys} | {block.gamma:.4f} | "
            f"{entropy.mean():.2f} ({low:.2f}, {high:.2f}), {np.log(num_keys):.2f} | {needed} of "
            f"{parts.values.shape[-1]} |"
        )
    lines += ["", "Gamma scales what the attention adds to the map: it decides how much a swap can change."]
    return lines


def _of_rows(rows: Sequence[Row]) -> list[str]:
    def cell(value: float | None, form: str, spread: float | None = None) -> str:
        if value is None:
            return "-"
        return format(value, form) + ("" if spread is None else f" ± {spread:.2g}")

    lines = [
        "| method | setting | pairs | memory | error of the attention | error of the image | error of the "
        "features | FD | KD | KD to real |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row.method,
            row.settings,
            cell(row.pairs, ".2%"),
            cell(row.memory, ".1%"),
            cell(row.attention_error, ".4f"),
            cell(row.image_error, ".4f"),
            cell(row.feature_error, ".4f"),
            cell(row.fd, ".4f"),
            cell(row.kd, ".4g", row.kd_sd),
            cell(row.kd_real, ".4g", row.kd_real_sd),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# Fields that are drawn, and what they are called.
_PANELS = {
    "attention_error": "error of the attention's output",
    "image_error": "error of the image",
    "feature_error": "error of the features",
    "fd": "FD from the dense images",
    "kd": "KD from the dense images",
    "kd_real": "KD from real images",
}


def draw_curves(rows: Sequence[Row], path: str) -> None:
    """Each figure against pairs, a line a method; the attention as trained is a star.

    Dense attention and none are lines across. Around the dense line of KD from real images lies its
    deviation over subsets.
    """
    panels = [name for name in _PANELS if any(getattr(row, name) is not None for row in rows)]
    figure, axes = plt.subplots(
        2, -(-len(panels) // 2), figsize=(5 * -(-len(panels) // 2), 8), layout="constrained", squeeze=False
    )
    across = (DENSE, AS_TRAINED, REMOVED)
    methods = list(dict.fromkeys(row.method for row in rows if row.method not in across))
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for name, axis in zip(panels, axes.flat, strict=False):
        for number, method in enumerate(methods):
            oracle = {"color": "0.5", "linestyle": {LARGEST_KEYS: "--", TRUNCATED: ":"}.get(method)}
            style = oracle if method in (LARGEST_KEYS, TRUNCATED) else {"color": f"C{number}", "marker": "o"}
            own = [row for row in rows if row.method == method and getattr(row, name) is not None]
            if own:
                values = [getattr(row, name) for row in own]
                axis.plot([row.pairs for row in own], values, label=method, **style)
        _draw_references(axis, [row for row in rows if getattr(row, name) is not None], name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(_TICKS, [f"{100 * tick:.3g} %" for tick in _TICKS], fontsize=8)
        axis.set(xlabel="pairs, of dense attention's", title=_PANELS[name])
        axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    _save(figure, path)


def _draw_references(axis: Axes, rows: Sequence[Row], name: str) -> None:
    for row in rows:
        value = getattr(row, name)
        if row.method == AS_TRAINED:
            axis.plot([row.pairs], [value], "k*", markersize=12, label=AS_TRAINED)
        elif row.method == REMOVED:
            axis.axhline(value, linewidth=1, zorder=0, label=REMOVED, color="k", linestyle="-.")
        elif row.method == DENSE:
            axis.axhline(value, linewidth=1, zorder=0, label=DENSE, color="0.7")
            spread = (row.kd_real_sd or 0.0) if name == "kd_real" else 0.0
            axis.axhspan(value - spread, value + spread, color="0.7", alpha=0.3, zorder=0, linewidth=0)


def draw_grid(images: Mapping[str, UInt8[np.ndarray, "B H W 3"]], path: str) -> None:
    """A row of images a label, the same noise in a column; beside them how far they are from the first row.

    The differences are enlarged alike, so that the largest but for one in a thousand is white.
    """
    first = next(iter(images.values()))
    differences = [np.abs(of.astype(int) - first) for of in images.values()]
    largest = max((float(np.quantile(of, 0.999)) for of in differences[1:]), default=0.0)
    factor = 255 / max(largest, 1.0)
    height, width, _ = grid(first, columns=len(first)).shape
    figure, axes = plt.subplots(
        len(images),
        2,
        figsize=(2.2 * width / height + 1.8, 1.15 * len(images)),
        layout="constrained",
        squeeze=False,
    )
    for (left, right), (label, of), difference in zip(axes, images.items(), differences, strict=True):
        enlarged = np.clip(factor * difference, 0, 255).astype(np.uint8)
        for axis, shown in ((left, of), (right, enlarged)):
            axis.imshow(grid(shown, columns=len(shown)), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        left.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    axes[0, 0].set_title("images of the same noise", fontsize=10)
    axes[0, 1].set_title(f"their differences from the first row, times {factor:.3g}", fontsize=10)
    _save(figure, path)


def draw_maps(maps: Sequence[DenseMap], path: str) -> None:
    """Of each block: how the entropies of its queries lie, and the singular values of its maps."""
    figure, axes = plt.subplots(
        len(maps), 2, figsize=(10, 3.6 * len(maps)), layout="constrained", squeeze=False
    )
    for (left, right), (block, entropy, parts) in zip(axes, maps, strict=True):
        name, most = f"{block.size}x{block.size}", np.log(block.problem.num_keys)
        left.hist(entropy.ravel(), bins=60, range=(0, most * 1.02), density=True)
        left.axvline(entropy.mean(), color="C1", label=f"mean {entropy.mean():.2f}")
        left.axvline(most, color="0.5", linestyle="--", label=f"all keys alike: {most:.2f}")
        left.set(xlabel="entropy of a query in nats", ylabel="density", title=f"{name}: entropy")
        left.legend(fontsize=8)
        numbers = np.arange(1, parts.values.shape[-1] + 1)
        for of_sample in parts.values:
            right.loglog(numbers, np.maximum(of_sample, 1e-8 * of_sample[0]), color="C0", alpha=0.5)
        for part, style in zip(_ENERGIES, ("-", "--"), strict=True):
            needed = parts.needed(part).mean()
            right.axvline(
                needed, color="C1", linestyle=style, label=f"{part:.0%} of the energy: {needed:.3g}"
            )
        right.set(xlabel="number", ylabel="singular value", title=f"{name}: dense map, a line a sample")
        right.legend(fontsize=8)
        right.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    """A PNG that nobody ever sees half."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata=picture_metadata())
    plt.close(figure)
    write_whole(path, file.getvalue())
