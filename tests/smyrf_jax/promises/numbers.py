"""Promises: empty, half, large, negative and zero numbers."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Dense, attention
from smyrf_jax.far_field import positive_features
from smyrf_jax.methods.scatterbrain import features_of
from tests.smyrf_jax.promises.comparing import close, met_and_finite
from tests.smyrf_jax.promises.problems import (
    ALL_PAIRS,
    BY_PLACE,
    CAUSAL,
    ONE_CLUSTER,
    SMALL,
    problem_of,
    single,
)
from tests.smyrf_jax.promises.programs import attend, pulled, run, untyped


def nothing_gives_zeros(name):
    for change in ({"lengths": (0, 8)}, {"lengths": (8, 0)}, {"batch": 0}, {"heads": (0, 0)}):
        problem = jax.tree.map(jnp.asarray, problem_of(**{"lengths": (8, 8)} | change))
        (output, logsumexp), gradients = pulled(SMALL[name], problem)
        chex.assert_shape((output, logsumexp), (problem.query.shape, problem.query.shape[:-1]))
        np.testing.assert_array_equal(output, 0)
        np.testing.assert_array_equal(logsumexp, -np.inf)
        for which, gradient in gradients.items():
            chex.assert_shape(gradient, getattr(problem, which).shape)
            np.testing.assert_array_equal(gradient, 0)


def vectors_may_be_empty(name):
    """Logits of zero: every key that is attended counts alike."""
    problem = problem_of(widths=(0, 3))
    (output, logsumexp), gradients = run(ONE_CLUSTER[name], problem)
    rounds = {"smyrf": 2}.get(name, 1)
    seen = np.full(24, 24)
    expected = np.broadcast_to(np.mean(problem.value, axis=1, keepdims=True), output.shape)
    if name in CAUSAL:
        seen = np.arange(1, 25)
        expected = np.cumsum(problem.value, axis=1) / seen[:, None, None]
    close(output, expected)
    close(logsumexp, np.broadcast_to(np.log(seen * rounds)[:, None], logsumexp.shape))
    chex.assert_tree_all_finite(gradients)
    chex.assert_shape((gradients["query"], gradients["key"]), (problem.query.shape, problem.key.shape))


def one_cluster_is_dense(name):
    """Also with scales that are negative and zero."""
    problem = problem_of(10)
    rounds = {"smyrf": 2}.get(name, 1)  # a key counts in each
    for scale in (0.4, -0.7, 0.0):
        scaled = problem._replace(scale=np.float32(scale))
        (output, logsumexp), gradients = run(ONE_CLUSTER[name], scaled)
        arrays = map(jnp.asarray, scaled[:3])
        causal = name in CAUSAL
        expected, residual = jax.nn.dot_product_attention(
            *arrays, scale=scale, is_causal=causal, return_residual=True
        )
        close((output, logsumexp), (expected, residual + math.log(rounds)))
        close(gradients, run(Dense(), scaled, causal)[1], rtol=1e-3, atol=1e-4)


def one_cluster_is_dense_in_half_precision(name):
    """With a key head for two query heads."""
    for dtype, tolerance in ((jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)):
        problem = problem_of(11, heads=(2, 1), dtype=dtype)
        output, logsumexp = jax.jit(attend, static_argnums=0)(ONE_CLUSTER[name], problem)
        expected, residual = run(Dense(), single(problem), name in CAUSAL)[0]
        assert output.dtype == dtype
        residual += math.log({"smyrf": 2}.get(name, 1))  # Smyrf counts a key in each round
        close(single((output, logsumexp)), (expected, residual), rtol=tolerance, atol=tolerance)


def half_precision_is_near_single(name, dtype=jnp.float16, tolerance=1e-2):
    problem = problem_of(12, heads=(2, 1), dtype=dtype)
    results, gradients = run(SMALL[name], problem)
    wide = single(problem)
    wide = wide._replace(key=np.repeat(wide.key, 2, axis=2), value=np.repeat(wide.value, 2, axis=2))
    expected, of = run(SMALL[name], wide)
    of = {"query": of["query"]} | {
        which: jnp.sum(of[which], axis=2, keepdims=True) for which in ("key", "value")
    }
    close(single((results, {which: gradients[which] for which in of})), (expected, of), tolerance, tolerance)


def large_logits_are_no_nan(name):
    """A few features say nothing of such logits: those of a row may all be zero, as if it had no keys."""
    for large in large_problems():
        (output, logsumexp), gradients = run(SMALL[name], large)
        chex.assert_tree_all_finite((output, gradients))
        assert np.all(logsumexp < np.inf)


def large_logits_are_those_of_dense(name):
    """In one cluster; in several, they are finite."""
    for large in large_problems():
        met_and_finite(name, *run(SMALL[name], large))
        (output, _), gradients = run(ONE_CLUSTER[name], large)
        arrays = map(jnp.asarray, large[:3])
        expected = jax.nn.dot_product_attention(*arrays, scale=large.scale, is_causal=name in CAUSAL)
        close(output, expected)
        chex.assert_tree_all_finite(gradients)


def large_problems():
    """Of long vectors, and of short ones with a large scale."""
    problem = problem_of(13)
    for size in (1e9, 1e15, 1e30):
        root = math.sqrt(size)
        yield problem._replace(query=root * problem.query, key=root * problem.key)
        yield problem._replace(scale=np.float32(size))


def the_scale_may_be_negative_or_zero(name):
    problem = problem_of(14)
    ones = problem._replace(value=np.ones_like(problem.value))
    for scale in (0.0, -0.4):
        results, gradients = run(SMALL[name], ones._replace(scale=np.float32(scale)))
        met = met_and_finite(name, results, gradients)
        close(results[0], np.where(met[..., None], ones.value, 0))
    if name in BY_PLACE + ALL_PAIRS:  # no clusters that depend on the queries
        turned = problem._replace(query=-problem.query)
        negative = problem._replace(scale=-problem.scale)
        close(run(SMALL[name], negative)[0], run(SMALL[name], turned)[0])
    if name in (*ALL_PAIRS, "canopy", "scatterbrain", "window"):  # every key counts, and alike
        output, logsumexp = run(SMALL[name], problem._replace(scale=np.float32(0.0)))[0]
        close(output, np.broadcast_to(np.mean(problem.value, axis=1, keepdims=True), output.shape))
        close(logsumexp, np.full_like(logsumexp, math.log(24)))


def features_are_their_formula(name):
    """Performer weighs no pair exactly, in whatever cluster: it is its formula, computed densely."""
    problem = jax.tree.map(jnp.asarray, problem_of(10))
    projection = features_of(jax.random.key(5), 16, problem.query).projection
    queries, keys = (
        features * jnp.exp(log_scale)[..., None]
        for features, log_scale in (
            positive_features(jnp.sqrt(problem.scale) * vectors, projection)
            for vectors in (problem.query, problem.key)
        )
    )
    weights = jnp.einsum("btnf,bsnf->bnts", queries, keys)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    output = jnp.einsum("bnts,bsnv->btnv", weights / total, problem.value)
    close(run(SMALL[name], problem)[0], (output, jnp.moveaxis(jnp.log(total[..., 0]), 1, 2)))


def the_rng_is_a_typed_key(name):
    """Said by `attention` itself."""
    with untyped(), pytest.raises(ValueError, match=r"jax\.random\.key"):
        attention(*map(jnp.asarray, problem_of()[:3]), method=SMALL[name], rng=jax.random.PRNGKey(0))
