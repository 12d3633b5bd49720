"""Means of like keys: every pair's weight as that of the query and the mean of the key's like."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smyrf_jax.blockwise import Estimates, Inputs, Rules, blockwise_attention
from smyrf_jax.checks import check_power_of_two, known_product
from smyrf_jax.clustering import Clustering, cluster_of_tokens
from smyrf_jax.clustering.halving import halve_clusters
from smyrf_jax.far_field.far_field import FarField
from smyrf_jax.floats import finite_min, float32_at_least
from smyrf_jax.rows import kept_tokens, masked_mean, take_tokens


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
    ) -> Estimates:
        """See `FarField`."""
        kept = None if mask is None else kept_tokens(mask, key)
        first = Clustering(*(order[..., 0, :, :] for order in clustering))
        several = clustering.query_order.shape[-3] > 1
        one = functools.partial(
            _of_sample, self.means_per_cluster, known_product(query.shape[:-3]), several, complete
        )
        dtype = float32_at_least(query.dtype)
        own = jnp.asarray(scale, dtype) * query.astype(dtype)
        for _ in query.shape[:-3]:
            one = jax.vmap(one)
        return one(own, key, value, first, kept)


def _of_sample(
    means: int,
    samples: int,
    several: bool,
    complete: bool,
    query: Array,
    key: Array,
    value: Array,
    clustering: Clustering,
    kept: Array | None,
) -> Estimates:
    """Of one sample: scaled queries [T, N, D], [S, N, D], [S, N, V], orders [N, L, C], [N, L, K], [N, S]."""
    num_keys, heads, _ = key.shape
    query_order, key_order = clustering
    num_clusters = key_order.shape[1]
    dtype = query.dtype
    if not complete:
        key_order = jnp.sort(key_order, axis=-1)  # empty slots last
    order = halve_clusters(jnp.moveaxis(key, 0, 1), key_order, times=means.bit_length() - 1)
    of_key = cluster_of_tokens(order, num_keys)  # [N, S]
    filled = order < num_keys
    counts = jnp.sum(filled, axis=-1)
    rest = (of_key < 0) if kept is None else (of_key < 0) & kept
    if not complete:
        counts = jnp.concatenate([counts, jnp.sum(rest, axis=-1)[:, None]], axis=-1)

    def means_of(vectors: Array) -> Array:
        """[N, pieces, D], and that of the keys in no cluster at the end."""
        pieces = masked_mean(take_tokens(vectors, order).astype(dtype), filled)[..., 0, :]
        if complete:
            return pieces
        others = masked_mean(jnp.moveaxis(vectors, 0, 1).astype(dtype), rest)
        return jnp.concatenate([pieces, others], axis=1)

    of_keys, of_values = means_of(key), means_of(value)
    # The size of a piece as one more coordinate of its centroid; empty ones count for nothing.
    count = counts[..., None].astype(dtype)
    sizes = jnp.where(count > 0, jnp.log(jnp.maximum(count, 1)), finite_min(dtype) / 4)
    with_sizes = jnp.concatenate([of_keys, sizes], axis=-1)
    queries = jnp.concatenate([query, jnp.ones((*query.shape[:-1], 1), dtype)], axis=-1)
    every = [jnp.arange(length, dtype=jnp.int32) for length in (len(query), of_keys.shape[1])]
    whole = Clustering(*(jnp.broadcast_to(tokens, (heads, 1, 1, len(tokens))) for tokens in every))
    own_pieces = every[1][: num_clusters * means].reshape(num_clusters, means)
    own_pieces = jnp.broadcast_to(own_pieces, (heads, 1, num_clusters, means))
    inputs = Inputs(
        queries,
        jnp.swapaxes(with_sizes, 0, 1),
        jnp.swapaxes(of_values, 0, 1),
        jnp.ones((), dtype),
        whole,
        without=Clustering(query_order[:, None], own_pieces),
    )
    output, logsumexp = blockwise_attention(Rules(samples=samples), inputs)
    found = logsumexp > finite_min(dtype) / 8
    output = jnp.where(found[..., None], output, 0.0)
    logsumexp = jnp.where(found, logsumexp, finite_min(dtype))
    if not several:
        return Estimates(output, logsumexp, None, None, None, met=1)
    # What is in no cluster has the last mean.
    its_piece = jnp.where(of_key < 0, of_keys.shape[1] - 1, of_key)
    its_centroid = jnp.take_along_axis(of_keys, its_piece[..., None], axis=1)
    offset = jnp.zeros(query.shape[:-1], dtype)
    return Estimates(output, logsumexp, query, jnp.swapaxes(its_centroid, 0, 1), offset, met=1)
