"""Causal language models with the attention of all layers swapped: settings, and what they predict then."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import smyrf_jax
from smyrf_jax import Dense, Method
from smyrf_jax.budget import BudgetError
from smyrf_jax.methods import ContentBased
from training.processes import say
from transformer.causal import PretrainedCausal
from transformer.llama import Layer, Llama, attend_at_once
from transformer.needle import DEPTHS, answer_of, ordinary_tokens, with_needle
from transformer.next_tokens import Predictions
from transformer.perplexity_report import Needle, Row

_PARTS = 16  # of a window, whose perplexities are told


def settings_of(
    kind: type[Method], length: int, budgets: Sequence[float], width: int, fields: Mapping[str, Any]
) -> dict[float, Method]:
    """A method's settings for each part of the causal pairs; dense attention has all of them, once.

    A part that is too small for any settings is left out, and told.

    Raises:
        ValueError: the kind has no such fields.
    """
    if kind is Dense:
        return {1.0: Dense()}
    chosen = dict(fields)
    if issubclass(kind, ContentBased) and chosen.get("window") is None:
        chosen["clusters_see_future"] = True
    found = {}
    for pairs in budgets:
        try:
            method = kind.for_budget(length, length, pairs=pairs, width=width, is_causal=True, **chosen)
        except BudgetError as error:
            say(f"{kind.__name__} of {length} tokens is left out. {error}")
            continue
        found[pairs] = method
    return found


def check_causal(method: Method, loaded: PretrainedCausal, length: int) -> None:
    """Raises ValueError unless a method can be causal in this model; nothing is computed."""
    config = loaded.model.config
    query, key = (
        jax.ShapeDtypeStruct((1, length, heads, config.head_width), jnp.float32)
        for heads in (config.num_attention_heads, config.key_heads)
    )
    jax.eval_shape(functools.partial(smyrf_jax.attention, method=method, is_causal=True), query, key, key)


def predictor(loaded: PretrainedCausal, method: Method, length: int) -> Callable[[np.ndarray], Predictions]:
    """`predictions` of a window [T] with a method in all layers; T is the length.

    Positions are interpolated where the checkpoint has fewer. One program does each layer: the whole model as
    one takes many times as long to compile.
    """
    model, params = loaded.model, loaded.params
    if length > model.config.max_position_embeddings:
        model = model.clone(config=model.config.with_longer_positions(length))
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
    run = predictor(loaded, method, length)
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
    cost = method.cost(length, length, width=loaded.model.config.head_width, is_causal=True)
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
