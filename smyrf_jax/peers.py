"""Clusters as other methods make them, for comparisons: any of them goes into clustered_attention."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.arguments import check_arguments, check_settings
from smyrf_jax.clustering import Clustering, ascending, sort_clustering


def sign_clustering(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
) -> Clustering:
    """HyperAttention's: sorted by the signs of projections, read as a number of a Gray code.

    Keys are centred, which changes no attention and takes off what they have in common. There are enough bits
    for twice as many hashes as clusters; tokens of equal hashes stay in order.

    Arguments, results and errors as of `smyrf_clustering`.

    Source: HyperAttention (arXiv:2310.05869), section 3 (sortLSH).
    """
    queries, keys = _checked(query, key, mask, num_hashes, cluster_size)
    bits = max(1, -(-queries.shape[-3] // cluster_size)).bit_length()
    directions = jax.random.normal(rng, (num_hashes, bits, queries.shape[-1]), queries.dtype)

    def hashes(vectors: Array) -> Array:
        positive = jnp.einsum("...tnd,rcd->...nrtc", vectors, directions) > 0
        binary = jnp.cumsum(positive, axis=-1) % 2  # running parities are the bits of a Gray code's number
        return binary.astype(queries.dtype) @ (2.0 ** jnp.arange(bits)[::-1]).astype(queries.dtype)

    return sort_clustering(hashes(queries), hashes(_centred(keys, mask)), mask, cluster_size=cluster_size)


def reformer_clustering(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
) -> Clustering:
    """Reformer's: sorted by the nearest of signed random axes, each chunk with its own and the one before.

    Reformer's models share queries and keys, which a trained model with both does not: here they are hashed
    by the same axes and sorted apart. A chunk and the one before it are two rounds of the result, so that
    each key is in one cluster of a round: there are 2 * num_hashes.

    Arguments and errors as of `smyrf_clustering`.

    Source: Reformer (arXiv:2001.04451), section 2; angular hashes: Andoni et al., NIPS 2015.
    """
    queries, keys = _checked(query, key, mask, num_hashes, cluster_size)
    axes = max(1, -(-queries.shape[-3] // (2 * cluster_size)))  # two signs: a bucket for each chunk
    directions = jax.random.normal(rng, (num_hashes, axes, queries.shape[-1]), queries.dtype)

    def hashes(vectors: Array) -> Array:
        along = jnp.einsum("...tnd,rcd->...nrtc", vectors, directions)
        return jnp.argmax(jnp.concatenate([along, -along], axis=-1), axis=-1).astype(queries.dtype)

    own = sort_clustering(hashes(queries), hashes(keys), mask, cluster_size=cluster_size)
    before = jnp.roll(own.key_order, 1, axis=-2)
    return Clustering(
        jnp.concatenate([own.query_order, own.query_order], axis=-3),
        jnp.concatenate([own.key_order, before], axis=-3),
    )


def routing_clustering(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
) -> Clustering:
    """Routing Transformer's: centres take the queries and the keys that are nearest to them.

    Vectors lie on the unit sphere; ceil(T / cluster_size) centres are drawn from the keys and moved to the
    means of what is nearest, ten times (Routing Transformers learn them as they train). A token may be taken
    by several centres or by none, so that each centre is a round of the result, of one cluster; a query that
    none takes gets zeros.

    Arguments and errors as of `smyrf_clustering`; num_hashes must be 1.

    Source: Routing Transformer (arXiv:2003.05997), section 4.
    """
    queries, keys = _checked(query, key, mask, num_hashes, cluster_size)
    if num_hashes != 1:
        raise ValueError(f"there is one set of centres: num_hashes should be 1, got {num_hashes=}.")
    (*_, num_queries, _, _), num_keys = queries.shape, keys.shape[-3]
    num_centres = max(1, -(-num_queries // cluster_size))
    if num_centres > num_keys:
        raise ValueError(f"{num_centres} clusters want as many keys, but there are {num_keys}.")
    sphere = [jnp.moveaxis(_on_sphere(vectors), -2, -3) for vectors in (queries, keys)]  # [*B, N, T, D]
    drawn = jax.random.permutation(rng, num_keys)[:num_centres]
    centres = sphere[1][..., drawn, :]
    both = jnp.concatenate(sphere, axis=-2)

    def moved(_: Array, centres: Array) -> Array:
        nearest = jnp.argmax(jnp.einsum("...td,...cd->...tc", both, centres), axis=-1)
        own = jax.nn.one_hot(nearest, num_centres, dtype=both.dtype)
        sums = jnp.einsum("...tc,...td->...cd", own, both)
        return jnp.where(jnp.sum(own, axis=-2)[..., None] > 0, _on_sphere(sums), centres)

    centres = jax.lax.fori_loop(0, 10, moved, centres)

    def taken(vectors: Array, count: int, kept: Array | None) -> Array:
        """[*B, N, centres, 1, count]"""
        distance = -jnp.einsum("...td,...cd->...ct", vectors, centres)
        if kept is not None:
            distance = jnp.where(kept, distance, jnp.inf)
        order = ascending(distance)[..., :count]
        if kept is not None:
            slot = jax.lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1)
            found = slot < jnp.sum(kept, axis=-1, keepdims=True)
            order = jnp.where(found, order, vectors.shape[-2])
        return order[..., None, :]

    return Clustering(
        taken(sphere[0], min(cluster_size, num_queries), None),
        taken(sphere[1], math.ceil(num_keys / num_centres), mask),
    )


def _checked(
    query: Array, key: Array, mask: Array | None, num_hashes: int, cluster_size: int
) -> tuple[Array, Array]:
    """Queries and keys of as many heads, without gradients."""
    check_arguments(query, key, key, mask)
    check_settings(num_hashes, cluster_size)
    query, key = jax.lax.stop_gradient((query, key))
    return query, jnp.repeat(key, query.shape[-2] // key.shape[-2], axis=-2)


def _centred(keys: Array, mask: Array | None) -> Array:
    if mask is None:
        return keys - jnp.mean(keys, axis=-3, keepdims=True)
    kept = jnp.swapaxes(mask[..., 0, :], -1, -2)[..., None].astype(keys.dtype)  # [*B, S, N, 1]
    total = jnp.maximum(jnp.sum(kept, axis=-3, keepdims=True), 1)
    return keys - jnp.sum(kept * keys, axis=-3, keepdims=True) / total


def _on_sphere(vectors: Array) -> Array:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
