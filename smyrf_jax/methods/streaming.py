"""A window and the first tokens as a method."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.budget import Cost, Problem, window_cost
from smyrf_jax.checks import check_positive
from smyrf_jax.dense import attend_densely
from smyrf_jax.merging import merge_attention
from smyrf_jax.methods.local import Local
from smyrf_jax.methods.method import Method
from smyrf_jax.rows import kept_tokens


@dataclasses.dataclass(frozen=True)
class Streaming(Method):
    """Each query with the keys around its own place and the first ones; may be causal.

    Pretrained language models lean on their first tokens, whatever these say: with them, a window is what
    other methods for long texts are to be compared with.

    Args:
        window: as of `Local`: causal, a query sees window // 2 + 1 keys.
        num_sinks: first tokens.

    Raises:
        ValueError: a number is not positive.

    Source: StreamingLLM (arXiv:2309.17453), section 3.
    """

    window: int = 512
    num_sinks: int = 4

    def __post_init__(self) -> None:
        check_positive(window=self.window, num_sinks=self.num_sinks)

    def attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        *,
        rng: Array,
        scale: float | Array,
        is_causal: bool,
        query_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """See `Method`. The rng does not matter. Of a masked query nothing depends."""
        options: dict[str, Any] = {"scale": scale, "is_causal": is_causal}
        near = Local(self.window).attend(query, key, value, mask, rng=rng, **options)
        first, place, kept = _first(self.num_sinks, key, value, mask)
        query_place = jax.lax.broadcasted_iota(
            jnp.int32, (*query.shape[:-3], 1, query.shape[-3], 1), query.ndim - 2
        )
        distance = place - query_place  # [*B, M, T, sinks]
        seen = kept & (distance < -(self.window // 2))
        if not is_causal:
            seen |= kept & (distance >= (self.window + 1) // 2)
        seen = jnp.repeat(seen, query.shape[-2] // key.shape[-2], axis=-3)
        far = attend_densely(query, *first, seen, scale=scale, is_causal=False)
        outputs = [of.astype(near[1].dtype) for of in (near[0], far[0])]
        output, logsumexp = merge_attention(outputs, (near[1], far[1]))
        return output.astype(value.dtype), logsumexp

    def cost_of(self, problem: Problem) -> Cost:
        """Of the window and the first tokens before it."""
        count = window_cost(problem, self.window)
        after = max(0, problem.num_queries - self.window // 2 - 1)
        sinks = min(self.num_sinks, problem.num_keys)
        rising = min(sinks, after)  # queries that see some of them in their windows
        pairs = rising * (rising + 1) // 2 + sinks * (after - rising)
        return count._replace(pairs=min(1.0, count.pairs + pairs / problem.pairs))

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A budget decides window."""
        return Local.sizes(problem, fields)


def _first(
    number: int, key: Array, value: Array, mask: Array | None
) -> tuple[tuple[Array, Array], Array, Array]:
    """First keys and values that are kept [*B, s, M, D], their places, and which there are [*B, M, 1, s]."""
    number = min(number, key.shape[-3])
    rows = (*key.shape[:-3], key.shape[-2])
    if mask is None:
        first = tuple(jax.lax.slice_in_dim(of, 0, number, axis=of.ndim - 3) for of in (key, value))
        place = jax.lax.broadcasted_iota(jnp.int32, (*rows, 1, number), len(rows) + 1)
        return (first[0], first[1]), place, jnp.ones(place.shape, bool)
    kept = kept_tokens(mask, key)
    place = jnp.argsort(~kept, axis=-1, stable=True)[..., :number].astype(jnp.int32)
    at = jnp.moveaxis(place, -1, -2)[..., None]
    keys, values = (jnp.take_along_axis(of, at, axis=-3) for of in (key, value))
    return (keys, values), place[..., None, :], jnp.take_along_axis(kept, place, axis=-1)[..., None, :]
