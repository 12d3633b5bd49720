"""Goes on with a text: tokens chosen by their logits, one after the other."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from transformer.llama import Llama


def choose(
    logits: Float[Array, "B A"],
    rng: Key[Array, ""],
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Array, " B"]:
    """The next tokens [B], by logits [B, vocabulary].

    temperature: 0 takes the likeliest; else they are drawn by softmax(logits / temperature).
    top_k: among so many likeliest ones; 0: all. Of ties all are kept.
    top_p: among the likeliest that together have this probability, the one that reaches it among them.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        chances = jax.nn.softmax(ordered, axis=-1)
        taken = jnp.cumsum(chances, axis=-1) - chances < top_p
        taken = taken.at[:, 0].set(True)
        least = jnp.min(jnp.where(taken, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(rng, logits)


def generate(
    model: Llama,
    params: Any,
    prompt: Sequence[int],
    num_tokens: int,
    *,
    rng: Key[Array, ""],
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Iterator[int]:
    """The tokens that follow a prompt, as they come; without the one that ends a text.

    Args:
        model, params: of `load_causal`; its methods can decode.
        prompt: tokens, one at least.
        num_tokens: at most.
        rng, temperature, top_k, top_p: of `choose`.

    Raises:
        ValueError: there is no prompt, there are more tokens than positions, or a method cannot decode.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens should be 1 at least, but is {num_tokens}.")
    if not prompt:
        raise ValueError("the prompt has no tokens; give one at least.")
    pick = functools.partial(choose, temperature=temperature, top_k=top_k, top_p=top_p)
    length = len(prompt) + num_tokens

    @jax.jit
    def first(params: Any, tokens: Array, rng: Array) -> tuple[Array, Any]:
        logits, caches = model.apply({"params": params}, tokens, length=length, method="prefill")
        return pick(logits, rng), caches

    @functools.partial(jax.jit, donate_argnums=2)
    def following(params: Any, tokens: Array, caches: Any, rng: Array) -> tuple[Array, Any]:
        logits, caches = model.apply({"params": params}, tokens, caches, method="step")
        return pick(logits, rng), caches

    # As many keys as there may be tokens: the same seed draws the same, however many are asked for.
    rngs = (jax.random.fold_in(rng, place) for place in range(num_tokens))
    token, caches = first(params, jnp.asarray([prompt]), next(rngs))
    for left in range(num_tokens - 1, -1, -1):
        found = int(token[0])
        if found in model.config.eos_token_id:
            return
        yield found
        if left:
            token, caches = following(params, token, caches, next(rngs))
