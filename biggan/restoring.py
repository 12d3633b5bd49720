"""What earlier runs left: their configs, states and generators."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from biggan.augment import AugmentState, init_augment
from biggan.experiment import OLD_FIELDS, STATE_FIELDS, build_gan, build_state
from biggan.generator import Generator
from biggan.state import GANState
from biggan.torch_weights import from_state_dict
from biggan.train_step import GAN
from training.checkpoint import config_differences
from training.digests import arrays_of
from training.restoring import NEWEST, latest_config, restore
from training.state_dicts import read_state_dict
from training.workdir import read_config as workdir_config


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """The config that a run in `workdir` was started with: of config.json, or of the newest checkpoint.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: it is none of a GAN.
    """
    config = workdir_config(workdir)
    if config is None:
        config = latest_config(workdir)
    if config is None:
        raise FileNotFoundError(
            f"--workdir={workdir!r} holds no run: there is no checkpoint, nor a config.json that can be read."
        )
    if "generator" not in config:
        raise ValueError(f"--workdir={workdir!r} holds a run, but none of a GAN.")
    if "num_classes" not in config:  # runs of before have it in both networks
        config["num_classes"] = config["generator"]["num_classes"]
        for section, name in OLD_FIELDS:
            config[section].pop(name, None)
    return ml_collections.ConfigDict(config)


def saved_state(config: ml_collections.ConfigDict, gan: GAN, saved: Mapping[str, Any]) -> GANState:
    """The state that a checkpoint with the config `saved` has. It is traced.

    Averages and an adaptive augmentation can be switched on and off in a run.
    """
    state = build_state(config, gan).with_average(saved["ema"]["on"])
    # Runs that began before the section was there have none in their config.
    adaptive = saved.get("augment", {}).get("adaptive", False)
    return state.replace(augment=AugmentState(jnp.zeros(()), jnp.zeros(())) if adaptive else None)


def adopted(config: ml_collections.ConfigDict, gan: GAN, state: GANState) -> GANState:
    """A `saved_state`, on the host, as this run goes on with it; an average begins as a copy."""
    fresh = jax.device_get(init_augment(gan.augmentation))
    if fresh is None or state.augment is None:
        state = state.replace(augment=fresh)
    return state.with_average(config.ema.on)


def restore_state(workdir: str, config: ml_collections.ConfigDict, step: int | str = NEWEST) -> GANState:
    """The state of a checkpoint of the run in `workdir`: of a step, the "newest" or the "best".

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    gan = build_gan(config)

    def template(saved: Mapping[str, Any]) -> Any:
        return jax.eval_shape(lambda: saved_state(config, gan, saved))

    return restore(workdir, template, config.to_dict(), step=step, state_fields=STATE_FIELDS)


def restore_generator(
    workdir: str, step: str = NEWEST, ema: bool = True
) -> tuple[Generator, dict[str, Any], str]:
    """The generator of a run in `workdir`, for sampling.

    Args:
        workdir: of the run.
        step: of the checkpoint: a number, "newest" or "best".
        ema: take the averaged weights where there are any.

    Returns:
        The network, its variables, and their name: the step, with _ema if they are averaged.

    Raises:
        FileNotFoundError: there is no run, or no such checkpoint.
        ValueError: step is neither, or the run is none of a GAN.
        DamagedCheckpointError: the checkpoint cannot be read.
    """
    config = read_config(workdir)
    state = restore_state(workdir, config, int(step) if step.isascii() and step.isdigit() else step)
    if not ema:
        state = state.replace(ema=None)
    name = f"step{int(state.step):07d}" + ("_ema" if state.ema is not None else "")
    return build_gan(config).generator.clone(axis_name=None), state.sampling_variables(), name


def torch_generator(workdir: str, path: str) -> tuple[Generator, dict[str, Any], str]:
    """The generator that a run in `workdir` has, with weights of the PyTorch BigGAN, for sampling.

    path: of its state dict, .pth or .npz.

    Returns:
        The network, its variables, and their name: the file's, without the ending.

    Raises:
        FileNotFoundError: there is no run, or no such file.
        ImportError: the file wants torch, which is not installed.
        ValueError: the run is none of a GAN, or the weights are of another network; names the tensors.
    """
    config = read_config(workdir)
    gan = build_gan(config)
    template = jax.eval_shape(lambda: build_state(config, gan)).generator
    variables = from_state_dict(template.variables, read_state_dict(path, name="--torch_weights"))
    return gan.generator.clone(axis_name=None), variables, os.path.splitext(os.path.basename(path))[0]


def initial_networks(config: ml_collections.ConfigDict, gan: GAN) -> GANState:
    """The state at step 0, on the host, with the networks that config.init_from names.

    A folder of a run: its newest checkpoint's, without its average. Files: weights of the PyTorch BigGAN's
    generator and, behind a comma, of its discriminator. An average begins as a copy of the generator.

    Raises:
        FileNotFoundError: there is nothing there.
        ValueError: the networks are others; names the fields or tensors.
    """
    fresh = jax.device_get(jax.jit(lambda: build_state(config, gan))())
    files = config.init_from.split(",")
    if all(name.endswith(_OF_PYTORCH) for name in files):
        if len(files) > 2:
            raise ValueError(f"config.init_from={config.init_from!r} should be G.pth or G.pth,D.pth.")
        for name, file in zip(("generator", "discriminator"), files, strict=False):
            network = getattr(fresh, name)
            variables = from_state_dict(network.variables, read_state_dict(file, name="config.init_from"))
            fresh = fresh.replace(**{name: network.with_variables(variables)})
        return fresh.replace(ema=None).with_average(config.ema.on)
    try:
        theirs = read_config(config.init_from)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"config.init_from={config.init_from!r} is neither the folder of a run nor PyTorch weights."
        ) from error
    found = restore_state(config.init_from, theirs)
    for name in ("generator", "discriminator"):
        network, variables = getattr(fresh, name), getattr(found, name).variables
        if arrays_of(network.variables) != arrays_of(variables):
            fields = [
                f"config.{field} is {before!r} there and {now!r} here"
                for field, before, now in config_differences(theirs.to_dict(), config.to_dict())
                if field.startswith(("num_classes", f"{name}."))
            ]
            raise ValueError(
                f"the {name} in config.init_from={config.init_from!r} is another: {'; '.join(fields)}."
            )
        fresh = fresh.replace(**{name: network.with_variables(variables)})
    return fresh.replace(ema=None).with_average(config.ema.on)


_OF_PYTORCH = (".pth", ".pt", ".npz")
