"""Attention over several sets of keys, put together by their logsumexps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from smyrf_jax.floats import finite_min


def merge_attention(
    outputs: Sequence[Float[Array, "*A V"]], logsumexps: Sequence[Float[Array, "*A"]]
) -> tuple[Float[Array, "*A V"], Float[Array, "*A"]]:
    """The attention over several sets of keys, from the attention over each of them.

    Args:
        outputs: of each set, [..., V].
        logsumexps: of each set, [...]; -inf where it has no key.

    Returns:
        The output [..., V] in the dtype of the first, and its logsumexp [...].
    """
    stacked = jnp.stack(logsumexps)
    low = finite_min(stacked.dtype)
    found = stacked > -jnp.inf
    top = jax.lax.stop_gradient(jnp.max(jnp.where(found, stacked, low), axis=0))
    weights = jnp.exp(jnp.where(found, stacked - top[None], low))
    total = jnp.sum(weights, axis=0)
    safe = jnp.where(total > 0, total, 1.0)
    output = sum((weight / safe)[..., None] * output for weight, output in zip(weights, outputs, strict=True))
    logsumexp = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)
    return jnp.asarray(output).astype(outputs[0].dtype), logsumexp
