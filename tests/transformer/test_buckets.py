"""Tokens of texts, and batches of texts that are about as long."""

import itertools

import numpy as np
import pytest
import tokenizers

from transformer.buckets import Encoded, batches, encode
from transformer.glue import Examples


def encoded_of(lengths, longest=128):
    """Texts of such lengths, whose labels are their numbers."""
    kept = np.arange(longest) < np.asarray(lengths)[:, None]
    labels = np.arange(len(lengths))
    tokens = np.where(kept, labels[:, None] + 1, 0)
    return Encoded(tokens, kept, np.zeros_like(tokens), labels)


@pytest.fixture
def texts():
    """103 texts: 40, 30, 20 and 13 in the buckets 32, 64, 128 and 150."""
    rng = np.random.default_rng(0)
    sizes = [(40, 3, 33), (30, 33, 65), (20, 65, 129), (13, 129, 151)]
    lengths = np.concatenate([rng.integers(low, high, number) for number, low, high in sizes])
    return encoded_of(rng.permutation(lengths), longest=150)


def drawn(texts, count, **settings):
    return list(itertools.islice(batches(texts, **({"seed": 1, "start": 0} | settings)), count))


def test_tokens_are_cut_and_padded(tiny_checkpoint):
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    pairs = Examples([("good film", "it was fine"), ("a " * 20, "the dog")], np.zeros(2, np.int32))
    encoded = encode(tokenizer, pairs, length=10, pad=0, num_types=2)
    assert encoded.tokens.shape == (2, 10)
    np.testing.assert_array_equal(encoded.kept.sum(1), [8, 10])
    np.testing.assert_array_equal(encoded.tokens[0, 8:], 0)
    np.testing.assert_array_equal(encoded.token_types[0], [0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    assert encode(tokenizer, pairs, length=10, pad=0, num_types=1).token_types.max() == 0
    nothing = Examples([], np.zeros(0, np.int32))
    assert encode(tokenizer, nothing, length=10, pad=0, num_types=2).tokens.shape == (0, 10)
    with pytest.raises(ValueError, match="config.data.length should be above 3, .*, but is 3"):
        encode(tokenizer, pairs, length=3, pad=0, num_types=2)


def test_buckets_double_up_to_the_longest():
    lengths = [1, 32, 33, 64, 65, 96, 100]
    np.testing.assert_array_equal(encoded_of(lengths, 100).widths(), [32, 32, 64, 64, 100, 100, 100])
    np.testing.assert_array_equal(encoded_of([1, 20], 20).widths(), [20, 20])
    batch = encoded_of(lengths, 100).batch(np.array([3, 0]))
    assert batch.tokens.shape == batch.kept.shape == batch.token_types.shape == (2, 64)
    np.testing.assert_array_equal(batch.kept.sum(1), [64, 1])
    np.testing.assert_array_equal(batch.labels, [3, 0])


def test_each_text_comes_once_an_epoch():
    texts = encoded_of(np.arange(1, 97))  # 96 texts, 12 batches of 8
    epochs = [
        [batch.labels for batch in drawn(texts, 12, batch_size=8, start=96 * epoch)] for epoch in (0, 1)
    ]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(96))
    assert {tuple(sorted(batch)) for batch in epochs[0]} != {tuple(sorted(batch)) for batch in epochs[1]}


def test_texts_come_as_often_where_batches_do_not_divide_them(texts):
    for batch_size in (8, 60, 200):
        part = max(1, 103 // batch_size)
        labels = [batch.labels for batch in drawn(texts, 7 * part, batch_size=batch_size)]
        for end in range(part, 7 * part + 1, part):
            times = np.bincount(np.concatenate(labels[:end]), minlength=103)
            assert np.ptp(times) <= 1


def test_a_batch_is_of_one_bucket(texts):
    widths, found = texts.widths(), drawn(texts, 12, batch_size=8)
    mixed = 0
    for batch in found:
        own = widths[batch.labels]
        assert batch.tokens.shape == (8, own.max())
        mixed += len(set(own)) > 1
        np.testing.assert_array_equal(batch.kept, texts.kept[batch.labels, : own.max()])
        assert np.all((batch.tokens == batch.labels[:, None] + 1) == batch.kept)
    assert mixed <= 3  # where one of four buckets ends
    assert {batch.tokens.shape[1] for batch in found} == {32, 64, 128, 150}
    # The batches are not in the order of their widths.
    assert [batch.tokens.shape[1] for batch in found] != sorted(batch.tokens.shape[1] for batch in found)


def test_batches_can_be_entered_anywhere(texts):
    whole = drawn(texts, 40, batch_size=8)
    for start in (0, 3, 11, 12, 13, 30):
        for entered, expected in zip(
            drawn(texts, 10, batch_size=8, start=8 * start), whole[start:], strict=False
        ):
            for ours, theirs in zip(entered, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    again, other = drawn(texts, 3, batch_size=8), drawn(texts, 3, batch_size=8, seed=2)
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(again, whole, strict=False))
    assert not all(np.array_equal(a.labels, b.labels) for a, b in zip(other, whole, strict=False))


def test_processes_share_a_batch_of_one_width(texts):
    whole = drawn(texts, 20, batch_size=8, start=24)
    parts = [drawn(texts, 20, batch_size=4, start=24, shard=(index, 2)) for index in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert {share.tokens.shape for share in shares} == {(4, batch.tokens.shape[1])}
        both = np.concatenate([share.labels for share in shares])
        np.testing.assert_array_equal(both, batch.labels)
