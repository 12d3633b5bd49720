"""Whole runs from random weights: they learn, resume exactly, and are tested."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from configs import copy as copy_config
from configs import lra_listops
from tests.transformer.test_finetune import params_in
from transformer import train as program
from transformer.tasks.language import LanguageData
from transformer.train import train

ROOT = pathlib.Path(__file__).parent.parent.parent
ONE = jax.devices()[:1]


def tiny_copy(attention="dense", **fields):
    config = copy_config.get_config()
    config.attention, config.num_steps, config.batch_size = attention, 6, 8
    config.data.update(length=16, validation_size=8, test_size=24)
    config.model.update(hidden_size=32, num_heads=2, intermediate_size=32, dropout=0.1)
    config.evaluate.update(every=3, batch_size=8, validation_size=8)
    config.pairs, config.checkpoint.every, config.log_every = 0.5, 2, 1
    for name, value in fields.items():
        config[name] = value
    return config


def results_in(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_dense_attention_learns_to_copy(tmp_path, capsys):
    config = tiny_copy(num_steps=150, batch_size=32)
    config.model.dropout, config.evaluate.every = 0.0, 0
    train(config, str(tmp_path), ONE)
    results = results_in(tmp_path)
    assert results["chance"] == {"test": {"perplexity": 16.0}}
    assert results["dense"]["test"]["perplexity"] < 4
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if "loss" in row]) == 150
    output = capsys.readouterr().out
    assert "dense attention: Dense(), 100.00% of the causal pairs at 16 tokens." in output
    assert "test (24 sequences) with dense attention: perplexity=" in output
    for name in ("results: ", "curves: ", "checkpoint: "):
        path = next(line for line in output.splitlines() if line.startswith(name))
        assert os.path.exists(path.removeprefix(name))


def test_a_run_that_was_cut_ends_as_the_whole(tmp_path, monkeypatch):
    config = tiny_copy("smyrf")
    train(config, str(tmp_path / "whole"), ONE)
    real = LanguageData.metrics
    # At the evaluation of step 3, on the way from step 2; and at the test, when all steps are saved.
    for call, saved in ((1, 2), (3, 6)):
        calls = itertools.count(1)

        def metrics(*arguments, call=call, calls=calls):
            if next(calls) == call:
                raise RuntimeError("cut")
            return real(*arguments)

        monkeypatch.setattr(LanguageData, "metrics", metrics)
        with pytest.raises(RuntimeError, match="cut"):
            train(config, str(tmp_path / "cut"), ONE)
        assert params_in(tmp_path / "cut")[1] == saved
        assert not (tmp_path / "cut" / "results.json").exists()
    monkeypatch.setattr(LanguageData, "metrics", real)
    train(config, str(tmp_path / "cut"), ONE)
    chex.assert_trees_all_equal(params_in(tmp_path / "cut"), params_in(tmp_path / "whole"))
    assert results_in(tmp_path / "cut") == results_in(tmp_path / "whole")


def test_two_replicas_are_one_of_twice_the_batch(tmp_path):
    config = tiny_copy(num_steps=3)
    config.model.dropout = 0.0
    two = train(config, str(tmp_path / "two"), jax.devices()[:2])
    config.batch_size = 16
    one = train(config, str(tmp_path / "one"), ONE)
    chex.assert_trees_all_close(two.params, one.params, atol=1e-4)
    config.seed = 1
    other = train(config, str(tmp_path / "other"), ONE)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True))


def test_an_encoder_is_trained_and_put_beside_what_the_roots_tell(tmp_path):
    config = lra_listops.get_config("small")
    config.attention, config.num_steps, config.batch_size = "dense", 4, 8
    config.data.update(min_length=5, max_length=24, train_size=200, validation_size=20, test_size=50)
    config.data.folder = str(tmp_path / "data")
    config.model.update(hidden_size=16, num_heads=2, num_layers=1, intermediate_size=16)
    config.evaluate.update(every=2, batch_size=16, validation_size=20)
    train(config, str(tmp_path / "run"), ONE)
    results = results_in(tmp_path / "run")
    assert list(results) == [
        "dense",
        "most frequent class",
        "root operator alone",
        "root operator and its digits",
    ]
    assert all(0 <= parts["test"]["accuracy"] <= 1 for parts in results.values())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation_accuracy" in row] == [2, 4]


def test_clusters_that_see_later_tokens_are_told(tmp_path, capsys):
    train(tiny_copy("smyrf", num_steps=1), str(tmp_path), ONE)
    assert "; its clusters are cut from all tokens, later ones too." in capsys.readouterr().out


def test_epochs_are_steps(tmp_path):
    config = tiny_copy(num_steps=0, epochs=0.5)
    config.data.train_size = 32
    assert int(train(config, str(tmp_path), ONE).step) == 2


def test_what_has_no_meaning_is_refused(tmp_path):
    for fields, message in (
        ({"attention": "sparse"}, "config.attention should be one of config.attentions, .* but is 'sparse'"),
        ({"batch_size": 0}, "config.batch_size must be positive, got 0"),
        ({"seed": -1}, "config.seed must not be negative, got -1"),
        ({"num_steps": 0, "epochs": 0.0}, "steps of config.epochs, must be positive, got 0"),
        ({"pairs": 1e-6, "attention": "performer"}, "--config.pairs=1e-06: No settings are within"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tiny_copy(**fields), str(tmp_path / "run"), ONE)
    config = tiny_copy()
    config.data.task = "chess"
    with pytest.raises(ValueError, match="config.data.task should be one of .* but is 'chess'"):
        train(config, str(tmp_path / "run"), ONE)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_another_size_of_the_model_is_refused(tmp_path):
    config = tiny_copy(num_steps=1)
    train(config, str(tmp_path), ONE)
    config.model.hidden_size, config.num_steps = 16, 2
    with pytest.raises(ValueError, match="config.model.hidden_size is 32 in the checkpoint and 16"):
        train(config, str(tmp_path), ONE)


def test_batches_are_shared_by_processes(monkeypatch, tmp_path):
    config = tiny_copy()
    data = program.data_of(config)

    def tokens_of(process, count, devices, start):
        monkeypatch.setattr(jax, "process_index", lambda: process)
        monkeypatch.setattr(program, "local_devices", lambda _: ONE * (devices // count))
        task = program.TrainTask(config, data, str(tmp_path), ONE * devices)
        return [batch.tokens for batch in itertools.islice(task.batches(start), 2)]

    whole = tokens_of(0, 1, 2, 32)
    halves = [tokens_of(process, 2, 2, 32) for process in range(2)]
    for one, *parts in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(one, np.concatenate(parts))


@pytest.mark.process
def test_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "transformer.train",
        "--config=configs/copy.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.num_steps=2",
        "--config.data.length=32",
        "--config.attention=local",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test (512 sequences) with local attention: perplexity=" in done.stdout
