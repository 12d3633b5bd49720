"""Curves of metrics, as PNG."""

import io
import math
from collections.abc import Mapping

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.files import write_whole
from training.writers import read_rows


def save_curves(metrics_path: str, path: str, panels: Mapping[str, str], log: tuple[str, ...] = ()) -> None:
    """Metrics of a metrics.jsonl against the step.

    panels: part of a metric's name -> the label of the panel that shows all metrics with that part.
    log: the parts whose panel has a logarithmic axis.
    """
    rows, _ = read_rows(metrics_path)
    figure = Figure(figsize=(9, 3.5 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    names = sorted({name for row in rows for name in row})
    for axes, (part, label) in zip(grid, panels.items(), strict=True):
        for name in names:
            found = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
            if part in name and found:
                marker = "o" if len(found) < 30 else None
                axes.plot(*zip(*found, strict=True), label=name, linewidth=1, marker=marker, markersize=3)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="upper right")
            if part in log:
                axes.set_yscale("log")
    grid[-1].set_xlabel("step")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    write_whole(path, picture.getvalue())
