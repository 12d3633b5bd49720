"""Grids of images and curves of metrics, as PNG."""

import json
import math
import os

import numpy as np
from jax import Array
from jaxtyping import Float, UInt8
from PIL import Image


def to_uint8(images: Float[Array | np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Images in [-1, 1] as 0 .. 255."""
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)


def save_grid(images: UInt8[np.ndarray, "B H W 3"], path: str, columns: int | None = None) -> None:
    """Images side by side, row by row, with a gap of two white pixels."""
    batch, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(batch))
    rows = math.ceil(batch / columns)
    grid = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (2 + place * (height + 2) for place in divmod(index, columns))
        grid[top : top + height, left : left + width] = image
    _save(Image.fromarray(grid), path)


def _save(image: Image.Image, path: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    image.save(f"{path}.part", format="PNG")
    os.replace(f"{path}.part", path)  # a reader never sees half a picture


def save_curves(metrics_path: str, path: str) -> None:
    """Losses and gradient norms of a metrics.jsonl against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with open(metrics_path) as file:
        rows = [json.loads(line) for line in file]
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in rows]
    for axes, end, label in ((top, "loss", "hinge loss"), (bottom, "grad_norm", "gradient norm")):
        for name in sorted(rows[-1]) if rows else []:
            if end in name:
                values = [row.get(name, math.nan) for row in rows]
                axes.plot(steps, values, label=name, linewidth=1)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="upper right")
    if rows:
        bottom.set_yscale("log")
    bottom.set_xlabel("generator step")
    figure.savefig(path, dpi=110)
