"""A needle in a window: can a model copy what it read far back?

A random run of tokens is put somewhere into a window of text, and its first half comes again at the end. How
well its second half is predicted there shows whether the attention still reaches the place.
"""

from typing import Any

import numpy as np
import tokenizers

# Tokens of the needle, and of its half that comes again and its half that is asked for.
SIZE = 16
HALF = SIZE // 2
# Tokens between a needle and either end, at least. The first tokens of a text are no place like others: every
# later token attends to them.
MARGIN = 64
# How deep it lies: 0 is MARGIN tokens after the beginning, 1 MARGIN tokens before the end.
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def ordinary_tokens(tokenizer: tokenizers.Tokenizer) -> np.ndarray:
    """All tokens but those that are added to the vocabulary, such as the ends of texts."""
    added = list(tokenizer.get_added_tokens_decoder())
    return np.setdiff1d(np.arange(tokenizer.get_vocab_size()), added)


def with_needle(window: np.ndarray, depth: float, words: np.ndarray, seed: Any) -> np.ndarray:
    """[T], a window [T] of text with a needle at a depth, and all of it again at the end.

    The text's own last tokens make room for both. The same seed draws the same needle at every depth.

    Args:
        words: tokens of which the needle is drawn.

    Raises:
        ValueError: the window is too short.
    """
    room = len(window) - 2 * SIZE
    if room < 2 * MARGIN:
        raise ValueError(
            f"--needle wants --lengths of {2 * SIZE + 2 * MARGIN} tokens or more, but got {len(window)}."
        )
    needle = np.random.default_rng(seed).choice(words, SIZE)
    place = MARGIN + round(depth * (room - 2 * MARGIN))
    return np.concatenate([window[:place], needle, window[place:room], needle])


def answer_of(predicted: np.ndarray) -> np.ndarray:
    """[..., HALF], of what is predicted of all tokens but the first, that of the needle's second half."""
    return predicted[..., -HALF:]
