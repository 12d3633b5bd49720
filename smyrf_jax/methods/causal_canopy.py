"""Canopy for causal attention: what is near exactly, the past by open leaves of trees and by means."""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.budget import Budget, Cost, Problem
from smyrf_jax.causal.decoding import Decoding, begin, decode
from smyrf_jax.causal.past import Sizes, past_of
from smyrf_jax.causal.scan import Rules, attend_to_past
from smyrf_jax.checks import check_positive, check_power_of_two
from smyrf_jax.clustering.clustering import places_of
from smyrf_jax.floats import finite_min, float32_at_least
from smyrf_jax.methods.method import Method
from smyrf_jax.rows import kept_tokens, of_its_piece, repeat_heads, sums_of_pieces
from smyrf_jax.sharding import is_partitioned, vary_alike


@dataclasses.dataclass(frozen=True)
class CausalCanopy(Method):
    """Causal attention in which every earlier key counts once: near ones and the likeliest exactly.

    A query attends exactly to its block and to the first tokens. The keys before its block lie in trees: a
    tree of each whole block, of each whole 512 tokens, and so on, of which it looks at the largest. In a tree
    keys are halved again and again into leaves of like keys, and some leaves are a branch. Each query opens
    the branches that weigh most by their means, and of their leaves those that weigh most: the keys of these
    count exactly, and everything else by the mean of its leaf, or of its closed branch.

    Strictly causal: trees are of tokens before the block, and each query opens what it finds itself. Nothing
    is drawn. Compute: T^2 / (2 * leaf_size * leaves_per_branch) for the branches, and linear for the rest.
    Memory is linear. It is made for CPUs: on TPUs the rows that each query opens are gathered one by one,
    which takes far longer than dense attention does in a kernel (docs/language_models.md).

    Args:
        block_size: queries that see each other exactly; a power of two of leaves.
        num_branches: R, that a query opens.
        num_leaves: E, whose keys a query attends exactly.
        leaf_size: keys of a leaf.
        leaves_per_branch: a power of two. Larger as sequences grow: the means of branches cost
            1 / (leaf_size * leaves_per_branch) of the pairs.
        tree_sizes: tokens of the larger trees, each a power of two times the one before, blocks first.
        num_sinks: first tokens that every query sees exactly. Places, without those that both masks leave
            out.
        shared_choice: heads that share a key head open the same, the largest weight of them deciding: less
            time, and less exact (benchmarks/causal.py).

    Raises:
        ValueError: a number is not positive, or sizes are not multiples as above.
    """

    block_size: int = 128
    num_branches: int = 12
    num_leaves: int = 16
    leaf_size: int = 8
    leaves_per_branch: int = 8
    tree_sizes: tuple[int, ...] = (512, 2048)
    num_sinks: int = 4
    shared_choice: bool = False

    def __post_init__(self) -> None:
        check_positive(
            block_size=self.block_size,
            num_branches=self.num_branches,
            num_leaves=self.num_leaves,
            leaf_size=self.leaf_size,
        )
        check_power_of_two(leaves_per_branch=self.leaves_per_branch)
        if not isinstance(self.tree_sizes, tuple):
            raise ValueError(f"tree_sizes should be a tuple of integers, but got {self.tree_sizes!r}.")
        what, smaller = "leaf_size * leaves_per_branch", self.leaf_size * self.leaves_per_branch
        for name, size in (("block_size", self.block_size), *(("tree_sizes", of) for of in self.tree_sizes)):
            times = size // smaller if isinstance(size, int) and size % smaller == 0 else 0
            if times < 1 or times & (times - 1):
                raise ValueError(
                    f"{name} should be a power of two times {what}, {smaller}, but got {size!r}."
                )
            what, smaller = name, size
        if not isinstance(self.num_sinks, int) or not 0 <= self.num_sinks <= self.block_size:
            raise ValueError(f"num_sinks should be 0 .. block_size, but got {self.num_sinks}.")

    def sizes_of(self, length: int) -> Sizes:
        """How a past of so many tokens is cut."""
        branch = self.leaf_size * self.leaves_per_branch
        levels = (self.block_size, *self.tree_sizes)
        return Sizes(self.leaf_size, branch, levels, self.num_sinks).of_length(length)

    def attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        *,
        rng: Array,
        scale: float | Array,
        is_causal: bool,
        query_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """See `Method`. The rng does not matter."""
        if not is_causal:
            raise ValueError("CausalCanopy is causal: give is_causal=True, or take Canopy.")
        if query_mask is not None and query_mask.shape[-3] != 1:
            key, value = (repeat_heads(array, query.shape[-2]) for array in (key, value))
        heads, dtype = key.shape[-2], float32_at_least(query.dtype)
        own = jnp.asarray(scale, dtype) * query.astype(dtype)
        own = own.reshape(*own.shape[:-2], heads, own.shape[-2] // heads, own.shape[-1])
        arrays: tuple[Any, ...] = (
            jnp.moveaxis(own, -4, -2),  # [*B, M, G, T, D]
            jnp.moveaxis(key.astype(dtype), -3, -2),
            jnp.moveaxis(value.astype(dtype), -3, -2),
            None if mask is None else kept_tokens(mask, key),
            None if query_mask is None else kept_tokens(query_mask, query[..., :heads, :]),
        )
        output, logsumexp = _of_rows(functools.partial(_attend_rows, self), len(query.shape[:-3]), arrays)
        output = jnp.moveaxis(output, -2, -4)  # [*B, T, M, G, V]
        logsumexp = jnp.moveaxis(logsumexp, -1, -3)
        output = output.reshape(*query.shape[:-1], value.shape[-1]).astype(value.dtype)
        logsumexp = logsumexp.reshape(query.shape[:-1])
        return output, jnp.where(logsumexp > finite_min(dtype), logsumexp, -jnp.inf)

    def prefill_cache(
        self, key: Array, value: Array, *, length: int, scale: float | Array, rng: Array
    ) -> Decoding:
        """Keys and values, and the trees of those that are whole; see `causal.decoding`."""
        return begin(self.sizes_of(length), key, value, length)

    def decode_step(
        self,
        query: Array,
        key: Array,
        value: Array,
        state: Decoding,
        *,
        place: Array,
        scale: float | Array,
        rng: Array,
    ) -> tuple[Array, Decoding]:
        """See `Method`."""
        dtype = float32_at_least(query.dtype)
        own = jnp.asarray(scale, dtype) * query.astype(dtype)
        rules = Rules(
            self.sizes_of(state.room), self.num_branches, self.num_leaves, state.length, self.shared_choice
        )
        output, state = decode(rules, own, key, value, state, place)
        return output.astype(value.dtype), state

    def cost_of(self, problem: Problem) -> Cost:
        """What queries see exactly, and the means at which they look."""
        width, values = problem.width, problem.values
        levels = len(self.sizes_of(max(problem.num_queries, problem.num_keys)).levels)
        of_query = [values + 1, values + 1, width, width, self.num_branches + self.num_leaves]
        of_key = [2 * levels * (width + values), width + values]
        opened = self.num_leaves * self.leaf_size + self.num_branches * self.leaves_per_branch
        # A block of queries, with the keys and values that each of them opens.
        each = self.block_size + opened * (1 + width + values)
        step = problem.batch * problem.heads * self.block_size * each
        return problem.cost(sum(self._pairs(problem)), step, of_query, of_key)

    def _pairs(self, problem: Problem) -> tuple[int, int, int]:
        """With the own block and the sinks, with the means of branches, and with what is opened."""
        near = means = opened = 0
        for start in range(0, problem.num_queries, self.block_size):
            queries = min(self.block_size, problem.num_queries - start)
            branches = min(start, problem.num_keys) // (self.leaf_size * self.leaves_per_branch)
            leaves = min(self.num_branches, branches) * self.leaves_per_branch
            near += queries * (queries + 1) // 2 + queries * min(start, self.num_sinks)
            means += queries * branches
            opened += queries * (leaves + min(self.num_leaves, leaves) * self.leaf_size)
        return near, means, opened

    @classmethod
    def within(cls, budget: Budget, problem: Problem, fields: dict[str, Any]) -> "CausalCanopy":
        """See `Method`. Open are three branches for four leaves.

        Near a third of the pairs are of the own block, and a sixth of the means of branches.
        """
        leaf = fields.get("leaf_size", cls.leaf_size)
        least: list[CausalCanopy] = []
        found: list[CausalCanopy] = []
        fault = ValueError(f"no sizes go with {fields}.")
        for block, leaves in itertools.product((128, 64, 32, 16, 256, 512), (1, 2, 4, 8, 16)):
            if block > 128 and found:  # they are for larger branches alone
                break
            sizes = {"block_size": block, "leaves_per_branch": leaves} | fields
            if "tree_sizes" not in fields:
                sizes["tree_sizes"] = tuple(of for of in cls.tree_sizes if of > sizes["block_size"])

            def opened(leaves: int, sizes: dict[str, Any] = sizes) -> "CausalCanopy":
                return cls(**({"num_leaves": leaves, "num_branches": -(-3 * leaves // 4)} | sizes))

            def over_budget(leaves: int, opened: Callable[[int], CausalCanopy] = opened) -> bool:
                return not budget.allows(opened(leaves).cost_of(problem))

            try:
                least.append(opened(1))
            except ValueError as error:  # a branch of so many leaves is not within such a block
                fault = error
                continue
            if not over_budget(1):
                numbers = range(2, max(3, problem.num_keys // leaf))
                found.append(opened(1 + bisect.bisect_left(numbers, True, key=over_budget)))
        if not least:
            raise fault
        if not found:
            return budget.first(least, lambda method: method.cost_of(problem))

        def unevenness(method: CausalCanopy) -> float:
            near, means, opened = method._pairs(problem)
            total = near + means + opened
            return abs(near / total - 1 / 3) + abs(means / total - 1 / 6)

        return min(found, key=unevenness)


def _of_rows(function: Callable[..., Any], axes: int, arrays: Any) -> Any:
    """The function of rows, which are samples and key heads: all at once.

    Sample by sample on a mesh, and where the batch is a symbol, as in jax.export.
    """
    leaves = jax.tree.leaves(arrays)
    rows = leaves[0].shape[: axes + 1]
    if is_partitioned(*leaves) or not all(isinstance(size, int) for size in rows):
        for _ in range(axes):
            function = jax.vmap(function)
        return function(*arrays)
    number = math.prod(rows)
    found = function(*jax.tree.map(lambda array: array.reshape(number, *array.shape[axes + 1 :]), arrays))
    return jax.tree.map(lambda array: array.reshape(*rows, *array.shape[1:]), found)


def _attend_rows(
    method: CausalCanopy,
    query: Array,
    key: Array,
    value: Array,
    kept: Array | None,
    kept_queries: Array | None,
) -> tuple[Array, Array]:
    """Output [A, G, T, V] and logsumexp [A, G, T] of scaled queries [A, G, T, D], keys [A, S, D], [A, S, V].

    Padding takes no places: tokens that are kept neither as queries nor as keys come last.
    """
    num_queries, num_keys = query.shape[2], key.shape[1]
    sizes = method.sizes_of(max(num_queries, num_keys))
    length = -(-max(num_queries, num_keys) // sizes.block) * sizes.block

    def filled_up(array: Array, axis: int) -> Array:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, length - array.shape[axis])
        return jnp.pad(array, widths)

    key, value, query = filled_up(key, 1), filled_up(value, 1), filled_up(query, 2)
    inside = jnp.broadcast_to(jnp.arange(length) < num_keys, key.shape[:2])
    kept_keys = inside if kept is None else filled_up(kept, 1)
    order = None
    if kept is not None and kept_queries is not None:
        used = kept_keys | filled_up(kept_queries, 1)
        slots = jnp.argsort(~used, axis=-1, stable=True).astype(jnp.int32)[..., None]
        order = slots, places_of(slots, length, complete=True)
        rows, key, value = _in_order(sums_of_pieces, order, _side_by_side(query), key, value)
        query = _apart(rows, query.shape[1])
        kept_keys = jnp.take_along_axis(kept_keys, slots[..., 0], axis=-1)
    past = past_of(key, value, kept_keys, sizes)
    rules = Rules(sizes, method.num_branches, method.num_leaves, length, method.shared_choice)
    output, logsumexp = attend_to_past(query, key, value, kept_keys, past, rules)
    if order is not None:
        rows = _side_by_side(jnp.concatenate([output, logsumexp[..., None]], axis=-1))
        (rows,) = _in_order(of_its_piece, order, rows)
        found = _apart(rows, query.shape[1])
        output, logsumexp = found[..., :-1], found[..., -1]
    return output[:, :, :num_queries], logsumexp[:, :, :num_queries]


def _in_order(function: Any, order: tuple[Array, Array], *arrays: Array) -> tuple[Array, ...]:
    """Rows of tokens [A, T, W] in an order, or back; without scatters, forward and backward."""
    found: tuple[Array, ...] = function(*vary_alike((arrays, *order), arrays, order))
    return found


def _side_by_side(heads: Array) -> Array:
    """[A, G, T, W] -> [A, T, G * W]."""
    rows, number, length, width = heads.shape
    return jnp.moveaxis(heads, 1, 2).reshape(rows, length, number * width)


def _apart(rows: Array, heads: int) -> Array:
    """The inverse."""
    return jnp.moveaxis(rows.reshape(*rows.shape[:2], heads, rows.shape[2] // heads), 2, 1)
