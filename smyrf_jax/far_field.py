"""What lies outside the clusters: estimates of the weights of pairs that are not attended exactly."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.arguments import check_arguments, check_means
from smyrf_jax.blockwise import blockwise_attention
from smyrf_jax.clustering import Clustering, cluster_of_tokens
from smyrf_jax.halving import halve_clusters
from smyrf_jax.merging import finite_min
from smyrf_jax.steps import FarField, Rules, inner_products

# Tokens a step of causal features.
CHUNK = 128


def orthogonal_projection(
    rng: Key[Array, ""], num_rows: int, width: int, dtype: Any = jnp.float32
) -> Float[Array, "M D"]:
    """Gaussian rows, orthogonal within blocks of D, with the lengths that independent ones have.

    Source: Performer (arXiv:2009.14794), section 2.4.
    """
    blocks = -(-num_rows // width)
    directions_rng, lengths_rng = jax.random.split(rng)
    gaussian = jax.random.normal(directions_rng, (blocks, width, width), dtype)
    directions = jnp.linalg.qr(gaussian)[0].reshape(blocks * width, width)[:num_rows]
    lengths = jnp.linalg.norm(jax.random.normal(lengths_rng, (num_rows, width), dtype), axis=-1)
    return lengths[:, None] * directions


def positive_features(
    vectors: Float[Array, "*A D"], projection: Float[Array, "M D"]
) -> tuple[Float[Array, "*A F"], Float[Array, "*A"]]:
    """Features with E[features(x) . features(y)] = e^(x . y), as features * e^log_scale.

    Args:
        vectors: x, [..., D].
        projection: [M, D], rows with standard normal entries.

    Returns:
        Features in 0 .. 1, [..., 2 M] (of each row and of its opposite, cosh, which has less variance), and
        their log scale [...].

    Source: Performer (arXiv:2009.14794), section 2.3.
    """
    dtype = jnp.promote_types(vectors.dtype, jnp.float32)
    vectors = vectors.astype(dtype)
    along = jnp.einsum("...d,md->...m", vectors, projection, preferred_element_type=dtype)
    along = jnp.concatenate([along, -along], axis=-1)
    top = jax.lax.stop_gradient(jnp.max(along, axis=-1))
    scale = top - inner_products(vectors, vectors, dtype) / 2 - math.log(along.shape[-1]) / 2
    return jnp.exp(along - top[..., None]), scale


def performer_far_field(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    projection: Float[Array, "P D"],
    scale: float | None = None,
    is_causal: bool = False,
) -> FarField:
    """Every pair by positive random features; in clustered_attention, that is Scatterbrain.

    Its output alone is Performer's attention. Masked keys count in neither sum. Scales are carried as
    logarithms: nothing is exponentiated before its maximum is taken off.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N.
        value: [*B, S, M, V].
        mask: [*B, 1|N, 1, S], True keeps a key.
        projection: [P, D], of `orthogonal_projection`; redraw it as often as wished. There are 2 P features.
        scale: of the logits; None means 1 / sqrt(D).
        is_causal: query i counts key j <= i + S - T only.

    Raises:
        ValueError: shapes do not fit.

    Source: Scatterbrain (arXiv:2110.15343), section 4; Performer (arXiv:2009.14794).
    """
    check_arguments(query, key, value, mask)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    groups = query.shape[-2] // key.shape[-2]
    key, value = (jnp.repeat(array, groups, axis=-2) for array in (key, value))
    queries, offset = positive_features(math.sqrt(scale) * query, projection)
    keys, key_scale = positive_features(math.sqrt(scale) * key, projection)
    low = finite_min(keys.dtype)
    if mask is not None:
        key_scale = jnp.where(jnp.moveaxis(_kept(mask, key), -1, -2), key_scale, low)
    # One scale for all keys of a row: that of the largest.
    top = jax.lax.stop_gradient(jnp.max(key_scale, axis=-2, keepdims=True, initial=low))
    keys = keys * jnp.exp(jnp.where(key_scale > low, key_scale - top, low))[..., None]
    offset = offset + jnp.where(top > low, top, 0.0)
    ones = jnp.ones((*value.shape[:-1], 1), keys.dtype)
    summed = _sums(queries, keys, jnp.concatenate([value.astype(keys.dtype), ones], axis=-1), is_causal)
    total = summed[..., -1]
    found = total > 4 * float(jnp.finfo(total.dtype).tiny)
    log_total = jnp.log(jnp.where(found, total, 1.0))
    logsumexp = jnp.where(found, offset + log_total, low)
    # The gradient of a quotient has its square, which a small total does not have in float32.
    output = jnp.where(found[..., None], summed[..., :-1] * jnp.exp(-log_total)[..., None], 0.0)
    return FarField(output, logsumexp, queries, keys, offset, linear=True, is_causal=is_causal)


def _kept(mask: Array, key: Array) -> Array:
    """The mask as [*B, N, S]."""
    return jnp.broadcast_to(mask[..., 0, :], (*key.shape[:-3], key.shape[-2], key.shape[-3]))


def _sums(queries: Array, keys: Array, values: Array, is_causal: bool) -> Array:
    """sum_j (query_i . key_j) value_j, [*B, T, N, V]; of j <= i + S - T if causal."""
    if not is_causal:
        return jnp.einsum("...tnf,...nfv->...tnv", queries, jnp.einsum("...snf,...snv->...nfv", keys, values))
    num_queries, num_keys = queries.shape[-3], keys.shape[-3]
    length = -(-max(num_queries, num_keys) // CHUNK) * CHUNK

    def chunks(array: Array) -> Array:
        """[chunks, *B, CHUNK, N, ...], aligned at the end."""
        widths = [(0, 0)] * array.ndim
        widths[-3] = (length - array.shape[-3], 0)
        array = jnp.pad(array, widths)
        array = array.reshape(*array.shape[:-3], length // CHUNK, CHUNK, *array.shape[-2:])
        return jnp.moveaxis(array, -4, 0)

    @jax.checkpoint
    def step(before: Array, arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query, key, value = arrays
        inside = jnp.tril(jnp.ones((CHUNK, CHUNK), bool))[:, None, :]
        pairs = jnp.where(
            jnp.broadcast_to(inside, (*query.shape[:-2], query.shape[-2], CHUNK)),
            jnp.einsum("...tnf,...snf->...tns", query, key),
            0.0,
        )
        output = jnp.einsum("...tns,...snv->...tnv", pairs, value)
        output += jnp.einsum("...tnf,...nfv->...tnv", query, before)
        return before + jnp.einsum("...snf,...snv->...nfv", key, value), output

    shape = (*keys.shape[:-3], *keys.shape[-2:], values.shape[-1])
    _, outputs = jax.lax.scan(step, jnp.zeros(shape, keys.dtype), tuple(map(chunks, (queries, keys, values))))
    outputs = jnp.moveaxis(outputs, 0, -4)
    outputs = outputs.reshape(*outputs.shape[:-4], length, *outputs.shape[-2:])
    return outputs[..., length - num_queries :, :, :]


def centroid_far_field(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    clustering: Clustering,
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    means_per_cluster: int = 4,
    scale: float | None = None,
) -> FarField:
    """Every key by the mean of the like keys in its cluster of the first round, with its own value.

    Keys of a cluster are cut into pieces of like keys. Each query attends the means of the pieces of all
    clusters but its own, weighted by their sizes: L * means_per_cluster / S of the pairs. Where the keys of
    a piece coincide, that is exact. By Jensen's inequality it never counts a piece for too much, so that what
    is met in further rounds can be taken off without cancellation. (The variance of the keys as a second term
    gained 4 % with 2 trees and lost 1 % with 4, on a pretrained encoder, and has no such bound.)

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N.
        value: [*B, S, M, V].
        clustering: of the queries and keys, as for clustered_attention, where its first round meets all its
            pairs: no window, not causal. Each token is in one cluster of a round at most.
        mask: [*B, 1|N, 1, S], True keeps a key.
        means_per_cluster: a power of two.
        scale: of the logits; None means 1 / sqrt(D).

    Raises:
        ValueError: shapes do not fit, or means_per_cluster is no power of two.
    """
    check_arguments(query, key, value, mask)
    check_means(means_per_cluster)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    groups = query.shape[-2] // key.shape[-2]
    key, value = (jnp.repeat(array, groups, axis=-2) for array in (key, value))
    kept = None if mask is None else _kept(mask, key)
    query_order, key_order = (order[..., 0, :, :] for order in clustering)  # [*B, N, L, C]
    several = clustering.query_order.shape[-3] > 1
    one = functools.partial(
        _centroid_far_field, scale, math.prod(query.shape[:-3]), means_per_cluster, several
    )
    for _ in query.shape[:-3]:
        one = jax.vmap(one)
    return one(query, key, value, query_order, key_order, kept)


def _centroid_far_field(
    scale: float,
    samples: int,
    means: int,
    several: bool,
    query: Array,
    key: Array,
    value: Array,
    query_order: Array,
    key_order: Array,
    kept: Array | None,
) -> FarField:
    """Of one sample: [T, N, D], [S, N, D], [S, N, V], [N, L, C], [N, L, K], [N, S]."""
    num_keys, heads, _ = key.shape
    num_clusters = key_order.shape[1]
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    if kept is not None:
        kept = jnp.pad(kept, ((0, 0), (0, 1)))  # of the slots that are empty already
        found = jnp.take_along_axis(kept, key_order.reshape(heads, -1), axis=1).reshape(key_order.shape)
        key_order = jnp.sort(jnp.where(found, key_order, num_keys), axis=-1)
    order = halve_clusters(jnp.moveaxis(key, 0, 1), key_order, times=means.bit_length() - 1)
    head = jnp.arange(heads)[:, None, None]
    filled = order < num_keys
    count = jnp.sum(filled, axis=-1)[..., None].astype(dtype)  # [N, pieces, 1]

    def mean(vectors: Array) -> Array:
        """[N, pieces, D]"""
        rows = vectors.at[order, head].get(mode="fill", fill_value=0).astype(dtype)
        return jnp.sum(rows, axis=-2) / jnp.maximum(count, 1)

    centroids, values = mean(key), mean(value)
    own = scale * query.astype(dtype)
    # The size of a piece as one more coordinate of its centroid; empty ones count for nothing.
    sizes = jnp.where(count > 0, jnp.log(jnp.maximum(count, 1)), finite_min(dtype) / 4)
    with_sizes = jnp.concatenate([centroids, sizes], axis=-1)
    queries = jnp.concatenate([own, jnp.ones((*own.shape[:-1], 1), dtype)], axis=-1)
    every = [jnp.arange(length, dtype=jnp.int32) for length in (len(query), num_clusters * means)]
    whole = Clustering(*(jnp.broadcast_to(tokens, (heads, 1, 1, len(tokens))) for tokens in every))
    pieces = jnp.broadcast_to(every[1].reshape(num_clusters, means), (heads, 1, num_clusters, means))
    output, logsumexp = blockwise_attention(
        Rules(1.0, False, False, samples),
        queries,
        jnp.swapaxes(with_sizes, 0, 1),
        jnp.swapaxes(values, 0, 1),
        whole,
        without=Clustering(query_order[:, None], pieces),
    )
    found = logsumexp > finite_min(dtype) / 8
    output, logsumexp = (
        jnp.where(found[..., None], output, 0.0),
        jnp.where(found, logsumexp, finite_min(dtype)),
    )
    if not several:
        return FarField(output, logsumexp, None, None, None, met=1)
    of_key = cluster_of_tokens(order, num_keys)  # [N, S]
    its_centroid = jnp.take_along_axis(centroids, jnp.maximum(of_key, 0)[..., None], axis=1)
    offset = jnp.zeros(own.shape[:-1], dtype)
    return FarField(output, logsumexp, own, jnp.swapaxes(its_centroid, 0, 1), offset, met=1)
