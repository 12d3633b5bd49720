"""The vision transformer against the reference implementations of its checkpoints."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.flax
import skimage.data
import torch
import transformers

from smyrf_jax import Smyrf
from transformer.pretrained import load_vision
from transformer.vision import cubic_weights, normalised
from transformer.weights import folder_of

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "patch_size": 4,
    "image_size": 20,
}


def apply(model, images, **changes):
    return model.encoder.clone(**changes).apply({"params": model.params}, images)


def photograph(height, width):
    image = jnp.asarray(skimage.data.astronaut() / 255.0, jnp.float32)
    return np.asarray(normalised(jax.image.resize(image, (height, width, 3), "linear")[None]))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """The folder of a checkpoint of random weights, and the reference model."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("size", [(20, 20), (12, 36)])
def test_tokens_are_those_of_the_reference_at_any_size(dinov2, size):
    folder, reference = dinov2
    images = photograph(*size)
    with torch.no_grad():
        expected = reference(torch.tensor(images.transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    output = apply(load_vision(folder), images)
    assert output.importance is None
    np.testing.assert_allclose(output.tokens, expected, atol=1e-4)


def test_the_packaged_model_is_the_one_that_a_runtime_runs():
    path = folder_of("focus")
    model = load_vision(path)
    assert (model.encoder.config.num_hidden_layers, model.encoder.config.table_side) == (12, 37)
    images = photograph(224, 224)
    session = onnxruntime.InferenceSession(str(path))
    (expected,) = session.run(None, {"input_image": images.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(apply(model, images).importance, expected[:, 0], atol=1e-4)
    assert np.ptp(expected) > 0.5


def test_any_size_and_attention(dinov2):
    model = load_vision(dinov2[0])
    smyrf = Smyrf(num_hashes=2, cluster_size=8)
    images = photograph(24, 32)
    dense, swapped = (apply(model, images, attention=of).tokens for of in (model.encoder.attention, smyrf))
    assert dense.shape == swapped.shape == (1, 49, 32)
    assert 1e-3 < np.max(np.abs(dense - swapped)) < 10
    with pytest.raises(ValueError, match="multiples of 4, but got 22 x 32"):
        apply(model, photograph(22, 32))
    with pytest.raises(ValueError, match="one of each of 2 layers, but got 3"):
        apply(model, images, attention=(smyrf,) * 3)


def test_cubic_weights_are_those_of_torch():
    row = np.random.default_rng(0).normal(size=(1, 1, 1, 7))
    for size in (3, 7, 16):
        expected = torch.nn.functional.interpolate(torch.tensor(row), size=(1, size), mode="bicubic")
        np.testing.assert_allclose(cubic_weights(7, size) @ row[0, 0, 0], expected[0, 0, 0], atol=1e-12)


def test_a_classifier_is_a_checkpoint_too(tmp_path):
    """Its tensors have a prefix, and a head and a token of masks that are no part of the transformer."""
    torch.manual_seed(0)
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**SIZES, num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    names = safetensors.flax.load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"dinov2", "classifier"}
    images = photograph(20, 20)
    with torch.no_grad():
        expected = model.dinov2(torch.tensor(images.transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    np.testing.assert_allclose(apply(load_vision(tmp_path), images).tokens, expected, atol=1e-4)


def test_sizes_may_be_pairs(dinov2, tmp_path):
    config = json.loads((dinov2[0] / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((dinov2[0] / "model.safetensors").read_bytes())

    def load(**changes):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        return load_vision(tmp_path)

    expected = load_vision(dinov2[0]).encoder.config
    assert load(image_size=[20, 20], patch_size=[4, 4]).encoder.config == expected
    for size in ([20, 24], [20], [], "20", 0, [0, 0]):
        with pytest.raises(ValueError, match="image_size should be a number or two equal ones, but is"):
            load(image_size=size)
    with pytest.raises(ValueError, match=r"patch_size should be .* but is \[4, 2\]"):
        load(patch_size=[4, 2])
    with pytest.raises(ValueError, match="num_attention_heads should divide hidden_size"):
        load(num_attention_heads=5)


def test_a_folder_with_faults_is_refused(dinov2, tmp_path):
    folder = dinov2[0]
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_vision(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    weights = safetensors.flax.load_file(folder / "model.safetensors")
    weights.pop("layernorm.bias")
    safetensors.flax.save_file(weights | {"odd": jnp.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ValueError, match="model_type should be 'dinov2', but is 'vit'"):
        load_vision(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "mlp_ratio"}))
    with pytest.raises(ValueError, match="the field 'mlp_ratio' is missing"):
        load_vision(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"layernorm\.bias is missing; odd is left over"):
        load_vision(tmp_path)


def test_an_onnx_file_with_faults_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError, match=r"model\.onnx is missing"):
        load_vision(path)

    def write(name):
        tensor = onnx.numpy_helper.from_array(np.zeros((2, 2), np.float32), name)
        node = onnx.helper.make_node("Mul", [name, name], ["out"], name="/head/Mul")
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], [tensor])), path)

    write("onnx::Mul_1")
    with pytest.raises(ValueError, match="onnx::Mul_1 have no name"):
        load_vision(path)
    write("head.weight")
    with pytest.raises(ValueError, match=r"'backbone\.embeddings\.patch_embeddings.*is missing"):
        load_vision(path)
