"""Whole runs of a GAN: what they leave, that they resume exactly, and that what goes wrong is told.

How the loop saves, stops and goes on is tested with cheaper tasks in tests/training/test_loop.py, and the
commands in tests/biggan/test_commands.py.
"""

import json
import os
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from biggan import train as train_module
from biggan.experiment import build_gan
from biggan.restoring import initial_networks, read_config, restore_state
from biggan.train import GANTask, train
from tests.biggan.variables import state_of, to_state_dict
from training.checkpoint import Checkpoints
from training.parallel import AXIS


def final_state(workdir):
    return restore_state(str(workdir), read_config(str(workdir)))


def rows(workdir):
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


class Cut(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_tiny):
    """A run of six steps that nothing interrupted."""
    workdir, config = tmp_path_factory.mktemp("finished"), make_tiny()
    train(config, str(workdir), jax.devices()[:1])
    return workdir, config


@pytest.fixture
def quick(monkeypatch):
    """Doubles of what takes long to compile: the state at step 0, the sampler, and the step.

    The step takes something of the images, of the key and of the parameters into the generator's parameters.
    """

    def step(state, batch, rng):
        mean = jax.lax.pmean(jnp.mean(batch.images.astype(jnp.float32)), AXIS) / 255
        drift = mean + jax.random.uniform(jax.random.fold_in(rng, state.step))
        params = jax.tree.map(lambda leaf: leaf / 2 + drift, state.generator.params)
        generator = state.generator.replace(params=params)
        return state.replace(step=state.step + 1, generator=generator), {"g_loss": drift}

    def images(variables, noise, labels, rng):
        return np.zeros((len(noise), 32, 32, 3), np.uint8)

    monkeypatch.setattr(GANTask, "first_state", lambda task: state_of(task._config, task._gan))
    monkeypatch.setattr(train_module, "Sampler", lambda generator, devices: images)
    monkeypatch.setattr(train_module, "replica_step", lambda gan: step)


def test_a_run_leaves_what_it_promises(finished, capsys):
    workdir, config = finished
    assert [row["step"] for row in rows(workdir)] == list(range(1, 7))
    names = {"d_loss_fake", "d_loss_real", "g_loss", "d_grad_norm", "g_grad_norm"}
    assert names <= set(rows(workdir)[-1])
    for name, size in (("step0000004", (70, 70)), ("step0000006", (70, 70))):
        with Image.open(workdir / "samples" / f"{name}.png") as picture:
            assert picture.size == size
    with Image.open(workdir / "curves.png") as picture:
        assert picture.size[0] > 300
    assert list((workdir / "tensorboard").iterdir())
    assert ConfigDict(json.loads((workdir / "config.json").read_text())) == config
    # Run again, it is done, and says how to go on.
    state = train(config, str(workdir), jax.devices()[:1])
    assert int(state.step) == 6
    output = capsys.readouterr().out
    assert "--config.num_steps=12" in output
    for name in ("samples: ", "curves: ", "checkpoint: "):
        path = next(line for line in output.splitlines() if line.startswith(name))
        assert os.path.exists(path.removeprefix(name))


def test_a_finished_run_can_be_continued(finished, quick, tmp_path):
    workdir, config = tmp_path / "run", finished[1].copy_and_resolve_references()
    shutil.copytree(finished[0], workdir)
    config.num_steps = 2
    state = train(config, str(workdir), jax.devices()[:1], continue_finished=True)
    assert int(state.step) == 8
    assert config.num_steps == 2
    assert [row["step"] for row in rows(workdir)] == list(range(1, 9))


def test_a_crash_changes_nothing(finished, tmp_path, monkeypatch):
    """The state after a crash and a new start is bitwise that of the whole run."""
    _, config = finished
    real, calls = train_module.shard_batch, []

    def shard(*arguments):
        calls.append(0)
        if len(calls) == 4:
            raise Cut
        return real(*arguments)

    monkeypatch.setattr(train_module, "shard_batch", shard)
    with pytest.raises(Cut):
        train(config, str(tmp_path), jax.devices()[:1])
    train(config, str(tmp_path), jax.devices()[:1])
    assert len(calls) == 4 + 4  # from step 2 on
    chex.assert_trees_all_equal(final_state(tmp_path), final_state(finished[0]))
    losses = [[row["g_loss"] for row in rows(workdir)] for workdir in (tmp_path, finished[0])]
    assert losses[0] == losses[1]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 7))


def test_a_checkpoint_of_eight_replicas_resumes_on_one_and_back(quick, tiny, tmp_path):
    """On the same images: the whole batch is the same."""
    whole = train(tiny, str(tmp_path / "whole"), jax.devices())
    for num_steps, batch_size, num_devices in ((2, 2, 8), (4, 16, 1), (6, 2, 8)):
        tiny.num_steps, tiny.batch_size = num_steps, batch_size
        state = train(tiny, str(tmp_path / "run"), jax.devices()[:num_devices])
        assert int(state.step) == num_steps
    chex.assert_tree_all_finite(state)
    chex.assert_trees_all_close(state, whole, rtol=1e-5)
    progress = Checkpoints(str(tmp_path / "run" / "checkpoints")).progress(6)
    assert progress.examples_seen == 6 * 16


def test_a_checkpoint_that_does_not_fit_names_the_field(finished, tiny):
    tiny.generator.channels = 8
    with pytest.raises(ValueError, match=r"config.generator.channels is 4 in the checkpoint and 8 in"):
        train(tiny, str(finished[0]), jax.devices()[:1])


def test_averages_can_be_switched_off_and_on_in_a_run(finished, quick, tiny, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")

    def trained(on):
        tiny.ema.on, tiny.augment.policy, tiny.augment.adaptive = on, "color", not on
        tiny.num_steps += 1
        state = train(tiny, str(tmp_path / "run"), jax.devices()[:1])
        assert (state.augment is None) == on
        return state

    assert trained(False).ema is None
    state = trained(True)
    # A copy of the generator of step 7, as the double of the step averages nothing.
    before = restore_state(str(tmp_path / "run"), tiny, 7)
    assert before.ema is None
    chex.assert_trees_all_equal(state.ema["params"], before.generator.params)
    assert int(restore_state(str(tmp_path / "run"), tiny, "newest").step) == 8


def test_a_run_begins_with_the_networks_of_another(finished, tiny, tmp_path):
    before = final_state(finished[0])
    tiny.init_from = str(finished[0])
    state = initial_networks(tiny, build_gan(tiny))
    assert int(state.step) == 0
    for name in ("generator", "discriminator"):
        chex.assert_trees_all_equal(getattr(state, name).variables, getattr(before, name).variables)
        assert not any(leaf.any() for leaf in jax.tree.leaves(getattr(state, name).opt_state))
    chex.assert_trees_all_equal(state.ema["params"], before.generator.params)
    tiny.ema.on = False
    assert initial_networks(tiny, build_gan(tiny)).ema is None
    tiny.discriminator.channels = 8
    match = (
        "the discriminator in config.init_from=.* is another: config.discriminator.channels is 4 there and 8"
    )
    with pytest.raises(ValueError, match=match):
        initial_networks(tiny, build_gan(tiny))
    tiny.init_from = str(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither the folder of a run nor PyTorch weights"):
        initial_networks(tiny, build_gan(tiny))


def test_a_run_begins_with_weights_of_the_pytorch_program(tiny, tmp_path):
    gan = build_gan(tiny)
    fresh = state_of(tiny, gan)
    files = []
    for name in ("generator", "discriminator"):
        variables = jax.tree.map(lambda leaf: leaf + 1, getattr(fresh, name).variables)
        np.savez(tmp_path / f"{name}.npz", **to_state_dict(variables))
        files.append(str(tmp_path / f"{name}.npz"))
    tiny.init_from = files[0]
    state = initial_networks(tiny, gan)
    chex.assert_trees_all_equal(state.ema["params"], state.generator.params)
    np.testing.assert_allclose(
        state.generator.params["linear"]["kernel"], fresh.generator.params["linear"]["kernel"] + 1, rtol=1e-6
    )
    tiny.init_from = ",".join(files)
    kernel = initial_networks(tiny, gan).discriminator.params["linear"]["kernel"]
    np.testing.assert_allclose(kernel, fresh.discriminator.params["linear"]["kernel"] + 1, rtol=1e-6)
    tiny.init_from += ",third.npz"
    with pytest.raises(ValueError, match="should be G.pth or G.pth,D.pth"):
        initial_networks(tiny, gan)


def test_the_attention_of_a_run_may_be_exchanged(finished, quick, tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    tiny.generator.attention = {"16": {"name": "dense"}}
    tiny.num_steps = 7
    assert int(train(tiny, str(workdir), jax.devices()[:1]).step) == 7
    assert "config.generator.attention.16.name was 'smyrf', is 'dense'" in capsys.readouterr().out


def test_a_run_from_before_some_fields_is_read(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    path = workdir / "config.json"
    config = json.loads(path.read_text())
    del config["dtype"], config["num_classes"]
    for network in ("generator", "discriminator"):
        config[network]["num_classes"] = 1
    path.write_text(json.dumps(config))
    chex.assert_trees_all_equal(final_state(workdir), final_state(finished[0]))
    assert build_gan(read_config(str(workdir))).generator == build_gan(finished[1]).generator


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(finished, tmp_path, monkeypatch):
    """Weights that are too large for a number, as of a rate that is too high."""
    workdir, config = tmp_path / "run", finished[1].copy_and_resolve_references()
    shutil.copytree(finished[0], workdir)
    config.num_steps = 12
    config.checkpoint.every = 5
    real = train_module.replica_step

    def diverging(gan):
        def diverge(state, batch, rng):
            state, metrics = real(gan)(state, batch, rng)
            factor = jnp.where(state.step == 8, 1e30, 1.0)
            params = jax.tree.map(lambda leaf: leaf * factor, state.generator.params)
            return state.replace(generator=state.generator.replace(params=params)), metrics

        return diverge

    monkeypatch.setattr(train_module, "replica_step", diverging)
    with pytest.raises(FloatingPointError, match=r"step 9: .*not finite.*checkpoint is step 6"):
        train(config, str(workdir), jax.devices()[:1])
    chex.assert_tree_all_finite(final_state(workdir))


def test_wrong_data_is_told_before_the_long_compilation(tiny, tmp_path):
    tiny.data.source = "folder"
    tiny.data.path = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="config.data.path: there is no folder"):
        train(tiny, str(tmp_path / "run"), jax.devices()[:1])


def test_skipped_images_are_reported(quick, tiny, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    tiny.num_steps = 2
    tiny.data.source, tiny.data.path = "folder", str(tmp_path)
    tiny.data.skip_corrupt = True
    train(tiny, str(tmp_path / "run"), jax.devices()[:1])
    output = capsys.readouterr().out
    assert output.count("Skipped (1 of 3 so far)") == 1
    assert "1.png" in output
