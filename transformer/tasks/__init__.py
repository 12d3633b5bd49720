"""Tasks that models are trained for from random weights, by their names in configs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from transformer.plain import PlainConfig
from transformer.tasks.corpora import open_corpus
from transformer.tasks.data import Data
from transformer.tasks.language import CopyData, Copying, TextData

# PlainConfig without vocab_size and length, which the data decide.
Sizes = Callable[..., PlainConfig]


def _copy(
    sizes: Sizes, *, length: int, num_symbols: int, validation_size: int, test_size: int, train_size: int
) -> Data:
    copying = Copying(length, num_symbols)
    parts = {"train": train_size, "validation": validation_size, "test": test_size}
    return CopyData(sizes(vocab_size=num_symbols + 1, length=length), copying, parts)


def _language(sizes: Sizes, *, length: int, **options: Any) -> Data:
    corpus = open_corpus(**options)
    return TextData(sizes(vocab_size=corpus.vocab_size, length=length), corpus.parts)


_TASKS: dict[str, Callable[..., Data]] = {"copy": _copy, "language": _language}


def open_task(task: str, model: Mapping[str, Any], **options: Any) -> Data:
    """The data of a task, and the sizes of a model for them.

    Args:
        task: a name of config.data.task.
        model: `PlainConfig` without vocab_size and length.
        **options: of the task; configs/ has them.

    Raises:
        FileNotFoundError, ValueError: there is no such task, an option has no meaning, or data are missing.
    """
    if task not in _TASKS:
        raise ValueError(f"config.data.task should be one of {sorted(_TASKS)}, but is {task!r}.")
    return _TASKS[task](functools.partial(PlainConfig, **model), **options)


__all__ = ["Data", "open_task"]
