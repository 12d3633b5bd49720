"""Weights of the PyTorch program; that they give its images is tested in test_golden.py."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biggan import Generator
from biggan.torch_weights import from_state_dict, torch_name
from training.state_dicts import read_state_dict

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "biggan_celeba32_dense.npz"


@pytest.fixture(scope="module")
def template():
    generator = Generator(32, channels=8, dim_z=12)
    rngs = {"params": jax.random.key(0), "hashing": jax.random.key(1)}
    labels = jnp.zeros(1, jnp.int32)
    return jax.eval_shape(lambda: generator.init(rngs, jnp.zeros((1, 12)), labels, train=False))


@pytest.fixture
def state_dict():
    prefix = "G/state/"
    with np.load(GOLDEN) as file:
        names = [name for name in file.files if name.startswith(prefix) and "/1/1/" not in name]
        return {name.removeprefix(prefix).replace("/", "."): file[name] for name in names}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("linear", "kernel"), "linear.weight"),
        (("block2", "conv_shortcut", "bias"), "blocks.2.0.conv_sc.bias"),
        (("block0", "bn1", "gain", "embedding"), "blocks.0.0.bn1.gain.weight"),
        (("block0", "bn1", "norm", "mean"), "blocks.0.0.bn1.stored_mean"),
        (("block0", "conv1_norm", "conv1/kernel/u"), "blocks.0.0.conv1.u0"),
        (("attention1", "gamma"), "blocks.1.1.gamma"),
        (("output_norm", "scale"), "output_layer.0.gain"),
        (("output_norm", "var"), "output_layer.0.stored_var"),
        (("output_conv_norm", "output_conv/kernel/sigma"), "output_layer.2.sv0"),
    ],
)
def test_names(path, name):
    assert torch_name(path) == name


def test_an_npz_file(template, state_dict, tmp_path):
    np.savez(tmp_path / "G.npz", **state_dict)
    variables = from_state_dict(template, read_state_dict(str(tmp_path / "G.npz")))
    kernel = variables["params"]["block0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, state_dict["blocks.0.0.conv1.weight"].transpose(2, 3, 1, 0))


def test_what_does_not_fit_is_named(template, state_dict):
    from_state_dict(template, state_dict)
    changed = state_dict | {"extra": np.zeros(1), "linear.bias": np.zeros(3), "linear.sv0": np.zeros(2)}
    del changed["linear.weight"]
    with pytest.raises(ValueError, match="does not fit the BigGAN") as error:
        from_state_dict(template, changed)
    for fault in (
        "linear.weight is missing",
        "extra is left over",
        "linear.bias is (3,), not (512,)",
        "linear.sv0 is (2,), not ()",
    ):
        assert fault in str(error.value)
