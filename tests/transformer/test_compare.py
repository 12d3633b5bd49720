"""What the comparison reports is what the diagnostics say, and its command leaves its files."""

import functools
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from smyrf_jax import Canopy, Dense, Performer, Smyrf, attention
from smyrf_jax.diagnostics import attention_entropy, attention_error, captured_mass
from transformer import probes, report
from transformer.compare import entropies_of, layer_figures, method_for, rows_of, swaps_of
from transformer.probes import Mixed, Probe, heads_of, open_probe, photographs
from transformer.vision import VisionConfig, VisionTransformer, normalised, pixels

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def texts(tiny_checkpoint):
    probe = open_probe(str(tiny_checkpoint), 24, 2)
    # Larger weights, so that attention is not flat and tells.
    return probe._replace(params=jax.tree.map(lambda leaf: 5 * leaf, probe.params))


@pytest.fixture(scope="module")
def images():
    """Two photographs of 26 tokens, for a random transformer with a head."""
    config = VisionConfig(16, 2, 2, 2, 4, 16)
    encoder, inputs = VisionTransformer(config), normalised(jnp.asarray(photographs(20, 2)))
    return Probe(encoder, encoder.init(jax.random.key(0), inputs)["params"], inputs, 26, "image")


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_heads_are_those_of_the_model(kind, request):
    probe = request.getfixturevalue(kind)
    layers = heads_of(probe)
    assert len(layers) == 2
    _, variables = probe.encoder.apply({"params": probe.params}, probe.inputs, mutable="intermediates")
    attended = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if "attended" in jax.tree_util.keystr(path)
    ]
    for (query, key, value), expected in zip(layers, attended, strict=True):
        assert query.shape == (2, probe.length, 2, 8)
        np.testing.assert_allclose(attention(query, key, value, method=Dense()), expected, atol=1e-5)


@pytest.mark.parametrize(
    "method", [Smyrf(num_hashes=2, cluster_size=4), Canopy(cluster_size=8, means_per_cluster=1)]
)
def test_figures_are_those_of_the_diagnostics(method, texts):
    query, key, value = heads_of(texts)[1]
    error, mass = layer_figures((query, key, value), method=method)
    output, exact = (
        jax.jit(functools.partial(attention, method=of))(query, key, value) for of in (method, Dense())
    )
    expected = jnp.mean(attention_error(output, exact), axis=0)
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    expected = jnp.mean(captured_mass(query, key, method), axis=(0, 1))
    np.testing.assert_allclose(mass, expected, rtol=1e-5)
    assert np.all((error > 1e-3) & (mass > 0) & (mass < 1))


def test_a_method_without_clusters_captures_no_mass(texts):
    error, mass = layer_figures(heads_of(texts)[1], method=Performer())
    assert np.all(error > 1e-3)
    assert np.all(np.isnan(mass))


def test_entropies_are_those_of_the_diagnostics(texts):
    query, key, _ = heads_of(texts)[1]
    expected = jnp.mean(attention_entropy(query, key), axis=(0, 1))
    np.testing.assert_allclose(entropies_of(texts)[1], expected, rtol=1e-5)


def test_all_pairs_are_dense_attention(texts):
    methods = [method_for(texts, Smyrf, part, {"num_hashes": 2}) for part in (0.5, 1.0)]
    assert methods[0].num_hashes == 2
    half, whole = rows_of(texts, methods)
    assert half.cost.pairs <= 0.5
    assert half.error.shape == half.mass.shape == (2, 2)
    assert half.cosine < 1 - 1e-6
    assert whole.method == Dense()
    assert whole.cost.pairs == 1
    np.testing.assert_array_equal(whole.error, 0)
    np.testing.assert_allclose(whole.cosine, 1, rtol=1e-5)
    assert np.all(np.isnan(whole.mass))
    assert "| 24 | 100.00% | Dense() | 0.000 | - | 1.0000 |" in report.line(whole)


def test_swaps_are_of_one_layer_or_head(texts):
    smyrf = Smyrf(num_hashes=1, cluster_size=4)
    of_layers, of_heads = swaps_of(texts, smyrf)
    assert of_layers.shape == (2,)
    assert of_heads.shape == (2, 2)
    assert np.all(of_layers > 1e-6)
    assert np.all(of_heads > 1e-7)
    arguments = (texts.params, texts.inputs)
    one = texts.embedding((Dense(), smyrf), *arguments)
    loss = 1 - jnp.mean(jnp.sum(one * texts.embedding(Dense(), *arguments), axis=-1))
    np.testing.assert_allclose(of_layers[1], loss, atol=1e-6)
    for losses in swaps_of(texts, Smyrf(num_hashes=1, cluster_size=24)):
        np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_mixed_methods_are_by_head():
    arrays = [jax.random.normal(key, (1, 8, 3, 2)) for key in jax.random.split(jax.random.key(0), 3)]
    smyrf = Smyrf(num_hashes=1, cluster_size=2)
    mixed = Mixed(smyrf, Dense(), jnp.array([True, False, True]))
    found = attention(*arrays, method=mixed, return_residual=True)
    for head, method in enumerate((smyrf, Dense(), smyrf)):
        expected = attention(*arrays, method=method, return_residual=True)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours[:, :, head], theirs[:, :, head])


def test_mixed_methods_pass_on_which_queries_count():
    arrays = [jax.random.normal(key, (2, 8, 2, 2)) for key in jax.random.split(jax.random.key(0), 3)]
    kept = (jnp.arange(8)[None] < jnp.array([8, 3])[:, None])[:, None, None]
    mixed = Mixed(Smyrf(num_hashes=1, cluster_size=2), Dense(), jnp.array([True, False]))
    output = attention(*arrays, method=mixed, mask=kept, query_mask=kept)
    for head, method in enumerate((mixed.chosen, mixed.other)):
        expected = attention(*arrays, method=method, mask=kept, query_mask=kept)
        np.testing.assert_array_equal(output[:, :, head], expected[:, :, head])
    assert np.all(output[1, 3:] == 0)


def test_pictures_of_what_changes(images, tmp_path):
    smyrf = method_for(images, Smyrf, 0.5, {"num_hashes": 2})
    report.draw_changes(images, {"dense": Dense(), "smyrf": smyrf}, tmp_path / "changes.png")
    with Image.open(tmp_path / "changes.png") as picture:
        assert picture.size == (480, 640)
    np.testing.assert_allclose(pixels(images.inputs), photographs(20, 2), atol=1e-6)


def test_inputs_that_cannot_be_are_refused(tiny_checkpoint, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        open_probe(str(tmp_path), 24, 1)
    with pytest.raises(ValueError, match="too few for 1000000 passages"):
        open_probe(str(tiny_checkpoint), 24, 1_000_000)
    monkeypatch.setattr(probes, "passages", lambda *arguments: np.full((1, 24), 4000))
    with pytest.raises(ValueError, match=r"tokens should be 0 \.\. 20, .* but got 4000"):
        open_probe(str(tiny_checkpoint), 24, 1)
    with pytest.raises(ValueError, match="one token and a square number, such as 1370, not 100"):
        open_probe("focus", 100, 1)
    with pytest.raises(ValueError, match="4 photographs, fewer than 5"):
        photographs(20, 5)


@pytest.mark.process
def test_the_command(tiny_checkpoint, tmp_path):
    command = [sys.executable, "-m", "transformer.compare", f"--model={tiny_checkpoint}", "--inputs=2"]
    flags = [
        "--lengths=16,40",
        "--pairs=0.8,1",
        f"--out={tmp_path}",
        "--swaps=0.8",
        "--method=canopy",
        "--fields=num_trees=2",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = f"compare_{tiny_checkpoint.stem}_canopy"
    text = (tmp_path / f"{name}.md").read_text()
    assert text.startswith(f"- Command: `python -m transformer.compare --model={tiny_checkpoint.name} ")
    assert "--lengths=16,40 --pairs=0.8,1 " in text
    assert text.count("% | Canopy(num_trees=2, cluster_size=") == 2
    assert "| 16 | 100.00% | Dense() | 0.000 | - | 1.0000 |" in text
    assert "| 40 | 100.00% | Dense() | 0.000 | - | 1.0000 |" in text
    assert text.count("tokens, layer | entropy") == 2
    swaps = (tmp_path / f"{name}_swaps.md").read_text()
    assert "| layer | all its heads | head 0 |" in swaps
    assert len(re.findall(r"^\| \d+ \|( \d\.\d{4} \|)+$", swaps, re.MULTILINE)) == 2
    for picture in (f"{name}.png", f"{name}_swaps.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.size[0] > 300
        assert picture in done.stdout
