"""Reading the state dicts of PyTorch programs."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def read_state_dict(path: str, preferred: str | None = None, *, name: str = "path") -> dict[str, np.ndarray]:
    """A state dict from a .pth file (wants torch) or an .npz file.

    It may lie in dictionaries, as {"state_dict": ...}, if no other does or it is where `preferred` says
    ("state_dict_ema"); names may begin with "module.".
    Parameters are taken as tensors, and bfloat16, which NumPy lacks, as float32.

    name: what the user typed the path behind.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file is not .npz, and torch is not installed.
        ValueError: it cannot be read, or holds no state dict or several; names what is there.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{name}: there is no weights file {path}.")
    try:
        if path.endswith(".npz"):
            with open(path, "rb") as opened, np.load(opened) as file:
                return _without_prefix(dict(file))
        loaded = _load(path)
    except ImportError:
        raise
    except Exception as error:  # a cut zip file, a pickled network: of many kinds
        first = str(error).split(". ")[0].splitlines() or [
            type(error).__name__
        ]  # the rest is advice of torch
        raise ValueError(
            f"cannot read the weights file {path}: {first[0]}. It should hold tensors alone, as "
            "torch.save(network.state_dict(), path) writes them."
        ) from error
    found = dict(_state_dicts(loaded, ""))
    if preferred in found:
        found = {preferred: found[preferred]}
    if len(found) != 1:
        shown = [f"{name or 'tensors'} ({len(of)})" for name, of in found.items()] or _keys(loaded)
        what = "several state dicts" if found else "no state dict"
        raise ValueError(
            f"the weights file {path} holds {what}: {', '.join(shown)}. Save the one wanted alone, by "
            "torch.save(torch.load(path)[name], other_path)."
        )
    (tensors,) = found.values()
    return _without_prefix({name: _array(tensor, f"{name} of {path}") for name, tensor in tensors.items()})


def _load(path: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} wants torch: pip install torch, or convert the file to .npz once."
        ) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _state_dicts(loaded: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dictionaries of tensors by name, with where they are. Those of optimizers have numbers for names."""
    if not isinstance(loaded, Mapping):
        return
    tensors = {
        key: value for key, value in loaded.items() if isinstance(key, str) and hasattr(value, "detach")
    }
    if tensors:
        yield name, tensors
    for key, value in loaded.items():
        if isinstance(key, str):
            yield from _state_dicts(value, f"{name}.{key}" if name else key)


def _keys(loaded: Any) -> list[str]:
    """What is in a file that holds no state dict."""
    if not isinstance(loaded, Mapping):
        return [f"a {type(loaded).__name__}"]
    return [f"{key} (a {type(value).__name__})" for key, value in loaded.items()] or ["nothing"]


def _without_prefix(tensors: dict[str, Any]) -> dict[str, Any]:
    """Without what parallel, averaged and compiled networks put before all names, or count."""
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_prefix({name.removeprefix(prefix): of for name, of in tensors.items()})
    return tensors


def _array(tensor: Any, name: str) -> np.ndarray:
    tensor = tensor.detach()
    try:
        return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # sparse, of a dtype that NumPy lacks
        raise ValueError(f"the tensor {name} cannot be taken to NumPy: {error}.") from error
