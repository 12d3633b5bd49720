"""Data by the name of a task in a config."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformer.plain import PlainConfig
from transformer.tasks.cifar import cifar
from transformer.tasks.corpora import open_corpus
from transformer.tasks.data import Data
from transformer.tasks.documents import VOCAB_SIZE as BYTES
from transformer.tasks.documents import papers, reviews
from transformer.tasks.labelled import LabelledData, flat, unflat
from transformer.tasks.language import CopyData, Copying, TextData
from transformer.tasks.listops import VOCAB_SIZE as LISTOPS_TOKENS
from transformer.tasks.listops import ListOps, ListOpsData, listops
from transformer.tasks.pathfinder import Pathfinder, pathfinder
from transformer.tasks.stored import stored

# PlainConfig without vocab_size and length, which the data decide.
Sizes = Callable[..., PlainConfig]


def _copy(
    sizes: Sizes, *, length: int, num_symbols: int, validation_size: int, test_size: int, train_size: int
) -> Data:
    copying = Copying(length, num_symbols)
    parts = {"train": train_size, "validation": validation_size, "test": test_size}
    return CopyData(sizes(vocab_size=num_symbols + 1, length=length), copying, parts)


def _language(sizes: Sizes, *, length: int, **options: Any) -> Data:
    _check_length(length)
    corpus = _made(open_corpus, "data", options)
    return TextData(sizes(vocab_size=corpus.vocab_size, length=length), corpus.parts)


def _listops(
    sizes: Sizes, *, train_size: int, validation_size: int, test_size: int, folder: str, **options: int
) -> Data:
    settings = _made(ListOps, "data", options)
    number = _positive(train=train_size, validation=validation_size, test=test_size)
    named = dataclasses.asdict(settings) | number
    parts = unflat(stored(folder, "listops", named, lambda: flat(listops(settings, number))))
    return ListOpsData(sizes(vocab_size=LISTOPS_TOKENS, length=settings.max_length), parts)


def _pathfinder(
    sizes: Sizes, *, train_size: int, validation_size: int, test_size: int, folder: str, **options: int
) -> Data:
    settings = _made(Pathfinder, "data", options)
    number = _positive(train=train_size, validation=validation_size, test=test_size)
    named = dataclasses.asdict(settings) | number
    parts = unflat(stored(folder, "pathfinder", named, lambda: flat(pathfinder(settings, number))))
    return LabelledData(sizes(vocab_size=256, length=settings.window**2), parts, 2)


def _text(
    sizes: Sizes,
    *,
    path: str,
    length: int,
    train_size: int,
    validation_size: int,
    test_size: int,
    folder: str,
) -> Data:
    _check_length(length)
    number = {"train": train_size, "validation": validation_size, "test": test_size}
    parts = reviews(path=path, length=length, folder=folder, sizes=number)
    num_classes = 1 + max(int(part.labels.max()) for part in parts.values())
    return LabelledData(sizes(vocab_size=BYTES, length=length), parts, num_classes)


def _image(sizes: Sizes, *, path: str) -> Data:
    return LabelledData(sizes(vocab_size=256, length=1024), cifar(path), 10)


def _retrieval(sizes: Sizes, *, path: str, length: int) -> Data:
    _check_length(length)
    return LabelledData(sizes(vocab_size=BYTES, length=length), papers(path=path, length=length), 2)


_TASKS: dict[str, Callable[..., Data]] = {
    "copy": _copy,
    "language": _language,
    "listops": _listops,
    "text": _text,
    "pathfinder": _pathfinder,
    "image": _image,
    "retrieval": _retrieval,
}


def open_task(task: str, model: Mapping[str, Any], **options: Any) -> Data:
    """The data of a task, and the sizes of a model for them.

    Args:
        task: a name of config.data.task.
        model: `PlainConfig` without vocab_size and length.
        **options: of the task; configs/ has them.

    Raises:
        FileNotFoundError, ValueError: there is no such task, an option has no meaning, is missing or none of
            the task's, or data are missing.
    """
    if task not in _TASKS:
        raise ValueError(f"config.data.task should be one of {sorted(_TASKS)}, but is {task!r}.")
    _check_fields(PlainConfig, "model", model, {"vocab_size", "length"})
    return _made(functools.partial(_TASKS[task], functools.partial(PlainConfig, **model)), "data", options)


def _made(make: Callable[..., Any], section: str, options: Mapping[str, Any]) -> Any:
    """make(**options), if these are fields of a section of the config that it takes."""
    _check_fields(make, section, options)
    return make(**options)


def _check_fields(
    make: Callable[..., Any], section: str, options: Mapping[str, Any], decided: Collection[str] = ()
) -> None:
    """Raises ValueError for a field that there is not, or that is missing; names it. decided: by the data."""
    parameters = inspect.signature(make).parameters.values()
    known = [of.name for of in parameters if of.kind is not of.VAR_KEYWORD and of.name not in decided]
    strange = sorted(set(options) - set(known))
    if strange and len(known) + len(decided) == len(parameters):
        raise ValueError(f"config.{section}.{strange[0]} is no field: there are {', '.join(known)}.")
    wanted = {of.name for of in parameters if of.default is of.empty}
    missing = [name for name in known if name in wanted and name not in options]
    if missing:
        raise ValueError(f"config.{section}.{missing[0]} is missing.")


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"config.data.length must be positive, got {length}.")


def _positive(**sizes: int) -> dict[str, int]:
    """Numbers of examples by part. Raises ValueError unless all are positive."""
    for part, size in sizes.items():
        if size < 1:
            raise ValueError(f"config.data.{part}_size must be positive, got {size}.")
    return sizes
