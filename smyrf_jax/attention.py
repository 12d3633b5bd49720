"""Attention inside clusters, merged over the hash rounds."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from smyrf_jax.clustering import Clustering, cluster_of_tokens, sort_clustering
from smyrf_jax.hashing import e2lsh, gaussian_directions
from smyrf_jax.transforms import xbox_plus


def finite_min(dtype: jnp.dtype) -> float:
    """Stands for -inf in logits. Finite: a row without keys would give NaN."""
    return float(jnp.finfo(dtype).min) / 2


def check_arguments(query: Array, key: Array, value: Array, mask: Array | None) -> None:
    """Raises ValueError unless query, key, value and mask fit [*B, T, N, D] and so on."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim < 3:
            raise ValueError(f"{name} should be [*B, length, heads, width], but got shape {array.shape}.")
    batch, heads = query.shape[:-3], query.shape[-2]
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"query and key should have one width, but got {query.shape=} and {key.shape=}.")
    if (*key.shape[:-3], key.shape[-2]) != (*batch, heads):
        raise ValueError(
            f"query and key should have the same batch and heads, but got {query.shape=} and {key.shape=}."
        )
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"key and value should differ in width only, but got {key.shape=} and {value.shape=}."
        )
    if mask is None:
        return
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask should be boolean (True keeps a key), but got {mask.dtype=}.")
    full = (*batch, heads, 1, key.shape[-3])
    fits = mask.ndim == len(full) and mask.shape[-2:] == full[-2:]
    if not fits or any(m not in (1, f) for m, f in zip(mask.shape[:-2], full[:-2], strict=True)):
        raise ValueError(
            f"mask should be a key-padding mask [*B, 1 or N, 1, S] for [*B, N, 1, S] = {full}, "
            f"but got {mask.shape=}. A mask over query-key pairs is not supported: it needs "
            "memory for every pair."
        )


def clustered_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S N D"],
    value: Float[Array, "*B S N V"],
    clustering: Clustering,
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | None = None,
    deduplicate: bool = False,
) -> Float[Array, "*B T N V"]:
    """Attention of each query to the keys of its clusters, merged over the hash rounds.

    With s_ij = scale * q_i.k_j and c_ij the number of rounds in which query i and key j share a
    cluster, out_i = sum_j c_ij e^{s_ij} v_j / sum_j c_ij e^{s_ij}: each round is a softmax, and the
    rounds are weighted by the softmax of their logsumexps. The orders carry no gradient, the
    logsumexps do. Rounds run one after the other and recompute their logits in the backward pass.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, N, D].
        value: [*B, S, N, V].
        clustering: the queries [*B, N, R, L, C] and keys [*B, N, R, L, ceil(S / L)] of each cluster.
        mask: [*B, 1|N, 1, S], True keeps a key. A query without keys gives zeros.
        scale: of the logits; None means 1 / sqrt(D).
        deduplicate: each key counts once (s_ij - log c_ij), in however many rounds it is met.

    Returns:
        [*B, T, N, V] in the dtype of value. Logits and logsumexps are float32 at least.

    Raises:
        ValueError: shapes do not fit.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """
    check_arguments(query, key, value, mask)
    _check_clustering(query, clustering)
    batch, heads = query.shape[:-3], query.shape[-2]
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if mask is None:
        mask = jnp.ones((1,) * (len(batch) + 2) + (key.shape[-3],), bool)
    mask = jnp.broadcast_to(mask, (*batch, heads, 1, key.shape[-3]))[..., 0, :]
    attend = _rows_attention(scale, deduplicate)
    for _ in range(len(batch) + 1):
        attend = jax.vmap(attend)
    rows = [jnp.moveaxis(array, -2, -3) for array in (query, key, value)]
    output = attend(*rows, mask, *clustering)
    return jnp.moveaxis(output, -3, -2).astype(value.dtype)


def _check_clustering(query: Array, clustering: Clustering) -> None:
    rounds = [order.shape[:-1] for order in clustering]
    rows = (*query.shape[:-3], query.shape[-2])
    if rounds[0] != rounds[1] or rounds[0][:-2] != rows:
        raise ValueError(
            f"clustering should hold orders [*B, N, R, L, C] with [*B, N] = {rows}, but got "
            f"{clustering.query_order.shape=} and {clustering.key_order.shape=}."
        )


def _rows_attention(scale: float, deduplicate: bool):
    """clustered_attention of one (batch, head) row: [T, D], [S, D], [S, V], [S], orders -> [T, V]."""

    def attend(
        query: Float[Array, "T D"],
        key: Float[Array, "S D"],
        value: Float[Array, "S V"],
        mask: Bool[Array, " S"],
        query_order: Int[Array, "R L C"],
        key_order: Int[Array, "R L K"],
    ) -> Float[Array, "T V"]:
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        low = finite_min(dtype)
        num_queries, num_keys = query.shape[0], key.shape[0]
        query_cluster = cluster_of_tokens(query_order, num_queries)
        key_cluster = cluster_of_tokens(key_order, num_keys)

        @jax.checkpoint
        def one_round(orders):
            queries, keys = orders  # [L, C], [L, K]
            logits = scale * jnp.einsum(
                "lcd,lkd->lck",
                _take(query, queries),
                _take(key, keys),
                preferred_element_type=dtype,
            )
            if deduplicate:
                logits -= jnp.log(_times_met(query_cluster, key_cluster, queries, keys, dtype))
            keep = _take(mask, keys)[:, None, :]
            logits = jnp.where(keep, logits, low)
            top = jnp.max(logits, axis=-1, keepdims=True, initial=low)
            weights = jnp.where(keep, jnp.exp(logits - jax.lax.stop_gradient(top)), 0.0)
            total = jnp.sum(weights, axis=-1)
            output = jnp.einsum(
                "lck,lkv->lcv",
                weights.astype(value.dtype),
                _take(value, keys),
                preferred_element_type=dtype,
            )
            safe = jnp.where(total > 0, total, 1.0)
            logsumexp = jnp.where(total > 0, jax.lax.stop_gradient(top)[..., 0] + jnp.log(safe), low)
            return (
                _put(output / safe[..., None], queries, num_queries, 0.0),
                _put(logsumexp, queries, num_queries, low),
            )

        outputs, logsumexps = jax.lax.map(one_round, (query_order, key_order))
        weights = jax.nn.softmax(logsumexps, axis=0)  # [R, T]
        return jnp.einsum("rt,rtv->tv", weights, outputs)

    return attend


def _take(tokens: Array, order: Int[Array, "L C"]) -> Array:
    """Rows of tokens [T, ...] in the order [L, C]; zeros (False) in empty slots."""
    return tokens.at[order].get(mode="fill", fill_value=0)


def _put(rows: Array, order: Int[Array, "L C"], length: int, empty: float) -> Array:
    """The inverse of _take: rows [L, C, ...] back to [length, ...]; `empty` where no row goes."""
    tokens = jnp.full((length, *rows.shape[2:]), empty, rows.dtype)
    return tokens.at[order].set(rows, mode="drop")


def _times_met(
    query_cluster: Int[Array, "R T"],
    key_cluster: Int[Array, "R S"],
    queries: Int[Array, "L C"],
    keys: Int[Array, "L K"],
    dtype: jnp.dtype,
) -> Float[Array, "L C K"]:
    """c_ij of the pairs of one round: the rounds in which query i and key j share a cluster."""

    def add(count, clusters):
        of_query, of_key = (
            jnp.take(cluster, order, mode="clip")
            for cluster, order in zip(clusters, (queries, keys), strict=True)
        )
        return count + (of_query[:, :, None] == of_key[:, None, :]), None

    shape = (*queries.shape, keys.shape[-1])
    count, _ = jax.lax.scan(add, jnp.zeros(shape, dtype), (query_cluster, key_cluster))
    # Empty slots may meet nobody; they are masked or dropped later.
    return jnp.maximum(count, 1.0)


def smyrf_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S N D"],
    value: Float[Array, "*B S N V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
    scale: float | None = None,
    deduplicate: bool = False,
) -> Float[Array, "*B T N V"]:
    """Approximate attention in O(N log N): xbox_plus, e2lsh, sort_clustering, clustered_attention.

    With a cluster_size of T or more there is one cluster, and the result is dense attention for any rng.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, N, D].
        value: [*B, S, N, V].
        mask: [*B, 1|N, 1, S], True keeps a key; None keeps all. A query without keys gives zeros.
        rng: typed key (`jax.random.key`); the same key gives the same output.
        num_hashes: R, hash rounds.
        cluster_size: C, queries a cluster. There are L = ceil(T / C) clusters of ceil(S / L) keys.
        scale: of the logits; None means 1 / sqrt(D). Hashing looks at unscaled queries and keys.
        deduplicate: each key counts once, in however many rounds it is met.

    Returns:
        [*B, T, N, V] in the dtype of value.

    Raises:
        ValueError: shapes do not fit, or num_hashes or cluster_size is not positive.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """
    check_arguments(query, key, value, mask)
    if num_hashes < 1:
        raise ValueError(f"num_hashes must be positive, got num_hashes={num_hashes}.")
    if cluster_size < 1:
        raise ValueError(f"cluster_size must be positive, got cluster_size={cluster_size}.")
    mapped = xbox_plus(jax.lax.stop_gradient(query), jax.lax.stop_gradient(key), mask)
    directions = gaussian_directions(rng, num_hashes, mapped[0].shape[-1], mapped[0].dtype)
    query_hash, key_hash = (e2lsh(vectors, directions) for vectors in mapped)
    clustering = sort_clustering(query_hash, key_hash, mask, cluster_size=cluster_size)
    return clustered_attention(query, key, value, clustering, mask, scale=scale, deduplicate=deduplicate)
