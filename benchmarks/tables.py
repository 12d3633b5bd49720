"""Tables in Markdown, and where they go."""

import pathlib
from collections.abc import Iterable, Sequence

RESULTS = pathlib.Path(__file__).parents[1] / "docs" / "results" / "tables"


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty one."""
    return [line(header), "|" + "---|" * len(header), *map(line, rows), ""]
