"""Tokens of labelled texts, in batches of texts that are about as long."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from transformer.glue import Examples

# Batches are so wide, or twice, four times ... as wide: few shapes, for each is compiled.
_NARROWEST = 32


class Encoded(NamedTuple):
    """tokens, token_types: [B, T] int32; kept: [B, T], False for padding, on the right; labels: [B]."""

    tokens: np.ndarray
    kept: np.ndarray
    token_types: np.ndarray
    labels: np.ndarray

    def widths(self) -> np.ndarray:
        """[B], the bucket of each text: the least of 32, 64, 128, ..., T that holds it."""
        longest = self.tokens.shape[1]
        doubled = itertools.takewhile(
            lambda width: width < longest, (_NARROWEST << i for i in itertools.count())
        )
        buckets = np.array([*doubled, longest])
        return buckets[np.searchsorted(buckets, self.kept.sum(axis=1))]

    def batch(self, rows: np.ndarray) -> "Encoded":
        """Some of the texts, as wide as the bucket of the longest of them."""
        chosen = Encoded(*(array[rows] for array in self))
        width = chosen.widths().max()
        tokens, kept, token_types = (array[:, :width] for array in chosen[:3])
        return Encoded(tokens, kept, token_types, chosen.labels)


def encode(
    tokenizer: tokenizers.Tokenizer, examples: Examples, *, length: int, pad: int, num_types: int
) -> Encoded:
    """Tokens of texts, cut and padded to `length`.

    pad: the token of padding. num_types: token types that the encoder has.

    Raises:
        ValueError: there is no room beside the tokens that the tokenizer adds.
    """
    added = tokenizer.num_special_tokens_to_add(any(len(text) > 1 for text in examples.texts))
    if length <= added:
        raise ValueError(f"config.data.length should be above {added}, the tokens added, but is {length}.")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=pad)
    texts: list[Any] = [text if len(text) > 1 else text[0] for text in examples.texts]
    rows = tokenizer.encode_batch(texts)
    shape = (len(rows), length)
    return Encoded(
        np.array([row.ids for row in rows], np.int32).reshape(shape),
        np.array([row.attention_mask for row in rows], bool).reshape(shape),
        np.minimum(np.array([row.type_ids for row in rows], np.int32).reshape(shape), num_types - 1),
        examples.labels,
    )


def batches(
    encoded: Encoded, *, batch_size: int, seed: int, start: int, shard: tuple[int, int] = (0, 1)
) -> Iterator[Encoded]:
    """An endless stream of batches of one bucket each, which the seed decides and can be entered anywhere.

    All B texts are drawn once in a random order, then all once more in another, and so on. Of these draws
    the next max(1, floor(B / G)) * G, about an epoch, are a part, G being the texts of a batch of all
    processes. A part is sorted by bucket and cut into batches, and the batches are shuffled. So

    - at the end of a part no text has come oftener than another by more than one; where G divides B, a part
      is an epoch, in which each text comes once;
    - batches of one bucket have one width (`Encoded.batch`), the same in all processes; in each part, where a
      bucket ends within a batch, the batch is filled up from the next bucket and has its width.

    Args:
        batch_size: of this process.
        start: examples of all processes to pass over, whole batches. With another G than those had, parts
            lie otherwise: of the one under way some texts come again and some do not.
        shard: (index of this process, number of processes).
    """
    index, count = shard
    together, widths = batch_size * count, encoded.widths()
    num_batches = max(1, len(widths) // together)
    part, first = divmod(start // together, num_batches)
    while True:
        rows = drawn(len(widths), seed, part * num_batches * together, num_batches * together)
        rows = rows[np.argsort(widths[rows], kind="stable")].reshape(num_batches, together)
        for place in np.random.default_rng((1, seed, part)).permutation(num_batches)[first:]:
            mine = slice(index * batch_size, (index + 1) * batch_size)
            yield Encoded(*(array[mine] for array in encoded.batch(rows[place])))
        part, first = part + 1, 0


def drawn(size: int, seed: int, start: int, number: int) -> np.ndarray:
    """[number] draws from `start` on of an endless stream in which all of `size` come, then all again."""
    epochs = range(start // size, -(-(start + number) // size))
    orders = [permutation(seed, epoch, size) for epoch in epochs]
    return np.concatenate(orders)[start - epochs.start * size :][:number]


@functools.lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """[size], the order of an epoch."""
    return np.random.default_rng((0, seed, epoch)).permutation(size)
