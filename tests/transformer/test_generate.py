"""The command writes what is sampled, and tells how fast."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from tests.transformer.llamas import write_llama
from transformer import load_causal
from transformer.sampling import generate

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.process
def test_the_command(tmp_path):
    path = write_llama(tmp_path / "tiny.gguf")

    def run(*flags):
        command = [sys.executable, "-m", "transformer.generate", f"--model={path}", *flags]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = run("--prompt=abc the", "--num_tokens=9", "--method=local", "--fields=window=64")
    assert done.returncode == 0, done.stderr
    model, params, tokenizer = load_causal(path)
    prompt = tokenizer.encode("abc the").ids
    expected = list(generate(model, params, prompt, 9, rng=jax.random.key(0)))
    assert done.stdout == f"abc the{tokenizer.decode(expected)}\n"
    assert "3 tokens read and 9 written by Local(window=64)" in done.stderr
    for flags, message in (
        (["--prompt=a", "--num_tokens=256"], "are 257 tokens, but .* 256: --max_length=257 interpolates"),
        (["--prompt="], "the prompt has no tokens"),
        (["--prompt=a", "--fields=window=3"], "--method=dense with --fields=window=3: Dense has no fields"),
    ):
        done = run(*flags)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert re.search(message, done.stderr), done.stderr
