"""Attention inside clusters, merged over the hash rounds."""

import functools
import math
from collections.abc import Sequence

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
    if key.shape[:-3] != batch or not key.shape[-2] or heads % key.shape[-2]:
        raise ValueError(
            "query and key should have the same batch and heads, or fewer key heads that divide the "
            f"query heads, but got {query.shape=} and {key.shape=}."
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
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    clustering: Clustering,
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    deduplicate: bool = False,
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
            sees in any case, also when they share no cluster, so that no row is left without a key.
        deduplicate: each key counts once, in however many rounds it is met.
        return_residual: return the logsumexp as well, with which partial attentions can be merged
            (`merge_attention`).

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also log sum_j c_ij e^{s_ij},
        [*B, T, N], -inf in rows without keys. Logits and logsumexps are float32 at least.

    Raises:
        ValueError: shapes do not fit.

    Source: SMYRF (arXiv:2010.05315), section 3; recomputed logits: FlashAttention (arXiv:2205.14135).
    """
    check_arguments(query, key, value, mask)
    _check_clustering(query, clustering)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if mask is not None:
        clustering = _leave_out(clustering, mask, key.shape[-3])
    rows, heads, key_heads = query.shape[:-3], query.shape[-2], key.shape[-2]
    num_clusters, size = clustering.query_order.shape[-2:]
    pairs = math.prod(rows) * heads * size * clustering.key_order.shape[-1]
    step = min(num_clusters, max(1, _LOGITS_A_STEP // max(1, pairs)))
    # Inside: the query heads of a key head; outside: batch and key heads.
    attend = jax.vmap(_rows_attention(scale, is_causal, deduplicate, step), (0, None, None, 0))
    for _ in range(len(rows) + 1):
        attend = jax.vmap(attend)
    by_head = [jnp.moveaxis(array, -2, -3) for array in (query, key, value)]
    grouped = (*rows, key_heads, heads // key_heads)
    by_group, orders = jax.tree.map(
        lambda array: array.reshape(*grouped, *array.shape[len(rows) + 1 :]), (by_head[0], clustering)
    )
    output, logsumexp = attend(by_group, *by_head[1:], orders)
    output = jnp.moveaxis(output.reshape(*rows, heads, *output.shape[-2:]), -3, -2)
    logsumexp = jnp.moveaxis(logsumexp.reshape(*rows, heads, logsumexp.shape[-1]), -2, -1)
    logsumexp = jnp.where(logsumexp > finite_min(logsumexp.dtype), logsumexp, -jnp.inf)
    if is_causal:
        own = _own_position(query, key, value, clustering, mask, scale)
        output, logsumexp = merge_attention((output, own[0]), (logsumexp, own[1]))
    return (output, logsumexp) if return_residual else output


def merge_attention(
    outputs: Sequence[Float[Array, "*A V"]], logsumexps: Sequence[Float[Array, "*A"]]
) -> tuple[Float[Array, "*A V"], Float[Array, "*A"]]:
    """The attention over several sets of keys, from the attention over each of them.

    Args:
        outputs: of each set, [..., V].
        logsumexps: of each set, [...]; -inf where it has no key.

    Returns:
        The output [..., V] in the dtype of the first, and its logsumexp [...].
    """
    stacked = jnp.stack(logsumexps)
    low = finite_min(stacked.dtype)
    found = stacked > -jnp.inf
    top = jax.lax.stop_gradient(jnp.max(jnp.where(found, stacked, low), axis=0))
    weights = jnp.exp(jnp.where(found, stacked - top[None], low))
    total = jnp.sum(weights, axis=0)
    safe = jnp.where(total > 0, total, 1.0)
    output = sum((weight / safe)[..., None] * output for weight, output in zip(weights, outputs, strict=True))
    logsumexp = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)
    return jnp.asarray(output).astype(outputs[0].dtype), logsumexp


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
    take = _take
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
    logits = scale * jnp.einsum("...d,...d->...", query, own_key, preferred_element_type=dtype)
    of_query = cluster_of_tokens(clustering.query_order, num_queries)
    of_key = cluster_of_tokens(clustering.key_order, num_keys)  # [*B, N, R, S]
    own_cluster = at_own(of_key + 1, of_key.ndim - 1) - 1
    unmet = ~jnp.any((of_query == own_cluster) & (own_cluster >= 0), axis=-2)  # [*B, N, T]
    kept = jnp.ones((1,) * (query.ndim - 1) + (num_keys,), bool) if mask is None else mask
    unmet &= at_own(kept, kept.ndim - 1)[..., 0, :]
    return own_value, jnp.where(jnp.moveaxis(unmet, -2, -1), logits, -jnp.inf)


# Logits of one step of the loop over clusters. On CPUs 2 MB of them stay in the cache: steps four
# times as large, and whole rounds, were slower, and so were single small clusters.
_LOGITS_A_STEP = 2**19


def _rows_attention(scale: float, is_causal: bool, deduplicate: bool, clusters_a_step: int):
    """clustered_attention of one (batch, head) row: [T, D], [S, D], [S, V], orders -> [T, V], [T].

    The logsumexp is finite_min in rows without keys. A step gathers the rows of a few clusters,
    attends, and writes back to the running output and logsumexp: no order is inverted, and nothing
    is kept for a round. Gathers and scatters of rows are then the larger half of the time on CPUs;
    packing several arrays into one gathered row did not pay there, as the products copy their operands.
    """

    def steps(orders: Clustering, num_queries: int, num_keys: int):
        """Orders [R * steps, clusters_a_step, ...] and the round of each; padded with empty clusters."""
        num_rounds, num_clusters, _ = orders.query_order.shape
        num_steps = -(-num_clusters // clusters_a_step)
        pad = ((0, 0), (0, num_steps * clusters_a_step - num_clusters), (0, 0))
        cut = [
            jnp.pad(order, pad, constant_values=empty).reshape(
                num_rounds * num_steps, clusters_a_step, order.shape[-1]
            )
            for order, empty in zip(orders, (num_queries, num_keys), strict=True)
        ]
        return *cut, jnp.repeat(jnp.arange(num_rounds), num_steps)

    def membership(orders: Clustering, num_queries: int, num_keys: int):
        """The clusters [T, R] and [S, R] of each token, to find pairs that met in an earlier round."""
        if not deduplicate:
            return None
        of_query = cluster_of_tokens(orders.query_order, num_queries).T
        # No cluster is not a cluster that two tokens could share: -1 of a query is -2 of a key.
        of_key = cluster_of_tokens(orders.key_order, num_keys).T
        return of_query, jnp.where(of_key < 0, -2, of_key)

    def kept_logits(query, key, queries, keys, hash_round, clusters, num_queries, num_keys):
        """Logits of a step [clusters, C, K], and which of them count."""
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        logits = scale * jnp.einsum("lcd,lkd->lck", query, key, preferred_element_type=dtype)
        keep = (keys < num_keys)[:, None, :]
        if is_causal:
            keep &= keys[:, None, :] <= queries[:, :, None] + (num_keys - num_queries)
        if deduplicate:
            of_query, of_key = (
                _take(ids, tokens) for ids, tokens in zip(clusters, (queries, keys), strict=True)
            )
            for earlier in range(of_query.shape[-1] - 1):
                met = of_query[:, :, None, earlier] == of_key[:, None, :, earlier]
                keep &= ~(met & (earlier < hash_round))
        return logits, keep

    def forward(query, key, value, orders):
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        low = finite_min(dtype)
        lengths = query.shape[0], key.shape[0]
        clusters = membership(orders, *lengths)

        def step(state, cut):
            queries, keys, hash_round = cut
            logits, keep = kept_logits(
                _take(query, queries), _take(key, keys), queries, keys, hash_round, clusters, *lengths
            )
            before, logsumexp = (_take(array, queries) for array in state)
            top = jnp.maximum(jnp.max(jnp.where(keep, logits, low), axis=-1, initial=low), logsumexp)
            top = jax.lax.stop_gradient(top)
            # exp(low) is 0, without an infinity that a second derivative would meet.
            weights = jnp.exp(jnp.where(keep, logits - top[..., None], low))
            carried = jnp.exp(jnp.where(logsumexp > low, logsumexp - top, low))
            total = jnp.sum(weights, axis=-1) + carried
            safe = jnp.where(total > 0, total, 1.0)
            output = carried[..., None] * before + jnp.einsum(
                "lck,lkv->lcv",
                weights.astype(value.dtype),
                _take(value, keys),
                preferred_element_type=dtype,
            )
            logsumexp = jnp.where(total > 0, top + jnp.log(safe), low)
            rows = (output / safe[..., None], logsumexp)
            return tuple(
                array.at[queries].set(row, mode="drop") for array, row in zip(state, rows, strict=True)
            ), None

        state = (jnp.zeros((lengths[0], value.shape[-1]), dtype), jnp.full(lengths[0], low, dtype))
        (output, logsumexp), _ = jax.lax.scan(step, state, steps(orders, *lengths))
        return output.astype(value.dtype), logsumexp

    def forward_and_residuals(query, key, value, orders):
        output, logsumexp = forward(query, key, value, orders)
        return (output, logsumexp), (query, key, value, orders, output, logsumexp)

    def backward(residuals, gradients):
        query, key, value, orders, output, logsumexp = residuals
        of_output, of_logsumexp = gradients
        dtype, low = logsumexp.dtype, finite_min(logsumexp.dtype)
        lengths = query.shape[0], key.shape[0]
        clusters = membership(orders, *lengths)
        # d logits = weights * (d output . value - shift)
        shift = jnp.einsum("tv,tv->t", of_output, output, preferred_element_type=dtype) - of_logsumexp
        # Rows without keys have no weights; zero keeps their differences finite.
        per_row = jnp.stack([jnp.where(logsumexp > low, logsumexp, 0.0), shift], axis=-1)

        def step(state, cut):
            queries, keys, hash_round = cut
            of_query, of_row = _take(query, queries), _take(of_output, queries)
            of_key, of_value = _take(key, keys), _take(value, keys)
            rows = _take(per_row, queries)
            logits, keep = kept_logits(of_query, of_key, queries, keys, hash_round, clusters, *lengths)
            weights = jnp.exp(jnp.where(keep, logits - rows[..., :1], low))
            product = functools.partial(jnp.einsum, preferred_element_type=dtype)
            to_logits = weights * (product("lcv,lkv->lck", of_row, of_value) - rows[..., 1:])
            to_logits = (scale * to_logits).astype(query.dtype)
            added = (
                (queries, product("lck,lkd->lcd", to_logits, of_key)),
                (keys, product("lck,lcd->lkd", to_logits, of_query)),
                (keys, product("lck,lcv->lkv", weights.astype(value.dtype), of_row)),
            )
            return tuple(
                array.at[order].add(rows, mode="drop")
                for array, (order, rows) in zip(state, added, strict=True)
            ), None

        state = tuple(jnp.zeros(array.shape, dtype) for array in (query, key, value))
        state, _ = jax.lax.scan(step, state, steps(orders, *lengths))
        to_arrays = (total.astype(array.dtype) for total, array in zip(state, residuals[:3], strict=True))
        return *to_arrays, None

    attend = jax.custom_vjp(forward)
    attend.defvjp(forward_and_residuals, backward)
    return attend


def _take(tokens: Array, order: Int[Array, "*L C"]) -> Array:
    """Rows of tokens [T, ...] in an order; zeros (False) in empty slots."""
    return tokens.at[order].get(mode="fill", fill_value=0)


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
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Approximate attention in O(N log N): xbox_plus, e2lsh, sort_clustering, clustered_attention.

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

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also the logsumexp, [*B, T, N], in
        float32 at least, -inf in rows without keys.

    Raises:
        ValueError: shapes do not fit, or num_hashes or cluster_size is not positive.

    Source: SMYRF (arXiv:2010.05315), section 3.
    """
    check_arguments(query, key, value, mask)
    if num_hashes < 1:
        raise ValueError(f"num_hashes must be positive, got num_hashes={num_hashes}.")
    if cluster_size < 1:
        raise ValueError(f"cluster_size must be positive, got cluster_size={cluster_size}.")
    fixed = jax.lax.stop_gradient((query, jnp.repeat(key, query.shape[-2] // key.shape[-2], axis=-2)))
    mapped = xbox_plus(*fixed, mask)
    directions = gaussian_directions(rng, num_hashes, mapped[0].shape[-1], mapped[0].dtype)
    query_hash, key_hash = (e2lsh(vectors, directions) for vectors in mapped)
    clustering = sort_clustering(query_hash, key_hash, mask, cluster_size=cluster_size)
    return clustered_attention(
        query,
        key,
        value,
        clustering,
        mask,
        scale=scale,
        is_causal=is_causal,
        deduplicate=deduplicate,
        return_residual=return_residual,
    )
