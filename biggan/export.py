"""A run's generator as files that need no run.

python -m biggan.export --workdir=runs/quickstart --out=exported writes, each whole or not at all:
- generator.safetensors and config.json: weights and fields, for `load_generator` and other frameworks.
- generator.jax_export: the program with its weights, for CPUs and TPUs. noise [B, Z] float32 and labels
  [B] int32 give images [B, H, W, 3] uint8. JAX alone runs it, without this project:

      import jax, numpy as np
      from jax import export

      generator = export.deserialize(bytearray(open("exported/generator.jax_export", "rb").read()))
      noise = jax.random.normal(jax.random.key(0), (16, generator.in_avals[0].shape[1]))
      images = np.asarray(generator.call(noise, np.zeros(16, np.int32)))

examples/sample_exported.py is a whole program of it. The images are those of biggan.sample with the same
noise, labels, --seed and --standing_statistics. B is any number, unless --batch_size says which: then TPUs
run the attention's kernels, which want to know it.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import app, flags
from flax.core import FrozenDict
from jax import export
from jaxtyping import Key, PyTree

from biggan.experiment import DTYPES
from biggan.generator import Generator
from biggan.restoring import restore_generator
from biggan.sampling import images_of, sampling_keys, standing_statistics
from smyrf_jax import Method, method_from_config
from training.command import start, without_traceback
from training.files import make_parent, path_of, write_whole

# Fields that say how a generator trains, and nothing of what it is.
_OF_TRAINING = {"axis_name", "remat", "parent", "name"}


def generator_to_config(generator: Generator) -> dict[str, Any]:
    """A generator's fields as plain values, for JSON."""
    names = [field.name for field in dataclasses.fields(generator) if field.name not in _OF_TRAINING]
    plain = {name: getattr(generator, name) for name in names}
    plain["attention"] = {str(size): _method_to_config(of) for size, of in generator.attention.items()}
    plain["dtype"] = jnp.dtype(generator.dtype).name
    return plain


def _method_to_config(method: Method) -> dict[str, Any]:
    return {"name": type(method).__name__.lower(), **dataclasses.asdict(method)}


def generator_from_config(plain: Mapping[str, Any]) -> Generator:
    """The generator of `generator_to_config`.

    Raises:
        ValueError: a method or a dtype is not known.
    """
    if plain["dtype"] not in DTYPES:
        raise ValueError(f"dtype should be one of {list(DTYPES)}, but got {plain['dtype']!r}.")
    attention = {int(size): method_from_config(**options) for size, options in plain["attention"].items()}
    fields = {**plain, "attention": FrozenDict(attention), "dtype": DTYPES[plain["dtype"]]}
    return Generator(**fields)


def save_generator(
    generator: Generator, variables: Mapping[str, PyTree], folder: str, about: Mapping[str, Any]
) -> None:
    """Writes generator.safetensors and config.json; `about` goes into the config beside "generator".

    The tensors are called as params.block0.conv1.kernel: the collection, and the way to the leaf.
    """
    tensors = flax.traverse_util.flatten_dict(dict(variables), sep=".")
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    write_whole(path_of(folder) / "generator.safetensors", safetensors.numpy.save(arrays))
    config = {"generator": generator_to_config(generator), **about}
    write_whole(path_of(folder) / "config.json", json.dumps(config, indent=1).encode())


def load_generator(folder: str) -> tuple[Generator, dict[str, PyTree]]:
    """The network and the variables that `save_generator` wrote; bitwise the same images.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing.
        ValueError: a file cannot be read, or the tensors are not those of the network; names them.
    """
    path = path_of(folder)
    try:
        generator = generator_from_config(json.loads((path / "config.json").read_bytes())["generator"])
        tensors = safetensors.numpy.load((path / "generator.safetensors").read_bytes())
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder} should hold what biggan.export writes, but: {error!r}") from error
    inputs = jnp.zeros((1, generator.noise_width)), jnp.zeros(1, jnp.int32)
    template = jax.eval_shape(lambda: generator.init(jax.random.key(0), *inputs, train=False))
    shapes = flax.traverse_util.flatten_dict(template, sep=".")
    faults = [
        f"{name} should be {shapes[name].shape if name in shapes else 'left out'}, but is "
        f"{tensors[name].shape if name in tensors else 'missing'}"
        for name in sorted(shapes.keys() | tensors.keys())
        if name not in shapes or name not in tensors or shapes[name].shape != tensors[name].shape
    ]
    if faults:
        raise ValueError(f"the tensors of {folder} do not fit its config.json: {'; '.join(faults)}.")
    return generator, flax.traverse_util.unflatten_dict(tensors, sep=".")


def export_program(
    generator: Generator,
    variables: Mapping[str, PyTree],
    rng: Key[jax.Array, ""],
    batch_size: int | None = None,
) -> bytes:
    """(noise [B, Z] float32, labels [B] int32) -> images [B, H, W, 3] uint8, with the weights, serialized.

    For CPUs and TPUs. rng: of the hashes. batch_size: B; None: any.
    """
    batch: Any = batch_size or export.symbolic_shape("b")[0]
    shapes = (
        jax.ShapeDtypeStruct((batch, generator.noise_width), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )

    @jax.jit
    def program(noise: jax.Array, labels: jax.Array) -> jax.Array:
        # A compiler that knows the weights would compute with them, slowly, while it compiles.
        held = jax.lax.optimization_barrier(dict(variables))
        return images_of(generator, held, noise, labels, rng)[0]

    return bytes(export.export(program, platforms=("cpu", "tpu"))(*shapes).serialize())


def run() -> None:
    """The command."""
    workdir = flags.DEFINE_string("workdir", None, "folder of the run.", required=True)
    out = flags.DEFINE_string("out", None, "folder to write.", required=True)
    step = flags.DEFINE_string("step", "newest", "of the checkpoint: a number, newest or best.")
    ema = flags.DEFINE_bool("ema", True, "take the averaged weights where there are any.")
    truncation = flags.DEFINE_float("truncation", None, "of the noise to draw with; default: none.")
    standing = flags.DEFINE_bool("standing_statistics", False, "measure batch statistics anew.")
    seed = flags.DEFINE_integer("seed", 0, "of hashes and standing statistics.")
    batch_size = flags.DEFINE_integer("batch_size", None, "of the program; default: any.", lower_bound=1)

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}.")
        without_traceback(write, "--batch_size")

    def write() -> None:
        make_parent("out", os.path.join(out.value, "config.json"))
        generator, variables, name = restore_generator(workdir.value, step.value, ema.value)
        keys = sampling_keys(seed.value)
        if standing.value:
            variables = standing_statistics(generator, variables, keys.standing, truncation=truncation.value)
        about = {"weights": name, "truncation": truncation.value}
        program = export_program(generator, variables, keys.hashing, batch_size.value)
        save_generator(generator, variables, out.value, about)
        write_whole(path_of(os.path.join(out.value, "generator.jax_export")), program)
        print(f"generator.safetensors, config.json and generator.jax_export in {out.value}")

    start(main)


if __name__ == "__main__":
    run()
