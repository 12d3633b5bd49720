"""Variables of networks without the networks' initialisers, whose program takes the compiler seconds."""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from biggan.augment import init_augment
from biggan.experiment import STATE_FIELDS, build_gan, build_state
from biggan.generator import Generator
from biggan.state import GANState, NetworkState
from biggan.torch_weights import torch_name
from biggan.train_step import GAN
from training.checkpoint import Checkpoints, Progress


def filled(shapes: Any) -> Any:
    """A network's collections with numbers of chance where an initialiser draws, and in gamma 0.5, so that
    attention counts.

    shapes: what jax.eval_shape gives of `init`, or a part of it.
    """
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key.rpartition("/")[2]
        if name in ("kernel", "embedding", "u"):
            width = np.sqrt(np.prod(leaf.shape[:-1]))
            return (rng.normal(size=leaf.shape) / width).astype(leaf.dtype)
        value = {"gamma": 0.5, "var": 1.0, "sigma": 1.0, "scale": 1.0}.get(name, 0.0)
        return np.full(leaf.shape, value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def variables_of(generator: Generator) -> Any:
    """Those of a generator, by `filled`."""
    inputs = jnp.zeros((1, generator.noise_width)), jnp.zeros(1, jnp.int32)
    return filled(jax.eval_shape(functools.partial(generator.init, train=False), jax.random.key(0), *inputs))


def state_of(config: ConfigDict, gan: GAN) -> GANState:
    """A training state at step 0, on the host."""
    shapes = jax.eval_shape(functools.partial(build_state, config, gan))

    def zeros(shapes: Any) -> Any:
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    def network(shapes: NetworkState) -> NetworkState:
        return NetworkState(filled(shapes.params), filled(shapes.stats), zeros(shapes.opt_state))

    generator = network(shapes.generator)
    ema = None
    if shapes.ema is not None:
        average = {"params": generator.params, "batch_stats": generator.stats["batch_stats"]}
        ema = jax.tree.map(np.copy, average)
    augment = jax.device_get(init_augment(gan.augmentation))
    return GANState(zeros(shapes.step), generator, network(shapes.discriminator), ema, augment)


def to_state_dict(variables: Any) -> dict[str, np.ndarray]:
    """Variables as the PyTorch program names and lays them."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        keys = [entry.key for entry in path]
        if keys[-1] == "kernel":
            leaf = np.transpose(leaf, {2: (1, 0), 4: (3, 2, 0, 1)}[np.ndim(leaf)])
        tensors[torch_name(tuple(keys[1:]))] = np.asarray(leaf)
    return tensors


def save_run(config: ConfigDict, workdir: pathlib.Path, steps: tuple[int, ...]) -> None:
    """What a run leaves that has been trained to these steps, without the training: every step's weights are
    others, and so are the averaged ones."""
    state = state_of(config, build_gan(config))
    checkpoints = Checkpoints(str(workdir / "checkpoints"), state_fields=STATE_FIELDS)

    def moved(tree: Any, factor: float) -> Any:
        return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree)

    for step in steps:
        generator = state.generator.replace(params=moved(state.generator.params, 1 + 0.1 * step))
        ema = state.ema and state.ema | {"params": moved(state.ema["params"], 2 + 0.1 * step)}
        checkpoints.save(
            state.replace(step=np.asarray(step, np.int32), generator=generator, ema=ema),
            Progress(0, config.to_dict()),
        )
        checkpoints.wait()
    checkpoints.close()
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
