"""Fields of methods, as command lines spell them."""

from collections.abc import Collection, Mapping, Sequence


def fields_of(settings: Sequence[str]) -> dict[str, int]:
    """Fields of a method, from name=number, name=true or name=false.

    Raises:
        ValueError: one of them is none of these.
    """
    words = {"true": True, "false": False}
    fields = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            fields[name] = words[value] if value in words else int(value)
        except ValueError as error:
            raise ValueError(
                f"--fields should be name=number, name=true or name=false, but got {setting!r}."
            ) from error
    return fields


def fields_by_method(settings: Sequence[str], methods: Collection[str]) -> Mapping[str, dict[str, int]]:
    """Fields of each of several methods, from method.name=number and so on.

    Raises:
        ValueError: a setting is none of these, or of a method that is not among them.
    """
    found: dict[str, list[str]] = {method: [] for method in methods}
    for setting in settings:
        method, dot, field = setting.partition(".")
        if not dot or method not in found:
            raise ValueError(
                f"--fields should be method.name=number for one of --methods, {', '.join(found)}, but got "
                f"{setting!r}."
            )
        found[method].append(field)
    return {method: fields_of(of_method) for method, of_method in found.items()}
