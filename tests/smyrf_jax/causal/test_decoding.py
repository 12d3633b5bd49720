"""CausalCanopy token by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import CausalCanopy, attention
from smyrf_jax.decoding import prefill, step
from tests.smyrf_jax.methods.test_causal_canopy import arrays


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("prompt", [1, 45, 64])
def test_token_by_token_is_the_whole(prompt, shared):
    """Through the ends of blocks and of trees of both larger sizes."""
    method = CausalCanopy(16, 2, 3, 2, 4, (32, 64), 2, shared)
    tokens = tuple(map(jnp.asarray, arrays(length=140)))
    whole = attention(*tokens, method=method, is_causal=True)
    output, cache = prefill(*(of[:, :prompt] for of in tokens), method=method, length=141)
    np.testing.assert_allclose(output, whole[:, :prompt], atol=1e-6)
    one = jax.jit(functools.partial(step, method=method))
    for place in range(prompt, 140):
        output, cache = one(*(of[:, place : place + 1] for of in tokens), cache)
        np.testing.assert_allclose(output, whole[:, place : place + 1], atol=1e-6)


def test_a_step_changes_the_cache_where_it_lies():
    """What it takes beside a cache that was given away is a small part of it: nothing large is copied."""
    method = CausalCanopy(16, 2, 3, 2, 4, (32, 64))
    tokens = tuple(map(jnp.asarray, arrays(length=20)))
    _, cache = prefill(*tokens, method=method, length=2048)
    one = jax.jit(functools.partial(step, method=method), donate_argnums=3)
    compiled = one.lower(*(of[:, :1] for of in tokens), cache).compile()
    size = sum(of.nbytes for of in jax.tree.leaves(cache))
    assert compiled.memory_analysis().temp_size_in_bytes < size / 8


def test_a_step_reads_few_keys():
    """The last of 8,192 tokens: its block, sinks, the means of branches and leaves, and open leaves."""
    method = CausalCanopy.for_budget(8192, 8192, pairs=0.1, is_causal=True)
    sizes = method.sizes_of(8192)
    branches = (8192 + 2048 + 512) // sizes.branch  # those of unfinished larger trees too
    opened = method.num_branches * sizes.leaves + method.num_leaves * sizes.leaf
    assert method.block_size + method.num_sinks + branches + opened < 0.15 * 8192
