"""Reading weights of the PyTorch program; that they give its images is tested in test_golden.py."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biggan import Generator
from biggan.torch_weights import from_state_dict, read_state_dict, torch_name

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


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("form", ["plain", "nested", "deep", "parallel", "averaged", "compiled", "beside"])
def test_files_of_torch(torch, state_dict, tmp_path, form):
    """As programs leave them: in dictionaries, beside an optimizer, under names with a prefix."""
    tensors = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in state_dict.items()}
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    forms = {
        "plain": tensors,
        "nested": {"state_dict": tensors},
        "deep": {"model": {"G_ema": tensors}},
        "parallel": {"state_dict": prefixed, "epoch": 3},
        "averaged": prefixed | {"n_averaged": torch.tensor(7)},
        "compiled": {f"_orig_mod.{name}": tensor for name, tensor in prefixed.items()},
        "beside": {"state_dict": tensors, "optimizer": optimizer, "epoch": 3},
    }
    torch.save(forms[form], tmp_path / "G.pth")
    read = read_state_dict(str(tmp_path / "G.pth"))
    assert read.keys() == state_dict.keys()
    for name, array in state_dict.items():
        np.testing.assert_array_equal(read[name], array)


def test_half_precision(torch, tmp_path):
    values = torch.tensor([1.0, -2.5])
    torch.save({"a": values.bfloat16(), "b": values.half()}, tmp_path / "G.pth")
    read = read_state_dict(str(tmp_path / "G.pth"))
    assert (read["a"].dtype, read["b"].dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(read["a"], [1, -2.5])


def test_files_of_torch_that_are_no_state_dict(torch, tmp_path):
    path, one = str(tmp_path / "G.pth"), {"a": torch.zeros(2)}
    for content, said in (
        ({"G": one, "G_ema": one}, r"holds several state dicts: G \(1\), G_ema \(1\)\. Save the one"),
        (
            {"decay": 0.9, "shadow_params": [torch.zeros(2)]},
            r"no state dict: decay \(a float\), shadow_params",
        ),
        ([torch.zeros(2)], "no state dict: a list"),
        ({}, "no state dict: nothing"),
        (torch.nn.Linear(2, 2), r"cannot read the weights file .*network\.state_dict\(\)"),
        ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, r"the tensor a of .*G\.pth cannot be taken to NumPy"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=said):
            read_state_dict(path)
    for name in ("G.pth", "G.npz"):
        (tmp_path / name).write_bytes(b"PK\3\4 cut")
        with pytest.raises(ValueError, match=f"cannot read the weights file .*{name}"):
            read_state_dict(str(tmp_path / name))


def test_what_does_not_fit_is_named(template, state_dict, tmp_path):
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
    with pytest.raises(FileNotFoundError, match=r"no weights file .*none.pth"):
        read_state_dict(str(tmp_path / "none.pth"))
