"""The fields of configs: whether there are such, and what --help says of them."""

import difflib
import importlib.util
import inspect
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

# What is said of the fields that every config of a run has.
OF_RUNS: Mapping[str, str] = {
    "seed": "of all that is drawn at random",
    "num_steps": "training steps in all",
    "log_every": "steps from one line of metrics to the next",
    "checkpoint.every": "steps from one checkpoint to the next",
    "checkpoint.max_to_keep": "checkpoints that stay, the newest",
    "checkpoint.keep_period": "besides, each checkpoint of a step that this divides stays; 0: none",
}
# Sections whose keys a user makes up.
_MAPS = ("attention", "attentions")


class ConfigError(ValueError):
    """A config cannot be had; the message is for the user."""


def load(path: str) -> ml_collections.ConfigDict:
    """The config of a file, or of file:argument, as --config takes it.

    Raises:
        ConfigError: there is no such file, it is no config, or it has no such argument.
    """
    file, colon, argument = path.partition(":")
    if not os.path.isfile(file):
        raise ConfigError(f"--config={path}: there is no file {file!r}. configs/ has some.")
    spec = importlib.util.spec_from_file_location("config_to_look_at", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={path} should be a Python file with a function get_config.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"--config={path} is no Python file: line {error.lineno}, {error.msg}.") from error
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"--config={path} should have a function get_config.")
    if colon and not inspect.signature(module.get_config).parameters:
        raise ConfigError(f"--config={path}: {file} has no variants: leave :{argument} out.")
    try:
        config: ml_collections.ConfigDict = module.get_config(*[argument] * bool(colon))
    except ValueError as error:
        (place,) = traceback.extract_tb(error.__traceback__)[-1:]
        if os.path.abspath(place.filename) != os.path.abspath(file):
            raise
        raise ConfigError(str(error)) from error
    return config


def names(
    config: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The dotted names of all fields, and their values. A map of attentions is one field."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict | Mapping) and name not in _MAPS:
            yield from names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_names(config: ml_collections.ConfigDict, given: Sequence[str]) -> None:
    """Compares flags --config.name=value with the fields there are.

    Raises:
        ConfigError: there is no such field; names some that are like it. Or the flag cannot name it.
    """
    known = dict(names(config))
    for text in given:
        name = text.lstrip("-").partition("=")[0]
        if not text.startswith("-") or not name.startswith("config."):
            continue
        parts, place = name.split(".")[1:], config
        if any(part.isdigit() for part in parts):
            raise ConfigError(
                f"--{name}: a key that is a number cannot be given on the command line: write it into a file "
                "for --config."
            )
        for number, part in enumerate(parts):
            if parts[number - 1 : number] and parts[number - 1] in _MAPS:
                break
            if not isinstance(place, ml_collections.ConfigDict) or part.split("[")[0] not in place:
                field = ".".join(parts)
                close = difflib.get_close_matches(field, known, 3, 0.5) or [
                    own for own in known if own.rpartition(".")[2] == parts[-1]
                ]
                hint = f" Did you mean {', '.join(f'--config.{own}' for own in close)}?" if close else ""
                raise ConfigError(f"--config.{field}: the config has no such field.{hint} --help names them.")
            place = place[part.split("[")[0]]


def lines(config: ml_collections.ConfigDict, said: Mapping[str, str]) -> list[str]:
    """A line for each field of a config: its flag, what is said of it, its value."""
    return [
        f"  --config.{name}: {said.get(name, 'not described')} ({_shown(value)})"
        for name, value in names(config)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, ml_collections.ConfigDict):
        return ", ".join(f"{key}: {of.get('name', 'none')}" for key, of in value.items()) or "none"
    return repr(value) if isinstance(value, str) else str(value)
