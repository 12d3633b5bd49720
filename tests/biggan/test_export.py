"""A generator that leaves its run: read back, and as a program that knows nothing of this project."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import export
from PIL import Image

from biggan import Generator
from biggan.export import (
    export_program,
    generator_from_config,
    generator_to_config,
    load_generator,
    save_generator,
)
from biggan.restoring import restore_generator
from biggan.sampling import Sampler, latents, sampling_keys
from smyrf_jax import Canopy, Dense, Scatterbrain, Smyrf
from tests.biggan.variables import save_run

ROOT = pathlib.Path(__file__).parent.parent.parent
KEYS = sampling_keys(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_tiny):
    workdir, config = tmp_path_factory.mktemp("runs") / "run", make_tiny()
    config.num_classes = 3
    save_run(config, workdir, steps=(2,))
    return workdir


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The network, its variables, the folder that `save_generator` wrote, and images to compare with."""
    generator, variables, name = restore_generator(str(run))
    folder = tmp_path_factory.mktemp("exported") / "generator"
    save_generator(generator, variables, str(folder), {"weights": name, "truncation": 0.5})
    noise, labels = latents(generator, KEYS.noise, 5, 0.5)
    images = Sampler(generator)(variables, noise, labels, KEYS.hashing)
    return generator, variables, folder, (noise, labels), images


@pytest.mark.parametrize(
    "generator",
    [
        Generator(32),
        Generator(
            64,
            channels=8,
            dim_z=20,
            num_classes=7,
            shared_dim=16,
            hierarchical=True,
            attention={16: Dense(), 32: Canopy(cluster_size=64), 64: Scatterbrain(cluster_size=32)},
            bn_eps=1e-4,
            sn_eps=1e-5,
            dtype=jnp.bfloat16,
        ),
    ],
)
def test_all_fields_go_through_the_config(generator):
    plain = json.loads(json.dumps(generator_to_config(generator.clone(axis_name="replicas", remat=True))))
    assert generator_from_config(plain) == generator


def test_a_dtype_that_is_not_known_is_refused():
    plain = generator_to_config(Generator(32, attention={16: Smyrf()})) | {"dtype": "int8"}
    with pytest.raises(ValueError, match=r"dtype should be one of \['float32', 'bfloat16'\], but got 'int8'"):
        generator_from_config(plain)


def test_what_is_saved_is_read_and_gives_the_same_images(exported):
    generator, _, folder, inputs, images = exported
    loaded, variables = load_generator(str(folder))
    assert loaded == generator
    np.testing.assert_array_equal(Sampler(loaded)(variables, *inputs, KEYS.hashing), images)
    assert json.loads((folder / "config.json").read_text())["weights"] == "step0000002_ema"


def test_a_folder_that_holds_something_else_is_told(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_generator(str(tmp_path / "missing"))
    folder = tmp_path / "copy"
    shutil.copytree(exported[2], folder)
    weights = folder / "generator.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    tensors["params.extra"] = tensors.pop("params.output_norm.scale")[:1]
    tensors["params.linear.bias"] = tensors["params.linear.bias"][:7]
    safetensors.numpy.save_file(tensors, weights)
    faults = (
        r"params.extra should be left out, but is \(1,\); "
        r"params.linear.bias should be \(256,\), but is \(7,\); "
        r"params.output_norm.scale should be \(16,\), but is missing\."
    )
    with pytest.raises(ValueError, match=faults):
        load_generator(str(folder))
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ValueError, match="should hold what biggan.export writes"):
        load_generator(str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="should hold what biggan.export writes.*generator"):
        load_generator(str(folder))


def test_the_program_of_a_batch_gives_the_samplers_images(exported):
    """Its weights are within it. A batch of any size is traced below: here annotations are checked, which
    know no symbolic sizes."""
    generator, variables, _, (noise, labels), images = exported
    program = export.deserialize(bytearray(export_program(generator, variables, KEYS.hashing, batch_size=5)))
    assert program.platforms == ("cpu", "tpu")
    found = np.asarray(jax.jit(program.call)(noise, labels))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - images).max() <= 1
    assert images.std(axis=0).mean() > 5
    with pytest.raises(ValueError, match="Shape mismatch"):
        program.call(noise[:2], labels[:2])


@pytest.mark.process
def test_the_command_and_the_example_without_this_project(run, tmp_path):
    """Every package that the example must not want is one that fails."""
    environment, out = os.environ | {"JAX_PLATFORMS": "cpu"}, tmp_path / "exported"

    def command(*arguments, cwd=ROOT, **environ):
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=environment | environ, capture_output=True, text=True
        )

    flags = ["-m", "biggan.export", f"--workdir={run}", f"--out={out}"]
    done = command(*flags, "--truncation=0.5", "--standing_statistics")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generator.jax_export",
        "generator.safetensors",
    }
    wrong = command(*flags, "--step=7")
    assert (wrong.returncode, "no checkpoint of step 7" in wrong.stderr) == (1, True)
    assert "Traceback" not in wrong.stderr

    for name in ("smyrf_jax", "biggan", "training", "flax", "safetensors"):
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text("raise ImportError(__name__)")
    example = shutil.copy(ROOT / "examples" / "sample_exported.py", tmp_path)
    picture = tmp_path / "samples.png"
    done = command(example, str(out), str(picture), cwd=tmp_path, PYTHONPATH=str(tmp_path / "blocked"))
    assert done.returncode == 0, done.stderr
    generator, variables = load_generator(str(out))
    noise = jax.random.truncated_normal(jax.random.key(0), -0.5, 0.5, (16, 8))
    images = Sampler(generator)(variables, np.asarray(noise), np.arange(16, dtype=np.int32) % 3, KEYS.hashing)
    with Image.open(picture) as opened:
        assert np.abs(np.asarray(opened).astype(int) - np.concatenate(images, axis=1)).max() <= 1
    program = export.deserialize(bytearray((out / "generator.jax_export").read_bytes()))
    noise, labels = latents(generator, KEYS.noise, 3)
    found = np.asarray(jax.jit(program.call)(noise, labels))
    assert np.abs(found.astype(int) - Sampler(generator)(variables, noise, labels, KEYS.hashing)).max() <= 1
