"""Perplexity of a pretrained causal language model with the attention of all layers swapped.

    python -m transformer.perplexity --model=smollm2 --text=wiki --lengths=512,2048 --pairs=.08,.2 \\
        --methods=dense,local,smyrf --windows=4 --needle --json=perplexity.json

Nothing is trained: the weights are those of the dense model. Windows are spread evenly over the text. The
settings of a method are the largest that --pairs allow, a part of the pairs that causal attention has.
Methods whose clusters are cut from all tokens are causal only so far: later keys are hidden, but which of the
earlier keys share a cluster depends on later tokens. They are marked. --needle: a random run of tokens is put
into each window at several depths, and how well it is copied at the end is told. Writes
perplexity_<model>_<lengths>.md and pictures into --out, and rows into --json. Wants the extra [text].
"""

import json
import pathlib

import jax
import numpy as np
from absl import app, flags

from smyrf_jax.methods import METHODS
from training.command import start, without_traceback
from training.files import make_parent, say_if_replaced, write_whole
from transformer import perplexity_report as report
from transformer.books import read_book, windows_of
from transformer.causal import load_causal
from transformer.needle import with_needle
from transformer.settings import fields_by_method, numbers_of
from transformer.swapped import check_causal, measure, settings_of

_MODEL = flags.DEFINE_string("model", "smollm2", "smollm2, a checkpoint's folder or a GGUF file.")
_TEXT = flags.DEFINE_string("text", "wiki", "anarchism, wiki, a file, or a folder of files.")
_LENGTHS = flags.DEFINE_list(
    "lengths", ["512", "2048"], "tokens of a window; past the trained length positions are interpolated."
)
_WINDOWS = flags.DEFINE_integer("windows", 4, "windows of the text.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", ["dense", "local"], f"of {', '.join(METHODS)}.")
_FIELDS = flags.DEFINE_list(
    "fields", [], "of a method, as scatterbrain.window=128; the others are as large as --pairs allow."
)
_PAIRS = flags.DEFINE_list("pairs", ["0.08", "0.2"], "parts of the causal query-key pairs.")
_NEEDLE = flags.DEFINE_bool("needle", False, "also test whether what was read far back is copied.")
_OUT = flags.DEFINE_string("out", ".", "folder of the table and the pictures.")
_JSON = flags.DEFINE_string("json", "", "file of the rows; empty: none.")


def compare() -> None:
    """Does what the flags say."""
    for name in _METHODS.value:
        if name not in METHODS:
            raise ValueError(f"--methods should be of {', '.join(METHODS)}, but has {name!r}.")
    parts = ["perplexity", pathlib.Path(_MODEL.value).stem, *_LENGTHS.value]
    stem = str(pathlib.Path(_OUT.value) / "_".join(parts))
    make_parent("out", f"{stem}.md")
    if _JSON.value:
        make_parent("json", _JSON.value)
    lengths = numbers_of(
        "lengths", _LENGTHS.value, int, lambda length: length > 1, "numbers of tokens, 2 at least"
    )
    fields = fields_by_method(_FIELDS.value, _METHODS.value)
    loaded = load_causal(_MODEL.value)
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise FileNotFoundError(f"--model={_MODEL.value} has no tokenizer.")
    loaded = loaded._replace(params=jax.device_put(loaded.params))
    text, width = read_book(_TEXT.value), loaded.model.config.head_width
    windows = {length: windows_of(tokenizer, text, length, _WINDOWS.value) for length in lengths}
    budgets = numbers_of(
        "pairs", _PAIRS.value, float, lambda part: 0 < part <= 1, "parts of 1, as .08 or 1/32"
    )
    # All that can be refused is refused before anything is measured.
    plan = [
        (length, name, budget, method)
        for length in lengths
        for name in _METHODS.value
        for budget, method in settings_of(METHODS[name], length, budgets, width, fields[name]).items()
    ]
    if not plan:
        raise ValueError("--pairs allow no settings of --methods: allow more, or name other methods.")
    for length, _, _, method in plan:
        check_causal(method, loaded, length)
        if _NEEDLE.value:
            with_needle(windows[length][0], 0.0, np.arange(1), 0)

    paths = [f"{stem}.md", f"{stem}.png", f"{stem}_by_position.png"]
    say_if_replaced(paths[0])
    rows: list[report.Row] = []
    print(report.HEADER)
    for number, (length, name, budget, method) in enumerate(plan, 1):
        rows.append(measure(name, method, budget, loaded, windows[length], _NEEDLE.value))
        print(f"{number}/{len(plan)} {report.line(rows[-1])}", flush=True)
    pathlib.Path(paths[0]).write_text(report.table(rows))
    report.plot_pairs(rows, paths[1])
    report.plot_positions(rows, paths[2])
    if _JSON.value:
        paths.append(_JSON.value)
        write_whole(_JSON.value, json.dumps([row.as_json() for row in rows], indent=1).encode())
    print("wrote " + ", ".join(paths))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    without_traceback(compare, "--lengths")


if __name__ == "__main__":
    start(main)
