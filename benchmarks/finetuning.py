"""Fine-tuning with each attention of a config, from several seeds, tested with each: for imdb and sst2.

A run that was cut short goes on where it was.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging

from benchmarks.tables import table
from smyrf_jax import Method, method_from_config
from training.checkpoint import config_differences
from training.provenance import header
from training.restoring import restore
from transformer.buckets import encode
from transformer.finetune import FinetuneTask, splits_of, train
from transformer.pretrained import load_encoder
from transformer.weights import folder_of

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the runs; default: runs/ and the benchmark's name."
)
_OUT = flags.DEFINE_string("out", "docs/results/tables", "folder of the table.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "runs of each attention.")
_STEPS = flags.DEFINE_integer("num_steps", 0, "steps of a run, for a try; 0: the config's.")


@dataclasses.dataclass(frozen=True)
class Study:
    """What is trained and told.

    name: of the benchmark, its table and its runs. config: of a run; seed and attention are set for each.
    about: lines that say what the texts are. swapped: attentions that weights trained with dense attention
    are tested with as well.
    """

    name: str
    config: ml_collections.ConfigDict
    about: Sequence[str]
    swapped: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def workdir(self) -> pathlib.Path:
        """Of all runs."""
        return pathlib.Path(_WORKDIR.value or f"runs/{self.name}")

    @property
    def names(self) -> list[str]:
        """Of the attentions, dense first."""
        return sorted(self.config.attentions, key=lambda name: name != "dense")

    def config_of(self, trained: str, seed: int) -> ml_collections.ConfigDict:
        """What a run trains: nothing is looked at on the way."""
        config = self.config.copy_and_resolve_references()
        config.seed, config.attention = seed, trained
        config.num_steps = _STEPS.value or round(config.epochs * config.data.train_size / config.batch_size)
        config.data.validation_size = config.evaluate.every = 0
        return config

    def run_folder(self, trained: str, seed: int) -> pathlib.Path:
        return self.workdir / f"{trained}_seed{seed}"

    def test_widths(self) -> np.ndarray:
        """[B], the length to which each text is padded that is to be tested."""
        encoder, _, tokenizer = load_encoder(folder_of(self.config.init))
        if tokenizer is None:
            raise FileNotFoundError(f"{self.config.init}: tokenizer.json is missing.")
        sizes = {"pad": encoder.config.pad_token_id, "num_types": encoder.config.type_vocab_size}
        texts = splits_of(self.config_of("dense", 0)).tests["test"]
        return encode(tokenizer, texts, length=self.config.data.length, **sizes).widths()

    def accuracies(self, trained: str, seed: int) -> dict[str, float]:
        """Accuracy by the attention of the test, of one run.

        Raises:
            ValueError: the run's folder has one of another config.
        """
        config, folder = self.config_of(trained, seed), self.run_folder(trained, seed)
        if (folder / "config.json").exists():
            saved = json.loads((folder / "config.json").read_text())
            differences = config_differences(saved, json.loads(config.to_json()))
            if differences:
                name, theirs, ours = differences[0]
                raise ValueError(
                    f"{folder} has a run whose config.{name} is {theirs!r}, not {ours!r}: take another "
                    "--workdir."
                )
        train(config, str(folder), jax.local_devices()[:1])
        found = json.loads((folder / "results.json").read_text())
        return {tested: values["test"]["accuracy"] for tested, values in found.items()}

    def swapped_accuracies(self, seed: int) -> dict[str, float]:
        """Accuracy of the weights trained with dense attention, by the method of `swapped`."""
        config, folder = self.config_of(next(iter(self.swapped)), seed), str(self.run_folder("dense", seed))
        config.attentions = ml_collections.ConfigDict(self.swapped)
        task = FinetuneTask(config, splits_of(config), folder, jax.local_devices()[:1])
        template = jax.eval_shape(task.initial_state)
        state = restore(folder, lambda saved: template, config.to_dict(), state_fields=task.state_fields)
        return {name: found["test"]["accuracy"] for name, found in task.test(state.params).items()}

    def trained_table(self, found: Mapping[str, list[dict[str, float]]], widths: np.ndarray) -> list[str]:
        """found: attention of the training -> a row a seed -> attention of the test -> accuracy."""
        config = self.config_of("dense", 0)
        tested = {name: config.attentions[name].to_dict() for name in self.names}
        cells = [[trained, *(cell(rows, name) for name in tested)] for trained, rows in found.items()]
        buckets = [f"{np.mean(widths == width):.0%} to {width}" for width in np.unique(widths)]
        return [
            *header(),
            *self.about,
            f"Accuracy in per cent: mean and standard deviation of {len(found['dense'])} seeds, each seed.",
            f"{config.num_steps} steps of {config.batch_size} texts, of {config.data.train_size}; "
            f"{config.data.test_size} other texts to test; split by hash of the text, without duplicates.",
            f"The texts of the test alone give an accuracy of 75 % a standard error of "
            f"{100 * (0.75 * 0.25 / len(widths)) ** 0.5:.1f}.",
            f"Texts are cut to {config.data.length} tokens and padded to a bucket's: of those to test "
            f"{', '.join(buckets)}.",
            "",
            "Part of the pairs that dense attention has at these lengths:",
            "",
            *(pairs_line(name, options, widths) for name, options in tested.items() if name != "dense"),
            "",
            *table(["trained with", *(f"tested with {name}" for name in tested)], cells),
        ]

    def swapped_table(self, rows: list[dict[str, float]], widths: np.ndarray) -> list[str]:
        return [
            "Weights trained with dense attention, tested without more training, with fewer pairs:",
            "",
            *(pairs_line(name, options, widths) for name, options in self.swapped.items()),
            "",
            *table(list(self.swapped), [[cell(rows, name) for name in self.swapped]]),
        ]

    def run(self, argv: list[str]) -> None:
        """Trains and tests all, and writes the table after every seed."""
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}.")
        logging.set_verbosity(logging.WARNING)
        # Runs of other seeds compile the same steps.
        jax.config.update("jax_compilation_cache_dir", str(self.workdir.absolute() / "compiled"))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in self.names}
        path = pathlib.Path(_OUT.value) / f"{self.name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()

        def tell(what: str) -> None:
            print(f"{(time.monotonic() - start) / 60:.1f} minutes: {what}", flush=True)

        widths = self.test_widths()
        for seed in range(_SEEDS.value):
            for trained, rows in found.items():
                tell(f"seed {seed + 1} of {_SEEDS.value}, trained with {trained} attention")
                rows.append(self.accuracies(trained, seed))
            path.write_text("\n".join(self.trained_table(found, widths)))
            print(path.read_text(), flush=True)
        if self.swapped:
            swapped = []
            for seed in range(_SEEDS.value):
                tell(f"seed {seed + 1} of {_SEEDS.value}, tested with fewer pairs")
                swapped.append(self.swapped_accuracies(seed))
            lines = [*self.trained_table(found, widths), *self.swapped_table(swapped, widths)]
            path.write_text("\n".join(lines))
            print(path.read_text(), flush=True)
        tell(f"wrote {path}")


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
