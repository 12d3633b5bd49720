"""Reviews and pairs of papers as bytes."""

import numpy as np
import pytest

from transformer.tasks import documents
from transformer.tasks.documents import as_bytes, papers, reviews


def text_of(tokens, length):
    assert not np.any(tokens[length:])
    return bytes(tokens[:length]).decode()


def test_bytes_are_cut_and_padded():
    tokens, lengths = as_bytes(["short", "né" * 10], 8)
    np.testing.assert_array_equal(lengths, [5, 8])
    assert text_of(tokens[0], 5) == "short"
    assert bytes(tokens[1]) == ("né" * 10).encode()[:8]


def test_reviews_of_a_file(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["text,label", *(f"review number {i},{i % 2}" for i in range(100))]))
    parts = reviews(path=str(path), length=20, folder="", sizes={"train": 50, "validation": 0, "test": 0})
    assert len(parts["train"].labels) == 50
    assert len(parts["validation"].labels) > 0
    found = []
    for part in parts.values():
        for tokens, length, label in zip(*part, strict=True):
            text = text_of(tokens, length)
            assert int(text.split()[-1]) % 2 == label
            found.append(text)
    assert len(set(found)) == len(found)


def test_a_packages_reviews_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "reviews.csv"
    rows = (f"review {i},{i % 2},imdb" for i in range(60))
    path.write_text("\n".join(["text,label,source", *rows]))
    monkeypatch.setattr("transformer.texts.packaged_reviews", lambda: path)
    options = {"path": "", "length": 12, "folder": str(tmp_path / "kept")}
    sizes = {"train": 0, "validation": 0, "test": 0}
    made = reviews(**options, sizes=sizes)
    monkeypatch.setattr(documents, "open_texts", None)
    again = reviews(**options, sizes=sizes)
    for name, part in made.items():
        for one, other in zip(part, again[name], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def folder(tmp_path):
    rows = {
        "train": '1.0\t12\t13\tattention is\tall you need\n0\t1\t2\ta "quoted" text\tanother\u2028one\n',
        "eval": "0.0\t1\t2\tone\ttwo\n",
        "test": "1\t1\t2\tone\ttwo\r\n",
    }
    for name, text in rows.items():
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text(text, encoding="utf-8", newline="")
    return tmp_path


def test_papers(folder):
    parts = papers(path=str(folder), length=12)
    train = parts["train"]
    assert train.tokens.shape == (2, 2, 12)
    np.testing.assert_array_equal(train.labels, [1, 0])
    np.testing.assert_array_equal(train.lengths, [[12, 12], [12, 12]])
    assert text_of(train.tokens[0, 1], 12) == "all you need"
    assert text_of(train.tokens[1, 0], 12) == 'a "quoted" t'
    assert text_of(parts["test"].tokens[0, 1], 3) == "two"
    assert parts["validation"].labels.tolist() == [0]


@pytest.mark.parametrize("line", ["2\t1\t2\ta\tb", "1\t1\t2\ta", "label\tid1\tid2\ttext1\ttext2"])
def test_a_line_that_is_no_pair_is_named(folder, line):
    path = folder / "new_aan_pairs.eval.tsv"
    path.write_text(f"1\t1\t2\ta\tb\n{line}\n")
    with pytest.raises(ValueError, match=r"eval\.tsv, line 2: there should be a label, 0 or 1"):
        papers(path=str(folder), length=12)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"eval\.tsv is missing: --config.data.path"):
        papers(path=str(folder), length=12)
