"""How well a language model predicts the next tokens, without the logits of all of them in memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from smyrf_jax.floats import float32_at_least

# Tokens whose logits are in memory at once: those of 8,192 tokens and 49,152 words take 1.6 GB.
_PIECE = 256


class Predictions(NamedTuple):
    """How well each token but the first is predicted from those before it.

    losses: [B, T - 1] float32, -log of the next token's probability, in nats.
    hits: [B, T - 1], whether the next token is the likeliest.
    """

    losses: Any
    hits: Any


def predictions_of(
    hidden: Float[Array, "B T H"],
    head: Float[Array, "H A"],
    tokens: Int[Array | np.ndarray, "B T"],
    kept: Bool[Array | np.ndarray, "B T"] | None = None,
) -> Predictions:
    """Of hidden states, of which the head makes logits, a few hundred tokens at a time.

    The backward pass makes the logits anew. Where the next token is padding, or the one that predicts it, the
    loss is 0 and there is no hit.
    """
    hidden, targets = hidden[:, :-1], jnp.asarray(tokens)[:, 1:]
    batch, length = targets.shape
    size = min(_PIECE, max(1, length))
    count = -(-length // size)

    def in_pieces(array: Array) -> Array:  # [pieces, B, size, ...]
        widths = [(0, 0), (0, count * size - length)] + [(0, 0)] * (array.ndim - 2)
        return jnp.pad(array, widths).reshape(batch, count, size, *array.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def of_piece(piece: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, targets = piece
        logits = logits_of(hidden, head)
        found = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - found, jnp.argmax(logits, axis=-1) == targets

    found = jax.lax.map(of_piece, (in_pieces(hidden), in_pieces(targets)))
    losses, hits = (piece.swapaxes(0, 1).reshape(batch, -1)[:, :length] for piece in found)
    if kept is not None:
        both = jnp.asarray(kept)[:, :-1] & jnp.asarray(kept)[:, 1:]
        losses, hits = jnp.where(both, losses, 0.0), hits & both
    return Predictions(losses, hits)


def logits_of(hidden: Float[Array, "*B H"], head: Float[Array, "H A"]) -> Float[Array, "*B A"]:
    """hidden @ head, in float32 or float64."""
    return jnp.matmul(hidden, head, preferred_element_type=float32_at_least(hidden.dtype))
