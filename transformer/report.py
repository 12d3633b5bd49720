"""Tables and pictures of what another attention changes in a pretrained encoder."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np

from smyrf_jax import Method
from smyrf_jax.budget import Cost
from training.provenance import header, picture_metadata
from transformer.probes import Probe
from transformer.vision import pixels


class Row(NamedTuple):
    """One length and method.

    cost: of a layer. error, mass: [layers, heads], mass NaN where there are no clusters. cosine: mean over
    inputs. seconds: an input.
    """

    length: int
    method: Method
    cost: Cost
    error: np.ndarray
    mass: np.ndarray
    cosine: float
    seconds: float
    dense_seconds: float


def line(row: Row) -> str:
    return (
        f"| {row.length} | {row.cost.pairs:.2%} | {row.method} | {row.error.mean():.3f} | "
        f"{_mass(row.mass, 3)} | {row.cosine:.4f} | {row.cost.memory_of_dense:.1%} | "
        f"{row.seconds:.3f} / {row.dense_seconds:.3f} |"
    )


def _mass(mass: np.ndarray, digits: int) -> str:
    return "-" if np.isnan(mass).any() else f"{mass.mean():.{digits}f}"


def table(rows: Sequence[Row], entropies: Mapping[int, np.ndarray], unit: str) -> str:
    """entropies: length -> [layers, heads]. unit: what an input is called."""
    lines = [
        *header(),
        f"Error of the attention's output (relative) and captured mass: means over layers, heads, {unit}s.",
        "Cosine: of the final embedding with the dense model's, every layer swapped. Memory: of attention,",
        f"forward and backward, of dense attention's, counted. Seconds: of the whole model, for each {unit}",
        "of a batch.",
        "",
        "| tokens | pairs | setting | error | mass | cosine | memory | seconds / dense |",
        "|---|---|---|---|---|---|---|---|",
        *(line(row) for row in rows),
        "",
        "By layer: the entropy of dense attention in nats; error (captured mass) at each part of the pairs.",
        "",
    ]
    for length, entropy in entropies.items():
        own = [row for row in rows if row.length == length]
        lines += [
            f"| {length} tokens, layer | entropy |" + "".join(f" {row.cost.pairs:.2%} |" for row in own),
            "|---|---|" + "---|" * len(own),
        ]
        for layer, of_heads in enumerate(entropy):
            cells = "".join(f" {row.error[layer].mean():.3f} ({_mass(row.mass[layer], 2)}) |" for row in own)
            lines.append(f"| {layer} | {of_heads.mean():.2f} |{cells}")
        lines.append("")
    return "\n".join(lines)


def plot_errors(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Error by layer, a line a part of the pairs, quartiles over heads; a panel a length."""
    lengths = list(dict.fromkeys(row.length for row in rows))
    figure, axes = plt.subplots(
        1, len(lengths), figsize=(5.5 * len(lengths), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, length in zip(axes[0], lengths, strict=True):
        for row in (row for row in rows if row.length == length and row.cost.pairs < 1):
            low, middle, high = np.quantile(row.error, (0.25, 0.5, 0.75), axis=1)
            layers = np.arange(len(middle))
            (drawn,) = axis.plot(layers, middle, marker="o", label=f"{row.cost.pairs:.2%} of the pairs")
            axis.fill_between(layers, low, high, alpha=0.15, color=drawn.get_color())
        axis.set(title=f"{length} tokens", xlabel="layer", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("error of the output (median, quartiles)")
    axes[0, 0].legend()
    figure.savefig(path, dpi=100, metadata=picture_metadata())
    plt.close(figure)


def swaps_table(of_layers: np.ndarray, of_heads: np.ndarray, title: str) -> str:
    """See `plot_swaps`."""
    lines = [
        *header(),
        "1 - cosine of the final embedding with the dense model's, one layer swapped, and one head of it.",
        f"{title}.",
        "",
        "| layer | all its heads |" + "".join(f" head {head} |" for head in range(of_heads.shape[1])),
        "|---|---|" + "---|" * of_heads.shape[1],
    ]
    for layer, (whole, heads) in enumerate(zip(of_layers, of_heads, strict=True)):
        lines.append(f"| {layer} | {whole:.4f} |" + "".join(f" {loss:.4f} |" for loss in heads))
    return "\n".join([*lines, ""])


def plot_swaps(of_layers: np.ndarray, of_heads: np.ndarray, title: str, path: str | os.PathLike) -> None:
    """What swapping one layer [layers], or one head [layers, heads], costs the embedding: 1 - cosine."""
    figure, (bars, grid) = plt.subplots(
        1, 2, figsize=(10, 0.35 * len(of_layers) + 2), layout="constrained", width_ratios=(2, 3)
    )
    layers = np.arange(len(of_layers))
    bars.barh(layers, of_layers)
    bars.set(xlabel="1 - cosine of the embedding", ylabel="layer", title="one layer swapped", yticks=layers)
    bars.grid(alpha=0.3, axis="x")
    shown = grid.imshow(of_heads, aspect="auto", cmap="viridis")
    grid.set(xlabel="head", title="one head swapped", xticks=np.arange(of_heads.shape[1]), yticks=layers)
    bars.set_ylim(grid.get_ylim())
    figure.colorbar(shown, ax=grid, label="1 - cosine")
    figure.suptitle(title)
    figure.savefig(path, dpi=100, metadata=picture_metadata())
    plt.close(figure)


def draw_changes(probe: Probe, columns: Mapping[str, Method], path: str | os.PathLike) -> None:
    """Of each photograph, by method: the map of importance, and the patches' vectors as colours.

    columns: title -> method, the dense one first. Colours: the first three principal components of the
    dense model's patches, the same for every column.
    """
    outputs = [
        jax.jit(functools.partial(probe.output, method))(probe.params, probe.inputs)
        for method in columns.values()
    ]
    photographs = pixels(probe.inputs)
    side = round((probe.length - 1) ** 0.5)
    count = len(photographs)
    figure, axes = plt.subplots(
        2 * count, 1 + len(columns), figsize=(2 * (1 + len(columns)), 4 * count), layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for i, photograph in enumerate(photographs):
        axes[2 * i, 0].imshow(photograph)
        patches = [np.asarray(output.tokens[i, 1:]) for output in outputs]
        mean = patches[0].mean(axis=0)
        components = np.linalg.svd(patches[0] - mean, full_matrices=False)[2][:3]
        low, high = np.quantile((patches[0] - mean) @ components.T, (0.02, 0.98), axis=0)
        for j, (output, own) in enumerate(zip(outputs, patches, strict=True), 1):
            axes[2 * i, j].imshow(output.importance[i], vmin=0, vmax=1, cmap="magma")
            colours = ((own - mean) @ components.T - low) / (high - low)
            axes[2 * i + 1, j].imshow(np.clip(colours, 0, 1).reshape(side, side, 3))
    for axis, title in zip(axes[0], ["photograph", *columns], strict=True):
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=80, metadata=picture_metadata())
    plt.close(figure)
