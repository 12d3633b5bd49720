"""Token by token: keys and values, and trees that are built as soon as their tokens are there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.causal.past import Mean, Past, Sizes, leaves_of, past_of, with_means
from smyrf_jax.causal.scan import Rules, near_of, step_of
from smyrf_jax.floats import float32_at_least


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """What is kept of the tokens so far, of A samples and key heads.

    keys: [A, length, D]. values: [A, length, V]. past: the trees; those of tokens to come hold none.
    room: tokens that there is room for; a multiple of the block, `length`, holds them.
    """

    keys: Any
    values: Any
    past: Any
    room: int = dataclasses.field(metadata={"static": True})

    @property
    def length(self) -> int:
        """Places of tokens."""
        length: int = self.keys.shape[1]
        return length


def begin(sizes: Sizes, key: Array, value: Array, room: int) -> Decoding:
    """Of a prompt [*B, T, M, D], [*B, T, M, V]."""
    length = -(-room // sizes.block) * sizes.block

    def rows(array: Array) -> Array:
        array = jnp.moveaxis(array.astype(float32_at_least(key.dtype)), -2, -3)
        array = array.reshape(-1, *array.shape[-2:])
        return jnp.pad(array, [(0, 0), (0, length - array.shape[1]), (0, 0)])

    keys, values = rows(key), rows(value)
    kept = jnp.broadcast_to(jnp.arange(length) < key.shape[-3], keys.shape[:2])
    return Decoding(keys, values, past_of(keys, values, kept, sizes), room)


def decode(
    rules: Rules, query: Array, key: Array, value: Array, state: Decoding, place: Array
) -> tuple[Array, Decoding]:
    """Output [*B, 1, N, V] of a scaled query [*B, 1, N, D] at a place; the state with its key and value."""
    rows = len(state.keys)
    one = (array.astype(state.keys.dtype).reshape(rows, 1, -1) for array in (key, value))
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(of, token, place, axis=1)
        for of, token in zip((state.keys, state.values), one, strict=True)
    )
    own = query.reshape(rows, -1, query.shape[-1])[:, None]  # [A, 1, G, D]
    if not rules.shared:
        own = jnp.moveaxis(own, 1, 2)  # [A, G, 1, D]

    def of_row(own: Array, key: Array, value: Array, past: Past) -> Array:
        kept = jnp.ones(len(key), bool)  # those to come are hidden by their places
        near = near_of(rules, key, value, kept, place, 1, 1 if rules.shared else len(own))
        return step_of(rules, own, near, past, place)[0]

    output = jax.vmap(of_row)(own, keys, values, state.past)
    output = output.reshape(*query.shape[:-1], -1)
    past = state.past
    # Trees may change when the output is there, which the compiler is to know: else it copies them for it.
    # (Built once; of an infinite output twice, which is the same.)
    once = 1 + (jnp.ravel(output)[0] == jnp.inf).astype(jnp.int32)
    for level, size in enumerate(rules.sizes.levels):
        # A loop of one step or none changes its arrays where they lie; a branch would copy them each time.
        past = jax.lax.fori_loop(
            0,
            once * ((place + 1) % size == 0),
            lambda _, past, level=level: _with_tree(rules, level, keys, values, past, place + 1),
            past,
        )
    return output, dataclasses.replace(state, keys=keys, values=values, past=past)


def _with_tree(rules: Rules, level: int, keys: Array, values: Array, past: Past, end: Any) -> Past:
    """With the tree of the last tokens before `end`, which fill one of this level."""
    sizes, size = rules.sizes, rules.sizes.levels[level]
    begin = end - size
    key, value = (jax.lax.dynamic_slice_in_dim(of, begin, size, axis=1) for of in (keys, values))
    kept = jnp.ones(key.shape[:2], bool)
    tree = with_means(leaves_of(key, value, kept, begin, size, 1, sizes), sizes)
    branch = sizes.first_branches(rules.length)[level] + begin // sizes.branch

    def put(old: Any, new: Any, first: Array) -> Any:
        return jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, first, axis=1), old, new
        )

    leaf = branch * sizes.leaves
    return Past(
        put(past.leaves, tree.leaves, leaf),
        put(past.leaf_means, tree.leaf_means, leaf),
        Mean(*put(past.branch_means, tree.branch_means, branch)),
    )
