"""What changes in a generator's images when another attention takes the place of its own, untrained."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, PyTree, UInt8

from biggan.attention_maps import (
    Block,
    Decomposition,
    error_of,
    largest_keys_errors,
    low_rank_errors,
)
from biggan.generator import Generator
from biggan.sampling import Sampler
from evaluation.frechet import Moments, frechet_distance
from evaluation.images import Images, features_of
from evaluation.kernel import kernel_distance
from evaluation.networks import Network
from smyrf_jax import Dense, Method
from smyrf_jax.budget import BudgetError, Cost, Problem
from smyrf_jax.floats import float32_at_least
from smyrf_jax.methods import METHODS

DENSE, AS_TRAINED, REMOVED = "dense", "as trained", "removed"
LARGEST_KEYS, TRUNCATED = "largest keys", "truncated SVD"
# What dense attention can be swapped for, by name.
NAMES = tuple(name for name in METHODS if name != DENSE)


@dataclasses.dataclass(frozen=True)
class Nothing(Method):
    """No attention: its output is zero, as if gamma were."""

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
        """See `Method`."""
        del mask, rng, scale, is_causal, query_mask
        output = jnp.zeros((*query.shape[:-1], value.shape[-1]), value.dtype)
        return output, jnp.full(query.shape[:-1], -jnp.inf, float32_at_least(query.dtype))

    def cost_of(self, problem: Problem) -> Cost:
        """Nothing."""
        return Cost(0.0, 0, 0.0)


class Swap(NamedTuple):
    """methods: by the size of the map. part: of the pairs that were allowed; None: nobody asked."""

    name: str
    part: float | None
    methods: Mapping[int, Method]

    @property
    def settings(self) -> str:
        """In words; of several maps each."""
        if len(self.methods) == 1:
            return repr(*self.methods.values())
        return "; ".join(f"{size}: {method!r}" for size, method in sorted(self.methods.items()))


@dataclasses.dataclass(frozen=True)
class Row:
    """A swap and what it changes. None: not measured.

    part: of the pairs that was allowed. pairs, memory: what is spent of dense attention's, over all blocks.
    attention_error: of the attention's output. image_error, feature_error: |x' - x| / |x| of an image with
    the dense one of the same noise, its pixels in 0 .. 255 and its features; means over images. fd, kd: from
    the dense images of the same noise. kd_real: from real ones. _sd: deviation over subsets.
    """

    method: str
    settings: str
    part: float | None
    pairs: float
    memory: float | None
    attention_error: float
    image_error: float | None = None
    feature_error: float | None = None
    fd: float | None = None
    kd: float | None = None
    kd_sd: float | None = None
    kd_real: float | None = None
    kd_real_sd: float | None = None


def references(generator: Generator) -> list[Swap]:
    """Dense attention everywhere, with which all is compared; the attention that the generator has, if it is
    another; and none."""

    def everywhere(name: str, method: Method) -> Swap:
        return Swap(name, None, dict.fromkeys(generator.attention, method))

    own = Swap(AS_TRAINED, None, dict(generator.attention))
    dense = everywhere(DENSE, Dense())
    return [dense, *([] if own.methods == dense.methods else [own]), everywhere(REMOVED, Nothing())]


def swaps_within(
    names: Sequence[str], parts: Sequence[float], blocks: Sequence[Block]
) -> tuple[list[Swap], list[str]]:
    """The methods with the settings that each part of the pairs allows, and what no settings are within.

    Raises:
        ValueError: a name is none of NAMES, or a part is not in (0, 1].
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise ValueError(f"--methods should be of {', '.join(NAMES)}, but got {','.join(unknown) or 'none'}.")
    wrong = [part for part in parts if not 0 < part <= 1]
    if wrong or not parts:
        raise ValueError(f"--pairs should be parts above 0 and up to 1, but got {wrong or 'none'}.")
    swaps, left_out = [], []
    for name, part in itertools.product(names, parts):
        try:
            methods = {block.size: _method_for(METHODS[name], block, part) for block in blocks}
        except BudgetError as error:
            left_out.append(f"{name} at {part:.2%} of the pairs is left out. {error}")
        else:
            swaps.append(Swap(name, part, methods))
    return swaps, left_out


def _method_for(kind: type[Method], block: Block, part: float) -> Method:
    return kind.for_budget(pairs=part, **dataclasses.asdict(block.problem))


def cost_of(swap: Swap, blocks: Sequence[Block]) -> tuple[float, float]:
    """Pairs and memory as parts of dense attention's, over all blocks."""
    pairs = memory = dense_pairs = dense_memory = 0.0
    for block in blocks:
        problem = block.problem
        cost, dense = (method.cost_of(problem) for method in (swap.methods[block.size], Dense()))
        all_pairs = problem.num_queries * problem.num_keys
        pairs, dense_pairs = pairs + cost.pairs * all_pairs, dense_pairs + all_pairs
        memory, dense_memory = memory + cost.memory, dense_memory + dense.memory
    return pairs / dense_pairs, memory / dense_memory


def oracle_rows(blocks: Sequence[Block], maps: Sequence[Decomposition], parts: Sequence[float]) -> list[Row]:
    """What a sparse and a low-rank attention do that know the whole map: errors of their output alone.

    A rank costs a pair for each query and each key, as a feature does. Neither is a bound: the map cut off at
    a rank is the nearest of that rank to the map, but not its output to the output.
    """
    of_keys = [functools.partial(largest_keys_errors, block) for block in blocks]
    of_ranks = [functools.partial(low_rank_errors, block, of) for block, of in zip(blocks, maps, strict=True)]
    queries = [block.problem.num_queries for block in blocks]
    tokens = [block.problem.num_queries + block.problem.num_keys for block in blocks]
    return [
        *_oracle_rows(LARGEST_KEYS, blocks, parts, queries, of_keys),
        *_oracle_rows(TRUNCATED, blocks, parts, tokens, of_ranks),
    ]


def _oracle_rows(
    name: str,
    blocks: Sequence[Block],
    parts: Sequence[float],
    prices: Sequence[int],
    errors: Sequence[Callable[[list[int]], np.ndarray]],
) -> list[Row]:
    """prices: pairs that a key, or a rank, costs in each block. errors: of each block, by how many."""
    all_pairs = [block.problem.num_queries * block.problem.num_keys for block in blocks]
    numbers = np.array(
        [
            [max(1, math.floor(part * pairs / price)) for part in parts]
            for pairs, price in zip(all_pairs, prices, strict=True)
        ]
    )  # [blocks, parts]
    found = np.mean([of(row.tolist()) for of, row in zip(errors, numbers, strict=True)], axis=0)
    spent = np.array(prices) @ numbers / sum(all_pairs)
    return [
        Row(name, ", ".join(map(str, own)), part, float(pairs), None, float(error))
        for part, own, pairs, error in zip(parts, numbers.T, spent, found, strict=True)
    ]


class Comparison:
    """Images of a generator whose attention is swapped, beside those with dense attention.

    generator, variables: with any attention. noise [B, Z], labels [B]: of `latents`. rng: of the hashes, the
    same for all. blocks: of `blocks_of`. network: of the features. real: images, or None: not compared.
    batch_size: images at once on a device. devices: of this process; None: the first.

    Raises:
        ValueError: there are fewer than four images, or four real ones.
    """

    def __init__(
        self,
        generator: Generator,
        variables: Mapping[str, PyTree],
        noise: Float[np.ndarray, "B Z"],
        labels: Int[np.ndarray, " B"],
        rng: Key[Array, ""],
        *,
        blocks: Sequence[Block],
        network: Network,
        real: Images | None = None,
        batch_size: int = 16,
        devices: Sequence[jax.Device] | None = None,
    ):
        self._generator, self._arguments = generator, (variables, noise, labels, rng)
        self._blocks, self._network = blocks, network
        self._batch_size, self._devices = batch_size, list(devices or jax.local_devices()[:1])
        self._real = None if real is None else self._features(real)
        self._images = self.draw(references(generator)[0])
        self._vectors = self._features(self._images)
        self._moments = Moments.of(self._vectors)

    def draw(self, swap: Swap) -> UInt8[np.ndarray, "B H W 3"]:
        """The images with the methods of a swap."""
        generator = self._generator.clone(attention=dict(swap.methods))
        return Sampler(generator, self._batch_size, self._devices)(*self._arguments)

    def row(self, swap: Swap, images: UInt8[np.ndarray, "B H W 3"]) -> Row:
        """What a swap changes. images: of `draw`."""
        vectors = self._vectors.copy()
        differ = np.any(images != self._images, axis=(1, 2, 3))
        if differ.any():
            vectors[differ] = self._features(images[differ])
        rng = self._arguments[-1]
        errors = [error_of(block, swap.methods[block.size], rng) for block in self._blocks]
        pairs, memory = cost_of(swap, self._blocks)
        kd = kernel_distance(vectors, self._vectors, paired=True)
        row = Row(
            method=swap.name,
            settings=swap.settings,
            part=swap.part,
            pairs=pairs,
            memory=memory,
            attention_error=float(np.mean(errors)),
            image_error=relative_error(images, self._images),
            feature_error=relative_error(vectors, self._vectors),
            fd=frechet_distance(Moments.of(vectors), self._moments),
            kd=kd.value,
            kd_sd=kd.spread,
        )
        if self._real is None:
            return row
        kd_real = kernel_distance(vectors, self._real)
        return dataclasses.replace(row, kd_real=kd_real.value, kd_real_sd=kd_real.spread)

    def _features(self, images: Images) -> Float[np.ndarray, "N D"]:
        size = self._batch_size * len(self._devices)
        batches = features_of(self._network, images, batch_size=size, devices=self._devices)
        return np.concatenate([batch.features for batch in batches])


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """|found - exact| / |exact|, of each of the first axis, their mean; 0 where both are zero."""
    found, exact = (array.reshape(len(array), -1).astype(np.float64) for array in (found, exact))
    error, size = np.linalg.norm(found - exact, axis=1), np.linalg.norm(exact, axis=1)
    return float(np.mean(np.divide(error, size, out=np.where(error > 0, np.inf, 0.0), where=size > 0)))
