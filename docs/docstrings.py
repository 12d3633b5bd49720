"""How docstrings read as Markdown: what stands in brackets is a shape, and lines "name: text" are a list.

An extension of griffe, which reads the docstrings for the API's pages (mkdocs.yml).
"""

import re
from typing import Any

import griffe

# A shape such as [*B, T, N, D]; its stars would begin an emphasis, and its brackets a link.
SHAPE = re.compile(r"(?<![`\w\])])\[(?:[^\[\]`\n]*\n?[^\[\]`\n]*)\](?!\()")
CODE = re.compile(r"(`+[^`]*`+)")
FIELD = re.compile(r"((?:\w+(?: \[[^\]]*\])?, )*\w+(?: \[[^\]]*\])?): ")
# What Google's style calls a section of its own.
PROSE = {"source", "note"}


def with_shapes(text: str) -> str:
    """Shapes as code, but for those that are."""
    parts = CODE.split(text)
    parts[::2] = [SHAPE.sub(lambda found: f"`{found.group()}`", part) for part in parts[::2]]
    return "".join(parts).replace(" ^ ", r" \^ ")


def with_fields(text: str) -> str:
    """Paragraphs of lines "name: text" as lists; more indented lines go on with the one before."""
    paragraphs = text.split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        names = FIELD.match(paragraph)
        if names is None or not names.group(1)[0].islower():
            continue
        lines = paragraph.split("\n")
        for at, line in enumerate(lines):
            field = FIELD.match(line)
            if field is not None:
                names = ", ".join(f"`{name}`" for name in field.group(1).split(", "))
                lines[at] = f"- {names}: {line[field.end() :]}"
        paragraphs[number] = "\n".join(lines)
    return "\n\n".join(paragraphs)


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of all that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_shapes(with_fields(obj.docstring.value))
