"""Samples of a generator: python -m biggan.sample --workdir=runs/quickstart --num=64 --truncation=0.7

Writes into a folder in the workdir, or --out: images/00000.png and so on; grid.png; and latents.npz, the
noise and labels, with which --z draws the same images again, of this or another checkpoint. The grid shows
the first 256.

--interpolate=8 goes in 8 steps from each of --num noises to the next, and from the last to the first: a row
of the grid each, and walk.webp and walk.gif. Noise is interpolated on the sphere; classes are not mixed: a
row has one.
"""

import os

import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

from biggan.generator import Generator
from biggan.interpolation import closed_walk, frames_of_walk
from biggan.pictures import save_animation, save_grid, save_picture
from biggan.restoring import restore_generator, torch_generator
from biggan.sampling import Sampler, labels_in_turn, latents, sampling_keys, standing_statistics
from biggan.saved_latents import read_latents, save_latents
from training.command import start, without_traceback
from training.files import make_parent, path_of

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run.", required=True)
_STEP = flags.DEFINE_string("step", "newest", "of the checkpoint: a number, newest or best.")
_NUM = flags.DEFINE_integer("num", None, "of images; default: 64, or all of --z.", lower_bound=1)
_TRUNCATION = flags.DEFINE_float("truncation", None, "of the noise; default: none.")
_SEED = flags.DEFINE_integer("seed", 0, "of the noise.", lower_bound=0, upper_bound=2**32 - 1)
_CLASSES = flags.DEFINE_list(
    "classes", None, "of the images, in turn, as 3,7; default: all, or those of --z."
)
_Z = flags.DEFINE_string("z", None, "noise instead of drawn one: a latents.npz, or an .npy [num, width].")
_INTERPOLATE = flags.DEFINE_integer("interpolate", None, "steps from each noise to the next.", lower_bound=1)
_STANDING = flags.DEFINE_bool("standing_statistics", False, "measure batch statistics anew.")
_EMA = flags.DEFINE_bool("ema", True, "take the averaged weights where there are any.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "images at once on a device.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "folder to write; default: in the workdir, named by the flags.")
_WEIGHTS = flags.DEFINE_string(
    "torch_weights", None, "generator of the PyTorch BigGAN (.pth, .npz) instead of a checkpoint."
)
_IN_GRID = 256  # images, unless they are a walk


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    if _Z.value and _TRUNCATION.value is not None and not _STANDING.value:
        raise app.UsageError(
            "--truncation is of drawn noise, or of --standing_statistics: --z is what it is."
        )
    if _WEIGHTS.value and _STEP.value != "newest":
        raise app.UsageError("either --step or --torch_weights is wanted.")
    if _WEIGHTS.value and _EMA.present:
        raise app.UsageError("--ema is of a checkpoint: it means nothing with --torch_weights.")
    without_traceback(sample, "--batch_size")


def sample() -> None:
    generator, variables, name = _generator()
    keys = sampling_keys(_SEED.value)
    noise, labels = _latents(generator, keys.noise)
    folder = _folder(name, len(noise))
    make_parent("out", os.path.join(folder, "grid.png"))
    steps = _INTERPOLATE.value
    if steps:
        noise, labels = closed_walk(noise, labels, steps)
    if _STANDING.value:
        variables = standing_statistics(generator, variables, keys.standing, truncation=_TRUNCATION.value)
    sampler = Sampler(generator, _BATCH.value, jax.local_devices())
    num_shown = len(noise) if steps else _IN_GRID
    shown = []
    images = (image for batch in sampler.batches(variables, noise, labels, keys.hashing) for image in batch)
    bar = tqdm(images, total=len(noise), unit="image", desc="drawing", dynamic_ncols=True)
    for index, image in enumerate(bar):
        save_picture(image, os.path.join(folder, "images", f"{index:05d}.png"))
        if index < num_shown:
            shown.append(image)
    save_grid(np.stack(shown), os.path.join(folder, "grid.png"), columns=steps and steps + 1)
    if steps:
        frames = frames_of_walk(np.stack(shown), steps)
        for kind in ("webp", "gif"):
            save_animation(frames, os.path.join(folder, f"walk.{kind}"))
    save_latents(noise, labels, os.path.join(folder, "latents.npz"))
    print(f"{len(noise)} images in {os.path.join(folder, 'images')}; {os.path.join(folder, 'grid.png')}")


def _generator() -> tuple[Generator, dict, str]:
    """The network, its variables, and their name."""
    if _WEIGHTS.value:
        return torch_generator(_WORKDIR.value, _WEIGHTS.value)
    return restore_generator(_WORKDIR.value, _STEP.value, _EMA.value)


def _latents(generator: Generator, rng: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    classes = None if _CLASSES.value is None else [_number(text) for text in _CLASSES.value]
    if not _Z.value:
        return latents(generator, rng, _NUM.value or 64, _TRUNCATION.value, classes)
    noise, labels = read_latents(_Z.value, generator)
    num = _NUM.value or len(noise)
    if num > len(noise):
        raise ValueError(
            f"--num should be {len(noise)} at most, as --z={_Z.value} has no more, but got {num}."
        )
    if labels is None or classes is not None:
        labels = labels_in_turn(generator, num, classes)
    return noise[:num], labels[:num]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"--classes should be numbers, as 3,7, but got {text!r}.")
    return int(text)


def _folder(name: str, num: int) -> str:
    """Where to write: named by all that decides the images.

    Raises:
        FileExistsError: --out holds images, which would lie among the new ones.
    """
    if _OUT.value:
        folder = path_of(_OUT.value)
        if (folder / "images").exists():
            raise FileExistsError(
                f"--out={_OUT.value} holds images already: take another, or move them away."
            )
        return str(folder)
    parts = [
        (_TRUNCATION.value, f"truncation{_TRUNCATION.value}"),
        (_STANDING.value, "standing"),
        (_CLASSES.value, "classes" + "-".join(_CLASSES.value or ())),
        (_Z.value, f"z_{_stem(_Z.value or '')}"),
        (_INTERPOLATE.value, f"interpolate{_INTERPOLATE.value}"),
    ]
    shown = [text for value, text in parts if value]
    own = "_".join(["sampled", name, f"seed{_SEED.value}", f"num{num}", *shown])
    return str(path_of(os.path.join(_WORKDIR.value, own)))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


if __name__ == "__main__":
    start(main)
