"""Comparators: clusters as other methods make them. For comparisons, not for use.

Reformer's and Routing Transformer's models are trained with their attention; here it is put into models that
were not, which is hard on it.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.budget import Cost, Problem, clustered_cost
from smyrf_jax.checks import check_positive
from smyrf_jax.clustering import Clustering
from smyrf_jax.clustering.sorting import ascending, sorted_clusters
from smyrf_jax.methods.method import Clustered, Parts
from smyrf_jax.rows import centred, kept_keys
from smyrf_jax.sharding import vary_alike


@dataclasses.dataclass(frozen=True)
class HyperAttention(Clustered):
    """HyperAttention's clusters alone: sorted by the signs of projections, read as a number of a Gray code.

    Keys are centred, which changes no attention and takes off what they have in common. There are enough bits
    for twice as many hashes as clusters; tokens of equal hashes stay in order.

    num_hashes: R, rounds.
    cluster_size: C, queries a cluster.

    Raises:
        ValueError: a number is not positive.

    Source: HyperAttention (arXiv:2310.05869), section 3 (sortLSH).
    """

    num_hashes: int = 4
    cluster_size: int = 64

    def __post_init__(self) -> None:
        check_positive(num_hashes=self.num_hashes, cluster_size=self.cluster_size)

    def parts(self, query: Array, key: Array, mask: Array | None, rng: Array) -> Parts:
        """See `Clustered`."""
        bits = max(1, -(-query.shape[-3] // self.cluster_size)).bit_length()
        kept = None if mask is None else kept_keys(mask, key)
        key = jnp.moveaxis(centred(jnp.moveaxis(key, -2, -3), kept), -3, -2)
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        directions = jax.random.normal(rng, (self.num_hashes, bits, query.shape[-1]), dtype)

        def hashes(vectors: Array) -> Array:
            along = jnp.einsum("...tnd,rcd->...nrtc", vectors.astype(dtype), directions)
            return gray_numbers(along).astype(dtype)

        clustering = sorted_clusters(hashes(query), hashes(key), mask, self.cluster_size)
        return Parts(clustering, deduplicate=True, complete=True)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the clusters."""
        return clustered_cost(problem, self.num_hashes, self.cluster_size)


def gray_numbers(along: Array) -> Array:
    """The signs of `along` [..., bits], read as a number of a Gray code: [...] int32."""
    # Running parities are the bits of a Gray code's number.
    binary = jnp.cumsum(along > 0, axis=-1, dtype=jnp.int32) % 2
    weights = 2 ** jnp.arange(along.shape[-1], dtype=jnp.int32)[::-1]
    return jnp.sum(binary * weights.reshape((1,) * (along.ndim - 1) + (-1,)), axis=-1)


@dataclasses.dataclass(frozen=True)
class Reformer(Clustered):
    """Reformer's: sorted by the nearest of signed random axes, each chunk with its own and the one before.

    Reformer's models share queries and keys, which a trained model with both does not: here they are hashed
    by the same axes and sorted apart. A chunk and the one before it are two rounds of the clustering, so that
    each key is in one cluster of a round: there are 2 * num_hashes.

    num_hashes: R, rounds of hashing.
    cluster_size: C, queries a chunk.

    Raises:
        ValueError: a number is not positive.

    Source: Reformer (arXiv:2001.04451), section 2; angular hashes: Andoni et al., NIPS 2015.
    """

    num_hashes: int = 2
    cluster_size: int = 64

    def __post_init__(self) -> None:
        check_positive(num_hashes=self.num_hashes, cluster_size=self.cluster_size)

    def parts(self, query: Array, key: Array, mask: Array | None, rng: Array) -> Parts:
        """See `Clustered`."""
        axes = max(1, -(-query.shape[-3] // (2 * self.cluster_size)))  # two signs: a bucket for each chunk
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        directions = jax.random.normal(rng, (self.num_hashes, axes, query.shape[-1]), dtype)

        def hashes(vectors: Array) -> Array:
            along = jnp.einsum("...tnd,rcd->...nrtc", vectors.astype(dtype), directions)
            return jnp.argmax(jnp.concatenate([along, -along], axis=-1), axis=-1).astype(dtype)

        own = sorted_clusters(hashes(query), hashes(key), mask, self.cluster_size)
        before = jnp.roll(own.key_order, 1, axis=-2)
        clustering = Clustering(
            jnp.concatenate([own.query_order, own.query_order], axis=-3),
            jnp.concatenate([own.key_order, before], axis=-3),
        )
        return Parts(clustering, deduplicate=True, complete=True)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the chunks, each met twice."""
        return clustered_cost(problem, 2 * self.num_hashes, self.cluster_size)


@dataclasses.dataclass(frozen=True)
class Routing(Clustered):
    """Routing Transformer's: centres take the queries and the keys that are nearest to them.

    Vectors lie on the unit sphere; ceil(T / cluster_size) centres are drawn from the keys and moved to the
    means of what is nearest, ten times (Routing Transformers learn them as they train). A token may be taken
    by several centres or by none, so that each centre is a round of the clustering, of one cluster; a query
    that none takes gets zeros. A key that several centres take counts for each of them.

    cluster_size: C, queries a centre.

    Raises:
        ValueError: cluster_size is not positive, or (when it is called) there are more centres than keys.

    Source: Routing Transformer (arXiv:2003.05997), section 4.
    """

    cluster_size: int = 128

    def __post_init__(self) -> None:
        check_positive(cluster_size=self.cluster_size)

    def parts(self, query: Array, key: Array, mask: Array | None, rng: Array) -> Parts:
        """See `Clustered`."""
        num_queries, num_keys = query.shape[-3], key.shape[-3]
        num_centres = max(1, -(-num_queries // self.cluster_size))
        if num_centres > num_keys:
            raise ValueError(f"{num_centres} clusters want as many keys, but there are {num_keys}.")
        kept = None if mask is None else kept_keys(mask, key)
        queries, keys = (_on_sphere(jnp.moveaxis(vectors, -2, -3)) for vectors in (query, key))
        drawn = jax.random.permutation(rng, num_keys)[:num_centres]
        centres = keys[..., drawn, :]  # [*B, N, centres, D]
        both = jnp.concatenate([queries, keys], axis=-2)

        def moved(_: Any, centres: Array) -> Array:
            nearest = jnp.argmax(jnp.einsum("...td,...cd->...tc", both, centres), axis=-1)
            own = jax.nn.one_hot(nearest, num_centres, dtype=both.dtype)
            sums = jnp.einsum("...tc,...td->...cd", own, both)
            return jnp.where(jnp.sum(own, axis=-2)[..., None] > 0, _on_sphere(sums), centres)

        centres = jax.lax.fori_loop(0, 10, moved, vary_alike(centres, both))

        def taken(vectors: Array, count: int, kept: Array | None) -> Array:
            """[*B, N, centres, 1, count]"""
            distance = -jnp.einsum("...td,...cd->...ct", vectors, centres)
            if kept is not None:
                distance = jnp.where(kept[..., None, :], distance, jnp.inf)
            order = ascending(distance)[..., :count]
            if kept is not None:
                slot = jax.lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1)
                found = slot < jnp.sum(kept, axis=-1)[..., None, None]
                order = jnp.where(found, order, vectors.shape[-2])
            return order[..., None, :]

        clustering = Clustering(
            taken(queries, min(self.cluster_size, num_queries), None),
            taken(keys, math.ceil(num_keys / num_centres), kept),
        )
        return Parts(clustering)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the centres."""
        return clustered_cost(problem, 1, self.cluster_size)


def _on_sphere(vectors: Array) -> Array:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
