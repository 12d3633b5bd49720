"""A few queries of one block and the past: which branches and leaves they open, and what they attend."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.causal.past import Leaves, Mean, Past, Sizes
from smyrf_jax.floats import finite_min
from smyrf_jax.sharding import is_partitioned


class Near(NamedTuple):
    """What queries see exactly in any case: tokens of their block, and the sinks.

    keys [K, D], values [K, V], seen [C, K] by each of C queries.
    """

    keys: Array
    values: Array
    seen: Array


class Choice(NamedTuple):
    """What each of C queries opens: branches [C, R], leaves [C, E], int32 places of all; -1: none."""

    branches: Array
    leaves: Array


class Opened(NamedTuple):
    """What a choice names: means of the leaves of open branches [C, R * leaves, ...], leaves [C, E * K, ...].

    means: their sizes are finite_min / 4 where there is none, or it is open itself.
    filled: [C, E * K].
    """

    means: Mean
    leaves: Leaves


class Window(NamedTuple):
    """The branches that a block may look at: means of B of them, and where they lie among all, [B]."""

    means: Mean
    places: Array


def window_of(past: Past, start: Array, sizes: Sizes, length: int) -> Window:
    """The branches of whole trees before the block that begins at `start`, each key in one of them.

    Of each level those within the larger tree that holds the block; of the last level all. The sizes of the
    others say that they are none.
    """
    number, first = sizes.trees(length), sizes.first_branches(length)
    low = finite_min(past.branch_means.size.dtype) / 4
    parts, places = [], []
    for level, size in enumerate(sizes.levels):
        of_tree = size // sizes.branch
        if level + 1 < len(sizes.levels):
            larger = sizes.levels[level + 1]
            count = larger // sizes.branch
            begin = (start // larger) * count
        else:
            count, begin = number[level] * of_tree, jnp.zeros_like(start)
        place = begin + jnp.arange(count, dtype=jnp.int32)
        means = Mean(
            *(jax.lax.dynamic_slice_in_dim(of, first[level] + begin, count) for of in past.branch_means)
        )
        whole = (place // of_tree + 1) * size <= start
        parts.append(means._replace(size=jnp.where(whole, means.size, low)))
        places.append(first[level] + place)
    return Window(Mean(*(jnp.concatenate(of) for of in zip(*parts, strict=True))), jnp.concatenate(places))


def choose(
    query: Array, near: Near, window: Window, past: Past, sizes: Sizes, branches: int, leaves: int
) -> Choice:
    """The branches and leaves with the largest weights, of the heads of a group the largest.

    query: scaled, [C, G, D].
    """
    query = jax.lax.stop_gradient(query)
    near, window, past = jax.lax.stop_gradient((near, window, past))
    low = finite_min(query.dtype)
    logits = [jnp.where(near.seen[:, None], _products(query, near.keys), low)]
    of_branches = _products(query, window.means.keys) + window.means.size[None, None]
    logits.append(of_branches)
    # Heads differ in what all of their keys weigh.
    total = jax.nn.logsumexp(jnp.concatenate(logits, axis=-1), axis=-1, keepdims=True)
    score = jnp.max(of_branches - total, axis=1)  # [C, B]
    score = jnp.where(window.means.size[None] > low / 8, score, low)
    best, at = _largest(score, branches)
    chosen = jnp.where(best > low / 8, window.places[at], -1)
    within = _leaves_of(chosen, sizes)  # [C, R * leaves]
    means = _taken(past.leaf_means, within)
    of_leaves = jnp.einsum("cgd,ckd->cgk", query, means.keys) + means.size[:, None]
    score = jnp.where(means.size > low / 8, jnp.max(of_leaves - total, axis=1), low)
    best, at = _largest(score, leaves)
    found = jnp.where(best > low / 8, jnp.take_along_axis(within, at, axis=1), -1)
    return Choice(chosen, found)


def opened_of(past: Past, choice: Choice, sizes: Sizes) -> Opened:
    """What a choice opens. A leaf that is open itself does not count by its mean."""
    inside = _taken(past.leaf_means, _leaves_of(choice.branches, sizes))
    again = jnp.any(_leaves_of(choice.branches, sizes)[..., None] == choice.leaves[:, None], axis=-1)
    means = inside._replace(size=jnp.where(again, finite_min(inside.size.dtype) / 4, inside.size))
    some = jnp.maximum(choice.leaves, 0)
    keys, values, filled = (of.at[some].get(mode="promise_in_bounds") for of in past.leaves)
    filled = filled & (choice.leaves >= 0)[..., None]
    leaves = (of.reshape(len(of), of.shape[1] * of.shape[2], *of.shape[3:]) for of in (keys, values, filled))
    return Opened(means, Leaves(*leaves))


def closed(window: Window, choice: Choice) -> Array:
    """The log sizes [C, B] of the window's branches, but for those that each query opens."""
    is_open = jnp.any(window.places[None, :, None] == choice.branches[:, None], axis=-1)
    return jnp.where(is_open, finite_min(window.means.size.dtype) / 4, window.means.size[None])


def attended(query: Array, near: Near, branches: Mean, opened: Opened) -> tuple[Array, Array]:
    """Output [C, G, V] and logsumexp [C, G] of scaled queries [C, G, D]; finite_min where there is no key.

    branches: means of B, whose sizes are [C, B].
    """
    low = finite_min(query.dtype)
    leaves = opened.leaves
    logits = [
        jnp.where(near.seen[:, None], _products(query, near.keys), low),
        _with_size(_products(query, branches.keys), branches.size),
        _with_size(jnp.einsum("cgd,ckd->cgk", query, opened.means.keys), opened.means.size),
        jnp.where(leaves.filled[:, None], jnp.einsum("cgd,ckd->cgk", query, leaves.keys), low),
    ]
    values = near.values, branches.values, opened.means.values, leaves.values
    tops = [jnp.max(of, axis=-1, keepdims=True, initial=low) for of in logits]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    weights = [jnp.where(of > low, jnp.exp(of - top), 0.0) for of in logits]
    total = functools.reduce(jnp.add, [jnp.sum(of, axis=-1) for of in weights])
    output = functools.reduce(
        jnp.add,
        [
            jnp.einsum("cgk,kv->cgv" if own.ndim == 2 else "cgk,ckv->cgv", of, own)
            for of, own in zip(weights, values, strict=True)
        ],
    )
    safe = jnp.where(total > 0, total, 1.0)
    return output / safe[..., None], jnp.where(total > 0, top[..., 0] + jnp.log(safe), low)


def _with_size(products: Array, size: Array) -> Array:
    """Logits of means [C, G, K] whose log sizes are [C, K]; finite_min where there is none."""
    low = finite_min(products.dtype)
    return jnp.where(size[:, None] > low / 8, products + size[:, None], low)


def _products(query: Array, keys: Array) -> Array:
    return jnp.einsum("cgd,kd->cgk", query, keys)


def _largest(score: Array, number: int) -> tuple[Array, Array]:
    """The largest of each row [C, B], or all, and their places."""
    number = min(number, score.shape[-1])
    if not is_partitioned(score):
        best, at = jax.lax.top_k(score, number)
        return best, at
    # The compiler would send all rows to all devices for a top_k.
    place = jax.lax.broadcasted_iota(jnp.int32, score.shape, 1)
    low, at = jax.lax.sort((-score, place), num_keys=1)
    return -low[:, :number], at[:, :number]


def _leaves_of(branches: Array, sizes: Sizes) -> Array:
    """[C, R] -> the leaves [C, R * leaves] of these branches; -1: none."""
    leaves = branches[..., None] * sizes.leaves + jnp.arange(sizes.leaves, dtype=jnp.int32)[None, None]
    return jnp.where(branches[..., None] < 0, -1, leaves).reshape(len(branches), -1)


def _taken(means: Mean, places: Array) -> Mean:
    """The means at these places; -1: none."""
    some = jnp.maximum(places, 0)
    keys, values, size = (of.at[some].get(mode="promise_in_bounds") for of in means)
    return Mean(keys, values, jnp.where(places < 0, finite_min(size.dtype) / 4, size))
