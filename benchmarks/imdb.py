"""Are attentions interchangeable? Fine-tunes MiniLM to IMDB with each, and tests it with each.

    python -m benchmarks.imdb [--workdir=runs/imdb] [--out=benchmarks/results]

Trains configs/imdb_minilm_smyrf.py with dense and with SMYRF attention, from several seeds, and writes the
four cells of SMYRF's table (arXiv:2010.05315, section 4.2) to imdb.md. Called again it goes on where it was.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging

from benchmarks.tables import table
from configs import imdb_minilm_smyrf
from smyrf_jax import method_from_config
from training.checkpoint import restore_latest
from transformer.finetune import FinetuneTask, splits_of, train

_WORKDIR = flags.DEFINE_string("workdir", "runs/imdb", "folder of the runs.")
_OUT = flags.DEFINE_string("out", "benchmarks/results", "folder of the table.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "runs of each attention.")
_STEPS = flags.DEFINE_integer("num_steps", 0, "steps of a run, for a try; 0: the config's.")


def accuracies(trained: str, seed: int) -> dict[str, float]:
    """Accuracy by the attention of the test, of one run."""
    config = imdb_minilm_smyrf.get_config()
    config.seed = seed
    config.attention = trained
    config.num_steps = _STEPS.value
    folder = pathlib.Path(_WORKDIR.value) / f"{trained}_seed{seed}"
    train(config, str(folder))
    found = json.loads((folder / "results.json").read_text())
    return {tested: values["test"]["accuracy"] for tested, values in found.items()}


# For weights that were trained with dense attention.
SWAPPED: dict[str, dict[str, Any]] = {
    "smyrf": {"name": "smyrf", "num_hashes": 4, "cluster_size": 16},
    "scatterbrain": {"name": "scatterbrain", "num_hashes": 2, "cluster_size": 16, "num_features": 32},
    "canopy": {"name": "canopy", "num_trees": 1, "cluster_size": 32, "means_per_cluster": 2},
}


def swapped_accuracies(seed: int) -> dict[str, float]:
    """Accuracy of the weights trained with dense attention, by the method of SWAPPED."""
    config = imdb_minilm_smyrf.get_config()
    config.attention, config.num_steps = "canopy", 1
    config.attentions = ml_collections.ConfigDict(SWAPPED)
    folder = str(pathlib.Path(_WORKDIR.value) / f"dense_seed{seed}")
    task = FinetuneTask(config, splits_of(config), folder, jax.local_devices()[:1])
    template = jax.eval_shape(task.initial_state)
    state = restore_latest(folder, template, config.to_dict(), state_fields=task.state_fields)
    return {name: found["test"]["accuracy"] for name, found in task.test(state.params).items()}


def cell(rows: list[dict[str, float]], name: str) -> str:
    values = 100 * np.array([row[name] for row in rows])
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.1f} ± {spread:.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def swapped_table(rows: list[dict[str, float]]) -> list[str]:
    length = imdb_minilm_smyrf.get_config().data.length
    methods = {name: method_from_config(**options) for name, options in SWAPPED.items()}
    return [
        "Weights trained with dense attention, tested without more training:",
        *(
            f"{name}: {method}, {method.cost(length, length).pairs:.1%} of the pairs."
            for name, method in methods.items()
        ),
        "",
        *table(list(SWAPPED), [[cell(rows, name) for name in SWAPPED]]),
    ]


def trained_table(found: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """found: attention of the training -> a row a seed -> attention of the test -> accuracy."""
    config = imdb_minilm_smyrf.get_config()
    seeds = len(next(iter(found.values())))
    tested = list(config.attentions)
    attention = config.attentions.smyrf
    epochs = f"{_STEPS.value} steps" if _STEPS.value else f"{config.epochs:g} epoch"
    cells = [[trained, *(cell(rows, name) for name in tested)] for trained, rows in found.items()]
    return [
        "MiniLM fine-tuned to the sentiment of IMDB's reviews: accuracy in per cent on texts not trained on,",
        f"mean and standard deviation of {seeds} seeds, and each seed. {config.data.length} tokens;",
        f"{epochs} of {config.data.train_size} texts in batches of {config.batch_size}, "
        f"{config.data.test_size} texts to test;",
        "split by hash of the text, without duplicates. smyrf: "
        f"{attention.num_hashes} hashes, clusters of {attention.cluster_size}, half the pairs.",
        "`python -m benchmarks.imdb`",
        "",
        *table(["trained with", *(f"tested with {name}" for name in tested)], cells),
    ]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    names = list(imdb_minilm_smyrf.get_config().attentions)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    path = pathlib.Path(_OUT.value) / "imdb.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(_SEEDS.value):
        for trained in names:
            found[trained].append(accuracies(trained, seed))
        path.write_text("\n".join(trained_table(found)))
        print(path.read_text(), flush=True)
    swapped = [swapped_accuracies(seed) for seed in range(_SEEDS.value)]
    path.write_text("\n".join([*trained_table(found), *swapped_table(swapped)]))
    print(path.read_text(), flush=True)


if __name__ == "__main__":
    app.run(main)
