"""Reading state dicts, from files as programs leave them."""

import numpy as np
import pytest

from training.state_dicts import read_state_dict


@pytest.fixture
def state_dict():
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (4, 3, 2, 2), "conv.bias": (4,), "bn.stored_mean": (4,), "conv.sv0": ()}
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


def test_files_of_numpy(state_dict, tmp_path):
    np.savez(tmp_path / "G.npz", **state_dict)
    read = read_state_dict(str(tmp_path / "G.npz"))
    assert read.keys() == state_dict.keys()
    for name, array in state_dict.items():
        np.testing.assert_array_equal(read[name], array)


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


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file .*none.pth"):
        read_state_dict(str(tmp_path / "none.pth"))


def test_one_of_several_may_be_preferred(torch, tmp_path):
    path, tensors = str(tmp_path / "G.pth"), {"a": torch.zeros(2)}
    torch.save({"state_dict": tensors, "state_dict_ema": {"a": torch.ones(2)}}, path)
    np.testing.assert_array_equal(read_state_dict(path, preferred="state_dict_ema")["a"], [1, 1])
    with pytest.raises(ValueError, match="several state dicts"):
        read_state_dict(path, preferred="other")
    torch.save({"state_dict": tensors}, path)
    np.testing.assert_array_equal(read_state_dict(path, preferred="state_dict_ema")["a"], [0, 0])
