"""GLUE's tasks: where their TSV files keep what, and their metrics."""

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

# A column is named, or numbered where the file has no header.
Column = str | int


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Part of the examples whose class [B] is the label [B]."""
    return float(np.mean(predicted == labels))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of precision and recall of class 1."""
    both = np.sum((predicted == 1) & (labels == 1))
    either = np.sum(predicted == 1) + np.sum(labels == 1)
    return float(2 * both / either) if either else 0.0


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Correlation; 0 where either side is constant. Of two classes, it is Matthews' coefficient."""
    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(np.corrcoef(predicted, labels)[0, 1])


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Correlation of the ranks; 0 where either side is constant."""
    return pearson(scipy.stats.rankdata(predicted), scipy.stats.rankdata(labels))


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": pearson,
    "pearson": pearson,
    "spearman": spearman,
}


class GlueTask(NamedTuple):
    """One task. texts: one column or two; classes: as the files write them, () for a number."""

    texts: tuple[Column, ...]
    label: Column
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    tests: tuple[str, ...] = ("dev",)


_PAIR = ("sentence1", "sentence2")
_TWO = ("0", "1")
_ENTAILED = ("entailment", "not_entailment")
TASKS: Mapping[str, GlueTask] = {
    "CoLA": GlueTask((3,), 1, _TWO, ("matthews",)),
    "SST-2": GlueTask(("sentence",), "label", _TWO, ("accuracy",)),
    "MRPC": GlueTask(("#1 String", "#2 String"), "Quality", _TWO, ("f1", "accuracy")),
    "STS-B": GlueTask(_PAIR, "score", (), ("pearson", "spearman")),
    "QQP": GlueTask(("question1", "question2"), "is_duplicate", _TWO, ("f1", "accuracy")),
    "MNLI": GlueTask(
        _PAIR,
        "gold_label",
        ("contradiction", "entailment", "neutral"),
        ("accuracy",),
        ("dev_matched", "dev_mismatched"),
    ),
    "QNLI": GlueTask(("question", "sentence"), "label", _ENTAILED, ("accuracy",)),
    "RTE": GlueTask(_PAIR, "label", _ENTAILED, ("accuracy",)),
    "WNLI": GlueTask(_PAIR, "label", _TWO, ("accuracy",)),
}


class Examples(NamedTuple):
    """texts: one string an example, or two; labels: [B], int32 classes or float32 numbers."""

    texts: list[tuple[str, ...]]
    labels: np.ndarray


def task_of(name: str) -> GlueTask:
    """A task by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in TASKS:
        raise ValueError(f"config.data.task should be one of {sorted(TASKS)}, but is {name!r}.")
    return TASKS[name]


def read_utf8(path: pathlib.Path) -> str:
    """A file's text, with its own ends of lines and without a mark of the encoding at its beginning.

    Raises:
        ValueError: it is not UTF-8, or no text; names the line.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, found = content.count(b"\n", 0, error.start) + 1, content[error.start : error.end]
        raise ValueError(
            f"{path}, line {line}: {found!r} is not UTF-8; save the file in that encoding."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line}: there is a NUL character; save the file as text in UTF-8.")
    return text


def read_tsv(path: pathlib.Path, task: GlueTask) -> tuple[Examples, int]:
    """A file as GLUE distributes it, and how many of its lines were cut short and left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, there are no examples, or a label is none of the task's; names the
            line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: --config.data.path should be the folder of GLUE's folders, one a task."
        )
    # Tabs alone separate: quotes are text, and so are other ends of lines than this.
    lines = [line.split("\t") for line in read_utf8(path).rstrip("\r\n").split("\n")]
    lines = [[*line[:-1], line[-1].removesuffix("\r")] for line in lines]
    columns = (*task.texts, task.label)
    first = 1
    if all(isinstance(column, int) for column in columns):
        places, first = [int(column) for column in columns], 0
    else:
        header = {name: place for place, name in enumerate(lines[0])}
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}; it has {lines[0]}.")
        places = [header[str(column)] for column in columns]
    texts, labels, short = [], [], 0
    for number, line in enumerate(lines[first:], first + 1):
        if len(line) <= max(places):
            short += 1
            continue
        *parts, label = (line[place] for place in places)
        try:
            labels.append(task.classes.index(label) if task.classes else _number(label))
        except ValueError as error:
            wanted = f"one of {task.classes}" if task.classes else "a number"
            raise ValueError(f"{path}, line {number}: the label {label!r} is not {wanted}.") from error
        texts.append(tuple(parts))
    if not texts:
        raise ValueError(f"{path} has no examples; {short} lines are cut short.")
    return Examples(texts, np.array(labels, np.int32 if task.classes else np.float32)), short


def _number(label: str) -> float:
    number = float(label)
    if not np.isfinite(number):
        raise ValueError(label)
    return number
