"""The attention of a generator on some of its samples: queries, keys and values, and the dense maps."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, PyTree

from biggan.generator import Generator
from smyrf_jax import Dense, Method, attention
from smyrf_jax.budget import Problem
from smyrf_jax.dense import dense_weights
from smyrf_jax.diagnostics import attention_entropy, attention_error, largest_keys_attention

# Of the logits in a BigGAN.
SCALE = 1.0


class Block(NamedTuple):
    """An attention block of a generator whose blocks are all dense, on some samples.

    size: of the map. gamma: what its output is multiplied by before the map is added. query [B, T, 1, D],
    key [B, S, 1, D], value [B, S, 1, V].
    """

    size: int
    gamma: float
    query: Array
    key: Array
    value: Array

    @property
    def problem(self) -> Problem:
        """The sizes of its attention, of one sample."""
        return Problem(
            self.query.shape[1], self.key.shape[1], self.query.shape[-1], self.value.shape[-1], heads=1
        )


def densely(generator: Generator) -> Generator:
    """The generator with dense attention at all maps that have attention."""
    return generator.clone(attention={size: Dense() for size in generator.attention})


def blocks_of(
    generator: Generator,
    variables: Mapping[str, PyTree],
    noise: Float[np.ndarray, "B Z"],
    labels: Int[np.ndarray, " B"],
) -> list[Block]:
    """The attention blocks, from the smallest map to the largest.

    Raises:
        ValueError: there is none.
    """
    if not generator.attention:
        raise ValueError(
            "the generator of --workdir has no attention to swap: its config.generator.attention is empty."
        )
    apply = functools.partial(densely(generator).apply, train=False, mutable=["intermediates"])
    kept = jax.jit(lambda *arguments: apply(*arguments)[1]["intermediates"])(variables, noise, labels)
    found = []
    for name, arrays in kept.items():
        query, key, value = (arrays[of][0] for of in ("query", "key", "value"))
        gamma = float(variables["params"][name]["gamma"])
        found.append(Block(math.isqrt(query.shape[1]), gamma, query, key, value))
    return sorted(found, key=lambda block: block.size)


def error_of(block: Block, method: Method, rng: Key[Array, ""]) -> float:
    """`attention_error` of a method, the mean over samples, each with hashes of its own."""

    @jax.jit
    def errors(rngs: Array, query: Array, key: Array, value: Array) -> Array:
        def of_sample(arrays: tuple[Array, Array, Array, Array]) -> Array:
            rng, *heads = arrays
            found: Any = attention(*heads, method=method, rng=rng, scale=SCALE)
            exact: Any = attention(*heads, method=Dense(), scale=SCALE)
            return attention_error(found, exact)

        # A sample at a time: what is dense here takes T x S.
        return jax.lax.map(of_sample, (rngs, query, key, value))

    rngs = jax.vmap(functools.partial(jax.random.fold_in, rng))(jnp.arange(len(block.query)))
    return float(np.mean(errors(rngs, block.query, block.key, block.value)))


def largest_keys_errors(block: Block, counts: Sequence[int]) -> Float[np.ndarray, " P"]:
    """`attention_error` of each query's `count` largest keys, the mean over samples."""

    @functools.partial(jax.jit, static_argnames="count")
    def errors(query: Array, key: Array, value: Array, count: int) -> Array:
        exact: Any = attention(query, key, value, method=Dense(), scale=SCALE)
        found = largest_keys_attention(query, key, value, count=count, scale=SCALE)
        return attention_error(found, exact)

    return np.array([np.mean(errors(block.query, block.key, block.value, count=count)) for count in counts])


class Decomposition(NamedTuple):
    """Singular vectors and values of the dense maps, values descending: left [B, T, K], values [B, K],
    right [B, K, S]."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    def needed(self, part: float) -> Int[np.ndarray, " B"]:
        """How many singular values have a part of the energy, which is the sum of their squares."""
        energy = np.cumsum(self.values**2, axis=-1)
        return np.sum(energy < part * energy[:, -1:], axis=-1) + 1


def decomposed(block: Block) -> Decomposition:
    """Of the dense maps of all samples, on the host."""
    weights = [
        dense_weights(query, key, scale=SCALE)[0] for query, key in zip(block.query, block.key, strict=True)
    ]
    return Decomposition(*np.linalg.svd(np.stack(weights), full_matrices=False))


def low_rank_errors(block: Block, maps: Decomposition, ranks: Sequence[int]) -> Float[np.ndarray, " P"]:
    """`attention_error` of the dense maps cut off at each rank, the mean over samples."""
    mixed = maps.right @ np.asarray(block.value[:, :, 0], np.float32)  # [B, K, V]
    exact = (maps.left * maps.values[:, None]) @ mixed

    def error(rank: int) -> float:
        cut = (maps.left[..., :rank] * maps.values[:, None, :rank]) @ mixed[:, :rank]
        return float(np.mean(attention_error(*(jnp.asarray(of)[:, :, None] for of in (cut, exact)))))

    return np.array([error(rank) for rank in ranks])


def entropies_of(block: Block) -> Float[np.ndarray, "B T"]:
    """Entropy of the dense attention of each query in nats: log S where all keys count alike."""

    @jax.jit
    def of_all(query: Array, key: Array) -> Any:
        return jax.lax.map(lambda arrays: attention_entropy(*arrays, scale=SCALE), (query, key))

    return np.asarray(of_all(block.query, block.key))[..., 0]
