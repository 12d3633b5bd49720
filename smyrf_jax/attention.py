"""Attention inside clusters, merged over the hash rounds."""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.arguments import check_arguments, check_settings
from smyrf_jax.blockwise import blockwise_attention
from smyrf_jax.budget import dense_is_faster
from smyrf_jax.clustering import Clustering, cluster_of_tokens, smyrf_clustering
from smyrf_jax.dense import dense_attention
from smyrf_jax.merging import finite_min, merge_attention
from smyrf_jax.steps import FarField, Rules, inner_products, take_rows


def clustered_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    clustering: Clustering,
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    deduplicate: bool = False,
    window: int | None = None,
    far_field: FarField | None = None,
    return_residual: bool = False,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Attention of each query to the keys of its clusters, merged over the hash rounds.

    With s_ij = scale * q_i.k_j and c_ij the number of rounds in which query i and key j share a
    cluster, out_i = sum_j c_ij e^{s_ij} v_j / sum_j c_ij e^{s_ij}: each round is a softmax, and the
    rounds are weighted by the softmax of their logsumexps. The orders carry no gradient, the
    logsumexps do.

    Memory is linear in T and S, whatever the number of rounds: clusters are attended a few at a time,
    each step merges into a running output and logsumexp, and the backward pass computes the logits
    anew from the final logsumexp. Reverse mode only, of any order; forward mode raises TypeError.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        clustering: the queries [*B, N, R, L, C] and keys [*B, N, R, L, ceil(S / L)] of each cluster.
        mask: [*B, 1|N, 1, S], True keeps a key. A query without keys gives zeros.
        scale: of the logits; None means 1 / sqrt(D).
        is_causal: query i sees key j <= i + S - T only. The key at its own position, i + S - T, it
            sees in any case, also when they share no cluster, so that no row is left without a key (with
            a far field it counts by its estimate then).
        deduplicate: each key counts once, in however many rounds it is met.
        window: query i sees key j only where -(window // 2) <= j - i < (window + 1) // 2, as well.
        far_field: estimates (`smyrf_jax.far_field`) by which the keys count that a query shares no cluster
            with. With it, each key counts once.
        return_residual: return the logsumexp as well, with which partial attentions can be merged
            (`merge_attention`).

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also log sum_j c_ij e^{s_ij},
        [*B, T, N], -inf in rows without keys. Logits and logsumexps are float32 at least.

    Raises:
        ValueError: shapes do not fit, or the far field is causal and this is not, or the other way round, or
            it was made for one round and there are several, or leaves out pairs that a window may hide.

    Source: SMYRF (arXiv:2010.05315), section 3; recomputed logits: FlashAttention (arXiv:2205.14135).
    """
    check_arguments(query, key, value, mask)
    _check_clustering(query, clustering)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if mask is not None:
        clustering = _leave_out(clustering, mask, key.shape[-3])
    if far_field is not None and far_field.is_causal != is_causal:
        raise ValueError(f"the far field has {far_field.is_causal=}, but here {is_causal=}.")
    if far_field is not None and far_field.met and window is not None:
        raise ValueError(
            "the far field leaves out the pairs of the first round, and a window may hide some: leave it out."
        )
    if far_field is not None and far_field.query is None and clustering.query_order.shape[-3] > far_field.met:
        raise ValueError("the far field was made for a clustering of one round.")
    batch = query.shape[:-3]
    deduplicate = clustering.query_order.shape[-3] > 1 and (deduplicate or far_field is not None)
    attend = functools.partial(
        blockwise_attention, Rules(scale, is_causal, deduplicate, math.prod(batch), window)
    )
    for _ in batch:
        attend = jax.vmap(attend)
    output, logsumexp = attend(query, key, value, clustering, far_field)
    logsumexp = jnp.where(logsumexp > finite_min(logsumexp.dtype), logsumexp, -jnp.inf)
    if is_causal and far_field is None:
        own = _own_position(query, key, value, clustering, mask, scale)
        output, logsumexp = merge_attention((output, own[0]), (logsumexp, own[1]))
    return (output, logsumexp) if return_residual else output


def _check_clustering(query: Array, clustering: Clustering) -> None:
    rounds = [order.shape[:-1] for order in clustering]
    rows = (*query.shape[:-3], query.shape[-2])
    if rounds[0] != rounds[1] or rounds[0][:-2] != rows:
        raise ValueError(
            f"clustering should hold orders [*B, N, R, L, C] with [*B, N] = {rows}, but got "
            f"{clustering.query_order.shape=} and {clustering.key_order.shape=}."
        )


def _leave_out(clustering: Clustering, mask: Array, num_keys: int) -> Clustering:
    """The clustering with the slots of masked keys empty."""
    order = clustering.key_order
    kept = jnp.broadcast_to(mask[..., 0, :], (*order.shape[:-3], num_keys))
    take = take_rows
    for _ in range(order.ndim - 3):
        take = jax.vmap(take)
    return clustering._replace(key_order=jnp.where(take(kept, order), order, num_keys))


def _own_position(
    query: Array, key: Array, value: Array, clustering: Clustering, mask: Array | None, scale: float
) -> tuple[Array, Array]:
    """Attention of query i to key i + S - T alone, where no round lets them meet; else -inf."""
    num_queries, num_keys, groups = query.shape[-3], key.shape[-3], query.shape[-2] // key.shape[-2]

    def at_own(array: Array, axis: int) -> Array:
        """The last T of axis; zeros (False) for queries before the first key."""
        array = jax.lax.slice_in_dim(array, max(0, num_keys - num_queries), num_keys, axis=axis)
        widths = [(0, 0)] * array.ndim
        widths[axis] = (max(0, num_queries - num_keys), 0)
        return jnp.pad(array, widths)

    dtype = jnp.promote_types(query.dtype, jnp.float32)
    own_key, own_value = (
        jnp.repeat(at_own(array, array.ndim - 3), groups, axis=-2) for array in (key, value)
    )
    logits = scale * inner_products(query, own_key, dtype)
    of_query = cluster_of_tokens(clustering.query_order, num_queries)
    of_key = cluster_of_tokens(clustering.key_order, num_keys)  # [*B, N, R, S]
    own_cluster = at_own(of_key + 1, of_key.ndim - 1) - 1
    unmet = ~jnp.any((of_query == own_cluster) & (own_cluster >= 0), axis=-2)  # [*B, N, T]
    kept = jnp.ones((1,) * (query.ndim - 1) + (num_keys,), bool) if mask is None else mask
    unmet &= at_own(kept, kept.ndim - 1)[..., 0, :]
    return own_value, jnp.where(jnp.moveaxis(unmet, -2, -1), logits, -jnp.inf)


def smyrf_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
    scale: float | None = None,
    is_causal: bool = False,
    deduplicate: bool = False,
    return_residual: bool = False,
    implementation: Literal["auto", "dense", "clustered"] = "clustered",
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Approximate attention in O(N log N): smyrf_clustering, then clustered_attention.

    With a cluster_size of T or more there is one cluster, and the result is dense attention for any rng.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        mask: [*B, 1|N, 1, S], True keeps a key; None keeps all. A query without keys gives zeros.
        rng: typed key (`jax.random.key`); the same key gives the same output.
        num_hashes: R, hash rounds.
        cluster_size: C, queries a cluster. There are L = ceil(T / C) clusters of ceil(S / L) keys.
        scale: of the logits; None means 1 / sqrt(D). Hashing looks at unscaled queries and keys.
        is_causal: query i sees key j <= i + S - T only, and the key at its own position in any case.
        deduplicate: each key counts once, in however many rounds it is met.
        return_residual: return the logsumexp over the attended keys as well, for `merge_attention`.
        implementation: "clustered"; "dense" for exact attention in T x S memory; "auto" for dense where it
            takes less time than clustered attention with these settings (`budget.dense_is_faster`:
            measured on CPUs).

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also the logsumexp, [*B, T, N], in
        float32 at least, -inf in rows without keys.

    Raises:
        ValueError: shapes do not fit, num_hashes or cluster_size is not positive, or there is no such
            implementation.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """
    check_arguments(query, key, value, mask)
    if implementation not in ("auto", "dense", "clustered"):
        raise ValueError(
            f"implementation should be 'auto', 'dense' or 'clustered', but got {implementation!r}."
        )
    settings = {"num_hashes": num_hashes, "cluster_size": cluster_size}
    check_settings(**settings)
    if implementation == "auto" and dense_is_faster(query.shape[-3], key.shape[-3], **settings):
        implementation = "dense"
    options: dict[str, Any] = {
        "scale": scale,
        "is_causal": is_causal,
        "return_residual": return_residual,
    }
    if implementation == "dense":
        return dense_attention(query, key, value, mask, **options)
    clustering = smyrf_clustering(query, key, mask, rng=rng, **settings)
    return clustered_attention(query, key, value, clustering, mask, deduplicate=deduplicate, **options)
