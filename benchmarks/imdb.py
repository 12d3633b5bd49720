"""Are attentions interchangeable? Fine-tunes MiniLM to IMDB with each, and tests it with each.

    python -m benchmarks.imdb [--workdir=runs/imdb] [--out=benchmarks/results]

Trains configs/imdb_minilm_smyrf.py with dense and with SMYRF attention, from several seeds, and writes the
four cells of SMYRF's table (arXiv:2010.05315, section 4.2) to imdb.md; and tests the weights trained with
dense attention with fewer pairs. Half an hour of two CPU cores. Called again it goes on where it was.
"""

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging

from benchmarks.tables import table
from configs import imdb_minilm_smyrf
from smyrf_jax import Method, method_from_config
from training.checkpoint import config_differences
from training.restoring import restore
from transformer.buckets import encode
from transformer.finetune import FinetuneTask, splits_of, train
from transformer.pretrained import load_encoder
from transformer.weights import folder_of

_WORKDIR = flags.DEFINE_string("workdir", "runs/imdb", "folder of the runs.")
_OUT = flags.DEFINE_string("out", "benchmarks/results", "folder of the table.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "runs of each attention.")
_STEPS = flags.DEFINE_integer("num_steps", 0, "steps of a run, for a try; 0: the config's.")

# For weights that were trained with dense attention: an eighth of the pairs of 512 tokens.
SWAPPED: dict[str, dict[str, Any]] = {
    "smyrf": {"name": "smyrf", "num_hashes": 4, "cluster_size": 16},
    "scatterbrain": {"name": "scatterbrain", "num_hashes": 2, "cluster_size": 16, "num_features": 32},
    "canopy": {"name": "canopy", "num_trees": 1, "cluster_size": 32, "means_per_cluster": 2},
}


def config_of(trained: str, seed: int) -> ml_collections.ConfigDict:
    """What a run trains: nothing is looked at on the way."""
    config = imdb_minilm_smyrf.get_config()
    config.seed, config.attention = seed, trained
    config.num_steps = _STEPS.value or round(config.epochs * config.data.train_size / config.batch_size)
    config.data.validation_size = config.evaluate.every = 0
    return config


def test_widths() -> np.ndarray:
    """[B], the length to which each text is padded that is to be tested."""
    config = config_of("dense", 0)
    encoder, _, tokenizer = load_encoder(folder_of(config.init))
    if tokenizer is None:
        raise FileNotFoundError(f"{config.init}: tokenizer.json is missing.")
    sizes = {"pad": encoder.config.pad_token_id, "num_types": encoder.config.type_vocab_size}
    texts = splits_of(config).tests["test"]
    return encode(tokenizer, texts, length=config.data.length, **sizes).widths()


def run_folder(trained: str, seed: int) -> pathlib.Path:
    return pathlib.Path(_WORKDIR.value) / f"{trained}_seed{seed}"


def accuracies(trained: str, seed: int) -> dict[str, float]:
    """Accuracy by the attention of the test, of one run.

    Raises:
        ValueError: the run's folder has one of another config.
    """
    config, folder = config_of(trained, seed), run_folder(trained, seed)
    if (folder / "config.json").exists():
        saved = json.loads((folder / "config.json").read_text())
        differences = config_differences(saved, json.loads(config.to_json()))
        if differences:
            name, theirs, ours = differences[0]
            raise ValueError(
                f"{folder} has a run whose config.{name} is {theirs!r}, not {ours!r}: take another --workdir."
            )
    train(config, str(folder), jax.local_devices()[:1])
    found = json.loads((folder / "results.json").read_text())
    return {tested: values["test"]["accuracy"] for tested, values in found.items()}


def swapped_accuracies(seed: int) -> dict[str, float]:
    """Accuracy of the weights trained with dense attention, by the method of SWAPPED."""
    config, folder = config_of("canopy", seed), str(run_folder("dense", seed))
    config.attentions = ml_collections.ConfigDict(SWAPPED)
    task = FinetuneTask(config, splits_of(config), folder, jax.local_devices()[:1])
    template = jax.eval_shape(task.initial_state)
    state = restore(folder, lambda saved: template, config.to_dict(), state_fields=task.state_fields)
    return {name: found["test"]["accuracy"] for name, found in task.test(state.params).items()}


def cell(rows: list[dict[str, float]], name: str) -> str:
    values = 100 * np.array([row[name] for row in rows])
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.1f} ± {spread:.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def pairs_line(name: str, options: Mapping[str, Any], widths: np.ndarray) -> str:
    """A method, and its part of dense attention's pairs: of the longest texts, and of all (widths: [B])."""
    method: Method = method_from_config(**options)

    def pairs(width: int) -> float:
        return method.cost(width, width).pairs

    sizes, counts = np.unique(widths, return_counts=True)
    weights = counts * sizes.astype(float) ** 2
    share = np.average([pairs(int(size)) for size in sizes], weights=weights)
    return (
        f"- {name}: {method}: {pairs(int(sizes[-1])):.1%} at {sizes[-1]} tokens, {share:.1%} over all texts."
    )


def swapped_table(rows: list[dict[str, float]], widths: np.ndarray) -> list[str]:
    return [
        "Weights trained with dense attention, tested without more training, with fewer pairs:",
        "",
        *(pairs_line(name, options, widths) for name, options in SWAPPED.items()),
        "",
        *table(list(SWAPPED), [[cell(rows, name) for name in SWAPPED]]),
    ]


def trained_table(found: Mapping[str, list[dict[str, float]]], widths: np.ndarray) -> list[str]:
    """found: attention of the training -> a row a seed -> attention of the test -> accuracy."""
    config = config_of("dense", 0)
    tested = config.attentions.to_dict()
    cells = [[trained, *(cell(rows, name) for name in tested)] for trained, rows in found.items()]
    buckets = [f"{np.mean(widths == width):.0%} to {width}" for width in np.unique(widths)]
    return [
        "MiniLM fine-tuned to the sentiment of IMDB's reviews: accuracy in per cent on texts not trained on,",
        f"mean and standard deviation of {len(found['dense'])} seeds, and each seed.",
        f"{config.num_steps} steps of {config.batch_size} texts, of {config.data.train_size}; "
        f"{config.data.test_size} other texts to test; split by hash of the text, without duplicates.",
        f"Texts are cut to {config.data.length} tokens and padded to a bucket's: of those to test "
        f"{', '.join(buckets)}.",
        "`python -m benchmarks.imdb`",
        "",
        "Part of the pairs that dense attention has at these lengths:",
        "",
        *(pairs_line(name, options, widths) for name, options in tested.items() if name != "dense"),
        "",
        *table(["trained with", *(f"tested with {name}" for name in tested)], cells),
    ]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    # Runs of other seeds compile the same steps.
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(_WORKDIR.value).absolute() / "compiled"))
    names = list(imdb_minilm_smyrf.get_config().attentions)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    path = pathlib.Path(_OUT.value) / "imdb.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    def tell(what: str) -> None:
        print(f"{(time.monotonic() - start) / 60:.1f} minutes: {what}", flush=True)

    widths = test_widths()
    for seed in range(_SEEDS.value):
        for trained in names:
            tell(f"seed {seed + 1} of {_SEEDS.value}, trained with {trained} attention")
            found[trained].append(accuracies(trained, seed))
        path.write_text("\n".join(trained_table(found, widths)))
        print(path.read_text(), flush=True)
    swapped = []
    for seed in range(_SEEDS.value):
        tell(f"seed {seed + 1} of {_SEEDS.value}, tested with fewer pairs")
        swapped.append(swapped_accuracies(seed))
    path.write_text("\n".join([*trained_table(found, widths), *swapped_table(swapped, widths)]))
    print(path.read_text(), flush=True)
    tell(f"wrote {path}")


if __name__ == "__main__":
    app.run(main)
