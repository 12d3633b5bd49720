"""Tests T2T-ViT_t on labelled images with other attentions in place of its two long ones, without training.

    python -m transformer.imagenet --weights=81.7_T2T_ViTt_14.pth.tar --images=imagenet/val \\
        --methods=dense,smyrf,performer,scatterbrain,trees --pairs=1/32

That is Scatterbrain's experiment (arXiv:2110.15343): top-1 81.7 with dense attention, 80.7 with Scatterbrain
at a 32nd of the pairs. Not run here, for want of weights and images.

--images has a folder for each of the 1000 classes; or images alone, whose classes --labels has, a file with
lines as "ILSVRC2012_val_00000001.JPEG 65". Each method gets the settings that fill the same budget. Told are
top-1 and top-5, the relative error of both attentions on the dense model's queries, keys and values, their
memory, counted, and the seconds of the whole model for an image. Wants the extra [vision], and torch for
weights that PyTorch saved.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from absl import app, flags
from tqdm import tqdm

from smyrf_jax.budget import Cost
from training.command import start, without_traceback
from training.files import make_parent, path_of, write_whole
from transformer.class_images import open_class_images
from transformer.contenders import CONTENDERS
from transformer.drop_in import Outcome, Stages, methods_for, outcomes
from transformer.t2t import T2TConfig, load_t2t

_WEIGHTS = flags.DEFINE_string(
    "weights", None, "of a T2T-ViT_t: a file of torch, .npz or .safetensors.", required=True
)
_IMAGES = flags.DEFINE_string(
    "images", None, "a folder with a folder for each class, or with --labels of images alone.", required=True
)
_LABELS = flags.DEFINE_string("labels", "", "a file with a line for each image: its name and its class.")
_CLASSES = flags.DEFINE_string("classes", "", "a file with the names of all classes in their order.")
_METHODS = flags.DEFINE_list("methods", ["dense", "scatterbrain"], f"of {', '.join(CONTENDERS)}.")
_PAIRS = flags.DEFINE_string("pairs", "1/32", "part of all query-key pairs that a method may look at.")
_NUM = flags.DEFINE_integer("num", None, "images at most, evenly from all; default: all.", lower_bound=1)
_ERRORS = flags.DEFINE_integer("errors", 256, "images on which errors are looked at.", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch_size", 16, "images at once.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "of what methods draw.", lower_bound=0, upper_bound=2**32 - 1)
_JSON = flags.DEFINE_string("json", None, "file to write: the figures of each method.")


def costs_of(config: T2TConfig, methods: Stages) -> tuple[Cost, Cost]:
    """Of both attentions, of one image."""
    first, second = (
        method.cost(length, length, width=config.token_size)
        for method, length in zip(methods, config.lengths, strict=True)
    )
    return first, second


def table_of(config: T2TConfig, found: Mapping[str, Outcome]) -> str:
    lengths = " and ".join(f"{length} tokens" for length in config.lengths)
    lines = [
        f"Error (relative, of the output), pairs and memory: of the attentions over {lengths}. Pairs and",
        "memory: as a part of dense attention's, memory counted, forward and backward. Seconds: of the whole",
        "model, an image.",
        "",
        "| method | top-1 | top-5 | error | pairs | memory | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in found.items():
        first, second = costs_of(config, of.methods)
        lines.append(
            f"| {name} | {of.top1:.2%} | {of.top5:.2%} | {_shown(of.errors)} | "
            f"{first.pairs:.2%}, {second.pairs:.2%} | {first.memory_of_dense:.1%}, "
            f"{second.memory_of_dense:.1%} | {of.seconds:.3f} |"
        )
    return "\n".join(
        [*lines, "", *(f"- {name}: {of.methods[0]}; {of.methods[1]}" for name, of in found.items())]
    )


def _shown(errors: tuple[float, float]) -> str:
    return ", ".join("-" if math.isnan(error) else f"{error:.3f}" for error in errors)


def fields_of(config: T2TConfig, outcome: Outcome) -> dict[str, Any]:
    """For JSON; null is what was not measured."""
    costs = costs_of(config, outcome.methods)
    return {
        "settings": list(map(str, outcome.methods)),
        "top1": outcome.top1,
        "top5": outcome.top5,
        "errors": [None if math.isnan(error) else error for error in outcome.errors],
        "pairs": [cost.pairs for cost in costs],
        "memory_bytes": [cost.memory for cost in costs],
        "memory_of_dense": [cost.memory_of_dense for cost in costs],
        "seconds_an_image": outcome.seconds,
    }


def evaluate() -> None:
    if _JSON.value:
        make_parent("json", _JSON.value)
    pretrained = load_t2t(_WEIGHTS.value, name="--weights")
    config = pretrained.model.config
    methods = methods_for(config, _METHODS.value, _PAIRS.value)
    images = open_class_images(
        _IMAGES.value, labels=_LABELS.value, classes=_CLASSES.value, num_labels=config.num_labels
    )
    for note in images.notes:
        print(note)
    if _NUM.value:
        images = images.spread(_NUM.value)
    options = {"batch_size": _BATCH.value, "num_errors": _ERRORS.value, "seed": _SEED.value}
    with tqdm(total=len(images.paths), unit="image", desc="compiling", dynamic_ncols=True) as bar:

        def progress(number: int, shown: str) -> None:
            bar.set_description("top-1")
            bar.set_postfix_str(shown)
            bar.update(number)

        found = outcomes(pretrained, images, methods, **options, progress=progress)
    print(f"{len(images.paths)} images, {_WEIGHTS.value}\n\n{table_of(config, found)}")
    if _JSON.value:
        record = {
            "weights": _WEIGHTS.value,
            "images": len(images.paths),
            "pairs": _PAIRS.value,
            "methods": {name: fields_of(config, of) for name, of in found.items()},
        }
        write_whole(path_of(_JSON.value), json.dumps(record, indent=1).encode())


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    without_traceback(evaluate, "--batch_size")


if __name__ == "__main__":
    start(main)
