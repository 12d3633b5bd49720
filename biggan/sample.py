"""Samples from a checkpoint: python -m biggan.sample --workdir=runs/quickstart --num=64 --truncation=0.7"""

import os

import jax
from absl import app, flags, logging
from tqdm import tqdm

from biggan.experiment import build_gan, build_state, read_config, restore_state
from biggan.pictures import save_grid, save_picture
from biggan.sampling import Sampler, standing_statistics
from biggan.torch_weights import from_state_dict
from training.files import path_of
from training.state_dicts import read_state_dict

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run.", required=True)
_STEP = flags.DEFINE_integer("step", None, "of the checkpoint; default: the newest.")
_NUM = flags.DEFINE_integer("num", 64, "of images.", lower_bound=1)
_TRUNCATION = flags.DEFINE_float("truncation", None, "of the noise; default: none.")
_SEED = flags.DEFINE_integer("seed", 0, "of the noise.")
_LABEL = flags.DEFINE_integer("label", None, "class of all images; default: all in turn.")
_STANDING = flags.DEFINE_bool("standing_statistics", False, "measure batch statistics anew.")
_EMA = flags.DEFINE_bool("ema", True, "take the averaged weights where there are any.")
_OUT = flags.DEFINE_string("out", None, "folder to write; default: in the workdir.")
_WEIGHTS = flags.DEFINE_string(
    "torch_weights", None, "generator of the PyTorch BigGAN (.pth, .npz) instead of a checkpoint."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    config = read_config(_WORKDIR.value)
    generator = build_gan(config).generator.clone(axis_name=None)
    if _WEIGHTS.value:
        template = jax.eval_shape(lambda: build_state(config, build_gan(config))).generator
        variables = from_state_dict(template.variables, read_state_dict(_WEIGHTS.value))
        name = "torch"
    else:
        state = restore_state(_WORKDIR.value, config, _STEP.value)
        if not _EMA.value:
            state = state.replace(ema=None)
        variables, name = state.sampling_variables(), f"step{int(state.step):07d}"
    rng_samples, rng_standing = jax.random.split(jax.random.key(_SEED.value))
    if _STANDING.value:
        variables = standing_statistics(generator, variables, rng_standing, truncation=_TRUNCATION.value)
    sampler = Sampler(generator, _TRUNCATION.value)
    images = sampler(variables, rng_samples, _NUM.value, _LABEL.value)
    own = os.path.join(_WORKDIR.value, f"sampled_{name}_seed{_SEED.value}")
    folder = str(path_of(_OUT.value or own))
    save_grid(images, os.path.join(folder, "grid.png"))
    for index, image in enumerate(tqdm(images, desc="writing", unit="image")):
        save_picture(image, os.path.join(folder, f"{index:05d}.png"))
    print(f"{len(images)} images and {os.path.join(folder, 'grid.png')}")


if __name__ == "__main__":
    app.run(main)
