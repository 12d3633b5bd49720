"""Whole runs: interrupted ones end as uninterrupted ones do, and what goes wrong is told."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from biggan import train as train_module
from biggan.experiment import read_config, restore_state
from biggan.train import train
from training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "biggan.train"]


def final_state(workdir):
    return restore_state(str(workdir), read_config(str(workdir)))


def rows(workdir):
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


class Cut(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compilation_cache, make_tiny):
    """A run of six steps that nothing interrupted."""
    workdir, config = tmp_path_factory.mktemp("finished"), make_tiny()
    train(config, str(workdir), jax.devices()[:1])
    return workdir, config


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


def test_a_finished_run_can_be_continued(finished, tmp_path):
    workdir, config = tmp_path / "run", finished[1].copy_and_resolve_references()
    shutil.copytree(finished[0], workdir)
    config.num_steps = 2
    state = train(config, str(workdir), jax.devices()[:1], continue_finished=True)
    assert int(state.step) == 8
    assert config.num_steps == 2
    assert [row["step"] for row in rows(workdir)] == list(range(1, 9))


def test_a_crash_at_any_step_changes_nothing(finished, tmp_path, monkeypatch):
    """The state after crashes and new starts is bitwise that of the whole run."""
    _, config = finished
    real = train_module.shard_batch
    for crash_at in (4, 6):
        calls = []

        def shard(*arguments, crash_at=crash_at, calls=calls):
            calls.append(0)
            before = 0 if crash_at == 4 else 2  # the second start is from step 2
            if before + len(calls) == crash_at:
                raise Cut
            return real(*arguments)

        monkeypatch.setattr(train_module, "shard_batch", shard)
        with pytest.raises(Cut):
            train(config, str(tmp_path), jax.devices()[:1])
    monkeypatch.setattr(train_module, "shard_batch", real)
    train(config, str(tmp_path), jax.devices()[:1])
    chex.assert_trees_all_equal(final_state(tmp_path), final_state(finished[0]))
    losses = [[row["g_loss"] for row in rows(workdir)] for workdir in (tmp_path, finished[0])]
    assert losses[0] == losses[1]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 7))


def start(tmp_path, config, cache, workdir):
    """The command of the README in a process of its own, with a config file of the test's."""
    path = tmp_path / "config.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    command = [*COMMAND, f"--config={path}", f"--workdir={workdir}"]
    environment = os.environ | cache | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path, process, seconds=300):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def test_kill_and_terminate(tmp_path, tiny, compilation_cache):
    """Killed with -9 and asked to stop by SIGTERM, the same command goes on to the same end.

    The uninterrupted run is a process too: XLA rounds otherwise with another number of CPU devices.
    """
    # Long enough that neither signal comes when the run has ended.
    tiny.num_steps, tiny.checkpoint.every, tiny.sample.every = 60, 10, 0
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    process = start(tmp_path, tiny, compilation_cache, whole)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    process = start(tmp_path, tiny, compilation_cache, workdir)
    wait_for(workdir / "checkpoints" / "10", process)
    process.kill()
    process.wait()
    process.stdout.close()

    process = start(tmp_path, tiny, compilation_cache, workdir)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("step "):
            process.send_signal(signal.SIGTERM)
            break
    seen += process.stdout.readlines()
    assert process.wait() == 0, "".join(seen)
    process.stdout.close()
    output = "".join(seen)
    assert "Continues" in output
    assert "The same command continues" in output
    stopped = Checkpoints(str(workdir / "checkpoints")).latest_step()
    assert 10 < stopped < 60

    process = start(tmp_path, tiny, compilation_cache, workdir)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    chex.assert_trees_all_equal(final_state(workdir), final_state(whole))


def test_a_stop_while_pictures_are_drawn_saves_that_step(tiny, tmp_path, monkeypatch):
    tiny.checkpoint.every = 0
    monkeypatch.setattr(train_module, "save_grid", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert int(train(tiny, str(tmp_path), jax.devices()[:1]).step) == 4
    assert Checkpoints(str(tmp_path / "checkpoints")).latest_step() == 4


def test_a_checkpoint_of_eight_replicas_resumes_on_one_and_back(tiny, tmp_path):
    tiny.num_steps = 2
    state = train(tiny, str(tmp_path), jax.devices())
    tiny.num_steps = 4
    tiny.batch_size = 16  # the same global batch
    on_one = train(tiny, str(tmp_path), jax.devices()[:1])
    tiny.num_steps = 6
    tiny.batch_size = 2
    on_eight = train(tiny, str(tmp_path), jax.devices())
    assert [int(s.step) for s in (state, on_one, on_eight)] == [2, 4, 6]
    chex.assert_tree_all_finite(on_eight)
    progress = Checkpoints(str(tmp_path / "checkpoints")).progress(6)
    assert progress.examples_seen == 6 * 16


def test_a_checkpoint_that_does_not_fit_names_the_field(finished, tiny):
    tiny.generator.channels = 8
    with pytest.raises(ValueError, match=r"config.generator.channels is 4 in the checkpoint and 8 in"):
        train(tiny, str(finished[0]), jax.devices()[:1])
    tiny.generator.channels = 4
    tiny.ema.on = False
    with pytest.raises(ValueError, match=r"config.ema.on is True in the checkpoint"):
        train(tiny, str(finished[0]), jax.devices()[:1])


def test_the_attention_of_a_run_may_be_exchanged(finished, tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    tiny.generator.attention = {"16": {"name": "dense"}}
    tiny.num_steps = 7
    assert int(train(tiny, str(workdir), jax.devices()[:1]).step) == 7
    assert "config.generator.attention.16.name was 'smyrf', is 'dense'" in capsys.readouterr().out


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(finished, tmp_path, monkeypatch):
    workdir, config = tmp_path / "run", finished[1].copy_and_resolve_references()
    shutil.copytree(finished[0], workdir)
    config.num_steps = 12
    config.adam.g_lr = 1e30
    config.adam.d_lr = 1e30
    config.checkpoint.every = 5
    with pytest.raises(FloatingPointError, match=r"step \d+: .*not finite.*checkpoint is step 6"):
        train(config, str(workdir), jax.devices()[:1])
    chex.assert_tree_all_finite(final_state(workdir))


def test_wrong_data_is_told_before_the_long_compilation(tiny, tmp_path):
    tiny.data.source = "folder"
    tiny.data.path = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="config.data.path: there is no folder"):
        train(tiny, str(tmp_path / "run"), jax.devices()[:1])


def test_skipped_images_are_reported(finished, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    config = finished[1].copy_and_resolve_references()
    config.num_steps = 2
    config.data.source, config.data.path = "folder", str(tmp_path)
    config.data.skip_corrupt = True
    train(config, str(tmp_path / "run"), jax.devices()[:1])
    output = capsys.readouterr().out
    assert output.count("Skipped (1 of 3 so far)") == 1
    assert "1.png" in output


def test_the_sample_command(finished, compilation_cache):
    command = [sys.executable, "-m", "biggan.sample", f"--workdir={finished[0]}", "--num=5"]
    environment = os.environ | compilation_cache | {"JAX_PLATFORMS": "cpu"}
    for extra, name in (
        (["--truncation=0.7", "--seed=1"], "sampled_step0000006_seed1"),
        (["--standing_statistics", "--noema", "--step=4"], "sampled_step0000004_seed0"),
    ):
        done = subprocess.run(
            [*command, *extra], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert "5 images" in done.stdout
        files = sorted(path.name for path in (finished[0] / name).iterdir())
        assert files == [*(f"{index:05d}.png" for index in range(5)), "grid.png"]
    missing = subprocess.run(
        [*command, "--step=5"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert missing.returncode != 0
    assert "no checkpoint of step 5" in missing.stderr


def test_the_sampling_notebook(finished, monkeypatch):
    monkeypatch.setenv("WORKDIR", str(finished[0]))
    notebook = json.loads((ROOT / "notebooks" / "sampling.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    variables: dict[str, object] = {}
    for source in cells:
        # The last expression of a cell is what a notebook shows; here it may hold a file open.
        exec(source.replace("Image.open(path)", "Image.open(path).close()"), variables)
    assert (finished[0] / "notebook_standing.png").exists()
    assert variables["images"].shape == (16, 32, 32, 3)
