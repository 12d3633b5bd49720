"""Attention inside clusters, merged over the hash rounds, with an estimate of what lies outside."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from smyrf_jax.blockwise import Implementation, Inputs, Rules, blockwise_attention, check_implementation
from smyrf_jax.checks import (
    check_arguments,
    check_positive,
    empty_attention,
    is_empty,
    known_product,
    scale_of,
    with_positive_scale,
)
from smyrf_jax.clustering import Clustering, cluster_of_tokens
from smyrf_jax.clustering.clustering import first_slots
from smyrf_jax.clustering.local import kept_in_windows, local_sizes
from smyrf_jax.far_field import FarField
from smyrf_jax.floats import finite_min, float32_at_least
from smyrf_jax.merging import merge_attention
from smyrf_jax.padding import without_masked
from smyrf_jax.rows import inner_products, repeat_heads, take_rows


def clustered_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    clustering: Clustering,
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | Array | None = None,
    is_causal: bool = False,
    deduplicate: bool = False,
    window: int | None = None,
    far_field: FarField | None = None,
    return_residual: bool = False,
    implementation: Implementation | None = None,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Attention of each query to the keys of its clusters, merged over the hash rounds.

    With s_ij = scale * q_i.k_j and c_ij the number of rounds in which query i and key j share a
    cluster, out_i = sum_j c_ij e^{s_ij} v_j / sum_j c_ij e^{s_ij}: each round is a softmax, and the
    rounds are weighted by the softmax of their logsumexps. The orders carry no gradient, the
    logsumexps do.

    Memory is linear in T and S, whatever the number of rounds: clusters are attended a few at a time,
    each step merges into a running output and logsumexp, and the backward pass computes the logits
    again from the final logsumexp. Reverse mode only, of any order; forward mode raises TypeError.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        clustering: the queries [*B, N, R, L, C] and keys [*B, N, R, L, ceil(S / L)] of each cluster.
        mask: [*B, 1|N, 1, S], True keeps a key. A query without keys gives zeros.
        scale: of the logits, one number, which may be traced and learned; None means 1 / sqrt(D).
        is_causal: query i sees key j <= i only, as in jax.nn. (If the clustering was made of all tokens, as
            all but local windows are, it depends on later ones.) The key at its own position it sees in any
            case, also when they share no cluster, so that no row is left without a key (with a far field it
            counts by its estimate then; with a window it is not added, as the window's clusters hold it).
        deduplicate: each key counts once, in however many rounds it is met, and in one cluster of a round.
        window: query i sees key j only where -(window // 2) <= j - i < (window + 1) // 2, as well. Only for
            the clusters of `local_clustering` with the same window.
        far_field: `Centroids` or `Features`, by whose estimates the keys count that a query shares no cluster
            with. With it, each key counts once.
        return_residual: return the logsumexp as well, with which partial attentions can be merged
            (`merge_attention`).
        implementation: as for `attention`.

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also log sum_j c_ij e^{s_ij},
        [*B, T, N], -inf in rows without keys. Logits and logsumexps are float32 at least.

    Raises:
        ValueError: shapes do not fit, or the far field cannot estimate what is left out (`FarField.check`).

    Source: SMYRF (arXiv:2010.05315), section 3; recomputed logits: FlashAttention (arXiv:2205.14135).
    """
    check_arguments(query, key, value, mask)
    check_implementation(implementation)
    clustering = Clustering(*(order.astype(jnp.int32) for order in clustering))
    _check_clustering(query, clustering, window)
    query, scale = with_positive_scale(query, scale_of(scale, query.shape[-1]))
    query, key, value = without_masked(query, key, value, mask)
    if far_field is not None:
        if not isinstance(far_field, FarField):
            raise ValueError(f"far_field should be Centroids(...) or Features(...), but got {far_field!r}.")
        far_field.check(query.shape[-1], is_causal=is_causal, window=window)
    if window is None and (far_field is not None or deduplicate):
        clustering = _each_key_in_one(clustering, key.shape[-3])
    output, logsumexp = attend_in_clusters(
        query,
        key,
        value,
        clustering,
        mask,
        scale=scale,
        is_causal=is_causal,
        deduplicate=deduplicate,
        window=window,
        far_field=far_field,
        implementation=implementation,
    )
    return (output, logsumexp) if return_residual else output


def attend_in_clusters(
    query: Array,
    key: Array,
    value: Array,
    clustering: Clustering,
    mask: Array | None,
    *,
    scale: float | Array,
    is_causal: bool = False,
    deduplicate: bool = False,
    window: int | None = None,
    far_field: FarField | None = None,
    complete: bool = False,
    every_token: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """`clustered_attention`, unchecked: output and logsumexp.

    Keys and values are zero where they are masked, and the scale is not negative.

    complete: the clusters of the first round hold every key that is kept, and masked ones have no slot.
    every_token: every query and key is in one cluster of each round.
    """
    if is_empty(query, key):
        return empty_attention(query, value)
    scale = jnp.asarray(scale, float32_at_least(query.dtype))
    if mask is not None and not complete:
        clustering = _leave_out(clustering, mask, key.shape[-3], window)
    far = None
    if far_field is not None:
        keys, values = (repeat_heads(array, query.shape[-2]) for array in (key, value))
        far = far_field.estimates(
            query,
            keys,
            values,
            clustering,
            mask,
            scale=scale,
            is_causal=is_causal,
            complete=complete,
            every_token=every_token,
        )
    batch = query.shape[:-3]
    deduplicate = clustering.query_order.shape[-3] > 1 and (deduplicate or far is not None)
    rules = Rules(is_causal, deduplicate, known_product(batch), window, every_token, implementation)
    attend = functools.partial(blockwise_attention, rules)
    for _ in batch:
        attend = jax.vmap(attend, in_axes=(Inputs(0, 0, 0, None, 0, 0, 0),))  # type: ignore[arg-type]
    output, logsumexp = attend(Inputs(query, key, value, scale, clustering, far=far))
    logsumexp = jnp.where(logsumexp > finite_min(logsumexp.dtype), logsumexp, -jnp.inf)
    if is_causal and far is None and window is None:
        own_value, own_logit = _own_position(query, key, value, clustering, mask, scale)
        output, logsumexp = merge_attention((output, own_value), (logsumexp, own_logit))
    return output, logsumexp


def _check_clustering(query: Array, clustering: Clustering, window: int | None) -> None:
    rounds = [order.shape[:-1] for order in clustering]
    rows = (*query.shape[:-3], query.shape[-2])
    if rounds[0] != rounds[1] or rounds[0][:-2] != rows:
        raise ValueError(
            f"clustering should hold orders [*B, N, R, L, C] and [*B, N, R, L, K] with [*B, N] = {rows}, "
            f"but got {clustering.query_order.shape=} and {clustering.key_order.shape=}."
        )
    if window is None:
        return
    check_positive(window=window)
    num_queries = query.shape[-3]
    wanted = local_sizes(num_queries, window)
    if rounds[0][-2:] != (1, wanted[0]) or tuple(order.shape[-1] for order in clustering) != wanted[1:]:
        raise ValueError(
            f"{window=} goes with the clusters of local_clustering alone, of {num_queries} queries and the "
            f"same window, but got {clustering.query_order.shape=} and {clustering.key_order.shape=}."
        )


def _leave_out(clustering: Clustering, mask: Array, num_keys: int, window: int | None) -> Clustering:
    """The clustering with the slots of masked keys empty."""
    order = clustering.key_order
    kept = jnp.broadcast_to(mask[..., 0, :], (*order.shape[:-3], num_keys))
    if window is not None:
        in_slots = kept_in_windows(kept, *clustering.query_order.shape[-2:], window=window)
        return clustering._replace(key_order=jnp.where(in_slots[..., None, :, :], order, num_keys))
    take = take_rows
    for _ in range(order.ndim - 3):
        take = jax.vmap(take)
    return clustering._replace(key_order=jnp.where(take(kept, order), order, num_keys))


def _each_key_in_one(clustering: Clustering, num_keys: int) -> Clustering:
    """The clustering with a key that several clusters of a round share in the first of them alone."""
    order = clustering.key_order
    once = first_slots(order.reshape(*order.shape[:-2], -1), num_keys)
    return clustering._replace(key_order=once.reshape(order.shape))


def _own_position(
    query: Array, key: Array, value: Array, clustering: Clustering, mask: Array | None, scale: Array
) -> tuple[Array, Array]:
    """Attention of query i to key i alone, where no round lets them meet; else -inf."""
    num_queries, num_keys = query.shape[-3], key.shape[-3]

    def at_own(array: Array, axis: int) -> Array:
        """The first T of axis; zeros (False) for queries after the last key."""
        array = jax.lax.slice_in_dim(array, 0, min(num_queries, num_keys), axis=axis)
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, num_queries - array.shape[axis])
        return jnp.pad(array, widths)

    own_key, own_value = (
        repeat_heads(at_own(array, array.ndim - 3), query.shape[-2]) for array in (key, value)
    )
    logits = scale * inner_products(query, own_key, scale.dtype)
    of_query = cluster_of_tokens(clustering.query_order, num_queries)
    of_key = cluster_of_tokens(clustering.key_order, num_keys)  # [*B, N, R, S]
    own_cluster = at_own(of_key + 1, of_key.ndim - 1) - 1
    unmet = ~jnp.any((of_query == own_cluster) & (own_cluster >= 0), axis=-2)  # [*B, N, T]
    kept = jnp.ones((1,) * (query.ndim - 1) + (num_keys,), bool) if mask is None else mask
    unmet &= at_own(kept, kept.ndim - 1)[..., 0, :]
    return own_value, jnp.where(jnp.moveaxis(unmet, -2, -1), logits, -jnp.inf)
