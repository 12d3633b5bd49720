import shutil

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from evaluation import networks
from evaluation.images import features_of
from evaluation.networks import load_network

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small DINOv2 with random weights, and its folder."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=56, patch_size=14
    )
    model = transformers.Dinov2Model(config).eval()
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return model, str(folder)


@pytest.fixture
def tiny(monkeypatch):
    """A name for it."""
    monkeypatch.setitem(networks.DINOV2, "dinov2_t14", 64)
    monkeypatch.setattr(networks, "NAMES", (*networks.NAMES, "dinov2_t14"))


@pytest.mark.usefixtures("tiny")
def test_features_of_dinov2_are_those_of_its_published_recipe(checkpoint):
    """Bicubic to 224 x 224 in 8 bits, both sides; ImageNet's mean; the class token behind the last norm."""
    model, folder = checkpoint
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 48, 3), np.uint8), rng.integers(0, 256, (300, 280, 3), np.uint8)]
    pixels = []
    for image in images:
        small = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
        of_one = (np.asarray(small) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        pixels.append(of_one.transpose(2, 0, 1))
    with torch.no_grad():
        wanted = model(torch.tensor(np.stack(pixels), dtype=torch.float32)).last_hidden_state[:, 0]
    network = load_network("dinov2_t14", {"dinov2": folder})
    (found,) = features_of(network, images, batch_size=2)
    np.testing.assert_allclose(found.features, wanted.numpy(), atol=1e-4)
    assert found.logits is None
    assert (network.resizer, network.width, network.has_logits) == ("pillow_bicubic", 64, False)


def test_weights_of_another_size(checkpoint):
    with pytest.raises(ValueError, match=r"--features=dinov2_l14 has 1024 features, but .* have 64"):
        load_network("dinov2_l14", {"dinov2": checkpoint[1]})
    with pytest.raises(ValueError, match="have 64"):
        load_network("dinov2_s14", {"dinov2": checkpoint[1]})


@pytest.mark.usefixtures("tiny")
def test_other_weights_are_told_apart(checkpoint, tmp_path):
    folder = checkpoint[1]
    tensors = safetensors.numpy.load_file(f"{folder}/model.safetensors")
    tensors["layernorm.bias"] = tensors["layernorm.bias"] + 1
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(f"{folder}/config.json", tmp_path)
    one, other = (load_network("dinov2_t14", {"dinov2": path}) for path in (folder, str(tmp_path)))
    assert one.weights != other.weights
    assert one.weights == load_network("dinov2_t14", {"dinov2": folder}).weights


def test_the_embedded_network_knows_photographs():
    """A photograph and its mirror are nearer to each other than to another photograph."""
    from training.photographs import photograph

    cat, cup = photograph("chelsea"), photograph("coffee")
    network = load_network("dinov2_s14")
    (found,) = features_of(network, [cat, cat[:, ::-1], cup], batch_size=3)
    assert found.features.shape == (3, 384)
    near, far = (np.linalg.norm(found.features[0] - found.features[i]) for i in (1, 2))
    assert near < 0.5 * far


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="--features should be of inception, dinov2_s14, .* got 'vgg'"):
        load_network("vgg")
    with pytest.raises(ValueError, match="--resize should be one of clean, .* got 'lanczos'"):
        load_network("dinov2_s14", None, "lanczos")
    with pytest.raises(FileNotFoundError, match="--features=inception wants --inception_weights"):
        load_network("inception")
    with pytest.raises(FileNotFoundError, match="--features=dinov2_b14 wants --dinov2_weights"):
        load_network("dinov2_b14")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_network("dinov2_b14", {"dinov2": "nowhere"})


def test_the_inception_is_centred_as_the_program_that_resizes_so(monkeypatch):
    """pytorch-fid divides by 255; TensorFlow's programs, and clean-fid, take 128 away."""
    centres = []

    def load(path, sha256, *, centre):
        centres.append(centre)
        return None, {}, "inception"

    monkeypatch.setattr(networks, "load_inception", load)
    found = [
        load_network("inception", {"inception": "file"}, resizer).resizer
        for resizer in (None, "clean", "legacy_tensorflow")
    ]
    assert found == ["legacy_pytorch", "clean", "legacy_tensorflow"]
    assert centres == [127.5, 128.0, 128.0]
