"""Means of like keys: every pair's weight as that of the query and the mean of the key's like."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise import Estimates
from smyrf_jax.blockwise.contract import Means
from smyrf_jax.checks import check_power_of_two
from smyrf_jax.clustering import Clustering
from smyrf_jax.clustering.clustering import cluster_of_places, places_of
from smyrf_jax.clustering.halving import halve_clusters
from smyrf_jax.far_field.far_field import FarField
from smyrf_jax.floats import finite_min, float32_at_least
from smyrf_jax.rows import kept_tokens, masked_mean, of_its_piece, sums_of_pieces
from smyrf_jax.sharding import vary_alike


@dataclasses.dataclass(frozen=True)
class Centroids(FarField):
    """Every key by the mean of the like keys in its cluster of the first round, with its own value.

    Keys of a cluster are cut into pieces of like keys. Each query attends the means of the pieces of all
    clusters but its own, weighted by their sizes: L * means_per_cluster / S of the pairs. Where the keys of
    a piece coincide, that is exact. By Jensen's inequality it never counts a piece for too much, so that what
    is met in further rounds can be taken off without cancellation. (The variance of the keys as a second term
    gained 4 % with 2 trees and lost 1 % with 4, on a pretrained encoder, and has no such bound.)
    (Of logits of 1e8 and more that is true up to their rounding, which is whole numbers then.)
    Keys that are in no cluster of the first round count by their common mean: each key counts once.

    Args:
        means_per_cluster: a power of two.

    Raises:
        ValueError: means_per_cluster is no power of two.
    """

    means_per_cluster: int = 4

    def __post_init__(self) -> None:
        check_power_of_two(means_per_cluster=self.means_per_cluster)

    def check(self, width: int, *, is_causal: bool, window: int | None) -> None:
        """Raises ValueError for causal attention and windows."""
        if is_causal:
            raise ValueError(
                "means of like keys mix keys of all positions, so Canopy and Centroids cannot be causal: "
                "take Scatterbrain(window=...), Performer, Local or Dense (Features, or no far field)."
            )
        if window is not None:
            raise ValueError(
                "centroids leave out the pairs of the first round, and a window may hide some: leave it out."
            )

    def estimates(
        self,
        query: Array,
        key: Array,
        value: Array,
        clustering: Clustering,
        mask: Array | None,
        *,
        scale: Any,
        is_causal: bool,
        complete: bool = False,
        every_token: bool = False,
    ) -> Estimates:
        """See `FarField`."""
        kept = None if mask is None else kept_tokens(mask, key)
        first = Clustering(*(order[..., 0, :, :] for order in clustering))
        several = clustering.query_order.shape[-3] > 1
        one = functools.partial(
            _of_sample,
            self.means_per_cluster,
            several,
            complete,
            every_token,
        )
        dtype = float32_at_least(query.dtype)
        own = jnp.asarray(scale, dtype) * query.astype(dtype)
        for _ in query.shape[:-3]:
            one = jax.vmap(one)
        return one(own, key, value, first, kept)


def _of_sample(
    means: int,
    several: bool,
    complete: bool,
    every_token: bool,
    query: Array,
    key: Array,
    value: Array,
    clustering: Clustering,
    kept: Array | None,
) -> Estimates:
    """Of one sample: scaled queries [T, N, D], [S, N, D], [S, N, V], orders [N, L, C], [N, L, K], [N, S]."""
    num_keys, heads, _ = key.shape
    key_order = clustering.key_order
    dtype = query.dtype
    if not complete:
        key_order = jnp.sort(key_order, axis=-1)  # empty slots last
    order = halve_clusters(
        jnp.moveaxis(key, 0, 1), key_order, times=means.bit_length() - 1, complete=every_token
    )
    of_key = cluster_of_places(places_of(order, num_keys, complete=every_token), order)  # [N, S]
    counts = jnp.sum(order < num_keys, axis=-1)
    rest = (of_key < 0) if kept is None else (of_key < 0) & kept
    if not complete:
        counts = jnp.concatenate([counts, jnp.sum(rest, axis=-1)[:, None]], axis=-1)

    vectors = tuple(jnp.moveaxis(of, 0, 1).astype(dtype) for of in (key, value))
    sums = sums_of_pieces(*vary_alike((vectors, order, of_key), vectors, order))
    divisor = jnp.maximum(counts[:, : order.shape[1], None], 1).astype(dtype)
    of_keys, of_values = (of / divisor for of in sums)
    if not complete:  # the mean of the keys in no cluster, at the end
        of_keys, of_values = (
            jnp.concatenate([pieces, masked_mean(of, rest)], axis=1)
            for pieces, of in zip((of_keys, of_values), vectors, strict=True)
        )
    # The size of a piece as one more coordinate of its centroid; empty ones count for nothing.
    count = counts[..., None].astype(dtype)
    sizes = jnp.where(count > 0, jnp.log(jnp.maximum(count, 1)), finite_min(dtype) / 4)
    # The keys in no cluster are in nobody's.
    piece = jnp.arange(of_keys.shape[1], dtype=jnp.int32)
    cluster = jnp.broadcast_to(jnp.where(piece < order.shape[1], piece // means, -2), (heads, len(piece)))
    found = Means(jnp.concatenate([of_keys, sizes], axis=-1), of_values, cluster)
    if not several:
        return Estimates(None, None, None, None, None, met=1, means=found)
    pieces = of_keys[:, : order.shape[1]]
    (its_centroid,) = of_its_piece(*vary_alike(((pieces,), order, of_key), pieces, order))
    if not complete:  # what is in no cluster has the last mean
        its_centroid = jnp.where((of_key < 0)[..., None], of_keys[:, -1:], its_centroid)
    offset = jnp.zeros(query.shape[:-1], dtype)
    its_centroid = jnp.swapaxes(its_centroid, 0, 1)
    return Estimates(None, None, query, its_centroid, offset, met=1, means=found)
