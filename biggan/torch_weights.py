"""Weights of the PyTorch BigGAN program in this package's networks.

Source of the names: BigGAN-PyTorch (github.com/ajbrock/BigGAN-PyTorch) and its descendants, with
batch statistics under stored_mean and stored_var.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from training.weights import from_tensors

# Our scope -> theirs; a block is followed by its number.
_SCOPES = {
    "conv_shortcut": "conv_sc",
    "output_norm": "output_layer.0",
    "output_conv": "output_layer.2",
}
# `norm` is the batch norm inside ours; its statistics belong to the scope around it in theirs.
_LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "gain",
    "mean": "stored_mean",
    "var": "stored_var",
    "u": "u0",
    "sigma": "sv0",
}


def torch_name(path: tuple[str, ...]) -> str:
    """The name in a PyTorch state dict of the variable at `path`, a collection's path of ours."""
    *scopes, leaf = [part for name in path for part in name.split("/")]
    # Spectral-norm variables: block0, conv1_norm, conv1/kernel/u.
    scopes = [scope for scope in scopes if not scope.endswith("_norm") or scope == "output_norm"]
    scopes = [scope for scope in scopes if scope not in ("norm", "kernel")]
    names = []
    for scope in scopes:
        numbered = re.fullmatch(r"(block|attention)(\d+)", scope)
        if numbered:
            names.append(f"blocks.{numbered[2]}.{int(numbered[1] == 'attention')}")
        else:
            names.append(_SCOPES.get(scope, scope))
    return ".".join([*names, _LEAVES.get(leaf, leaf)])


def from_state_dict(variables: Any, state_dict: Mapping[str, Any]) -> Any:
    """`variables` with the values of a PyTorch state dict.

    Args:
        variables: of a Generator or Discriminator, as of `init` (shapes suffice: jax.eval_shape).
        state_dict: name -> array, as training.state_dicts reads it.

    Returns:
        The same tree, with NumPy arrays in the dtype of the state dict.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape; it names them all.
    """
    # The singular value that goes with a vector has an axis of its own in theirs.
    tensors = {
        name: np.reshape(tensor, ()) if name.endswith("sv0") and np.size(tensor) == 1 else tensor
        for name, tensor in state_dict.items()
    }

    def name_of(path: tuple[str, ...]) -> str:
        return torch_name(path[1:])  # without the collection

    return from_tensors(variables, tensors, name_of=name_of, what="the BigGAN")
