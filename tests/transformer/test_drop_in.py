"""A T2T-ViT_t tested with other attentions: by hand, and by its command."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from PIL import Image

from smyrf_jax import Dense, Performer, Smyrf, attention
from smyrf_jax.diagnostics import attention_error
from transformer.class_images import open_class_images, prepared
from transformer.drop_in import _ranks, heads_of, methods_for, outcomes
from transformer.t2t import PretrainedT2T, T2TConfig, T2TViT
from transformer.vision import normalised
from transformer.weights import tensor_name

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = T2TConfig(32, 64, 1, 1, 1, 8, 6)
METHODS = {"dense": (Dense(), Dense()), "smyrf": (Smyrf(1, 8), Smyrf(1, 4)), "one": (Performer(2), Dense())}


@pytest.fixture(scope="module")
def pretrained():
    model = T2TViT(CONFIG)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    # Larger weights, so that attention is not flat and classes differ.
    return PretrainedT2T(model, jax.tree.map(lambda leaf: 2 * leaf, params))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven images of six classes."""
    folder, rng = tmp_path_factory.mktemp("val"), np.random.default_rng(0)
    for i in range(11):
        (folder / f"n{i % 6}").mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((40, 50 - i)).save(folder / f"n{i % 6}" / f"{i}.png")
    return folder


def opened(folder):
    return open_class_images(str(folder), labels="", classes="", num_labels=6)


def test_outcomes_are_those_by_hand(pretrained, folder):
    images = opened(folder)
    told = []
    options = {"batch_size": 4, "num_errors": 6, "seed": 3}
    found = outcomes(pretrained, images, METHODS, **options, progress=lambda *of: told.append(of))
    assert [number for number, _ in told] == [4, 4, 3]
    assert "dense" in told[-1][1]
    pixels = np.stack([prepared(path, 32) for path in images.paths])
    inputs = normalised(jnp.asarray(pixels) / 255)
    logits = np.asarray(jax.jit(pretrained.model.apply)({"params": pretrained.params}, inputs))
    best = np.argsort(-logits, axis=1)
    assert len(set(best[:, 0])) > 1
    assert found["dense"].top1 == pytest.approx(np.mean(best[:, 0] == images.labels))
    assert found["dense"].top5 == pytest.approx(
        np.mean(np.any(best[:, :5] == images.labels[:, None], axis=1))
    )
    assert found["dense"].errors == (0, 0)
    assert found["one"].errors[1] == 0
    assert all(of.seconds > 0 and of.methods == METHODS[name] for name, of in found.items())
    # Each image draws anew, and errors are those of the first six.
    expected = []
    for stage, scale in enumerate((147**-0.5, 72**-0.5)):
        errors = []
        dense, smyrf = (
            jax.jit(functools.partial(attention, method=METHODS[name][stage], scale=scale))
            for name in ("dense", "smyrf")
        )
        for number, kept in enumerate((4, 2)):
            rng = jax.random.split(jax.random.fold_in(jax.random.key(3), number), 4)[2 + stage]
            arrays = heads_of(pretrained.model, pretrained.params, pixels[4 * number : 4 * number + 4])[stage]
            for place, rng_image in enumerate(jax.random.split(rng, 4)[:kept]):
                own = [array[place] for array in arrays]
                errors.append(float(attention_error(smyrf(*own, rng=rng_image), dense(*own))[0]))
        expected.append(np.mean(errors))
    assert min(expected) > 0.01
    np.testing.assert_allclose(found["smyrf"].errors, expected, rtol=1e-4)


def test_heads_are_those_of_the_model(pretrained, folder):
    pixels = np.stack([prepared(path, 32) for path in opened(folder).paths[:2]])
    heads = heads_of(pretrained.model, pretrained.params, pixels)
    assert [query.shape for query, _, _ in heads] == [(2, 64, 1, 8), (2, 16, 1, 8)]
    inputs = normalised(jnp.asarray(pixels) / 255)
    run = jax.jit(functools.partial(pretrained.model.apply, mutable="intermediates"))
    _, sown = run({"params": pretrained.params}, inputs)
    for number, (arrays, scale) in enumerate(zip(heads, CONFIG.scales, strict=True), 1):
        expected = sown["intermediates"]["tokens_to_token"][f"attention{number}"]["attn"]["attended"][0]
        np.testing.assert_allclose(attention(*arrays, method=Dense(), scale=scale), expected, atol=1e-5)


def test_without_errors_there_are_none(pretrained, folder):
    images = opened(folder).spread(3)
    found = outcomes(pretrained, images, {"dense": METHODS["dense"]}, batch_size=4, num_errors=0, seed=0)
    assert np.all(np.isnan(found["dense"].errors))
    assert found["dense"].seconds > 0


def test_a_budget_for_both_attentions():
    methods = methods_for(T2TConfig(), ["smyrf", "dense", "smyrf"], "1/32")
    assert methods == {"smyrf": (Smyrf(2, 49), Smyrf(2, 12)), "dense": (Dense(), Dense())}
    for names, pairs, message in (
        (["topk"], "1/32", "--methods=topk with --pairs=1/32: a method should be one of dense"),
        (["dense"], "2", "--pairs=2 should be a part above 0 and at most 1"),
        (["dense"], "half", "--pairs=half should be a part"),
        (["dense"], "1/0", "--pairs=1/0 should be a part"),
        (["canopy"], "1/32", "--methods=canopy with --pairs=1/32: No settings are within"),
        ([], "1/32", "--methods should be some of dense"),
    ):
        with pytest.raises(ValueError, match=message):
            methods_for(T2TConfig(), names, pairs)


def test_ranks():
    logits = np.array([[3.0, 1, 2], [0, 0, 1], [np.nan, 1, 0], [np.nan] * 3])
    assert _ranks(logits, np.array([2, 0, 1, 0])).tolist() == [1, 2, 1, 2]


def run(*arguments):
    command = [sys.executable, "-m", "transformer.imagenet", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)


@pytest.mark.process
def test_the_command(pretrained, folder, tmp_path):
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(pretrained.params):
        keys = tuple(entry.key for entry in path)
        name = tensor_name(keys).replace("blocks_", "blocks.")
        tensors[name] = leaf.T if keys[-1] == "kernel" else leaf
    weights = tmp_path / "own.safetensors"
    safetensors.flax.save_file(tensors, weights)
    given = [f"--weights={weights}", f"--images={folder}"]
    table = tmp_path / "out" / "found.json"
    done = run(*given, "--methods=dense,smyrf,canopy", "--pairs=1/2", "--batch_size=4", f"--json={table}")
    assert done.returncode == 0, done.stderr
    found = json.loads(table.read_text())
    assert (found["images"], list(found["methods"])) == (11, ["dense", "smyrf", "canopy"])
    dense, smyrf = found["methods"]["dense"], found["methods"]["smyrf"]
    assert dense["errors"] == [0, 0]
    assert dense["pairs"] == [1, 1]
    assert min(smyrf["errors"]) > 1e-3
    assert max(smyrf["pairs"]) <= 0.5
    by_hand = outcomes(
        pretrained, opened(folder), {"dense": METHODS["dense"]}, batch_size=4, num_errors=0, seed=0
    )
    assert (dense["top1"], dense["top5"]) == (by_hand["dense"].top1, by_hand["dense"].top5)
    assert f"| dense | {dense['top1']:.2%} |" in done.stdout
    failed = run(*given, f"--labels={tmp_path}/none", "--methods=dense")
    assert (failed.returncode, failed.stderr) == (1, f"--labels={tmp_path}/none is no file.\n")
