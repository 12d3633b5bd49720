"""Numbers that documents state, and whether the results that they name hold them.

The rule, for writers, is in tests/test_results.py.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

# After a number.
_UNIT = r"(%|per cent\b|ms\b|s\b|min\b|[KMGT]i?B\b|M cycles\b|images a second\b|times\b)"
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
# Not within a word, a version or a power of ten: e1, v3, 0.10.2, 1e-6.
_STATED = re.compile(rf"(?<![\w.,^/])({_NUMBER})(?![\w]|[.,]\d)")
_WITH_UNIT = re.compile(rf"\s?{_UNIT}")
# Two numbers and one unit: 1 and 11 %, 5.9 / 8.5 times, 88 to 100 %.
_SHARED_UNIT = re.compile(
    rf"\s?(?:,|/|to|and|or|±)\s?(?:{_NUMBER})(?:\s?(?:,|/|to|and|or)\s?(?:{_NUMBER}))*\s?{_UNIT}"
)
_MEASURED = re.compile(rf"-?(?:{_NUMBER})(?:e[-+]?\d+)?")
_VERSION = re.compile(
    r"\b(?:Python|[jJ]ax|JAX|[fF]lax|torch|section|sections|version)\s+\d+(?:\.\d+)*|arXiv:\S+|https?://\S+"
)
_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1", re.DOTALL)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”")
_LINK = re.compile(r"(?<=\])\(([^)\s]+)[^)]*\)")
_BOLD = re.compile(r"\*\*|__")
_CONFIG = re.compile(r"configs/(\w+)\.py")


@dataclasses.dataclass
class Block:
    """A row of a table, an item of a list, or a paragraph. line: its first. section: a number of its own."""

    line: int
    text: str
    section: int

    @property
    def is_row(self) -> bool:
        return self.text.lstrip().startswith("|")


@dataclasses.dataclass(frozen=True)
class Unfounded:
    """A number that no result holds. looked: where it was looked for."""

    path: str
    line: int
    number: str
    looked: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.looked) or "nowhere: its section names no result"
        return f"{self.path}:{self.line}: {self.number} was looked for in {where}"


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks of a document in Markdown, without its programs and comments."""
    section, fenced, lines, first = 0, False, list[str](), 0
    text = re.sub(r"<!--.*?-->", _blank, text, flags=re.DOTALL)
    for number, line in enumerate([*text.split("\n"), ""], 1):
        stripped = line.strip()
        fence = stripped.startswith(("```", "~~~"))
        heading = not fenced and stripped.startswith("#")
        row = stripped.startswith("|")
        begins = row or re.match(r"([-*+]|\d+\.)\s", stripped) is not None
        if lines and (fence or fenced or heading or begins or not stripped):
            yield Block(first, "\n".join(lines), section)
            lines = []
        if fence:
            fenced = not fenced
        elif heading:
            section += 1
        elif stripped and not fenced:
            first = first if lines else number
            lines.append(line)
            if row:
                yield Block(first, line, section)
                lines = []


def _blank(match: re.Match) -> str:
    """As long, with the same line ends, so that places stay what they are."""
    return re.sub(r"[^\n]", " ", match[0])


def stated(block: Block, in_results: bool) -> Iterator[tuple[int, str, str]]:
    """The numbers of a block that look measured: line, number, and unit (empty: none).

    in_results: results are named for it, so that a whole number alone in a cell is one of theirs.
    """
    text = block.text
    for what in (_CODE, _QUOTED, _LINK, _VERSION, _BOLD):
        text = what.sub(_blank, text)
    for match in _STATED.finditer(text):
        rest = text[match.end() :]
        unit = _WITH_UNIT.match(rest) or _SHARED_UNIT.match(rest)
        # A cell that holds nothing else.
        before = text[: match.start()].rstrip(" ")
        alone = (
            in_results and block.is_row and before.endswith("|") and rest.lstrip(" ").startswith(("|", "±"))
        )
        if "." in match[1] or unit or alone:
            line = block.line + text.count("\n", 0, match.start())
            yield line, match[1], "" if unit is None else unit[1].replace("per cent", "%")


def numbers_in(text: str) -> list[float]:
    """All numbers of a result, the lines of its header left out."""
    body = "\n".join(
        line for line in text.split("\n") if not re.match(r"- (Command|Date|Commit|Machine): ", line)
    )
    return [float(number.replace(",", "")) for number in _MEASURED.findall(body)]


def holds(numbers: Iterable[float], number: str, unit: str) -> bool:
    """Is it one of them, rounded to the digits that it has? 12 % may be 0.12, 3.0 s may be 3012, of ms."""
    value = float(number.replace(",", ""))
    half = 0.5 * 10.0 ** -len(number.partition(".")[2]) * (1 + 1e-9)
    factors = {"%": (1.0, 100.0), "s": (1.0, 1e-3), "ms": (1.0, 1e3)}.get(unit, (1.0,))
    return any(abs(abs(of) * factor - value) <= half for of in numbers for factor in factors)


def sources_of(block: Block, files: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The results that a block names: links to their files, and configs, whose docstrings tell results.

    files: of a file in docs/results/tables -> those in which its numbers stand.
    """
    found: dict[str, None] = {}
    for target in _LINK.findall(block.text):
        found |= dict.fromkeys(files.get(pathlib.PurePosixPath(target.partition("#")[0]).name, ()))
    return (*found, *(f"configs/{name}.py" for name in _CONFIG.findall(block.text)))


def unfounded(
    path: str, text: str, files: Mapping[str, tuple[str, ...]], contents: Mapping[str, str]
) -> list[Unfounded]:
    """The numbers of a document that are in none of the results that it names for them.

    files: see `sources_of`. contents: the text of a source by its name.
    """
    blocks = list(blocks_of(text))
    own = [sources_of(block, files) for block in blocks]
    numbers = {name: numbers_in(content) for name, content in contents.items()}
    found = []
    for place, block in enumerate(blocks):
        if "make test" in block.text:
            continue
        looked = own[place] or _around(place, blocks, own)
        pool = [number for name in looked for number in numbers.get(name, ())]
        for line, number, unit in stated(block, in_results=bool(looked)):
            if not holds(pool, number, unit):
                found.append(Unfounded(path, line, number, looked))
    return found


def _around(place: int, blocks: list[Block], own: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What a block that names no result takes: a row the nearest row's above, else all of its section."""
    section = [of for of, block in enumerate(blocks) if block.section == blocks[place].section]
    if blocks[place].is_row:
        for above in range(place - 1, section[0] - 1, -1):
            if not blocks[above].is_row:
                break
            if own[above]:
                return own[above]
    return tuple(dict.fromkeys(name for of in section for name in own[of]))
