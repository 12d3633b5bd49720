"""Tables in Markdown, and where they go."""

import importlib.metadata
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

RESULTS = pathlib.Path(__file__).parents[1] / "docs" / "results" / "tables"


def tpu_compiler() -> str:
    """The machine of what the TPU's compiler says, in a result's header."""
    version = importlib.metadata.version("libtpu")
    return f"the TPU's compiler, libtpu {version}, without a TPU; jax {jax.__version__}"


def newest(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The origin of the row that was measured last (of a day, the last one): it is the table's."""
    return dict(sorted((row["origin"] for row in rows), key=lambda origin: origin["Date"])[-1])


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty one."""
    return [line(header), "|" + "---|" * len(header), *map(line, rows), ""]
