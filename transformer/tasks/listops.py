"""ListOps: the values of nested expressions such as [MAX 2 9 [MIN 4 7] 0].

Source: ListOps (arXiv:1804.06028); the sizes are those of Long Range Arena (arXiv:2011.04006), section 3.1.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from transformer.plain import PlainConfig
from transformer.tasks.labelled import Labelled, LabelledData

OPERATORS = ("MIN", "MAX", "MED", "SM")
# 0 is padding, digits are 1 .. 10, and a closing bracket comes last.
_DIGITS, _FIRST, _CLOSE = 1, 11, 11 + len(OPERATORS)
VOCAB_SIZE = _CLOSE + 1
_IN_VAIN = 20  # times that no new expression is drawn, after which there are no more


@dataclasses.dataclass(frozen=True)
class ListOps:
    """A random expression: an operator with probability 1/4 above the depth max_depth, else a digit.

    An operator has 2 .. max_args arguments. MED is the median, cut to an integer, SM the sum modulo 10.

    min_length, max_length: between them lie the tokens of those that are kept.

    Raises:
        ValueError: a size has no meaning, or no expression has such a length; names the field.
    """

    min_length: int
    max_length: int
    max_depth: int = 10
    max_args: int = 10

    def __post_init__(self) -> None:
        for name in ("max_depth", "max_args"):
            if getattr(self, name) < 2:
                raise ValueError(f"config.data.{name} should be 2 at least, but is {getattr(self, name)}.")
        if self.min_length < 1:
            raise ValueError(f"config.data.min_length must be positive, got {self.min_length}.")
        if self.max_length < self.min_length + 2:
            raise ValueError(
                f"config.data.min_length={self.min_length} and config.data.max_length={self.max_length} "
                "should have lengths between them."
            )
        longest = 1
        for _ in range(self.max_depth - 1):
            longest = 2 + self.max_args * longest
            if longest > self.min_length:
                return
        raise ValueError(
            f"config.data.min_length={self.min_length} is too much: with max_depth={self.max_depth} and "
            f"max_args={self.max_args} an expression has {longest} tokens at most."
        )


class _Level(NamedTuple):
    """Nodes of one depth, of all trees. tree: [n]; parent: [n], in the level above; a node's children lie
    side by side. value: [n], digits; operator: [n], -1 for a digit."""

    tree: np.ndarray
    parent: np.ndarray
    value: np.ndarray
    operator: np.ndarray


def listops(
    settings: ListOps, sizes: dict[str, int], seed: int = 0, trees: int = 20_000
) -> dict[str, Labelled]:
    """Expressions in parts of these sizes. No expression comes twice.

    trees: that are drawn at once.

    Raises:
        ValueError: there are too few.
    """
    rng = np.random.default_rng(seed)
    number = sum(sizes.values())
    found: dict[bytes, int] = {}
    in_vain = 0
    while len(found) < number:
        before = len(found)
        for row, value in zip(*_drawn(settings, rng, trees), strict=True):
            if len(found) < number:
                found.setdefault(row.tobytes(), value)
        in_vain = 0 if len(found) > before else in_vain + 1
        if in_vain == _IN_VAIN:
            raise ValueError(
                f"there are too few expressions as config.data wants them ({settings}): {len(found)} were "
                f"found for {number}. Let config.data.max_length be larger, or min_length and the sizes less."
            )
    tokens = np.zeros((number, settings.max_length), np.uint8)
    lengths = np.array([len(row) for row in found], np.int32)
    for target, content in zip(tokens, found, strict=True):
        target[: len(content)] = np.frombuffer(content, np.uint8)
    ends = np.cumsum(list(sizes.values()))[:-1]
    arrays = (np.split(array, ends) for array in (tokens, lengths, np.array([*found.values()], np.int32)))
    return {name: Labelled(*part) for name, part in zip(sizes, zip(*arrays, strict=True), strict=True)}


def _drawn(settings: ListOps, rng: np.random.Generator, trees: int) -> tuple[list[np.ndarray], list[int]]:
    """Tokens and values of those among so many random expressions that have a length as wanted."""
    levels = []
    tree, parent = np.arange(trees), np.zeros(trees, np.int64)
    lengths = np.zeros(trees, np.int64)
    for depth in range(1, settings.max_depth + 1):
        is_operator = rng.random(len(tree)) < (0.25 if depth < settings.max_depth else 0)
        operator = np.where(is_operator, rng.integers(len(OPERATORS), size=len(tree)), -1)
        levels.append(_Level(tree, parent, rng.integers(10, size=len(tree)), operator))
        lengths += np.bincount(tree, weights=1 + is_operator, minlength=trees).astype(np.int64)
        # A tree that is too long already grows no further: it is not kept.
        grows = np.flatnonzero(is_operator & (lengths[tree] < settings.max_length))
        num_children = rng.integers(2, settings.max_args + 1, size=len(grows))
        parent = np.repeat(grows, num_children)
        tree = tree[parent]
    kept = (lengths > settings.min_length) & (lengths < settings.max_length)
    levels = _of_trees(levels, kept)
    _evaluate(levels)
    starts = np.cumsum(lengths[kept]) - lengths[kept]
    tokens = np.zeros(lengths[kept].sum(), np.uint8)
    _write(levels, starts, tokens)
    return np.split(tokens, starts[1:]), levels[0].value.tolist()


def _of_trees(levels: list[_Level], kept: np.ndarray) -> list[_Level]:
    """The nodes of the trees that are kept, numbered anew."""
    of_level, number = [], np.cumsum(kept) - 1
    above: np.ndarray | None = None
    for level in levels:
        chosen = kept[level.tree]
        parent = level.parent[chosen]
        if above is not None:
            parent = above[parent]
        of_level.append(
            _Level(number[level.tree[chosen]], parent, level.value[chosen], level.operator[chosen])
        )
        above = np.cumsum(chosen) - 1
    return of_level


def _evaluate(levels: list[_Level]) -> None:
    """Gives operators the values of their expressions, from the leaves up."""
    for level, children in zip(levels[-2::-1], levels[:0:-1], strict=True):
        if not len(children.parent):
            continue
        order = np.lexsort((children.value, children.parent))
        values = children.value[order]
        first = np.flatnonzero(np.diff(children.parent, prepend=-1))
        number = np.diff(first, append=len(values))
        low, high = first + (number - 1) // 2, first + number // 2
        by_operator = [
            values[first],
            values[first + number - 1],
            (values[low] + values[high]) // 2,
            np.add.reduceat(values, first) % 10,
        ]
        parents = children.parent[first]
        level.value[parents] = np.choose(level.operator[parents], by_operator)


def _write(levels: list[_Level], starts: np.ndarray, tokens: np.ndarray) -> None:
    """Writes the trees' tokens, each tree from its place on."""
    sizes = [1 + (level.operator >= 0) for level in levels]
    for size, below, children in zip(sizes[-2::-1], sizes[:0:-1], levels[:0:-1], strict=True):
        np.add.at(size, children.parent, below)
    place = starts
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        if depth:  # behind the operator and the siblings before
            ends = np.cumsum(size)
            before = ends - size
            is_first = np.diff(level.parent, prepend=-1) != 0
            of_family = np.repeat(before[is_first], np.diff(np.flatnonzero(is_first), append=len(size)))
            place = place[level.parent] + 1 + before - of_family
        is_operator = level.operator >= 0
        tokens[place] = np.where(is_operator, _FIRST + level.operator, _DIGITS + level.value)
        tokens[(place + size - 1)[is_operator]] = _CLOSE


class ListOpsData(LabelledData):
    """Expressions and their values, with what can be had from their roots alone."""

    unit = "expressions"

    def __init__(self, config: PlainConfig, parts: dict[str, Labelled]):
        super().__init__(config, parts, 10)

    def baselines(self) -> dict[str, dict[str, float]]:
        """The most frequent value; that of the root's operator; and that of it and of its digits.

        Of the digits among the root's arguments what the operator makes of them counts.
        """
        train, test = self.parts["train"], self.parts["test"]
        roots = [part.tokens[:, 0].astype(np.int64) - _FIRST for part in (train, test)]
        digits = [11 * root + of_digits(part.tokens) for root, part in zip(roots, (train, test), strict=True)]
        return super().baselines() | {
            "root operator alone": self.by_table(*roots),
            "root operator and its digits": self.by_table(*digits),
        }


def of_digits(tokens: np.ndarray) -> np.ndarray:
    """[B], what each root's operator makes of the digits among its arguments; 10 where there are none."""
    is_operator = (tokens >= _FIRST) & (tokens < _CLOSE)
    depth = np.cumsum(is_operator.astype(np.int32) - (tokens == _CLOSE), axis=1)
    direct = (tokens >= _DIGITS) & (tokens < _FIRST) & (depth == 1)
    found = np.full(len(tokens), 10)
    for i, row in enumerate(tokens):
        values = row[direct[i]].astype(int) - _DIGITS
        if len(values):
            operator = OPERATORS[row[0] - _FIRST]
            found[i] = {
                "MIN": values.min(),
                "MAX": values.max(),
                "MED": int(np.median(values)),
                "SM": values.sum() % 10,
            }[operator]
    return found
