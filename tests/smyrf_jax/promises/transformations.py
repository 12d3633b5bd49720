"""Promises: how attention composes with JAX's transformations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from smyrf_jax import attention
from tests.smyrf_jax.promises import programs
from tests.smyrf_jax.promises.comparing import close
from tests.smyrf_jax.promises.problems import (
    CAUSAL,
    DIFFERENTIATED,
    SMALL,
    Problem,
    kept_of,
    padded,
    problem_of,
)
from tests.smyrf_jax.promises.programs import run


@functools.lru_cache
def plain(method):
    """The usual problem's results."""
    return run(method, problem_of())


def jit_equals_eager(name):
    close(programs.attend(SMALL[name], jax.tree.map(jnp.asarray, problem_of())), plain(SMALL[name])[0])


def vmap_equals_batch(name):
    results, gradients = programs.run_each(SMALL[name], problem_of())
    close((results, gradients | {"scale": jnp.sum(gradients["scale"])}), plain(SMALL[name]))


def gradients_are_differences(name):
    """In float64, along random directions: the clusters stay as they are."""
    with jax.enable_x64(True):
        for scale in (0.4, -0.4):
            problem = padded(name)._replace(scale=np.float64(scale))
            _, gradients = run(SMALL[name], problem)
            chex.assert_tree_all_finite(gradients)
            for which in DIFFERENTIATED:
                array = getattr(problem, which)
                along = np.random.default_rng(2).normal(size=array.shape)

                def loss(step, problem=problem, which=which, array=array, along=along):
                    moved = problem._replace(**{which: array + step * along})
                    output, logsumexp = run(SMALL[name], moved)[0]
                    counted = np.where(np.isfinite(logsumexp), logsumexp, 0)
                    return np.vdot(output, problem.to_output) + np.vdot(counted, problem.to_logsumexp)

                slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
                np.testing.assert_allclose(np.vdot(gradients[which], along), slope, rtol=1e-5, atol=1e-6)


def it_goes_through_scan_and_remat(name):
    """Against the layers one by one."""
    problem = problem_of(1)
    first = problem._replace(to_logsumexp=np.zeros_like(problem.to_logsumexp))
    tokens = problem.query + run(SMALL[name], first)[0][0]
    second = first._replace(query=tokens, scale=problem.scale / 2)
    (more, _), of_second = run(SMALL[name], second)
    of_tokens = problem.to_output + of_second["query"]
    _, of_first = run(SMALL[name], first._replace(to_output=of_tokens))
    expected = {
        "query": of_tokens + of_first["query"],
        "key": of_first["key"] + of_second["key"],
        "value": of_first["value"] + of_second["value"],
        "scale": of_first["scale"] + of_second["scale"] / 2,
    }
    close(programs.run_layers(SMALL[name], problem), (tokens + more, expected))


def it_goes_through_shard_map(name):
    close(programs.run_mapped(SMALL[name], problem_of()), plain(SMALL[name]))


def on_a_mesh(name, axes, kind):
    results, text = programs.run_on_mesh(SMALL[name], problem_of(), axes, kind)
    close(jax.device_get(results), jax.device_get(plain(SMALL[name])))
    for place, axis in enumerate(("batch", None, "heads")):
        if axis in axes:
            assert results[0][0].sharding.spec[place] == axis
    for moved in ("all-gather", "all-to-all", "collective-permute"):
        assert moved not in text, f"{moved} on a mesh of {axes}"


def the_compiler_shards_batch_and_heads(name):
    on_a_mesh(name, ("batch", "heads"), AxisType.Auto)


def an_explicit_mesh_shards_batch_and_heads(name):
    on_a_mesh(name, ("batch", "heads"), AxisType.Explicit)


def it_is_exported(name):
    """By lengths, which are those of a mask."""
    problem = problem_of()._replace(kept=kept_of("x" * 24, "x" * 11 + "." * 13))
    arguments = *problem[:4], np.array([24, 11])
    program = functools.partial(programs.run_lengths, SMALL[name])
    close(programs.exported(program, arguments, "2")(*arguments), run(SMALL[name], problem)[0])


def it_is_exported_for_any_batch(name):
    def program(*leaves):
        (output, logsumexp), gradients = programs.pulled(SMALL[name], Problem(*leaves))
        return output, logsumexp, gradients

    leaves = problem_of()[:-1]
    output, logsumexp, gradients = programs.exported(program, leaves, "samples")(*leaves)
    close(((output, logsumexp), gradients), plain(SMALL[name]))


def promotion_may_be_strict(name):
    method = SMALL[name]
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        problem = problem_of(heads=(2, 1), dtype=dtype)
        shape, logsumexps = problem.query.shape, problem.query.shape[:-1]
        with jax.numpy_dtype_promotion("strict"):
            (output, logsumexp), gradients = jax.eval_shape(
                functools.partial(programs.pulled, method), problem
            )
            call = functools.partial(attention, method=method, is_causal=name in CAUSAL)
            unscaled = jax.eval_shape(call, *problem[:3])
        chex.assert_shape((output, unscaled, logsumexp), (shape, shape, logsumexps))
        assert output.dtype == unscaled.dtype == dtype
        assert logsumexp.dtype == jnp.float32
        assert all(gradient.dtype == getattr(problem, of).dtype for of, gradient in gradients.items())
