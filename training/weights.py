"""Parameters from the tensors of a PyTorch checkpoint."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# PyTorch's layout to Flax's: [out, in] of dense layers, [out, in, height, width] of convolutions.
_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}


def from_tensors(
    template: Any,
    tensors: Mapping[str, Any],
    *,
    name_of: Callable[[tuple[str, ...]], str],
    what: str,
    foreign: re.Pattern[str] | None = None,
    dtype: Any = None,
) -> Any:
    """A tree of parameters, or of all variables, with a checkpoint's values.

    Leaves called "kernel" are transposed to Flax's layout; all others are taken as they are.

    Args:
        template: nested dictionaries of shapes (jax.eval_shape).
        tensors: name -> tensor, in PyTorch's layout.
        name_of: the keys that lead to a leaf -> the name of its tensor.
        what: the model, for errors.
        foreign: how the names begin of tensors that are no part of the model, and may be left over.
        dtype: of the result; None: that of the tensors.

    Returns:
        The same tree, of NumPy arrays.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape; it names them all.
    """
    faults, used = [], set()

    def value(path: tuple[Any, ...], leaf: Any) -> Any:
        keys = tuple(entry.key for entry in path)
        name = name_of(keys)
        if name not in tensors:
            faults.append(f"{name} is missing")
            return leaf
        used.add(name)
        tensor = np.asarray(tensors[name], dtype)
        if keys[-1] == "kernel" and tensor.ndim in _AXES:
            tensor = tensor.transpose(_AXES[tensor.ndim])
        if tensor.shape != leaf.shape:
            faults.append(f"{name} is {tensor.shape}, not {leaf.shape}")
        return tensor

    result = jax.tree_util.tree_map_with_path(value, template)
    left = [name for name in tensors if name not in used and not (foreign and foreign.match(name))]
    faults.extend(f"{name} is left over" for name in left)
    if faults:
        raise ValueError(f"the checkpoint does not fit {what}: {'; '.join(faults)}.")
    return result
