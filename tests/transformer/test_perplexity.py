"""The command leaves its files, and says what cannot be."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.transformer.llamas import write_llama
from transformer.needle import DEPTHS

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.process
def test_the_command(tmp_path):
    path = write_llama(tmp_path / "tiny.gguf")
    words = np.random.default_rng(0).choice(["abc", "the", "other's", "123."], 4000)
    (tmp_path / "book.txt").write_text(" ".join(words))

    def run(*flags):
        command = [sys.executable, "-m", "transformer.perplexity", f"--model={path}", "--windows=2"]
        command += [f"--text={tmp_path / 'book.txt'}", f"--out={tmp_path}", *flags]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = run(
        "--lengths=160,320",
        "--pairs=.3",
        "--methods=dense,local,smyrf",
        "--fields=smyrf.num_hashes=2",
        "--needle",
        f"--json={tmp_path / 'rows.json'}",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    methods = ["dense", "local", "smyrf"]
    assert [(row["length"], row["method"]) for row in rows] == [(n, m) for n in (160, 320) for m in methods]
    for row in rows:
        assert row["pairs"] <= (1 if row["method"] == "dense" else 0.3)
        assert row["perplexity"] > 1
        assert len(row["perplexity_by_position"]) == 16
        assert len(row["needle"]) == len(DEPTHS)
        assert row["sees_later"] == (row["method"] == "smyrf")
    text = (tmp_path / "perplexity_tiny_160_320.md").read_text()
    assert text.startswith("- Command: `python -m transformer.perplexity --model=tiny.gguf --windows=2 ")
    assert "--fields=smyrf.num_hashes=2 --needle --json=rows.json`" in text
    assert "replaced" not in done.stdout
    assert done.stdout.splitlines()[0].startswith("| tokens | method | pairs |")
    assert done.stdout.splitlines()[1].startswith("1/6 | 160 | dense | 100.0% |")
    assert "6/6 | 320 | smyrf * |" in done.stdout
    for name in ("perplexity_tiny_160_320.png", "perplexity_tiny_160_320_by_position.png"):
        assert name in done.stdout
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] == 1000
    for flags, message in (
        (["--methods=dense,magic"], "--methods should be of dense, smyrf"),
        (["--lengths=100", "--needle"], "--needle wants --lengths of 160 tokens or more, but got 100"),
        (["--lengths=200000"], "no room for --windows=2 of --lengths=200000 tokens"),
        (["--lengths=64", "--methods=canopy", "--pairs=0.9"], "causal"),
        (["--lengths=64", "--fields=window=3"], "--fields should be method.name=number"),
        (["--text=gone"], "--text=gone is missing"),
    ):
        done = run(*flags)
        assert done.returncode == 1, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
