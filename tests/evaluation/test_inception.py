"""The Inception network, compared with pytorch-fid's on weights drawn at random."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evaluation import inception
from evaluation.inception import INCEPTION_SHA256, Inception, load_inception

torch = pytest.importorskip("torch")
pytorch_fid = pytest.importorskip("pytorch_fid.inception")


def drawn(name, shape, rng):
    """Such that neither activations nor the batch norms' parts vanish."""
    if name.endswith("running_var") or name.endswith("bn.weight"):
        return rng.uniform(0.5, 1.5, shape)
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.3
    return scale * rng.normal(size=shape)


@pytest.fixture(scope="module")
def state_dict():
    network = pytorch_fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    rng = np.random.default_rng(0)
    return {
        name: tensor
        if name.endswith("num_batches_tracked")
        else torch.tensor(drawn(name, tensor.shape, rng), dtype=torch.float32)
        for name, tensor in network.state_dict().items()
    }


def saved(state_dict, path):
    """The file's path and its digest."""
    torch.save(state_dict, path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def file(state_dict, tmp_path_factory):
    return saved(state_dict, tmp_path_factory.mktemp("inception") / "network.pth")


@pytest.fixture(scope="module")
def loaded(file):
    return load_inception(*file)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (2, 299, 299, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def output(loaded, images):
    module, variables, _ = loaded
    return jax.jit(module.apply)(variables, images)


def test_features_and_logits_are_those_of_pytorch_fid(state_dict, output, images, monkeypatch):
    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: state_dict)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2)) / 255
    with torch.no_grad():
        features = pytorch_fid.InceptionV3().eval()(pixels)[0][..., 0, 0]
        logits = features @ state_dict["fc.weight"].T
    for got, wanted in ((output.features, features.numpy()), (output.logits, logits.numpy())):
        # As far as the images differ: what is common to all does not count.
        scale = np.abs(wanted[0] - wanted[1]).mean()
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * scale)


def test_the_centre_of_the_pixels(loaded, output, images):
    """128 * pixel / 127.5 about 128 is the pixel about 127.5."""
    again = jax.jit(Inception(centre=128.0).apply)(loaded[1], images * (128 / 127.5))
    np.testing.assert_allclose(again.features, output.features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again.logits, output.logits, rtol=1e-4, atol=1e-4)


def test_images_of_another_size(loaded):
    module, variables, _ = loaded
    with pytest.raises(ValueError, match=r"should be \[B, 299, 299, 3\], but got \(2, 64, 299, 3\)"):
        module.apply(variables, jnp.zeros((2, 64, 299, 3)))


def test_the_name_is_that_of_the_file(loaded, file, monkeypatch):
    path, digest = file
    assert loaded[2] == f"inception_{digest[:8]}"
    monkeypatch.setattr(inception, "INCEPTION_SHA256", digest)
    module, _, name = load_inception(path, digest.upper(), centre=128.0)
    assert (name, module.centre) == ("inception", 128.0)


def test_another_file_than_wanted(file):
    path, digest = file
    with pytest.raises(ValueError, match=f"is {digest}, not {INCEPTION_SHA256}: .*") as error:
        load_inception(path)
    assert f"--inception_sha256={digest}" in str(error.value)
    assert f"inception_{digest[:8]}, never FID" in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no Inception network .*none\.pth: pt_inception-2015"):
        load_inception(str(tmp_path / "none.pth"))


def test_a_cut_file(file, tmp_path):
    cut = tmp_path / "cut.pth"
    with open(file[0], "rb") as whole:
        cut.write_bytes(whole.read(1 << 20))
    digest = hashlib.sha256(cut.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="it is cut, or another network"):
        load_inception(str(cut))
    with pytest.raises(ValueError, match=r"cannot read the weights file .*cut\.pth"):
        load_inception(str(cut), digest)


def test_what_may_be_left_over_and_what_may_not(state_dict, tmp_path):
    """torchvision's second classifier may; a file may lack the counts and the bias of the last layer."""
    small = {name: of for name, of in state_dict.items() if "num_batches" not in name and name != "fc.bias"}
    load_inception(*saved(small | {"AuxLogits.fc.bias": torch.zeros(3)}, tmp_path / "small.pth"))
    wrong = small | {"extra": torch.zeros(3), "fc.weight": torch.zeros(1000, 2048)}
    del wrong["Mixed_7c.branch3x3_2a.bn.running_var"]
    with pytest.raises(ValueError, match=r"does not fit the Inception-v3 of pytorch-fid") as error:
        load_inception(*saved(wrong, tmp_path / "wrong.pth"))
    for fault in (
        "Mixed_7c.branch3x3_2a.bn.running_var is missing",
        "extra is left over",
        "fc.weight is (2048, 1000), not (2048, 1008)",
    ):
        assert fault in str(error.value)
