"""Perplexity of a pretrained causal language model with the attention of all layers swapped.

    python -m transformer.perplexity --model=smollm2 --text=wiki --lengths=512,2048 --pairs=.08,.2 \\
        --methods=dense,local,smyrf --windows=4 --needle --json=perplexity.json

Nothing is trained: the weights are those of the dense model. Windows are spread evenly over the text. The
settings of a method are the largest that --pairs allow, a part of the pairs that causal attention has.
Methods whose clusters are cut from all tokens are causal only so far: later keys are hidden, but which of the
earlier keys share a cluster depends on later tokens. They are marked. --needle: a random run of tokens is put
into each window at several depths, and how well it is copied at the end is told. Writes
perplexity_<model>.md and pictures into --out, and rows into --json. Wants the extra [text].
"""

import functools
import inspect
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import Array

import smyrf_jax
from smyrf_jax import Dense, Method
from smyrf_jax.methods import METHODS, ContentBased
from training.command import without_traceback
from training.files import make_parent, write_whole
from transformer import perplexity_report as report
from transformer.books import read_book, windows_of
from transformer.causal import PretrainedCausal, load_causal
from transformer.llama import Layer, Llama, attend_at_once
from transformer.needle import DEPTHS, answer_of, ordinary_tokens, with_needle
from transformer.next_tokens import Predictions
from transformer.perplexity_report import Needle, Row
from transformer.settings import fields_by_method

_MODEL = flags.DEFINE_string("model", "smollm2", "smollm2, a checkpoint's folder or a GGUF file.")
_TEXT = flags.DEFINE_string("text", "wiki", "anarchism, wiki, a file, or a folder of files.")
_LENGTHS = flags.DEFINE_list("lengths", ["512", "2048"], "tokens of a window.")
_WINDOWS = flags.DEFINE_integer("windows", 4, "windows of the text.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", ["dense", "local"], f"of {', '.join(METHODS)}.")
_FIELDS = flags.DEFINE_list(
    "fields", [], "of a method, as scatterbrain.window=128; the others are as large as --pairs allow."
)
_PAIRS = flags.DEFINE_list("pairs", ["0.08", "0.2"], "parts of the causal query-key pairs.")
_NEEDLE = flags.DEFINE_bool("needle", False, "also test whether what was read far back is copied.")
_OUT = flags.DEFINE_string("out", "benchmarks/results", "folder of the table and the pictures.")
_JSON = flags.DEFINE_string("json", "", "file of the rows; empty: none.")

_PARTS = 16  # of a window, whose perplexities are told


def _causal(function: Callable[..., Any]) -> dict[str, bool]:
    return {"is_causal": True} if "is_causal" in inspect.signature(function).parameters else {}


def settings_of(
    kind: type[Method], length: int, budgets: Sequence[float], width: int, fields: Mapping[str, Any]
) -> dict[float, Method]:
    """A method's settings for each part of the causal pairs; dense attention has all of them, once.

    Raises:
        ValueError: nothing is within a budget, or the kind has no such fields.
    """
    if kind is Dense:
        return {1.0: Dense()}
    chosen = dict(fields)
    if issubclass(kind, ContentBased) and chosen.get("window") is None:
        chosen["clusters_see_future"] = True
    size = kind.for_budget
    return {
        pairs: size(length, length, pairs=pairs, width=width, **_causal(size), **chosen) for pairs in budgets
    }


def check_causal(method: Method, loaded: PretrainedCausal, length: int) -> None:
    """Raises ValueError unless a method can be causal in this model; nothing is computed."""
    config = loaded.model.config
    query, key = (
        jax.ShapeDtypeStruct((1, length, heads, config.head_width), jnp.float32)
        for heads in (config.num_attention_heads, config.key_heads)
    )
    jax.eval_shape(functools.partial(smyrf_jax.attention, method=method, is_causal=True), query, key, key)


def predictor(loaded: PretrainedCausal, method: Method) -> Callable[[np.ndarray], Predictions]:
    """`predictions` of a window [T] with a method in all layers.

    One program does each layer: the whole model as one takes many times as long to compile.
    """
    model, params = loaded.model, loaded.params
    layer = Layer(model.config, method)

    @jax.jit
    def first(params: Any, tokens: Array) -> Any:
        return model.apply({"params": params}, tokens, jnp.arange(tokens.shape[1]), method="embed")

    @jax.jit
    def following(params: Any, hidden: Array, angles: Array) -> Any:
        return layer.apply({"params": params}, hidden, angles, functools.partial(attend_at_once, None))[0]

    @jax.jit
    def last(params: Any, hidden: Array, tokens: Array) -> Any:
        def of_normed(model: Llama, hidden: Array) -> Predictions:
            return model.predictions_of(model.norm(hidden), tokens)

        return model.apply({"params": params}, hidden, method=of_normed)

    def run(window: np.ndarray) -> Predictions:
        tokens = jnp.asarray(window[None])
        hidden, angles = first(params, tokens)
        for i in range(model.config.num_hidden_layers):
            hidden = following(params[f"layers_{i}"], hidden, angles)
        return last(params, hidden, tokens)

    return run


def measure(
    name: str, method: Method, budget: float, loaded: PretrainedCausal, windows: np.ndarray, needle: bool
) -> Row:
    """Runs the model with a method in all layers over windows [W, T].

    needle: also over the windows with a needle, at each depth.
    """
    length = windows.shape[1]
    run = predictor(loaded, method)
    jax.block_until_ready(run(windows[0]))  # compiles
    found, seconds = [], []
    for window in windows:
        start = time.perf_counter()
        found.append(jax.block_until_ready(run(window)))
        seconds.append(time.perf_counter() - start)
    losses = np.concatenate([np.asarray(of.losses) for of in found])
    needles = []
    if needle:
        assert loaded.tokenizer is not None
        words = ordinary_tokens(loaded.tokenizer)
        for depth in DEPTHS:
            tokens = [with_needle(window, depth, words, i) for i, window in enumerate(windows)]
            of_depth = [run(window) for window in tokens]
            hits, answers = (
                np.mean([answer_of(np.asarray(of[field])) for of in of_depth]) for field in (1, 0)
            )
            needles.append(Needle(depth, float(hits), -float(answers)))
    cost = method.cost(length, length, width=loaded.model.config.head_width, **_causal(method.cost))
    parts = [float(np.exp(np.mean(part))) for part in np.array_split(losses, _PARTS, axis=1) if part.size]
    return Row(
        method=name,
        length=length,
        pairs=cost.pairs,
        perplexity=float(np.exp(np.mean(losses))),
        seconds=float(np.median(seconds)),
        budget=budget,
        settings=str(method),
        sees_later=isinstance(method, ContentBased) and method.clusters_see_future,
        perplexity_by_position=tuple(parts),
        needle=tuple(needles),
    )


def command_line() -> str:
    """The command that does this again."""
    flags_ = [_MODEL, _TEXT, _LENGTHS, _PAIRS, _WINDOWS, _METHODS, _FIELDS]
    shown = [
        f"--{flag.name}={','.join(flag.value) if isinstance(flag.value, list) else flag.value}"
        for flag in flags_
        if flag.value
    ]
    return " ".join(["python -m transformer.perplexity", *shown, *["--needle"] * _NEEDLE.value])


def compare() -> None:
    """Does what the flags say."""
    for name in _METHODS.value:
        if name not in METHODS:
            raise ValueError(f"--methods should be of {', '.join(METHODS)}, but has {name!r}.")
    stem = str(pathlib.Path(_OUT.value) / f"perplexity_{pathlib.Path(_MODEL.value).stem}")
    make_parent("out", f"{stem}.md")
    if _JSON.value:
        make_parent("json", _JSON.value)
    lengths = [int(length) for length in _LENGTHS.value]
    fields = fields_by_method(_FIELDS.value, _METHODS.value)
    loaded = load_causal(_MODEL.value, max_length=max(lengths))
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise FileNotFoundError(f"--model={_MODEL.value} has no tokenizer.")
    loaded = loaded._replace(params=jax.device_put(loaded.params))
    text, width = read_book(_TEXT.value), loaded.model.config.head_width
    windows = {length: windows_of(tokenizer, text, length, _WINDOWS.value) for length in lengths}
    budgets = [float(pairs) for pairs in _PAIRS.value]
    # All that can be refused is refused before anything is measured.
    plan = [
        (length, name, budget, method)
        for length in lengths
        for name in _METHODS.value
        for budget, method in settings_of(METHODS[name], length, budgets, width, fields[name]).items()
    ]
    for length, _, _, method in plan:
        check_causal(method, loaded, length)
        if _NEEDLE.value:
            with_needle(windows[length][0], 0.0, np.arange(1), 0)

    rows: list[Row] = []
    for number, (length, name, budget, method) in enumerate(plan, 1):
        rows.append(measure(name, method, budget, loaded, windows[length], _NEEDLE.value))
        print(f"{number}/{len(plan)} {report.line(rows[-1])}", flush=True)
    paths = [f"{stem}.md", f"{stem}.png", f"{stem}_by_position.png"]
    pathlib.Path(paths[0]).write_text(report.table(rows, command_line()))
    report.plot_pairs(rows, paths[1])
    report.plot_positions(rows, paths[2])
    if _JSON.value:
        paths.append(_JSON.value)
        write_whole(_JSON.value, json.dumps([row.as_json() for row in rows], indent=1).encode())
    print("wrote " + ", ".join(paths))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    without_traceback(compare)


if __name__ == "__main__":
    app.run(main)
