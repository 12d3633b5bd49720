"""What augmentation does for few images: distance and memorised samples over the steps, with and without it.

    python -m benchmarks.augmentation --path=FOLDER_OF_IMAGES [--workdir=runs] [--out=docs/results/tables]

Trains configs/own_images.py twice, into workdir/own_augmented and workdir/own_plain, with measures every 500
steps, and writes augmentation.md and augmentation.png. Called again it goes on where it was. With 5000 steps
of 8 images it takes some 40 minutes of two idle CPU cores. Look at the runs' samples/ too.
"""

import os

import jax
from absl import app, flags, logging
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.tables import table
from biggan.train import train
from configs import own_images
from training.provenance import header, picture_metadata
from training.writers import read_rows

_PATH = flags.DEFINE_string("path", None, "the images.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", "runs", "folder of both runs.")
_OUT = flags.DEFINE_string("out", "docs/results/tables", "folder to write.")
_STEPS = flags.DEFINE_integer("steps", 5000, "of each run.")
_POLICIES = {"augmented": "color,translation,cutout", "plain": ""}
_FEATURES = "dinov2_s14"


def rows_of(name: str) -> list[dict[str, float]]:
    """The rows of a run that hold measures; it is trained where it was not."""
    config = own_images.get_config()
    config.data.path = _PATH.value
    config.num_steps = _STEPS.value
    config.augment.policy = _POLICIES[name]
    config.evaluate.every, config.evaluate.num = 500, 256
    workdir = os.path.join(_WORKDIR.value, f"own_{name}")
    train(config, workdir, jax.local_devices()[:1])
    rows, _ = read_rows(os.path.join(workdir, "metrics.jsonl"))
    return [row for row in rows if f"kd_{_FEATURES}" in row]


def draw(runs: dict[str, list[dict[str, float]]], path: str) -> None:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {"kd": "kernel distance", "memorisation": "part of the samples that is memorised"}
    for axes, (metric, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, rows in runs.items():
            steps = [row["step"] for row in rows]
            axes.plot(steps, [row[f"{metric}_{_FEATURES}"] for row in rows], marker="o", label=name)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110, metadata=picture_metadata())


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    runs = {name: rows_of(name) for name in _POLICIES}
    lines = [
        *header(),
        "configs/own_images.py at 64x64 with and without augmentation: 256 samples against the images it was",
        f"trained on, features {_FEATURES}.",
        "",
        "memorised: part of the samples that are nearer to an image than that is to its nearest other one.",
        "",
    ]
    titles = ["step"]
    for name in runs:
        titles += [f"{name}: kd", "memorised", "median ratio"]
    steps = sorted({row["step"] for rows in runs.values() for row in rows})
    by_step = {name: {row["step"]: row for row in rows} for name, rows in runs.items()}
    cells = []
    for step in steps:
        of_step = [f"{step:.0f}"]
        for name in runs:
            row = by_step[name].get(step)
            of_step += (
                ["", "", ""]
                if row is None
                else [
                    f"{row[f'kd_{_FEATURES}']:.3g} ± {row[f'kd_{_FEATURES}_sd']:.2g}",
                    f"{row[f'memorisation_{_FEATURES}']:.2f}",
                    f"{row[f'nearest_ratio_{_FEATURES}']:.2f}",
                ]
            )
        cells.append(of_step)
    os.makedirs(_OUT.value, exist_ok=True)
    with open(os.path.join(_OUT.value, "augmentation.md"), "w") as file:
        file.write("\n".join([*lines, *table(titles, cells)]))
    draw(runs, os.path.join(_OUT.value, "augmentation.png"))


if __name__ == "__main__":
    app.run(main)
