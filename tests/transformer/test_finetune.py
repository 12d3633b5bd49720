"""Whole fine-tuning runs: they learn, resume exactly, and are tested with every attention."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import ml_collections
import numpy as np
import pytest
import safetensors.flax

from configs import glue_bert_smyrf
from tests.training.many import ended, start
from tests.transformer.run import tiny_config, write_reviews
from training.checkpoint import Checkpoints
from transformer import finetune
from transformer.buckets import Encoded
from transformer.classifier import Classifier
from transformer.finetune import metrics_of, train
from transformer.learning import methods_of
from transformer.pretrained import load_encoder
from transformer.weights import read_weights

ROOT = pathlib.Path(__file__).parent.parent.parent
ONE = jax.devices()[:1]


@pytest.fixture
def config(tiny_checkpoint, tmp_path):
    write_reviews(tmp_path / "reviews.csv", 400)
    return tiny_config(tiny_checkpoint, tmp_path / "reviews.csv")


def params_in(workdir):
    """The parameters in the last checkpoint, and its step."""
    checkpoints = Checkpoints(str(workdir / "checkpoints"))
    step = checkpoints.latest_step()
    state = checkpoints._manager.restore(step)["state"]
    checkpoints.close()
    return state["params"], step


def test_it_learns_and_tells(config, tmp_path, capsys):
    config.num_steps = 60
    train(config, str(tmp_path / "run"), ONE)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results) == {"dense", "smyrf"}
    assert all(found["test"]["accuracy"] > 0.9 for found in results.values())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert [row["step"] for row in rows if "validation_accuracy" in row] == list(range(3, 61, 3))
    output = capsys.readouterr().out
    assert "test (37 texts) with dense attention: accuracy=" in output
    for name in ("results: ", "curves: ", "checkpoint: "):
        path = next(line for line in output.splitlines() if line.startswith(name))
        assert os.path.exists(path.removeprefix(name))


def test_a_run_that_was_cut_ends_as_the_whole(config, tmp_path, monkeypatch):
    train(config, str(tmp_path / "whole"), ONE)
    real = finetune.metrics_of
    # At the evaluation of step 3; and, on the way from step 2, at the first test when all steps are saved.
    for call, saved in ((1, 2), (3, 6)):
        calls = itertools.count(1)

        def metrics_of(*arguments, call=call, calls=calls):
            if next(calls) == call:
                raise RuntimeError("cut")
            return real(*arguments)

        monkeypatch.setattr(finetune, "metrics_of", metrics_of)
        with pytest.raises(RuntimeError, match="cut"):
            train(config, str(tmp_path / "cut"), ONE)
        assert params_in(tmp_path / "cut")[1] == saved
        assert not (tmp_path / "cut" / "results.json").exists()
    monkeypatch.setattr(finetune, "metrics_of", real)
    train(config, str(tmp_path / "cut"), ONE)
    chex.assert_trees_all_equal(params_in(tmp_path / "cut"), params_in(tmp_path / "whole"))
    results = [(tmp_path / name / "results.json").read_text() for name in ("cut", "whole")]
    assert results[0] == results[1]


def test_two_replicas_are_one_of_twice_the_batch(config, tmp_path, tiny_checkpoint):
    """Without dropout and hashing, whose randomness is each replica's own."""
    folder = tmp_path / "still"
    folder.mkdir()
    fields = json.loads((tiny_checkpoint / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"hidden_dropout_prob": 0.0}))
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    config.init, config.attention, config.num_steps = str(folder), "dense", 3
    two = train(config, str(tmp_path / "two"), jax.devices()[:2])
    config.batch_size = 16
    one = train(config, str(tmp_path / "one"), ONE)
    chex.assert_trees_all_close(two.params, one.params, atol=1e-4)
    before = load_encoder(folder, max_length=48).params["pooler"]["dense"]["kernel"]
    assert np.min(np.max(np.abs(one.params["bert"]["pooler"]["dense"]["kernel"] - before), axis=0)) > 1e-3


@pytest.mark.parametrize("task", ["STS-B", "MNLI"])
def test_glue_runs(task, config, tiny_checkpoint, tmp_path):
    folder = tmp_path / "glue" / task
    folder.mkdir(parents=True)
    label, values = {
        "STS-B": ("score", ("0.5", "3.0", "4.5")),
        "MNLI": ("gold_label", ("neutral", "entailment", "contradiction")),
    }[task]
    lines = "".join(6 * f"good film\tthe cat {word}\t{value}\n" for word, value in enumerate(values))
    files = ("dev",) if task == "STS-B" else ("dev_matched", "dev_mismatched")
    for name in ("train", *files):
        (folder / f"{name}.tsv").write_text(f"sentence1\tsentence2\t{label}\n{lines}")
    glue = glue_bert_smyrf.get_config("2x16")
    glue.init, glue.data.path, glue.data.task = str(tiny_checkpoint), str(tmp_path / "glue"), task
    glue.data.length, glue.batch_size, glue.epochs = 32, 6, 1.0
    glue.evaluate.batch_size = 6
    assert int(train(glue, str(tmp_path / "run"), ONE).step) == 3
    (found,) = json.loads((tmp_path / "run" / "results.json").read_text()).values()
    expected = {"pearson", "spearman"} if task == "STS-B" else {"accuracy"}
    assert {name: set(metrics) for name, metrics in found.items()} == {name: expected for name in files}


def test_metrics_are_of_each_text_whatever_the_batches(tiny_checkpoint):
    encoder, params, _ = load_encoder(tiny_checkpoint, max_length=100)
    lengths = np.random.default_rng(0).permutation(np.arange(3, 100, 4))
    kept = np.arange(100) < lengths[:, None]
    tokens = np.where(kept, np.random.default_rng(1).integers(4, 21, kept.shape), 0).astype(np.int32)
    model = Classifier(encoder.config, 3)
    params = model.init(jax.random.key(0), tokens[:1])["params"] | {"bert": params}
    params["classifier"]["kernel"] *= 100
    labels = np.argmax(np.asarray(jax.jit(model.apply)({"params": params}, tokens, kept)), axis=-1)
    assert len(set(labels.tolist())) > 1
    texts = Encoded(tokens, kept, np.zeros_like(tokens), labels)
    for batch_size in (1, 7, 100):
        assert metrics_of(model, params, texts, ["accuracy"], batch_size) == {"accuracy": 1.0}


def test_a_tokenizer_of_another_model_is_refused(config, tmp_path, tiny_checkpoint):
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    tokenizer = json.loads((tiny_checkpoint / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["film"] = 4000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config.init = str(folder)
    with pytest.raises(ValueError, match=r"tokens should be 0 .. 20, .* but got 4000"):
        train(config, str(tmp_path / "run"), ONE)


def test_labels_outside_of_the_classes_are_refused(config, tmp_path):
    splits = finetune.splits_of(config)
    with pytest.raises(ValueError, match=r"part 'train' should be 0 \.\. 1, but there is 4"):
        finetune.FinetuneTask(
            config,
            splits._replace(train=splits.train._replace(labels=np.full_like(splits.train.labels, 4))),
            str(tmp_path),
            ONE,
        )


def test_attentions_are_names_and_fields(config):
    for wrong, message in (
        ("canopy", "config.attentions.odd should be the name and fields of a method, .* but is 'canopy'"),
        ({"num_trees": 1}, "config.attentions.odd should be the name and fields"),
        ({"name": "sparse"}, r"config.attentions.\w+: name should be one of .*'sparse'"),
    ):
        config.attentions = ml_collections.ConfigDict({"odd": wrong})
        with pytest.raises(ValueError, match=message):
            methods_of(config.attentions.to_dict())


def test_what_has_no_meaning_is_refused(config, tmp_path):
    config.attention = "sparse"
    with pytest.raises(ValueError, match=r"one of config.attentions, \['dense', 'smyrf'\], but is 'sparse'"):
        train(config, str(tmp_path / "run"), ONE)
    config.attention, config.batch_size = "dense", 0
    with pytest.raises(ValueError, match="config.batch_size must be positive, got 0"):
        train(config, str(tmp_path / "run"), ONE)
    config.batch_size, config.evaluate.batch_size = 8, 0
    with pytest.raises(ValueError, match="config.evaluate.batch_size must be positive, got 0"):
        train(config, str(tmp_path / "run"), ONE)
    config.evaluate.batch_size, config.seed = 8, -1
    with pytest.raises(ValueError, match="config.seed must not be negative, got -1"):
        train(config, str(tmp_path / "run"), ONE)
    config.seed, config.data.length = 0, 0
    with pytest.raises(ValueError, match="max_length should be a number of tokens, but got 0"):
        train(config, str(tmp_path / "run"), ONE)
    config.data.length, config.num_steps, config.epochs = 48, 0, 0.0
    with pytest.raises(ValueError, match="steps of config.epochs, must be positive, got 0"):
        train(config, str(tmp_path / "run"), ONE)
    config.num_steps, config.init = 1, str(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        train(config, str(tmp_path / "run"), ONE)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_classifier_begins_with_the_pretrained_weights(config, tmp_path, tiny_checkpoint):
    config.num_steps, config.optimizer.learning_rate = 1, 0.0
    state = train(config, str(tmp_path / "run"), ONE)
    chex.assert_trees_all_equal(state.params["bert"], load_encoder(tiny_checkpoint, max_length=48).params)
    # Without a pooler in the checkpoint, that part alone is fresh.
    folder = tmp_path / "unpooled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    weights = {name: tensor for name, tensor in read_weights(tiny_checkpoint).items() if "pooler" not in name}
    safetensors.flax.save_file(weights, folder / "model.safetensors")
    config.init = str(folder)
    fresh = train(config, str(tmp_path / "fresh"), ONE).params["bert"]
    assert np.any(fresh["pooler"]["dense"]["kernel"] != state.params["bert"]["pooler"]["dense"]["kernel"])
    chex.assert_trees_all_equal(fresh["encoder"], state.params["bert"]["encoder"])


def test_roberta_is_fine_tuned_too(config, tmp_path, tiny_roberta):
    config.init, config.num_steps, config.optimizer.learning_rate = str(tiny_roberta), 1, 0.0
    params = train(config, str(tmp_path / "run"), ONE).params
    assert set(params) == {"roberta", "classifier"}
    pretrained = load_encoder(tiny_roberta, max_length=48).params
    pretrained.pop("pooler")  # the head reads the first token
    chex.assert_trees_all_equal(params["roberta"], pretrained)


@pytest.mark.process
def test_the_command(config, tmp_path):
    command = [
        sys.executable,
        "-m",
        "transformer.finetune",
        "--config=configs/glue_bert_smyrf.py:32",
        f"--workdir={tmp_path / 'run'}",
        f"--config.init={config.init}",
        f"--config.data.path={config.data.path}",
        "--config.data.source=imdb",
        "--config.num_steps=2",
        "--config.data.test_size=4",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test (4 texts) with 32 attention: accuracy=" in done.stdout


@pytest.mark.slow
@pytest.mark.process
def test_processes_are_one_with_as_many_devices(tiny_checkpoint, tmp_path):
    """With dropout and hashing; one of them tests and writes."""
    write_reviews(tmp_path / "reviews.csv", 400)
    flags = [f"--init={tiny_checkpoint}", f"--reviews={tmp_path / 'reviews.csv'}"]
    for name, num_processes, devices in (("several", 2, 1), ("one", 1, 2)):
        workdir = f"--workdir={tmp_path / name}"
        for status, _, errors in ended(
            start("tests.transformer.run", num_processes, devices, workdir, *flags), 600
        ):
            assert status == 0, errors[-3000:]
    several, one = (params_in(tmp_path / name) for name in ("several", "one"))
    assert several[1] == one[1] == 6
    chex.assert_trees_all_close(several[0], one[0], rtol=1e-5, atol=1e-7)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("several", "one")]
    assert results[0] == results[1]
