"""CausalCanopy: what a query sees exactly, what by means, and what never."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import CausalCanopy, Dense, attention, method_from_config

# Blocks of 16, trees of 32 and 64 tokens, leaves of 2 and branches of 8.
SMALL = CausalCanopy(16, 2, 3, leaf_size=2, leaves_per_branch=4, tree_sizes=(32, 64), num_sinks=2)
LENGTH = 150


def arrays(seed=0, length=LENGTH, heads=(4, 2), width=8, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = [(2, length, number, width) for number in (heads[0], heads[1], heads[1])]
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(method, *tokens):
    return attention(*tokens, method=method, is_causal=True, scale=0.5, return_residual=True)


@functools.partial(jax.jit, static_argnums=0)
def gradients(method, tokens, to):
    _, pull = jax.vjp(functools.partial(run, method), *tokens)
    return pull(to)


def to_results(tokens, seed=5):
    rng = np.random.default_rng(seed)
    shape = (*tokens[0].shape[:-1], tokens[2].shape[-1])
    return tuple(rng.normal(size=of).astype(tokens[0].dtype) for of in (shape, shape[:-1]))


@pytest.mark.parametrize("shared", [False, True])
def test_with_all_open_it_is_dense(shared):
    everything = CausalCanopy(
        16, 99, 999, leaf_size=2, leaves_per_branch=4, tree_sizes=(32, 64), shared_choice=shared
    )
    tokens = arrays()
    for ours, theirs in zip(run(everything, *tokens), run(Dense(), *tokens), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    to = to_results(tokens)
    for ours, theirs in zip(gradients(everything, tokens, to), gradients(Dense(), tokens, to), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_weights_are_exact_where_it_is_near_or_open_and_means_elsewhere(shared):
    query, key, _ = arrays(1)
    value = np.broadcast_to(np.eye(LENGTH, dtype=np.float32)[:, None], (2, LENGTH, 2, LENGTH))
    method = CausalCanopy(16, 2, 3, 2, 4, (32, 64), 2, shared)
    weights, logsumexp = (np.asarray(of) for of in run(method, query, key, value))
    logits = 0.5 * np.einsum("btnd,bsnd->btns", query, np.repeat(key, 2, axis=2))
    ratio = weights / np.exp(logits - logsumexp[..., None])
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-4)
    for place in range(LENGTH):
        start = place // 16 * 16
        seen = ratio[:, place]  # [B, N, S]
        np.testing.assert_array_equal(seen[..., place + 1 :], 0)
        np.testing.assert_allclose(seen[..., start : place + 1], 1, rtol=1e-3)
        past = seen[..., :start]
        np.testing.assert_allclose(past[..., :2], 1, rtol=1e-3)
        exact = np.sum(np.abs(past[..., 2:] - 1) < 1e-3, axis=-1)
        # Three leaves of two keys, of whole trees; the first may hold less, the sinks being in none.
        assert np.all(exact >= min(3 * 2, max(0, start - 2)) - 2), place
        # All others in leaves of two or branches of eight: their weights come more than once.
        closed = weights[:, place, :, 2:start][np.abs(past[..., 2:] - 1) >= 1e-3]
        assert len(np.unique(closed.round(9))) <= 0.6 * len(closed) + 8, place
    assert np.mean(np.abs(ratio[:, -1, :, :] - 1) < 1e-3) < 0.5


def test_a_query_opens_what_weighs_most():
    """A key that holds nearly all of the weight is exact, wherever it lies."""
    query, key, value = arrays(2, heads=(2, 2))
    for place in (40, 77, 149):
        for needle in range(2, place, 11):
            aimed = key.copy()
            aimed[:, needle] = (
                3 * query[:, place] / np.linalg.norm(query[:, place], axis=-1, keepdims=True) * 4
            )
            found = run(SMALL, query, aimed, value)[0][:, place]
            np.testing.assert_allclose(found, run(Dense(), query, aimed, value)[0][:, place], atol=0.1)


def test_what_comes_later_changes_nothing():
    tokens, others = arrays(3), arrays(4)
    to = to_results(tokens)
    for cut in (1, 15, 16, 33, 64, 97, 129):
        now = (np.arange(LENGTH) < cut)[:, None, None]
        changed = tuple(np.where(now, ours, 50 * other) for ours, other in zip(tokens, others, strict=True))
        ours, theirs = run(SMALL, *tokens), run(SMALL, *changed)
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine[:, :cut], other[:, :cut])
        loss = tuple(np.where(now if of.ndim == 4 else now[..., 0], of, 0) for of in to)
        for mine, other in zip(gradients(SMALL, tokens, loss), gradients(SMALL, changed, loss), strict=True):
            np.testing.assert_allclose(mine[:, :cut], other[:, :cut], atol=1e-6)
            np.testing.assert_array_equal(other[:, cut:], 0)


@pytest.mark.parametrize("length", [5, 16, 40, 64, 97])
def test_a_beginning_gives_what_it_gives_within_all(length):
    tokens = arrays(6)
    alone = run(SMALL, *(of[:, :length] for of in tokens))
    for mine, whole in zip(alone, run(SMALL, *tokens), strict=True):
        np.testing.assert_allclose(mine, whole[:, :length], atol=1e-6)


def test_gradients_are_differences_in_float64():
    with jax.enable_x64(True):
        tokens = arrays(7, dtype=np.float64)
        to = to_results(tokens)

        def loss(*tokens):
            return sum(np.vdot(of, weight) for of, weight in zip(run(SMALL, *tokens), to, strict=True))

        for which, gradient in enumerate(gradients(SMALL, tokens, to)):
            along = np.random.default_rng(8).normal(size=tokens[which].shape)
            moved = [
                [of + sign * 1e-6 * along if at == which else of for at, of in enumerate(tokens)]
                for sign in (1, -1)
            ]
            slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
            np.testing.assert_allclose(np.vdot(gradient, along), slope, rtol=1e-5)


def test_memory_is_linear():
    def bytes_of(length):
        tokens = arrays(length=length)
        compiled = gradients.lower(SMALL, tokens, to_results(tokens)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(4096) < 2.2 * bytes_of(2048)


@pytest.mark.parametrize("length", [512, 2048, 8192])
def test_a_budget_is_kept_and_used(length):
    for pairs in (0.2, 0.3):
        method = CausalCanopy.for_budget(length, length, pairs=pairs, is_causal=True)
        assert 0.75 * pairs < method.cost(length, length, is_causal=True).pairs <= pairs
    fixed = CausalCanopy.for_budget(2048, 2048, pairs=0.2, is_causal=True, block_size=64, leaf_size=4)
    assert (fixed.block_size, fixed.leaf_size) == (64, 4)
    with pytest.raises(ValueError, match="the least is CausalCanopy"):
        CausalCanopy.for_budget(512, 512, pairs=0.01, is_causal=True)
    with pytest.raises(ValueError, match="power of two times"):
        CausalCanopy.for_budget(512, 512, pairs=0.3, is_causal=True, leaf_size=100)


def test_pairs_are_those_of_the_weights():
    """Counted from what each query sees: its block, sinks, branches, and what it opens."""
    method = CausalCanopy(16, 1, 1, leaf_size=2, leaves_per_branch=4, tree_sizes=(), num_sinks=2)
    pairs = 16 * 17 // 2 + (16 * 17 // 2 + 16 * (2 + 2 + 4 + 2)) + (4 * 5 // 2 + 4 * (2 + 4 + 4 + 2))
    assert method.cost(36, 36, is_causal=True).pairs == pytest.approx(pairs / (36 * 37 // 2))
    assert method.cost(16, 16, is_causal=True).pairs == 1


def test_configs_have_lists():
    method = method_from_config("causalcanopy", tree_sizes=[256, 1024])
    assert method.tree_sizes == (256, 1024)
    assert hash(method) == hash(CausalCanopy(tree_sizes=(256, 1024)))


def test_it_says_what_does_not_fit():
    with pytest.raises(ValueError, match="give is_causal=True, or take Canopy"):
        attention(*map(jnp.asarray, arrays()), method=SMALL)
    for fields, message in (
        ({"block_size": 48}, "block_size should be a power of two times leaf_size"),
        ({"tree_sizes": (384,)}, "tree_sizes should be a power of two times block_size, 128"),
        ({"tree_sizes": (512, 768)}, "tree_sizes should be a power of two times tree_sizes, 512"),
        ({"num_leaves": 0}, "num_leaves must be positive"),
        ({"num_sinks": 129}, "num_sinks should be 0"),
        ({"leaves_per_branch": 3}, "leaves_per_branch must be a power of two"),
    ):
        with pytest.raises(ValueError, match=message):
            CausalCanopy(**fields)
