"""Promises: what is masked or comes later does not matter."""

import dataclasses
import functools
import itertools

import chex
import jax
import numpy as np

from smyrf_jax import Canopy
from tests.smyrf_jax.promises.comparing import close, met_and_finite
from tests.smyrf_jax.promises.problems import (
    ALL_PAIRS,
    BY_PLACE,
    SMALL,
    TOKENS,
    Problem,
    filled,
    kept_of,
    left,
    padded,
    problem_of,
    taken,
)
from tests.smyrf_jax.promises.programs import run, run_lengths

GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30)


def equals_alone(name, problem, queries, keys):
    """The results, gradients too, are those of the kept tokens alone; the others have none."""
    of_queries, of_keys = (functools.partial(taken, kept=kept) for kept in (queries, keys))
    alone = Problem(
        of_queries(problem.query),
        of_keys(problem.key),
        of_keys(problem.value),
        problem.scale,
        of_queries(problem.to_output),
        of_queries(problem.to_logsumexp),
    )
    results, gradients = run(SMALL[name], problem)
    of = {"query": queries, "key": keys, "value": keys}
    kept = {which: taken(gradients[which], mask) for which, mask in of.items()} | {
        "scale": gradients["scale"]
    }
    close((tuple(map(of_queries, results)), kept), run(SMALL[name], alone), rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(left(results[0], queries), 0)
    np.testing.assert_array_equal(left(results[1], queries), -np.inf)
    for which, mask in of.items():
        np.testing.assert_array_equal(left(gradients[which], mask), 0)


def padding_changes_nothing(name):
    with jax.enable_x64(True):
        problem = padded(name)
        equals_alone(name, problem, problem.kept, problem.kept)


def queries_and_keys_are_padded_apart(name):
    """With NaN in the padding."""
    with jax.enable_x64(True):
        problem = problem_of(4, (20, 28), heads=(2, 1), widths=(8, 6), dtype=np.float64)
        places = name in BY_PLACE
        queries = kept_of("x" * 13 + "." * 7, "x" * 13 + "." * 7 if places else "..xxx.xxxxx.xx.x.xx.")
        keys = kept_of("x" * 13 + "." * 15, "x" * 13 + "." * 15 if places else ".." + ".x" * 13)
        problem = problem._replace(
            query=filled(problem.query, queries, np.nan),
            key=filled(problem.key, keys, np.nan),
            value=filled(problem.value, keys, np.nan),
            kept=keys,
            kept_queries=queries,
        )
        equals_alone(name, problem, queries, keys)


def rows_without_keys_are_zero(name):
    with jax.enable_x64(True):
        problem = problem_of(5, (20, 28), heads=(2, 1), widths=(8, 6), dtype=np.float64)
        kept = kept_of("x" * 28, "." * 28)
        all_queries = np.ones((2, 1, 1, 20), bool)
        results, gradients = run(SMALL[name], problem._replace(kept=kept, kept_queries=all_queries))
        np.testing.assert_array_equal(results[0][1], 0)
        np.testing.assert_array_equal(results[1][1], -np.inf)
        met_and_finite(name, (results[0][0], results[1][0]), gradients)
        for which in TOKENS:
            np.testing.assert_array_equal(gradients[which][1], 0)


def lengths_are_masks(name):
    problem = problem_of()._replace(kept=kept_of("x" * 24, "x" * 11 + "." * 13))
    results = run_lengths(SMALL[name], *problem[:4], np.array([24, 11]))
    close(results, run(SMALL[name], problem)[0])


def masked_garbage_changes_nothing(name, method=None, is_causal=False):
    method = SMALL[name] if method is None else method
    problem = problem_of(6)._replace(kept=kept_of("." * 5 + "x" * 14 + "." * 5, "xx.xxx" * 4))

    def results(*garbage):
        of = zip(TOKENS, garbage, strict=True)
        arrays = {which: filled(getattr(problem, which), problem.kept, fill) for which, fill in of}
        return run(method, problem._replace(**arrays), is_causal)

    expected = results(0.0, 0.0, 0.0)
    chex.assert_tree_all_finite((expected[0][0], expected[1]))
    for which in TOKENS:
        np.testing.assert_array_equal(left(expected[1][which], problem.kept), 0)
    for garbage in GARBAGE:
        close(results(garbage, garbage, garbage), expected, rtol=1e-5, atol=1e-6)
    for which in range(3):
        alone = [0.0, 0.0, 0.0]
        alone[which] = np.nan
        close(results(*alone), expected, rtol=1e-5, atol=1e-6)


def permitted(name):
    """The method that may be causal because its clusters are allowed to see the future."""
    method = Canopy(1, 8, 0) if name == "canopy" else SMALL[name]
    if name in BY_PLACE + ALL_PAIRS:
        return method
    return dataclasses.replace(method, clusters_see_future=True)


def masked_garbage_changes_nothing_causal(name):
    masked_garbage_changes_nothing(name, permitted(name), is_causal=True)


def no_later_token_matters(name):
    method, problem, other = SMALL[name], problem_of(7), problem_of(8)
    for cut, size in itertools.product((1, 9, 20), (1.0, 1e4, 1e15)):
        now = np.arange(24) < cut
        # The loss is of the earlier rows.
        problem = problem._replace(
            to_output=np.where(now[None, :, None, None], problem_of(7).to_output, 0),
            to_logsumexp=np.where(now[None, :, None], problem_of(7).to_logsumexp, 0),
        )
        arrays = {
            which: np.where(
                now[:, None, None], getattr(problem, which), np.float32(size) * getattr(other, which)
            )
            for which in TOKENS
        }
        kept = problem.kept & (now | (np.arange(24) % 3 > 0))
        (ours, of_ours), (theirs, of_theirs) = (
            run(method, problem._replace(**change), True) for change in ({}, arrays | {"kept": kept})
        )
        ours, theirs = ([array[:, :cut] for array in results] for results in (ours, theirs))
        close(theirs, ours, rtol=1e-6, atol=1e-6)
        for which in TOKENS:
            close(of_theirs[which][:, :cut], of_ours[which][:, :cut], rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(of_ours[which][:, cut:], 0)
            np.testing.assert_array_equal(of_theirs[which][:, cut:], 0)


def no_later_key_is_attended(name):
    """Weights are the output of values that are rows of an identity, eight at a time."""
    problem, eye = problem_of(9), np.eye(24, dtype=np.float32)
    outputs = [
        run(
            permitted(name), problem._replace(value=np.broadcast_to(part[:, None], problem.value.shape)), True
        )
        for part in np.split(eye, 3, axis=1)
    ]
    weights = np.moveaxis(np.concatenate([results[0] for results, _ in outputs], axis=-1), 2, 1)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(np.triu(weights, 1), 0, atol=1e-7)
