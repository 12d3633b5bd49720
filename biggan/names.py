"""What a user has typed to say where images are: fields of a config, or flags of a command."""

from collections.abc import Mapping

# From an argument of `open_source` to its name. What a command does not offer is not there.
Names = Mapping[str, str]

IN_CONFIG: Names = {
    "source": "config.data.source",
    "path": "config.data.path",
    "skip_corrupt": "config.data.skip_corrupt",
    "classes": "config.num_classes",
}


def way_out(names: Names, what: str) -> str:
    """A sentence that says how images are left out that cannot be used, if that is offered."""
    return f"Set {names['skip_corrupt']} {what}." if "skip_corrupt" in names else ""
