"""The TPU kernel that halves sets of tokens several times at once.

What shaped it, by the final schedule of the TPU's compiler:

- Rows of few coordinates fill a tenth of a register's lanes. So here a coordinate is an array of tokens.
- A sort of each level costs as much as the products. So medians are found by bisection, counting; tokens stay
  where they are, and each knows the number of its node. One sort at the end puts nodes side by side.
- A sum that leaves the registers takes 100 cycles, whatever it is of. So small sets share a step.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

# A node's number and a token in one integer; what marks an empty slot, in place of each.
TOKEN_BITS = 24
NO_TOKEN = 2**TOKEN_BITS - 1
EMPTY = 2 ** (31 - TOKEN_BITS) - 1
# Tokens that one computation is unrolled over, at most.
CHUNK = 2**14
_SIGN = -(2**31)


class _Refs(NamedTuple):
    """Of one side, in vector memory."""

    coordinates: Any
    tokens: Any
    first: Any
    out: Any
    node: Any
    bits: Any


def halve(levels: int, num_sides: int, whole: bool, has_starts: bool, *refs: Any) -> None:
    """The kernel: numbers of the nodes of the last level, and tokens, as one integer each.

    whole: all of a step's tokens are one set; else each row is one.
    refs: of each side coordinates, tokens and the sizes of first halves; starts; outputs; scratch.
    """
    outputs, scratch = 3 * num_sides + has_starts, 4 * num_sides + has_starts
    sides = [
        _Refs(
            *[*refs[3 * of : 3 * of + 3], refs[outputs + of], *refs[scratch + 2 * of : scratch + 2 * of + 2]]
        )
        for of in range(num_sides)
    ]
    starts = refs[3 * num_sides] if has_starts else None
    for side in sides:
        side.node[...] = jnp.where(side.tokens[...] < NO_TOKEN, 0, EMPTY)
    for level in range(levels):
        nodes = range(2**level)
        numbers = [2**level - 1 + node for node in nodes]
        if starts is None:
            directions = _lowest_tokens(sides[0], nodes, whole)
        else:
            directions = [starts[0, number] for number in numbers]
        for side in reversed(sides):
            directions = _power_step(side, directions, whole)
        for side in sides:
            first = side.first[0]
            _halve(side, directions, [first[:, number : number + 1] for number in numbers], whole)
    for side in sides:
        side.out[...] = (side.node[...] << TOKEN_BITS) | jnp.minimum(side.tokens[...], NO_TOKEN)


def _over_chunks(side: _Refs, function: Callable[[Any, Any], Any], start: Any) -> Any:
    """function(columns, carry) of a side's columns, some at a time."""
    block, columns = side.tokens.shape
    step = columns
    while block * step > CHUNK and step % 256 == 0:
        step //= 2
    if step == columns:
        return function(pl.ds(0, columns), start)

    def of_chunk(index: Any, carry: Any) -> Any:
        return function(pl.ds(index * step, step), carry)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(columns // step), of_chunk, start)


def _total(array: Array, whole: bool) -> Array:
    """The sum over each set."""
    along = jnp.sum(array, axis=1, keepdims=True)
    return jnp.sum(along, axis=0, keepdims=True) if whole else along


def _least(array: Array, whole: bool) -> Array:
    along = jnp.min(array, axis=1, keepdims=True)
    return jnp.min(along, axis=0, keepdims=True) if whole else along


def _of_its_node(node: Array, values: Sequence[Array]) -> Array:
    """For each token the value of its node."""
    found = jnp.broadcast_to(values[0], node.shape)
    for number, value in enumerate(values[1:], 1):
        found = jnp.where(node == number, value, found)
    return found


def _zeros(side: _Refs, whole: bool) -> Array:
    return jnp.zeros((1 if whole else side.tokens.shape[0], 1), jnp.float32)


def _along(side: _Refs, columns: Any, node: Array, directions: list[Array]) -> Array:
    """Where tokens lie along the directions of their nodes."""
    parts = [
        _of_its_node(node, [direction[:, p : p + 1] for direction in directions])
        * side.coordinates[p, :, columns]
        for p in range(side.coordinates.shape[0])
    ]
    found: Array = sum(parts[1:], parts[0])
    return found


def _row(numbers: Sequence[Array]) -> Array:
    """Numbers [sets, 1] as [sets, P]."""
    shape = (numbers[0].shape[0], len(numbers))
    place = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return _of_its_node(place, numbers)


def _lowest_tokens(side: _Refs, nodes: Sequence[int], whole: bool) -> list[Array]:
    """The coordinates of each node's lowest token."""
    zeros, none = _zeros(side, whole), jnp.float32(2**TOKEN_BITS)
    width = side.coordinates.shape[0]

    def numbers(columns: Any) -> tuple[Array, Array]:
        return side.node[:, columns], side.tokens[:, columns].astype(jnp.float32)

    def lowest_of(columns: Any, lowest: list[Array]) -> list[Array]:
        node, token = numbers(columns)
        return [
            jnp.minimum(so_far, _least(jnp.where(node == n, token, none), whole))
            for n, so_far in zip(nodes, lowest, strict=True)
        ]

    lowest = _over_chunks(side, lowest_of, [zeros + none for _ in nodes])

    def coordinates_of(columns: Any, sums: list[Array]) -> list[Array]:
        node, token = numbers(columns)
        found = []
        for n, so_far in zip(nodes, sums, strict=True):
            there = (node == n) & (token == lowest[n])
            of_token = [
                _total(jnp.where(there, side.coordinates[p, :, columns], 0), whole) for p in range(width)
            ]
            found.append(so_far + _row(of_token))
        return found

    start = [jnp.zeros((zeros.shape[0], width), jnp.float32) for _ in nodes]
    directions: list[Array] = _over_chunks(side, coordinates_of, start)
    return directions


def _power_step(side: _Refs, directions: list[Array], whole: bool) -> list[Array]:
    """`halving.power_step` of each node."""
    width, zeros = side.coordinates.shape[0], _zeros(side, whole)

    def moments(columns: Any, sums: list[list[Array]]) -> list[list[Array]]:
        node = side.node[:, columns]
        along = _along(side, columns, node, directions)
        found = []
        for n, so_far in enumerate(sums):
            there = node == n
            own = jnp.where(there, along, 0)
            rows = [side.coordinates[p, :, columns] for p in range(width)]
            parts = [
                _total(own, whole),
                _total(there.astype(jnp.float32), whole),
                _row([_total(own * row, whole) for row in rows]),
                _row([_total(jnp.where(there, row, 0), whole) for row in rows]),
            ]
            found.append([a + part for a, part in zip(so_far, parts, strict=True)])
        return found

    none = jnp.zeros((zeros.shape[0], width), jnp.float32)
    turned = []
    for total, count, stretched, rows in _over_chunks(
        side, moments, [[zeros, zeros, none, none] for _ in directions]
    ):
        stretched -= rows * (total / jnp.maximum(count, 1))
        largest = jnp.max(jnp.abs(stretched), axis=1, keepdims=True)
        turned.append(stretched / jnp.where(largest > 0, largest, 1.0))
    return turned


def _halve(side: _Refs, directions: list[Array], wanted: list[Array], whole: bool) -> None:
    """Numbers the children: 2n for tokens of node n that lie first along its direction, and 2n + 1."""
    sign, zeros = jnp.int32(_SIGN), _zeros(side, whole)
    nodes = range(len(wanted))

    def ordered(columns: Any, carry: None) -> None:
        along = _along(side, columns, side.node[:, columns], directions)
        bits = jax.lax.bitcast_convert_type(along + 0.0, jnp.int32)
        # In the order of the numbers, as signed integers.
        side.bits[:, columns] = jnp.where(bits < 0, bits ^ jnp.int32(2**31 - 1), bits)

    _over_chunks(side, ordered, None)

    def count(condition: Callable[[int, Array, Array], Array]) -> list[Array]:
        """How many tokens of each node: condition(node's number, bits, tokens)."""

        def of_chunk(columns: Any, sums: list[Array]) -> list[Array]:
            node = side.node[:, columns]
            bits, tokens = side.bits[:, columns], side.tokens[:, columns]
            return [
                so_far + _total(((node == n) & condition(n, bits, tokens)).astype(jnp.float32), whole)
                for n, so_far in enumerate(sums)
            ]

        found: list[Array] = _over_chunks(side, of_chunk, [zeros for _ in nodes])
        return found

    # (Bounds of loops are int32 where integers are of 64 bits, too.)
    # Bits as of unsigned numbers, from the highest on; compared with their sign turned.
    def median_step(step: Any, medians: list[Array]) -> list[Array]:
        bit = jax.lax.shift_right_logical(sign, step)
        raised = [median | bit for median in medians]
        below = count(lambda n, bits, _: bits < (raised[n] ^ sign))
        return [
            jnp.where(number <= most, more, median)
            for number, most, more, median in zip(below, wanted, raised, medians, strict=True)
        ]

    none = zeros.astype(jnp.int32)
    medians = jax.lax.fori_loop(jnp.int32(0), jnp.int32(32), median_step, [none for _ in nodes])
    medians = [median ^ sign for median in medians]
    below = count(lambda n, bits, _: bits < medians[n])
    left = [most - number for most, number in zip(wanted, below, strict=True)]

    # Of equal places, those of the lowest tokens.
    def tie_step(step: Any, cuts: list[Array]) -> list[Array]:
        bit = jax.lax.shift_right_logical(jnp.int32(2 ** (TOKEN_BITS - 1)), step)
        raised = [cut | bit for cut in cuts]
        alike = count(lambda n, bits, tokens: (bits == medians[n]) & (tokens < raised[n]))
        return [
            jnp.where(number <= most, more, cut)
            for number, most, more, cut in zip(alike, left, raised, cuts, strict=True)
        ]

    some_left = jnp.max(functools.reduce(jnp.maximum, left)) > 0
    steps = jnp.where(some_left, jnp.int32(TOKEN_BITS), 0)
    cuts = jax.lax.fori_loop(jnp.int32(0), steps, tie_step, [none for _ in nodes])

    def numbered(columns: Any, carry: None) -> None:
        node = side.node[:, columns]
        bits, tokens = side.bits[:, columns], side.tokens[:, columns]
        median, cut = _of_its_node(node, medians), _of_its_node(node, cuts)
        chosen = (bits < median) | ((bits == median) & (tokens < cut))
        side.node[:, columns] = jnp.where(node == EMPTY, EMPTY, 2 * node + jnp.where(chosen, 0, 1))

    _over_chunks(side, numbered, None)
