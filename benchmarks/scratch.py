"""What attentions learn: small Transformers trained from random weights, each with every attention.

    python -m benchmarks.scratch [--tasks=copy,listops] [--methods=dense,performer] [--seeds=0,1]

Trains the small variants of configs/copy.py, lm_wikitext103_scatterbrain.py and lra_*.py, and writes a table
and a picture of each task: copy.md, language.md, listops.md, text.md, pathfinder.md. Called again it goes on
where it was; several processes may do different runs at once, also on one GPU. --only_tables writes the
tables of what has been trained. All of it takes some hours of two CPU cores, or some minutes of a GPU.
"""

import collections
import importlib
import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.tables import table
from smyrf_jax.methods import METHODS
from training.checkpoint import config_differences
from training.files import write_whole
from training.provenance import header, origin, picture_metadata
from training.writers import read_rows
from transformer.budgeted import budgeted, leaks, part_of_pairs
from transformer.train import data_of, method_of, train

_TASKS = flags.DEFINE_list("tasks", None, "which; default: all.")
_METHODS = flags.DEFINE_list("methods", None, "names in config.attentions; default: those of the task.")
_SEEDS = flags.DEFINE_list("seeds", None, "numbers; default: those of the task.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/scratch", "folder of the runs.")
_OUT = flags.DEFINE_string("out", "docs/results/tables", "folder of the tables and pictures.")
_STEPS = flags.DEFINE_integer("num_steps", 0, "steps of a run; 0: the config's.")
_BATCH = flags.DEFINE_integer("batch_size", 0, "of a run; 0: the config's.")
_PAIRS = flags.DEFINE_float("pairs", 0.0, "the budget, a part of dense attention's pairs; 0: the config's.")
_ONLY_DATA = flags.DEFINE_bool("only_data", False, "make the data, train nothing.")
_ONLY_TABLES = flags.DEFINE_bool("only_tables", False, "write the tables of what has been trained.")


class Experiment(NamedTuple):
    """config: a name in configs/, whose variant `small` is trained. title: of the table. metric: drawn.

    is_causal: later tokens are hidden.
    """

    config: str
    title: str
    metric: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    is_causal: bool = False


_CAUSAL = ("dense", "scatterbrain", "smyrf", "performer")
_ENCODERS = ("dense", "scatterbrain", "smyrf", "performer", "canopy")
EXPERIMENTS = {
    "copy": Experiment(
        "copy",
        "Copying: perplexity of the copied half",
        "perplexity",
        (*_CAUSAL, "scatterbrain_clusters", "local", "causalcanopy"),
        (0, 1, 2),
        is_causal=True,
    ),
    "language": Experiment(
        "lm_wikitext103_scatterbrain",
        "Language model: perplexity of all tokens of texts not trained on",
        "perplexity",
        (*_CAUSAL, "causalcanopy"),
        is_causal=True,
    ),
    "listops": Experiment("lra_listops", "ListOps: accuracy in per cent", "accuracy", _ENCODERS),
    "text": Experiment(
        "lra_text", "Sentiment of reviews by bytes: accuracy in per cent", "accuracy", _ENCODERS
    ),
    "pathfinder": Experiment("lra_pathfinder", "Pathfinder: accuracy in per cent", "accuracy", _ENCODERS),
}


class Run(NamedTuple):
    """A run that has ended: what it was trained by, what was found, and its validation by step."""

    method: str
    config: dict[str, Any]
    facts: dict[str, Any]
    results: dict[str, dict[str, dict[str, float]]]
    curve: tuple[list[int], list[float]]


def config_of(task: str, method: str, seed: int) -> ml_collections.ConfigDict:
    """What a run trains."""
    config = importlib.import_module(f"configs.{EXPERIMENTS[task].config}").get_config("small")
    config.seed, config.attention = seed, method
    config.num_steps = _STEPS.value or config.num_steps
    config.batch_size = _BATCH.value or config.batch_size
    config.pairs = _PAIRS.value or config.pairs
    return config


def folder_of(task: str, method: str, seed: int) -> pathlib.Path:
    return pathlib.Path(_WORKDIR.value) / task / f"{method}_seed{seed}"


def trained(task: str, method: str, seed: int) -> None:
    """Trains a run, or the rest of it, and writes run.json: its attention, and the machine.

    Raises:
        ValueError: the run's folder has one of another config.
    """
    config, folder = config_of(task, method, seed), folder_of(task, method, seed)
    if (folder / "config.json").exists():
        saved = json.loads((folder / "config.json").read_text())
        ours = json.loads(config.to_json())
        differences = [
            of for of in config_differences(saved, ours) if ours["num_steps"] or of[0] != "num_steps"
        ]
        if differences:
            name, theirs, value = differences[0]
            raise ValueError(
                f"{folder} has a run whose config.{name} is {theirs!r}, not {value!r}: take another "
                "--workdir."
            )
    if (folder / "run.json").exists():
        return
    data = data_of(config)
    used, length = method_of(config, data), data.attention_length
    device = jax.local_devices()[:1]
    state = train(config, str(folder), device)
    facts = {
        "attention": repr(used),
        "pairs": part_of_pairs(used, length, data.is_causal),
        "leaks": data.is_causal and leaks(used, length),
        "tokens": length,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "steps": int(state.step),
        "device": device[0].device_kind,
        "jax": jax.__version__,
    }
    if facts["steps"] == (config.num_steps or facts["steps"]):  # else it was asked to stop
        write_whole(folder / "run.json", json.dumps(facts, indent=1).encode())


def ended(task: str) -> Iterator[Run]:
    """The runs of a task that have ended, by the methods' order in the config."""
    order = list(config_of(task, "dense", 0).attentions)
    folders = [path.parent for path in (pathlib.Path(_WORKDIR.value) / task).glob("*/run.json")]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    for place in sorted(
        range(len(folders)), key=lambda i: (order.index(configs[i]["attention"]), configs[i]["seed"])
    ):
        folder, metric = folders[place], f"validation_{EXPERIMENTS[task].metric}"
        rows = [row for row in read_rows(str(folder / "metrics.jsonl"))[0] if metric in row]
        yield Run(
            configs[place]["attention"],
            configs[place],
            json.loads((folder / "run.json").read_text()),
            json.loads((folder / "results.json").read_text()),
            ([int(row["step"]) for row in rows], [row[metric] for row in rows]),
        )


def cell(values: Sequence[float], metric: str) -> str:
    """Mean and standard deviation, and each."""
    scaled = 100 * np.array(values) if metric == "accuracy" else np.array(values)
    shown = [f"{value:.1f}" if metric == "accuracy" else f"{value:.4g}" for value in scaled]
    if len(shown) == 1:
        return shown[0]
    return f"{scaled.mean():.4g} ± {scaled.std(ddof=1):.2g} ({', '.join(shown)})"


def lines_of(task: str, runs: Sequence[Run]) -> list[str]:
    """The table of a task."""
    experiment, one = EXPERIMENTS[task], runs[0]
    by_method: dict[str, list[Run]] = collections.defaultdict(list)
    for run in runs:
        by_method[run.method].append(run)
    metrics = list(one.results[one.method]["test"])
    rows = []
    for method, found in by_method.items():
        facts = found[0].facts
        star = " *" if facts["leaks"] else ""
        values = [[run.results[method]["test"][metric] for run in found] for metric in metrics]
        cells = [cell(of, metric) for of, metric in zip(values, metrics, strict=True)]
        used = budgeted(
            length=facts["tokens"],
            pairs=found[0].config["pairs"],
            is_causal=experiment.is_causal,
            **found[0].config["attentions"][method],
        )
        pairs = part_of_pairs(used, facts["tokens"], experiment.is_causal)
        rows.append([method + star, f"`{used}`", f"{pairs:.1%}", *cells])
    for name, parts in one.results.items():
        if name != one.method:
            values = [[parts["test"][metric]] if metric in parts["test"] else [] for metric in metrics]
            cells = [cell(of, metric) if of else "" for of, metric in zip(values, metrics, strict=True)]
            rows.append([name, "no model", "", *cells])
    model = ", ".join(f"{name} {value}" for name, value in one.config["model"].items())
    data = ", ".join(f"{name} {value}" for name, value in one.config["data"].items() if value != "")
    devices = sorted({f"{run.facts['device']}; jax {run.facts['jax']}" for run in runs})
    starred = any(run.facts["leaks"] for run in runs)
    return [
        *header(origin(f"python -m benchmarks.scratch --tasks={task}", ", ".join(devices))),
        f"{experiment.title}.",
        f"{one.facts['steps']} steps of {one.config['batch_size']}, {one.facts['tokens']} tokens, "
        f"{one.facts['parameters']:,} parameters; seeds {sorted({run.config['seed'] for run in runs})}.",
        f"Model: {model}.",
        f"Data: {data}.",
        "",
        *(
            [
                "\\* Its clusters are cut from all tokens: no query sees a later key, but with which of the "
                "earlier ones it shares a cluster",
                "depends on what comes later. Such a model cannot be sampled from, and may know of what it "
                "predicts.",
                "",
            ]
            if starred
            else []
        ),
        *table(
            [
                "attention",
                "settings",
                "pairs of dense, causal" if experiment.is_causal else "pairs of dense",
                *(name.replace("_", " ") for name in metrics),
            ],
            rows,
        ),
        f"![]({task}.png)",
        "",
    ]


def draw(task: str, runs: Sequence[Run], path: pathlib.Path) -> None:
    """Validation against the step; the line of a method is the mean of its seeds."""
    experiment = EXPERIMENTS[task]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for method in dict.fromkeys(run.method for run in runs):
        curves = [run.curve for run in runs if run.method == method and run.curve[0]]
        if curves and all(steps == curves[0][0] for steps, _ in curves):
            axes.plot(curves[0][0], np.mean([values for _, values in curves], axis=0), "o-", label=method)
    axes.set_xlabel("step")
    axes.set_ylabel(f"validation {experiment.metric}")
    if experiment.metric == "perplexity":
        axes.set_yscale("log")
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=picture_metadata())


def write_tables(task: str) -> None:
    runs = list(ended(task))
    if not runs:
        print(f"{task}: nothing has been trained.", flush=True)
        return
    out = pathlib.Path(_OUT.value)
    draw(task, runs, out / f"{task}.png")
    (out / f"{task}.md").write_text("\n".join(lines_of(task, runs)))
    print((out / f"{task}.md").read_text(), flush=True)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    tasks = _TASKS.value or list(EXPERIMENTS)
    if unknown := set(tasks) - set(EXPERIMENTS):
        raise app.UsageError(f"--tasks should be of {list(EXPERIMENTS)}, but has {sorted(unknown)}.")
    # Runs of other seeds compile the same steps.
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(_WORKDIR.value).absolute() / "compiled"))
    start = time.monotonic()

    def tell(what: str) -> None:
        print(f"{(time.monotonic() - start) / 60:.1f} minutes: {what}", flush=True)

    for task in tasks:
        if _ONLY_DATA.value:
            data_of(config_of(task, "dense", 0))
            tell(f"{task} has its data")
            continue
        experiment = EXPERIMENTS[task]
        seeds = experiment.seeds if _SEEDS.value is None else [int(seed) for seed in _SEEDS.value]
        runs = [(seed, method) for seed in seeds for method in _METHODS.value or experiment.methods]
        for seed, method in [] if _ONLY_TABLES.value else runs:
            named = config_of(task, method, seed).attentions.get(method)
            if named is not None and named.name not in METHODS:
                tell(f"{task}: smyrf_jax has no method {named.name}, left out")
                continue
            tell(f"{task}, {method} attention, seed {seed}")
            try:
                trained(task, method, seed)
            except ValueError as error:
                if not str(error).startswith("--config.pairs"):
                    raise
                tell(f"{task}: {method} is left out: {error}")
        write_tables(task)
    tell("done")


if __name__ == "__main__":
    app.run(main)
