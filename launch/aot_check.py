"""Compiles a config's whole training step for a TPU slice, without one: a core's memory, and its cycles.

python -m launch.aot_check --config=configs/celeba128_smyrf.py --topology=v3:2x2

The step's time is read from the final schedule (`launch.schedule` says what is left out): no TPU ran it.

Wants the extra [tpu], for the compiler. Exit status 1 when the step does not fit.
"""

import atexit
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time

from launch import schedule

# Before jax is imported: the compiler is to run without a TPU, and to write its schedules.
os.environ["TPU_SCHEDULES"] = tempfile.mkdtemp()
os.environ |= schedule.environment(os.environ["TPU_SCHEDULES"])

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from biggan.experiment import build_gan, build_state, images_per_step
from biggan.fields import FIELDS
from biggan.parallel import parallel_step
from biggan.train_step import Batch
from launch.topology import parse
from smyrf_jax.chips import compiling_for
from training import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", "v3:2x2", "of the slice; of several hosts: v5e:4x4, v4:2x2x2.")
_JSON = flags.DEFINE_bool("json", False, "print one JSON line instead of text.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    command.without_traceback(check, "--config.batch_size")


def check() -> None:
    """Does what the flags say."""
    atexit.register(shutil.rmtree, os.environ["TPU_SCHEDULES"], ignore_errors=True)
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("the TPU's compiler is not installed: pip install -e '.[tpu]'.")
    config = _CONFIG.value
    topology = parse(_TOPOLOGY.value)
    devices = topology.devices()
    with command.fields_wanted(config_flags.get_config_filename(flags.FLAGS["config"]), FIELDS):
        gan = build_gan(config)
        state = jax.eval_shape(lambda: build_state(config, gan))
        resolution = config.generator.resolution
        shape = (config.d_steps, config.accumulation, config.batch_size)
    batch = Batch(
        jax.ShapeDtypeStruct((*shape, resolution, resolution, 3), jnp.uint8),
        jax.ShapeDtypeStruct(shape, jnp.int32),
    )

    def of_all(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(devices), *leaf.shape), leaf.dtype)

    state, batch = jax.tree.map(of_all, (state, batch))
    rng = jax.eval_shape(lambda: jax.random.key(0))
    started = time.perf_counter()
    with compiling_for(topology.chip):
        lowered = parallel_step(gan, devices).lower(state, batch, rng)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"The step does not fit {_TOPOLOGY.value}:\n{str(error)[:2000]}")
        sys.exit(1)
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    result = {
        "topology": _TOPOLOGY.value,
        "devices": len(devices),
        "hosts": topology.num_hosts,
        "kind": devices[0].device_kind,
        "peak_gib": round(memory.peak_memory_in_bytes / 2**30, 3),
        "state_gib": round(memory.argument_size_in_bytes / 2**30, 3),
        "temporary_gib": round(memory.temp_size_in_bytes / 2**30, 3),
        "compile_seconds": round(seconds),
    }
    found = schedule.read(str(compiled.as_text()), os.environ["TPU_SCHEDULES"], topology.chip)
    result |= {
        "cycles": found.cycles,
        "milliseconds": round(found.seconds * 1e3, 1),
        "attention": round(found.within("/attention") / found.cycles, 3),
        "images_per_second": round(images_per_step(config, len(devices)) / found.seconds, 1),
    }
    if _JSON.value:
        print(json.dumps(result))
    else:
        print(
            f"{result['devices']} x {result['kind']} ({_TOPOLOGY.value}, hosts: {result['hosts']}): the step "
            f"fits. A device's peak is "
            f"{result['peak_gib']} GiB: {result['state_gib']} GiB of state and batch, "
            f"{result['temporary_gib']} GiB of temporaries. By the schedule a step takes "
            f"{found.cycles / 1e6:.0f} M cycles, {result['milliseconds']} ms, {result['attention']:.0%} "
            f"of it attention: {result['images_per_second']} images a second. "
            f"Compiled in {result['compile_seconds']} s."
        )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.start(main, FIELDS, "celeba128_smyrf")
