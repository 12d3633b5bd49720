"""T2T-ViT_t against a twin in PyTorch, which has the tensors of the authors' checkpoints."""

import argparse
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from smyrf_jax import Canopy, Dense, Performer, Scatterbrain, Smyrf
from transformer.t2t import T2TConfig, T2TViT, load_t2t, sinusoids, unfold

SMALL = T2TConfig(
    image_size=32,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_ratio=2,
    token_size=16,
    num_labels=10,
)


class TorchMlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class TorchAttention(nn.Module):
    def __init__(self, wide, width, heads, scale):
        super().__init__()
        self.heads, self.scale = heads, scale
        self.qkv, self.proj = nn.Linear(wide, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x):
        def by_head(array):
            return array.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = self.qkv(x).chunk(3, dim=-1)
        weights = torch.softmax(self.scale * by_head(query) @ by_head(key).mT, dim=-1)
        return self.proj((weights @ by_head(value)).transpose(1, 2).flatten(2)), value


class TorchTokenTransformer(nn.Module):
    def __init__(self, wide, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(wide), nn.LayerNorm(width)
        self.attn, self.mlp = TorchAttention(wide, width, 1, wide**-0.5), TorchMlp(width, width)

    def forward(self, x):
        x = sum(self.attn(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class TorchTokensToToken(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention1 = TorchTokenTransformer(3 * 49, config.token_size)
        self.attention2 = TorchTokenTransformer(9 * config.token_size, config.token_size)
        self.project = nn.Linear(9 * config.token_size, config.hidden_size)

    def forward(self, x):
        x = nn.functional.unfold(x, 7, stride=4, padding=2).mT
        for attention in (self.attention1, self.attention2):
            side = math.isqrt(x.shape[1])
            image = attention(x).mT.unflatten(-1, (side, side))
            x = nn.functional.unfold(image, 3, stride=2, padding=1).mT
        return self.project(x)


class TorchBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = TorchAttention(width, width, heads, (width // heads) ** -0.5)
        self.mlp = TorchMlp(width, config.mlp_ratio * width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))[0]
        return x + self.mlp(self.norm2(x))


class TorchT2T(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, places = config.hidden_size, (config.image_size // 16) ** 2 + 1
        self.tokens_to_token = TorchTokensToToken(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        table = torch.from_numpy(sinusoids(places, width)).float()
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.blocks = nn.ModuleList(TorchBlock(config) for _ in range(config.num_hidden_layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, config.num_labels)

    def forward(self, images):
        x = self.tokens_to_token(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def twin_of(config, spread=0.05):
    """Random weights, all but the positions; larger ones make attention less flat."""
    torch.manual_seed(0)
    model = TorchT2T(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.add_(spread * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of a small T2T-ViT_t as the authors save it, and its twin."""
    twin, path = twin_of(SMALL), tmp_path_factory.mktemp("t2t") / "small.pth.tar"
    torch.save({"state_dict_ema": twin.state_dict()}, path)
    return path, twin


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, images, **rngs):
    return model.apply({"params": params}, images, rngs=rngs)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


def logits_of(twin, images):
    with torch.no_grad():
        return twin(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


def test_logits_are_those_of_the_twin(small, images):
    path, twin = small
    model, params = load_t2t(path)
    assert model.config == SMALL
    expected = logits_of(twin, images)
    np.testing.assert_allclose(apply(model, params, images), expected, atol=1e-4)
    assert np.std(expected, axis=0).min() > 1e-2


@pytest.mark.slow
def test_logits_of_the_real_size(tmp_path):
    config = T2TConfig()
    assert config.lengths == (3136, 784)
    twin = twin_of(config, 0.02)
    assert sum(parameter.numel() for parameter in twin.parameters()) == pytest.approx(21.5e6, rel=5e-3)
    torch.save({"state_dict_ema": twin.state_dict()}, tmp_path / "t14.pth.tar")
    model, params = load_t2t(tmp_path / "t14.pth.tar")
    assert model.config == config
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    found = apply(model, params, images)
    np.testing.assert_allclose(found, logits_of(twin, images), atol=1e-4)
    methods = (Smyrf(2, 49), Smyrf(2, 12))
    swapped = apply(model.clone(attention=methods), params, images)
    assert 1e-4 < np.max(np.abs(swapped - found)) < 10


def test_every_form_of_a_checkpoint_is_read(small, tmp_path):
    path, twin = small
    expected = load_t2t(path).params
    tensors = twin.state_dict()
    safetensors.torch.save_file(tensors, tmp_path / "own.safetensors")
    (tmp_path / "folder").mkdir()
    safetensors.torch.save_file(tensors, tmp_path / "folder" / "model.safetensors")
    worse = {name: tensor + 1 for name, tensor in tensors.items()}
    both = {"state_dict": worse, "state_dict_ema": {f"module.{name}": of for name, of in tensors.items()}}
    torch.save({"epoch": 3} | both, tmp_path / "both.pth")
    for name in ("own.safetensors", "folder", "both.pth"):
        found = load_t2t(tmp_path / name).params
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_checkpoint_with_faults_is_refused(small, tmp_path):
    tensors = small[1].state_dict()

    def load(changed):
        safetensors.torch.save_file(changed, tmp_path / "own.safetensors")
        return load_t2t(tmp_path / "own.safetensors")

    with pytest.raises(ValueError, match="Performer tokens"):
        load(tensors | {"tokens_to_token.attention1.w": torch.zeros(3)})
    with pytest.raises(ValueError, match="'pos_embed' of a T2T-ViT_t is missing"):
        load({name: of for name, of in tensors.items() if name != "pos_embed"})
    with pytest.raises(ValueError, match=r"norm\.bias is missing; odd is left over"):
        load({name: of for name, of in tensors.items() if name != "norm.bias"} | {"odd": torch.zeros(1)})
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_t2t(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_t2t(tmp_path / "cut.safetensors")
    torch.save({"args": argparse.Namespace(), "state_dict": tensors}, tmp_path / "pickled.pth")
    with pytest.raises(ValueError, match="cannot read the weights file"):
        load_t2t(tmp_path / "pickled.pth")


@pytest.mark.parametrize("one_cluster", [Scatterbrain(1, 64, 4), (Dense(), Canopy(cluster_size=16))])
def test_one_cluster_changes_nothing(one_cluster, small, images):
    model, params = load_t2t(small[0])
    expected = apply(model, params, images)
    swapped = apply(load_t2t(small[0], attention=one_cluster).model, params, images)
    np.testing.assert_allclose(swapped, expected, atol=1e-4)


def test_every_attention_can_be_swapped(small, images):
    model, params = load_t2t(small[0])

    def logits(rng=None, **attentions):
        rngs = {} if rng is None else {"hashing": jax.random.key(rng)}
        return apply(model.clone(**attentions), params, images, **rngs)

    dense = logits()
    smyrf = Smyrf(1, 8)
    changed = [
        logits(attention=smyrf),
        logits(attention=(smyrf, Dense())),
        logits(attention=(Dense(), smyrf)),
    ]
    changed.append(logits(backbone=Performer(4)))
    for one, other in itertools.combinations([dense, *changed], 2):
        assert 1e-4 < np.max(np.abs(one - other)) < 10
    drawn = [logits(rng, attention=smyrf) for rng in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.max(np.abs(drawn[0] - drawn[2])) > 1e-4
    with pytest.raises(ValueError, match="one of each of 2 layers, but got 3"):
        logits(attention=(smyrf,) * 3)
    with pytest.raises(ValueError, match="should be 32 x 32, but are 32 x 48"):
        model.apply({"params": params}, jnp.zeros((1, 32, 48, 3)))


def test_the_positions_are_not_trained():
    config = T2TConfig(16, 8, 1, 1, 2, 4, 3)
    model, images = T2TViT(config), jnp.ones((1, 16, 16, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    angles = [1, 0.1, 0.01, 0.001]  # of position 1
    expected = [
        [value for angle in angles for value in (np.sin(at * angle), np.cos(at * angle))] for at in (0, 1)
    ]
    np.testing.assert_allclose(params["pos_embed"], [expected], atol=1e-6)
    gradients = jax.jit(jax.grad(lambda params: model.apply({"params": params}, images)[0, 0]))(params)
    assert not np.any(gradients["pos_embed"])
    assert np.any(gradients["cls_token"])


@pytest.mark.parametrize(("size", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (2, 3, 0)])
def test_unfold_is_that_of_torch(size, stride, padding):
    images = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    found = np.asarray(unfold(jnp.asarray(images), size, stride, padding))
    expected = nn.functional.unfold(
        torch.tensor(images.transpose(0, 3, 1, 2)), size, stride=stride, padding=padding
    )
    np.testing.assert_array_equal(found.reshape(2, -1, found.shape[-1]), expected.mT)
