"""Comparators: clusters as other methods make them. For comparisons, not for use.

Reformer's and Routing Transformer's models are trained with their attention; here it is put into models that
were not, which is hard on it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.budget import Cost, Problem, clustered_cost
from smyrf_jax.checks import check_positive
from smyrf_jax.clustering import Clustering
from smyrf_jax.clustering.balance import Balance, balance_of
from smyrf_jax.clustering.sorting import ascending, sorted_clusters
from smyrf_jax.floats import float32_at_least
from smyrf_jax.methods.method import ContentBased, Parts
from smyrf_jax.rows import centred, kept_tokens
from smyrf_jax.sharding import vary_alike


@dataclasses.dataclass(frozen=True, repr=False)
class HyperAttention(ContentBased):
    """HyperAttention's clusters alone: sorted by the signs of projections, read as a number of a Gray code.

    Keys are centred, which changes no attention and takes off what they have in common. There are enough bits
    for twice as many hashes as clusters; tokens of equal hashes stay in order.

    Args:
        num_hashes: R, rounds.
        cluster_size: C, queries a cluster.
        clusters_see_future: may be causal, though its clusters are cut from all tokens (`ContentBased`).

    Raises:
        ValueError: a number is not positive.

    Source: HyperAttention (arXiv:2310.05869), section 3 (sortLSH).
    """

    num_hashes: int = 4
    cluster_size: int = 64
    clusters_see_future: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_positive(num_hashes=self.num_hashes, cluster_size=self.cluster_size)

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        balance = _balance(query, key, mask, query_mask, self.cluster_size)
        bits = balance.num_clusters.bit_length()
        kept = None if mask is None else kept_tokens(mask, key)
        key = jnp.moveaxis(centred(jnp.moveaxis(key, -2, -3), kept), -3, -2)
        dtype = float32_at_least(query.dtype)
        directions = _draw(rng, bits, (self.num_hashes, query.shape[-1]), dtype)

        def hashes(vectors: Array) -> Array:
            numbers = gray_numbers(jnp.einsum("...tnd,crd->...nrtc", vectors.astype(dtype), directions))
            if balance.num_filled is not None:  # as many bits as there are clusters
                fewer = bits - _bit_length(balance.num_filled)
                numbers >>= fewer[..., None, None]
            return numbers.astype(dtype)

        clustering = sorted_clusters(hashes(query), hashes(key), mask, query_mask, balance)
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


@dataclasses.dataclass(frozen=True, repr=False)
class Reformer(ContentBased):
    """Reformer's: sorted by the nearest of signed random axes, each chunk with its own and the one before.

    Reformer's models share queries and keys, which a trained model with both does not: here they are hashed
    by the same axes and sorted apart. A chunk and the one before it are two rounds of the clustering, so that
    each key is in one cluster of a round: there are 2 * num_hashes.

    Args:
        num_hashes: R, rounds of hashing.
        cluster_size: C, queries a chunk.
        clusters_see_future: may be causal, though its clusters are cut from all tokens (`ContentBased`).

    Raises:
        ValueError: a number is not positive.

    Source: Reformer (arXiv:2001.04451), section 2; angular hashes: Andoni et al., NIPS 2015.
    """

    num_hashes: int = 2
    cluster_size: int = 64
    clusters_see_future: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_positive(num_hashes=self.num_hashes, cluster_size=self.cluster_size)

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        balance = _balance(query, key, mask, query_mask, self.cluster_size)
        axes = -(-balance.num_clusters // 2)  # two signs: a bucket for each chunk
        dtype = float32_at_least(query.dtype)
        directions = _draw(rng, axes, (self.num_hashes, query.shape[-1]), dtype)
        filled: Any = balance.num_clusters
        if balance.num_filled is not None:
            filled = balance.num_filled[..., None, None, None]

        def hashes(vectors: Array) -> Array:
            along = jnp.einsum("...tnd,crd->...nrtc", vectors.astype(dtype), directions)
            if balance.num_filled is not None:
                axis = jax.lax.broadcasted_iota(jnp.int32, along.shape, along.ndim - 1)
                along = jnp.where(axis < -(-filled // 2), along, jnp.array(0, dtype))
            return jnp.argmax(jnp.concatenate([along, -along], axis=-1), axis=-1).astype(dtype)

        own = sorted_clusters(hashes(query), hashes(key), mask, query_mask, balance)
        chunk = jax.lax.broadcasted_iota(jnp.int32, own.key_order.shape, own.key_order.ndim - 2)
        before = jnp.where(chunk > 0, chunk, filled) - 1
        before = jnp.take_along_axis(own.key_order, before, axis=-2)
        before = jnp.where(chunk < filled, before, key.shape[-3])
        clustering = Clustering(
            jnp.concatenate([own.query_order, own.query_order], axis=-3),
            jnp.concatenate([own.key_order, before], axis=-3),
        )
        return Parts(clustering, deduplicate=True, complete=True)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the chunks, each met twice."""
        return clustered_cost(problem, 2 * self.num_hashes, self.cluster_size)


@dataclasses.dataclass(frozen=True, repr=False)
class Routing(ContentBased):
    """Routing Transformer's: centres take the queries and the keys that are nearest to them.

    Vectors lie on the unit sphere; ceil(T / cluster_size) centres are drawn from the keys and moved to the
    means of what is nearest, ten times (Routing Transformers learn them as they train). A token may be taken
    by several centres or by none, so that each centre is a round of the clustering, of one cluster; a query
    that none takes gets zeros. A key that several centres take counts for each of them.

    Args:
        cluster_size: C, queries a centre.
        clusters_see_future: may be causal, though its clusters are cut from all tokens (`ContentBased`).

    Raises:
        ValueError: cluster_size is not positive.

    Source: Routing Transformer (arXiv:2003.05997), section 4.
    """

    cluster_size: int = 128
    clusters_see_future: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_positive(cluster_size=self.cluster_size)

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        balance = _balance(query, key, mask, query_mask, self.cluster_size)
        kept = [
            None if of is None else kept_tokens(of, side) for of, side in ((query_mask, query), (mask, key))
        ]
        dtype = float32_at_least(query.dtype)
        queries, keys = (_on_sphere(jnp.moveaxis(vectors, -2, -3).astype(dtype)) for vectors in (query, key))
        centres, is_centre = _drawn_centres(rng, keys, kept[1], balance)
        both = jnp.concatenate([queries, keys], axis=-2)
        weight = [
            jnp.ones(side.shape[:-1], both.dtype) if of is None else of.astype(both.dtype)
            for of, side in zip(kept, (queries, keys), strict=True)
        ]
        weights = jnp.concatenate(weight, axis=-1)[..., None]  # [*B, N, T + S, 1]

        def moved(_: Any, centres: Array) -> Array:
            along = jnp.einsum("...td,...cd->...tc", both, centres)
            nearest = jnp.argmax(jnp.where(is_centre[..., None, :], along, -jnp.inf), axis=-1)
            own = weights * jax.nn.one_hot(nearest, balance.num_clusters, dtype=both.dtype)
            sums = jnp.einsum("...tc,...td->...cd", own, both)
            return jnp.where(jnp.sum(own, axis=-2)[..., None] > 0, _on_sphere(sums), centres)

        centres = jax.lax.fori_loop(0, 10, moved, vary_alike(centres, both))

        def taken(vectors: Array, kept: Array | None, slots: int, share: Any) -> Array:
            """[*B, N, centres, 1, slots], the nearest to each centre: a share, if there are so many."""
            length = vectors.shape[-2]
            distance = -jnp.einsum("...td,...cd->...ct", vectors, centres)
            count: Any = length
            if kept is not None:
                distance = jnp.where(kept[..., None, :], distance, jnp.inf)
                count = jnp.sum(kept, axis=-1, dtype=jnp.int32)[..., None, None]
            order = ascending(distance)[..., :slots]
            slot = jax.lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1)
            found = (slot < jnp.minimum(share, count)) & is_centre[..., :, None]
            return jnp.where(found, order, length)[..., None, :]

        num_keys, filled = (
            otherwise if count is None else count[..., None, None]
            for count, otherwise in (
                (balance.num_keys, keys.shape[-2]),
                (balance.num_filled, balance.num_clusters),
            )
        )
        clustering = Clustering(
            taken(queries, kept[0], balance.query_size, self.cluster_size),
            taken(keys, kept[1], balance.key_size, -(-num_keys // filled)),
        )
        return Parts(clustering)

    def cost_of(self, problem: Problem) -> Cost:
        """Of the centres."""
        return clustered_cost(problem, 1, self.cluster_size)


def _drawn_centres(rng: Array, keys: Array, kept: Array | None, balance: Balance) -> tuple[Array, Array]:
    """Some of the keys [*B, N, S, D] that are kept: [*B, N, centres, D], and whether there are so many.

    A key is drawn by its place among those that are kept: what is masked does not matter.
    """
    num_keys, num_centres = keys.shape[-2], balance.num_clusters
    numbers = jax.vmap(jax.random.uniform)(_keys(rng, max(1, num_keys)))[:num_keys]
    numbers = jnp.broadcast_to(numbers.reshape((1,) * (keys.ndim - 2) + (-1,)), keys.shape[:-1])
    count: Any = num_keys
    if kept is not None:
        place = jnp.maximum(jnp.cumsum(kept, axis=-1, dtype=jnp.int32) - 1, 0)
        numbers = jnp.where(kept, jnp.take_along_axis(numbers, place, axis=-1), jnp.inf)
        count = jnp.sum(kept, axis=-1, dtype=jnp.int32)[..., None]
    if balance.num_filled is not None:
        count = jnp.minimum(count, balance.num_filled[..., None])
    drawn = ascending(numbers)[..., : min(num_centres, num_keys)]
    centres = jnp.take_along_axis(keys, drawn[..., None], axis=-2)
    missing = [(0, 0)] * (keys.ndim - 2) + [(0, num_centres - drawn.shape[-1]), (0, 0)]
    shape = (*keys.shape[:-2], num_centres)
    return jnp.pad(centres, missing), jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) < count


def _balance(
    query: Array, key: Array, mask: Array | None, query_mask: Array | None, cluster_size: int
) -> Balance:
    shape = (*query.shape[:-3], query.shape[-2])
    return balance_of(shape, query.shape[-3], key.shape[-3], mask, query_mask, cluster_size)


def _keys(rng: Array, number: int) -> Array:
    """Keys [number], of which the first do not depend on the number."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(1, number + 1))


def _draw(rng: Array, number: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal numbers [number, *shape], of which the first do not depend on the number."""
    return jax.vmap(lambda rng: jax.random.normal(rng, shape, dtype))(_keys(rng, number))


def _bit_length(numbers: Array) -> Array:
    """Of positive int32."""
    return 32 - jax.lax.clz(numbers)


def _on_sphere(vectors: Array) -> Array:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
