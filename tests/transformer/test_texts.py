"""Labelled texts: their files and splits."""

import csv

import numpy as np
import pytest

from transformer.glue import Examples
from transformer.texts import Splits, check_labels, open_texts, read_csv, split_by_hash

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


def open_csv(path, **changes):
    return open_texts("imdb", **({"path": str(path), "task": ""} | SIZES | changes))


def test_own_texts_come_from_a_file(tmp_path):
    rows = [f'"good, {i}<br />fine",{i % 2}' for i in range(60)]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["text,label", *rows]))
    splits = open_csv(path)
    assert (splits.num_labels, splits.metrics) == (2, ("accuracy",))
    assert len(splits.validation.labels) == 3
    assert len(splits.tests["test"].labels) == 5
    for (text,), label in zip(splits.train.texts, splits.train.labels, strict=True):
        number = int(text.removeprefix("good, ").removesuffix(" fine"))
        assert label == number % 2
    with pytest.raises(ValueError, match="should be 'imdb', 'rotten_tomatoes' or 'glue', but is 'sst'"):
        open_texts("sst", path="", task="", **SIZES)
    with pytest.raises(ValueError, match="config.data.test_size should be a number of texts, but is -1"):
        open_csv(path, test_size=-1)


def test_a_csv_file_is_read_as_it_is_written(tmp_path):
    """With a mark of the encoding, other columns in any order, any end of line, and fields of any length."""
    long = "word " * 60_000
    rows = [
        ("0", "yelp", 'He said "no",\r\nthen left'),
        ("2", "imdb", long),
        (" 1 ", "", "Grüße"),
        ("0", "a", ""),
    ]
    path = tmp_path / "own.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("label", "source", "text"), *rows])
    limit = csv.field_size_limit()
    examples = read_csv(path)
    assert csv.field_size_limit() == limit
    assert examples.texts == [(text,) for _, _, text in rows]
    np.testing.assert_array_equal(examples.labels, [0, 2, 1, 0])
    for source, number in (("imdb", "label is 2, but no text has 0"), ("dvd", "has no texts")):
        with pytest.raises(ValueError, match=number):
            read_csv(path, source=source)


def test_classes_are_counted(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i % 5}\n" for i in range(100)))
    splits = open_csv(path)
    assert splits.num_labels == 5
    assert set(splits.train.labels) == set(range(5))
    check_labels(splits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"own\.csv has no column 'text'; it has \[\]"),
        (b"text,label\n", "own.csv has no texts"),
        (b"text;label\na;1\n", r"has no column 'text'; it has \['text;label'\]"),
        (b"text,class\na,1\n", r"has no column 'label'; it has \['text', 'class'\]"),
        (b"text,label\na,0\nb,-1\n", "line 3: the label '-1' should be one of the numbers 0, 1, 2"),
        (b"text,label\na,0\nb,1.0\n", "line 3: the label '1.0' should be one of the numbers"),
        (b"text,label\na,0\nb,good\n", "line 3: the label 'good' should be one of the numbers"),
        (b"text,label\na,0\nb,\n", "line 3: the label '' should be one of the numbers"),
        (b"text,label\na,0\nb,1\nc,4\n", r"line 4: the label is 4, but no text has 2\. .* here 0 \.\. 2"),
        (b"text,label\na,1\nb,2\n", r"line 2: the label is 1, but no text has 0"),
        (b"text,label\na,0\nb,0\n", "all labels are 0, but there should be two classes"),
        (b'text,label\n"a\nb",0\nc,d,1\n', "line 4: there are 3 fields, but 2 columns"),
        (b"text,label\na\n", "line 2: there are 1 fields, but 2 columns"),
        (b'text,label\na,0\n"b,1\nc,1\n', "line 4: unexpected end of data"),
        (b"text,label\na,0\nb\0,1\n", "line 3: there is a NUL character"),
        (b"text,label\na,0\nGr\xfc\xdfe,1\n", r"own\.csv, line 3: b'\\xfc' is not UTF-8"),
        ("text,label\na,0\n".encode("utf-16"), r"own\.csv, line 1: b'\\xff' is not UTF-8"),
        ("text,label\na,0\n".encode("utf-16-le"), "line 1: there is a NUL character"),
        (b"text,label\na,0\nc,1\n", r"own\.csv: none of the texts are in the part 'test'"),
    ],
)
def test_faults_of_a_csv_file_are_named(content, message, tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_csv(path)


def test_a_csv_file_that_is_missing_is_named(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path} is missing: --config.data.path should be a CSV"):
            open_csv(path)


@pytest.mark.parametrize(
    ("num_labels", "labels", "message"),
    [
        (2, [0, 1, 2], r"labels of the part 'dev' should be 0 \.\. 1, but there is 2"),
        (2, [0, -1], r"should be 0 \.\. 1, but there is -1"),
        (1, [0.5, np.nan], "should be numbers, but there is nan"),
    ],
)
def test_labels_that_cannot_be_are_named(num_labels, labels, message):
    def examples(labels):
        return Examples([("text",)] * len(labels), np.array(labels))

    splits = Splits(examples([0]), examples([]), {"dev": examples(labels)}, num_labels, ("accuracy",))
    with pytest.raises(ValueError, match=message):
        check_labels(splits)


def test_the_packaged_sentences():
    splits = open_texts("rotten_tomatoes", path="", task="", **(SIZES | {"test_size": 0}))
    assert (splits.num_labels, splits.metrics) == (2, ("accuracy",))
    labels = np.concatenate([splits.train.labels, splits.tests["test"].labels])
    # 8,530 in all, of which the tenth for validation is not here.
    assert 7400 < len(labels) < 7900
    assert np.mean(labels) == pytest.approx(0.5, abs=0.01)
    assert np.median([len(text.split()) for (text,) in splits.train.texts]) == 20


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
