"""A window and the first tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import attention
from smyrf_jax.methods import Streaming
from tests.smyrf_jax.methods.test_causal_canopy import arrays


@pytest.mark.parametrize("is_causal", [False, True])
def test_it_is_a_softmax_over_window_and_sinks(is_causal):
    query, key, value = arrays(length=40)
    i, j = np.arange(40)[:, None], np.arange(40)[None]
    seen = (j < 3) | ((j - i >= -4) & (j - i < 5))
    if is_causal:
        seen &= j <= i
    expected = attention_by_mask(query, key, value, seen)
    found = attention(*map(jnp.asarray, (query, key, value)), method=Streaming(9, 3), is_causal=is_causal)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if is_causal:
        pairs = Streaming(9, 3).cost(40, 40, is_causal=True).pairs
        overlap = sum(max(0, min(3, place - 4) - 0) < 3 and place >= 5 for place in range(40))
        assert pairs == pytest.approx(seen.sum() / (40 * 41 / 2), abs=3 * overlap / 820)


def attention_by_mask(query, key, value, seen):
    key, value = (np.repeat(of, 2, axis=2) for of in (key, value))
    logits = np.einsum("btnd,bsnd->bnts", query, key) / np.sqrt(query.shape[-1])
    weights = np.where(seen, np.exp(logits), 0)
    return np.einsum("bnts,bsnv->btnv", weights / weights.sum(-1, keepdims=True), value)
