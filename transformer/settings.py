"""Fields of methods, as command lines spell them."""

import fractions
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any


def fields_of(settings: Sequence[str]) -> dict[str, int]:
    """Fields of a method, from name=number, name=true or name=false.

    Raises:
        ValueError: one of them is none of these.
    """
    return dict(_field(setting, "name", setting) for setting in settings)


def _field(setting: str, name: str, given: str) -> tuple[str, int]:
    """A field and its value, of name=value. name: what is wanted, given: what was typed, for errors."""
    words = {"true": True, "false": False}
    field, _, value = setting.partition("=")
    try:
        return field, words[value.lower()] if value.lower() in words else int(value)
    except ValueError as error:
        raise ValueError(
            f"--fields should be {name}=number, {name}=true or {name}=false, but got {given!r}."
        ) from error


def numbers_of(
    flag: str, values: Sequence[str], kind: Callable[[Any], Any], fits: Callable[[Any], bool], what: str
) -> list[Any]:
    """The numbers of a flag. Raises ValueError, which names it, unless they are what they should be."""
    try:
        found = [kind(fractions.Fraction(value)) for value in values]
    except (ValueError, ZeroDivisionError):
        found = []
    if not found or not all(map(fits, found)):
        raise ValueError(f"--{flag} should be {what}, but is {','.join(values)!r}.")
    return found


def fields_by_method(settings: Sequence[str], methods: Collection[str]) -> Mapping[str, dict[str, int]]:
    """Fields of each of several methods, from method.name=number and so on.

    Raises:
        ValueError: a setting is none of these, or of a method that is not among them.
    """
    found: dict[str, dict[str, int]] = {method: {} for method in methods}
    for setting in settings:
        method, dot, field = setting.partition(".")
        if not dot or method not in found:
            raise ValueError(
                f"--fields should be method.name=number for one of --methods, {', '.join(found)}, but got "
                f"{setting!r}."
            )
        name, value = _field(field, "method.name", setting)
        found[method][name] = value
    return found
