"""Curves of metrics, as PNG."""

import io
import math
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.files import write_whole
from training.writers import read_rows

# How the name of a metric's standard deviation ends, behind the metric's.
_SPREAD = "_sd"


def save_curves(
    metrics_path: str, path: str, panels: Mapping[str, Sequence[str]], log: tuple[str, ...] = ()
) -> None:
    """Metrics of a metrics.jsonl against the step. NAME_sd is drawn as a band around NAME.

    panels: the label of a panel -> parts of names; it shows all metrics with one of them.
    log: the panels that have a logarithmic axis.
    """
    rows, _ = read_rows(metrics_path)
    figure = Figure(figsize=(9, 3.5 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    names = sorted({name for row in rows for name in row if not name.endswith(_SPREAD)})
    for axes, (label, parts) in zip(grid, panels.items(), strict=True):
        for name in names:
            found = [row for row in rows if name in row and math.isfinite(row[name])]
            if not found or not any(part in name for part in parts):
                continue
            steps, values = ([row[key] for row in found] for key in ("step", name))
            marker = "o" if len(found) < 30 else None
            (line,) = axes.plot(steps, values, label=name, linewidth=1, marker=marker, markersize=3)
            spread = [row.get(name + _SPREAD, 0.0) for row in found]
            if any(spread):
                low, high = ([v + sign * s for v, s in zip(values, spread, strict=True)] for sign in (-1, 1))
                axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="upper right")
            if label in log:
                axes.set_yscale("log")
    grid[-1].set_xlabel("step")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    write_whole(path, picture.getvalue())
