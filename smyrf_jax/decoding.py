"""Causal attention token by token, with a cache of what came before.

    output, cache = prefill(query, key, value, method=Dense(), length=4096)  # a prompt of T tokens
    output, cache = step(query, key, value, cache, method=Dense())  # and one token more

Both together give what `attention(..., is_causal=True)` gives of all the tokens at once. A method that can do
it has two of `Method`'s functions, `prefill_cache` and `decode_step`; what it keeps is its own affair.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from smyrf_jax.attention import attention
from smyrf_jax.checks import check_arguments, check_positive, rng_of, scale_of, with_positive_scale
from smyrf_jax.methods import Method


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What a method keeps of the tokens so far. A pytree: it may go through jit, scan and donation.

    Attributes:
        state: of the method.
        length: int32, tokens that it holds.
        room: tokens that it can hold.
    """

    state: Any
    length: Any
    room: int = dataclasses.field(metadata={"static": True})


def prefill(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    *,
    method: Method,
    length: int,
    scale: float | Float[Array, ""] | None = None,
    rng: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "*B T N V"], Cache]:
    """The causal attention of a prompt, and a cache to go on from.

    Args:
        query, key, value, scale, rng: as for `attention`, with S = T.
        method: one that can decode, such as Dense() or Local().
        length: tokens in all that the cache has room for, the prompt's T among them.

    Returns:
        The output [*B, T, N, V], and the cache.

    Raises:
        ValueError: shapes do not fit, the prompt has more than `length` tokens, or the method cannot decode.
    """
    check_arguments(query, key, value, None)
    check_positive(length=length)
    tokens = key.shape[-3]
    if query.shape[-3] != tokens:
        raise ValueError(
            f"query and key should be of the same tokens, but got {query.shape=} and {key.shape=}."
        )
    if tokens > length:
        raise ValueError(f"length={length} tokens have no room for a prompt of {tokens}.")
    rng = rng_of(rng)
    _, positive = with_positive_scale(query, scale_of(scale, query.shape[-1]))
    state = method.prefill_cache(key, value, length=length, scale=positive, rng=rng)
    output: Any = attention(query, key, value, method=method, is_causal=True, scale=scale, rng=rng)
    return output, Cache(state, jnp.asarray(tokens, jnp.int32), length)


def step(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    cache: Cache,
    *,
    method: Method,
    scale: float | Float[Array, ""] | None = None,
    rng: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "*B T N V"], Cache]:
    """The attention of one more token to itself and those in the cache, and the cache with it.

    Args:
        query, key, value: of the token, [*B, 1, N, D] and so on.
        cache: of `prefill` or the last `step`, of the same method; give it away (jit's donate_argnums),
            and it is changed in place.
        method, scale, rng: as for `prefill`, and the same.

    Returns:
        The output [*B, 1, N, V], and the cache.

    Raises:
        ValueError: shapes do not fit, the method cannot decode, or the cache is full. Where its length has no
            value yet, as under jit, the output of a full one is NaN instead.
    """
    check_arguments(query, key, value, None)
    if (query.shape[-3], key.shape[-3]) != (1, 1):
        raise ValueError(f"a step is of one token, but got {query.shape=} and {key.shape=}.")
    if not isinstance(cache.length, jax.core.Tracer) and int(cache.length) >= cache.room:
        raise ValueError(f"the cache has room for length={cache.room} tokens, and is full.")
    query, scale = with_positive_scale(query, scale_of(scale, query.shape[-1]))
    output, state = method.decode_step(
        query, key, value, cache.state, place=cache.length, scale=scale, rng=rng_of(rng)
    )
    output = jnp.where(cache.length < cache.room, output, jnp.array(jnp.nan, output.dtype))
    return output, Cache(state, cache.length + 1, cache.room)
