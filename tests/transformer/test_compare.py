"""What the comparison reports is what the diagnostics say, and its command leaves its files."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from smyrf_jax import dense_attention, smyrf_attention, smyrf_clustering
from smyrf_jax.budget import cost
from smyrf_jax.diagnostics import attention_entropy, attention_error, captured_mass
from transformer import report
from transformer.compare import SWAPS, entropies_of, layer_figures, rows_of, settings_for, swaps_of
from transformer.subjects import Subject, heads_of, mixed, open_subject, photographs
from transformer.vision import VisionConfig, VisionTransformer, normalised, pixels

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def texts(tiny_checkpoint):
    subject = open_subject(str(tiny_checkpoint), 24, 2)
    # Larger weights, so that attention is not flat and tells.
    return subject._replace(params=jax.tree.map(lambda leaf: 5 * leaf, subject.params))


@pytest.fixture(scope="module")
def images():
    """Two photographs of 26 tokens, for a random transformer with a head."""
    config = VisionConfig(16, 2, 2, 2, 4, 16)
    encoder, inputs = VisionTransformer(config), normalised(jnp.asarray(photographs(20, 2)))
    rngs = {"params": jax.random.key(0), "hashing": jax.random.key(1)}
    return Subject(encoder, encoder.init(rngs, inputs)["params"], inputs, 26, "image")


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_heads_are_those_of_the_model(kind, request):
    subject = request.getfixturevalue(kind)
    layers = heads_of(subject)
    assert len(layers) == 2
    _, variables = subject.encoder.apply(
        {"params": subject.params},
        subject.inputs,
        rngs={"hashing": jax.random.key(0)},
        mutable="intermediates",
    )
    attended = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if "attended" in jax.tree_util.keystr(path)
    ]
    for (query, key, value), expected in zip(layers, attended, strict=True):
        assert query.shape == (2, subject.length, 2, 8)
        np.testing.assert_allclose(dense_attention(query, key, value), expected, atol=1e-5)


def test_figures_are_those_of_the_diagnostics(texts):
    arrays, sizes = heads_of(texts)[1], {"num_hashes": 2, "cluster_size": 4}
    setting = cost(24, 24, width=8, **sizes)
    error, mass = layer_figures(arrays, swap=SWAPS["smyrf"], setting=setting)
    query, key, value = arrays
    output = smyrf_attention(query, key, value, rng=jax.random.key(0), **sizes)
    expected = jnp.mean(attention_error(output, dense_attention(query, key, value)), axis=0)
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    clustering = smyrf_clustering(query, key, rng=jax.random.key(0), **sizes)
    expected = jnp.mean(captured_mass(query, key, clustering), axis=(0, 1))
    np.testing.assert_allclose(mass, expected, rtol=1e-5)
    assert np.all((error > 0) & (mass > 0) & (mass < 1))
    expected = jnp.mean(attention_entropy(query, key), axis=(0, 1))
    np.testing.assert_allclose(entropies_of(texts)[1], expected, rtol=1e-5)


def test_all_pairs_are_dense_attention(texts):
    half, whole = rows_of(texts, SWAPS["smyrf"], (0.5, 1.0), 2)
    assert half.cost.pairs <= 0.5
    assert half.error.shape == half.mass.shape == (2, 2)
    assert half.cosine < 1 - 1e-6
    np.testing.assert_allclose(whole.error, 0, atol=1e-5)
    np.testing.assert_allclose(whole.mass, 1, rtol=1e-5)
    np.testing.assert_allclose(whole.cosine, 1, rtol=1e-5)


def test_swaps_are_of_one_layer_or_head(texts):
    smyrf = functools.partial(smyrf_attention, num_hashes=1, cluster_size=4)
    of_layers, of_heads = swaps_of(texts, smyrf)
    assert of_layers.shape == (2,)
    assert of_heads.shape == (2, 2)
    assert np.all(of_layers > 1e-6)
    assert np.all(of_heads > 1e-7)
    arguments = (texts.params, texts.inputs)
    one = texts.embedding((dense_attention, smyrf), *arguments)
    loss = 1 - jnp.mean(jnp.sum(one * texts.embedding(dense_attention, *arguments), axis=-1))
    np.testing.assert_allclose(of_layers[1], loss, atol=1e-6)
    exact = functools.partial(smyrf_attention, num_hashes=1, cluster_size=24)
    for losses in swaps_of(texts, exact):
        np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_mixed_attention_is_by_head():
    arrays = [jax.random.normal(key, (1, 4, 3, 2)) for key in jax.random.split(jax.random.key(0), 3)]
    other = functools.partial(dense_attention, scale=0.0)
    output = mixed(dense_attention, other, jnp.array([True, False, True]))(*arrays, rng=jax.random.key(1))
    for head, attention in enumerate((dense_attention, other, dense_attention)):
        np.testing.assert_array_equal(output[:, :, head], attention(*arrays)[:, :, head])


def test_pictures_of_what_changes(images, tmp_path):
    setting = settings_for(images, SWAPS["smyrf"], 0.5, 2)
    smyrf = functools.partial(smyrf_attention, num_hashes=2, cluster_size=setting.cluster_size)
    report.draw_changes(images, {"dense": dense_attention, "smyrf": smyrf}, tmp_path / "changes.png")
    with Image.open(tmp_path / "changes.png") as picture:
        assert picture.size == (480, 640)
    np.testing.assert_allclose(pixels(images.inputs), photographs(20, 2), atol=1e-6)


def test_inputs_that_cannot_be_are_refused(tiny_checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        open_subject(str(tmp_path), 24, 1)
    with pytest.raises(ValueError, match="too few for 1000000 passages"):
        open_subject(str(tiny_checkpoint), 24, 1_000_000)
    with pytest.raises(ValueError, match="one token and a square number, such as 1370, not 100"):
        open_subject("focus", 100, 1)
    with pytest.raises(ValueError, match="4 photographs, fewer than 5"):
        photographs(20, 5)


def test_the_command(tiny_checkpoint, tmp_path):
    command = [sys.executable, "-m", "transformer.compare", f"--model={tiny_checkpoint}", "--inputs=2"]
    flags = [
        "--lengths=16,40",
        "--pairs=0.8,1",
        f"--out={tmp_path}",
        "--swaps=0.8",
        "--attention=canopy",
        "--num_hashes=2",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = f"compare_{tiny_checkpoint.stem}_canopy"
    text = (tmp_path / f"{name}.md").read_text()
    assert "| 16 | 100.00% | 1 x 16 | 0.000 | 1.000 | 1.0000 |" in text
    assert "| 40 | 100.00% | 1 x 40 | 0.000 | 1.000 | 1.0000 |" in text
    assert text.count("tokens, layer | entropy") == 2
    for picture in (f"{name}.png", f"{name}_swaps.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.size[0] > 300
        assert picture in done.stdout
