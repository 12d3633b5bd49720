"""Labelled texts: splits, tokens, batches."""

import itertools

import numpy as np
import pytest
import tokenizers

from transformer.glue import Examples
from transformer.texts import Encoded, batches, encode, open_texts, split_by_hash

SIZES = {"train_size": 0, "validation_size": 3, "test_size": 5}


def examples_of(texts):
    return Examples([(text,) for text in texts], np.arange(len(texts), dtype=np.int32) % 2)


def test_a_split_is_by_the_text_alone():
    texts = [f"text {i}" for i in range(500)]
    parts = split_by_hash(examples_of(texts))
    found = {name: {text for (text,) in part.texts} for name, part in parts.items()}
    assert sum(len(part.labels) for part in parts.values()) == 500
    assert set.union(*found.values()) == set(texts)
    assert 60 < len(found["test"]) < 140
    assert 25 < len(found["validation"]) < 75
    # In another order, and with every text twice, the parts are the same and hold each text once.
    again = split_by_hash(examples_of([*reversed(texts), *texts]))
    assert {name: part.texts for name, part in again.items()} == {n: p.texts for n, p in parts.items()}


def test_reviews_come_from_a_file(tmp_path):
    rows = [f'"good, {i}<br />fine",{i % 2},imdb' for i in range(60)] + ["bad,0,rotten_tomatoes"]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["text,label,source", *rows]))
    splits = open_texts("imdb", path=str(path), task="", **SIZES)
    assert (splits.num_labels, splits.metrics) == (2, ("accuracy",))
    assert len(splits.validation.labels) == 3
    assert len(splits.tests["test"].labels) == 5
    for (text,), label in zip(splits.train.texts, splits.train.labels, strict=True):
        number = int(text.removeprefix("good, ").removesuffix(" fine"))
        assert label == number % 2
    with pytest.raises(ValueError, match="config.data.source should be 'imdb' or 'glue', but is 'sst'"):
        open_texts("sst", path="", task="", **SIZES)


def test_glue_comes_from_a_folder(tmp_path):
    folder = tmp_path / "MNLI"
    folder.mkdir()
    header = "sentence1\tsentence2\tgold_label\n"
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"{name}.tsv").write_text(header + "a\tb\tneutral\n" * 7 + "cut\n")
    splits = open_texts("glue", path=str(tmp_path), task="MNLI", **SIZES)
    assert (splits.num_labels, len(splits.train.labels)) == (3, 7)
    assert {name: len(test.labels) for name, test in splits.tests.items()} == {
        "dev_matched": 5,
        "dev_mismatched": 5,
    }
    assert len(splits.notes) == 3
    assert "train.tsv: 1 lines cut short" in splits.notes[0]


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


def test_batches_can_be_entered_anywhere_and_shared_by_processes():
    rows = np.arange(10)
    encoded = Encoded(rows[:, None], rows[:, None], rows[:, None], rows)

    def places(count, **settings):
        stream = batches(encoded, seed=1, **settings)
        return np.concatenate([batch.labels for batch in itertools.islice(stream, count)])

    whole = places(10, batch_size=4, start=0)
    assert sorted(whole[:10]) == list(range(10))
    assert list(whole[:10]) != list(whole[10:20])
    np.testing.assert_array_equal(places(5, batch_size=4, start=12), whole[12:32])
    np.testing.assert_array_equal(places(2, batch_size=4, start=8, shard=(1, 2)), whole[9:25:2])
