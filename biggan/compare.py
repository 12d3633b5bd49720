"""What another attention changes in a trained generator: python -m biggan.compare --workdir=runs/celeba

Nothing is trained: dense attention, and each method at each part of the pairs, take the place of the
attention of the generator, with the same noise. The generator is a checkpoint's, or, with
--torch_weights=G.pth, the PyTorch BigGAN's of the architecture in --workdir's config.

Writes into --out, replacing what is there: table.md and rows.json, the errors of the attention's output, of
the images and of their features, and the distances from the dense and the real images; curves.png, the same
against pairs; grid.png, images of all methods at --grid_pairs; and map.png, the entropy and the singular
values of the dense attention. Real images are those of --real, or the data of the run if it can be read.

The images of two methods are in memory at once: --num of them.
"""

import fractions
import os
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

from biggan.attention_maps import blocks_of, decomposed, entropies_of
from biggan.evaluation import build_real, open_images
from biggan.generator import Generator
from biggan.report import DenseMap, write_report
from biggan.restoring import read_config, restore_generator, torch_generator
from biggan.sampling import latents, sampling_keys
from biggan.swaps import NAMES, Comparison, Row, Swap, oracle_rows, references, swaps_within
from evaluation.images import Images
from evaluation.networks import NAMES as NETWORKS
from evaluation.networks import load_network
from training.command import start, without_traceback
from training.files import make_folder, path_of
from training.provenance import header

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run.", required=True)
_WEIGHTS = flags.DEFINE_string(
    "torch_weights", None, "generator of the PyTorch BigGAN (.pth, .npz) instead of a checkpoint."
)
_STEP = flags.DEFINE_string("step", "newest", "of the checkpoint: a number, newest or best.")
_EMA = flags.DEFINE_bool("ema", True, "take the averaged weights where there are any.")
_METHODS = flags.DEFINE_list(
    "methods", ["smyrf", "canopy", "scatterbrain", "performer", "local"], f"of {', '.join(NAMES)}."
)
_PAIRS = flags.DEFINE_list(
    "pairs", ["1/64", "1/32", "1/16", "1/8", "1/4", "1/2", "1"], "parts of all query-key pairs."
)
_GRID_PAIRS = flags.DEFINE_string("grid_pairs", "0.125", "part of the pairs in grid.png, measured too.")
_NUM = flags.DEFINE_integer("num", 256, "of images of each method, and of real ones at most.", lower_bound=4)
_MAPS = flags.DEFINE_integer("maps", 4, "samples whose attention is looked into.", lower_bound=1)
_TRUNCATION = flags.DEFINE_float("truncation", None, "of the noise; default: none.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "of the noise, hashes and features.", lower_bound=0, upper_bound=2**32 - 1
)
_REAL = flags.DEFINE_string(
    "real", None, "real images: a folder, .tar, .zip, .npy or .npz file, records or TFDS."
)
_FEATURES = flags.DEFINE_enum("features", "dinov2_s14", list(NETWORKS), "network of the features.")
_INCEPTION = flags.DEFINE_string("inception_weights", "", "file of pytorch-fid's Inception.")
_DINOV2 = flags.DEFINE_string("dinov2_weights", "", "folder or ONNX file of a DINOv2.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "images at once on a device.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "folder to write; default: in the workdir, compared_<checkpoint>.")

_COLUMNS = 8  # of grid.png


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    if _WEIGHTS.value and _STEP.value != "newest":
        raise app.UsageError("either --step or --torch_weights is wanted.")
    if _WEIGHTS.value and _EMA.present:
        raise app.UsageError("--ema is of a checkpoint: it means nothing with --torch_weights.")
    without_traceback(compare, "--batch_size or --num")


def compare() -> None:
    generator, variables, name = _generator()
    keys = sampling_keys(_SEED.value)
    noise, labels = latents(generator, keys.noise, _NUM.value, _TRUNCATION.value)
    blocks = blocks_of(generator, variables, noise[: _MAPS.value], labels[: _MAPS.value])
    (shown_part,) = _parts("grid_pairs", [_GRID_PAIRS.value])
    parts = sorted({*_parts("pairs", _PAIRS.value), shown_part})
    swaps, remarks = swaps_within(_METHODS.value, parts, blocks)
    real, missing = _real_images(generator.resolution)
    remarks += missing
    comparison = Comparison(
        generator,
        variables,
        noise,
        labels,
        keys.hashing,
        blocks=blocks,
        network=load_network(_FEATURES.value, {"inception": _INCEPTION.value, "dinov2": _DINOV2.value}),
        real=real,
        batch_size=_BATCH.value,
        devices=jax.local_devices(),
    )
    # What cannot be written is told before all is measured.
    folder = path_of(_OUT.value or os.path.join(_WORKDIR.value, f"compared_{name}"))
    make_folder(folder)
    rows, shown = _measured(comparison, [*references(generator), *swaps], shown_part)
    maps = [
        DenseMap(block, entropies_of(block), decomposed(block))
        for block in tqdm(blocks, desc="looking into maps", unit="block", dynamic_ncols=True)
    ]
    rows += oracle_rows(blocks, [of.parts for of in maps], parts)
    num_real = 0 if real is None else len(real)
    write_report(str(folder), rows, maps, shown, _heading(name, num_real, shown_part), remarks)
    print("\n".join([*remarks, f"{folder / 'table.md'}, and pictures beside it"]))


def _generator() -> tuple[Generator, dict, str]:
    """The network, its variables, and their name."""
    if _WEIGHTS.value:
        return torch_generator(_WORKDIR.value, _WEIGHTS.value)
    return restore_generator(_WORKDIR.value, _STEP.value, _EMA.value)


def _parts(flag: str, texts: Sequence[str]) -> list[float]:
    try:
        return [float(fractions.Fraction(text)) for text in texts]
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"--{flag} should be parts as 1/8 or 0.125, but got {','.join(texts)!r}.") from error


def _real_images(resolution: int) -> tuple[np.ndarray | None, list[str]]:
    """Real images [num, R, R, 3], --num at most; or none, and why."""
    images: Images
    if _REAL.value:
        images = open_images("real", _REAL.value, resolution, progress=tqdm)
    else:
        try:
            images = build_real(read_config(_WORKDIR.value), _NUM.value)
        except (OSError, ValueError) as error:
            return None, [f"No KD to real: the data of the run cannot be read; --real names other. {error}"]
    places = np.random.default_rng(_SEED.value).permutation(len(images))[: _NUM.value]
    return np.stack([images[int(place)] for place in sorted(places)]), []


def _measured(
    comparison: Comparison, swaps: Sequence[Swap], shown_part: float
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """A row a swap, and the first images of those that are shown, by their label."""
    rows, shown = [], {}
    for swap in tqdm(swaps, desc="swapping", unit="swap", dynamic_ncols=True):
        images = comparison.draw(swap)
        row = comparison.row(swap, images)
        rows.append(row)
        if swap.part in (None, shown_part):
            shown[f"{swap.name}\n{row.pairs:.1%} of the pairs\nerror {row.image_error:.4f}"] = images[
                :_COLUMNS
            ]
    return rows, shown


def _heading(name: str, num_real: int, shown_part: float) -> list[str]:
    """How the table was made."""
    return [
        *header(),
        f"{_NUM.value} images of each method, of {name}; {num_real} real images; features of "
        f"{_FEATURES.value}; attention of {_MAPS.value} samples. grid.png: each method at {shown_part:.2%} "
        "of the pairs, the same noise in a column.",
    ]


if __name__ == "__main__":
    start(main)
