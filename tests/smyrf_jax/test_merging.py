"""Partial attentions put together."""

import chex
import jax
import jax.numpy as jnp

from smyrf_jax import dense_attention, merge_attention
from tests.smyrf_jax.reference import arrays_of, loss_of


def test_attention_over_two_sets_of_keys_merges():
    """The residual is what a caller needs to put partial attentions together."""
    query, key, value = arrays_of((2, 16, 24, 2, 4, 5))
    mask = jnp.ones((2, 1, 1, 24), bool).at[1, ..., 16:].set(False)

    def in_parts(query, key, value):
        parts = [
            dense_attention(query, key[:, part], value[:, part], mask[..., part], return_residual=True)
            for part in (slice(0, 16), slice(16, 24))
        ]
        return merge_attention(*zip(*parts, strict=True))

    def whole(query, key, value):
        return dense_attention(query, key, value, mask, return_residual=True)

    def run(function):
        def loss(*arrays):
            result = function(*arrays)
            return loss_of(*result), result

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    chex.assert_trees_all_close(run(in_parts), run(whole), rtol=1e-5, atol=1e-6)
