"""How well clusters fit an attention. All of it is dense: for lengths whose T x S weights fit in memory."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.attention import attention
from smyrf_jax.budget import BudgetError
from smyrf_jax.checks import check_arguments, rng_of
from smyrf_jax.clustering import Clustering, cluster_of_tokens
from smyrf_jax.clustering.local import in_window
from smyrf_jax.dense import dense_attention, dense_weights
from smyrf_jax.floats import float32_at_least
from smyrf_jax.methods import Clustered, Method, Smyrf
from smyrf_jax.padding import without_masked
from smyrf_jax.rows import repeat_heads

_MOST_PARTITIONS = 100_000


def attention_error(
    output: Float[Array, "*B T N V"], exact: Float[Array, "*B T N V"]
) -> Float[Array, "*B N"]:
    """|output - exact| / |exact|, Frobenius norms over the tokens and width of each (batch, head) row.

    Args:
        output: [*B, T, N, V], of an approximate attention.
        exact: [*B, T, N, V], of the dense one.

    Returns:
        [*B, N]; 0 where both are zero.
    """
    dtype = float32_at_least(exact.dtype)
    output, exact = output.astype(dtype), exact.astype(dtype)
    error, size = (jnp.sum(array**2, axis=(-3, -1)) for array in (output - exact, exact))
    return jnp.sqrt(jnp.where(error > 0, error / size, 0.0))


def captured_mass(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    clusters: Clustering | Method,
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> Float[Array, "*B T N"]:
    """The part of each query's dense attention that lies on keys with which it shares a cluster.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D].
        clusters: of the queries and keys, or the method that makes them.
        mask: [*B, 1|N, 1, S], True keeps a key.
        rng: of the method, as for `attention`.
        scale: of the logits; None means 1 / sqrt(D).
        is_causal: query i sees key j <= i only, in the dense attention as well.

    Returns:
        [*B, T, N] from 0 to 1; a query without keys has 0.

    Raises:
        ValueError: the method has no clusters.
    """
    check_arguments(query, key, key, mask)
    window = None
    if isinstance(clusters, Clustered):
        parts = clusters.parts_for(*without_masked(query, key, key, mask)[:2], mask, rng_of(rng))
        clusters, window = parts.clustering, parts.window
    elif isinstance(clusters, Method):
        clusters = clusters.clustering(query, key, mask, rng=rng)  # raises: it has none
    weights = dense_weights(query, key, mask, scale=scale, is_causal=is_causal)
    met = shared_cluster(clusters, query.shape[-3], key.shape[-3], window=window)
    return jnp.moveaxis(jnp.sum(jnp.where(met, weights, 0.0), axis=-1), -2, -1)


def shared_cluster(
    clustering: Clustering, num_queries: int, num_keys: int, *, window: int | None = None
) -> Bool[Array, "*B N T S"]:
    """Which queries and keys meet in any round, [*B, N, T, S]: in a cluster, or in a local window."""
    if window is not None:
        distance = jnp.arange(num_keys)[None] - jnp.arange(num_queries)[:, None]
        return jnp.broadcast_to(
            in_window(distance, window), (*clustering.query_order.shape[:-3], num_queries, num_keys)
        )
    of_query = cluster_of_tokens(clustering.query_order, num_queries)
    of_key = cluster_of_tokens(clustering.key_order, num_keys)
    met = (of_query[..., :, None] == of_key[..., None, :]) & (of_key[..., None, :] >= 0)
    return jnp.any(met, axis=-3)


def attention_entropy(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
) -> Float[Array, "*B T N"]:
    """Entropy of each query's dense attention in nats: 0 for one key, log S for all keys alike.

    Arguments as in `captured_mass`. Returns [*B, T, N].
    """
    weights = dense_weights(query, key, mask, scale=scale, is_causal=is_causal)
    terms = jnp.where(weights > 0, -weights * jnp.log(jnp.where(weights > 0, weights, 1.0)), 0.0)
    return jnp.moveaxis(jnp.sum(terms, axis=-1), -2, -1)


def singular_values(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
) -> Float[Array, "*B N K"]:
    """Singular values of the dense attention matrix, descending: how far it is from low rank.

    Arguments as in `captured_mass`. Returns [*B, N, min(T, S)].
    """
    weights = dense_weights(query, key, mask, scale=scale, is_causal=is_causal)
    return jnp.linalg.svd(weights, compute_uv=False)


def largest_keys_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    *,
    count: int,
    scale: float | None = None,
) -> Float[Array, "*B T N V"]:
    """Each query with its `count` largest keys, which nobody finds for free: the oracle of sparse attention.

    Equal weights at the border all count. A sample and a head at a time: what is dense here takes T x S.
    """

    def of_head(arrays: tuple[Array, Array, Array]) -> Array:
        query, key, value = (array[:, None] for array in arrays)  # [T, 1, D]
        weights = dense_weights(query, key, scale=scale)[0]
        # The least of them by bisection; sorting 8192 x 8192 weights takes minutes.
        low, high = jnp.zeros(len(query)), jnp.ones(len(query))

        def halved(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = jnp.where(low > 1e-30, jnp.sqrt(low * high), 1e-6 * high)
            enough = jnp.sum(weights >= middle[:, None], axis=-1) >= count
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

        low, high = jax.lax.fori_loop(0, 40, halved, (low, high))
        kept = jnp.where(weights >= low[:, None], weights, 0)
        return (kept / jnp.sum(kept, axis=-1, keepdims=True)) @ value[:, 0]

    batch, heads = query.shape[:-3], query.shape[-2]
    key, value = (repeat_heads(array, heads) for array in (key, value))
    by_head = tuple(
        jnp.moveaxis(array, -2, -3).reshape(-1, array.shape[-3], array.shape[-1])
        for array in (query, key, value)
    )
    output = jax.lax.map(of_head, by_head)
    return jnp.moveaxis(output.reshape(*batch, heads, *output.shape[1:]), -3, -2)


def error_by_pairs(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    method: type[Method] = Smyrf,
    rng: Key[Array, ""] | None = None,
    scale: float | None = None,
    **fields: Any,
) -> list[tuple[float, float]]:
    """How the error falls as more pairs are allowed: from 1/64 (1.56 %) to all of them, doubling.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D].
        value: [*B, S, M, V].
        mask: [*B, 1|N, 1, S], True keeps a key.
        method: a kind of method, whose settings `for_budget` finds.
        rng: typed key; None: always the same.
        scale: of the logits; None means 1 / sqrt(D).
        **fields: of the method, that are fixed, such as num_hashes=2.

    Returns:
        Pairs as a part of T * S as they are spent, means and features included, and the mean of
        `attention_error`. Parts that no settings are within are left out.
    """
    exact: Any = dense_attention(query, key, value, mask, scale=scale)
    num_queries, num_keys = query.shape[-3], key.shape[-3]
    points = []
    parts = [2.0**-power for power in range(6, -1, -1)]
    rngs = jax.random.split(rng_of(rng), len(parts))
    for part, rng_part in zip(parts, rngs, strict=True):
        try:
            found = method.for_budget(num_queries, num_keys, pairs=part, **fields)
        except BudgetError:
            continue
        output: Any = attention(query, key, value, method=found, mask=mask, rng=rng_part, scale=scale)
        pairs = found.cost(num_queries, num_keys).pairs
        points.append((pairs, float(jnp.mean(attention_error(output, exact)))))
    return points


def optimal_clustering(
    query: Float[Array, "T D"], key: Float[Array, "S D"], *, cluster_size: int, scale: float | None = None
) -> tuple[Clustering, float]:
    """The one round of equal clusters that captures most attention: the bar for hashing, for tiny inputs.

    To find it is NP-hard. All ways to part the queries into L = T / C clusters are tried; for each, the
    best clusters of S / L keys are a linear assignment.

    Args:
        query: [T, D]; C divides T.
        key: [S, D]; L divides S.
        cluster_size: C, queries a cluster.
        scale: of the logits; None means 1 / sqrt(D).

    Returns:
        A clustering of one head, orders [1, 1, L, C] and [1, 1, L, S / L], and the mean of its captured mass.

    Raises:
        ValueError: lengths do not divide, or there are more than 100,000 ways to part the queries.

    Source: the objective of SMYRF (arXiv:2010.05315), section 3.
    """
    num_queries, num_keys = query.shape[0], key.shape[0]
    num_clusters = max(1, num_queries // max(1, cluster_size))
    if cluster_size < 1 or num_clusters * cluster_size != num_queries or num_keys % num_clusters:
        raise ValueError(
            f"cluster_size should divide {num_queries} queries into clusters whose number divides "
            f"{num_keys} keys, but got cluster_size={cluster_size}."
        )
    ways = math.factorial(num_queries) // (
        math.factorial(cluster_size) ** num_clusters * math.factorial(num_clusters)
    )
    if ways > _MOST_PARTITIONS:
        raise ValueError(
            f"{num_queries} queries can be parted into clusters of {cluster_size} in {ways:,} ways; "
            f"optimal_clustering tries {_MOST_PARTITIONS:,} at most. Take fewer queries."
        )
    weights = np.asarray(dense_weights(query[:, None], key[:, None], scale=scale)[0], np.float64)
    best, best_mass = None, -1.0
    for parts in _partitions(tuple(range(num_queries)), cluster_size):
        gain = np.stack([weights[list(part)].sum(0) for part in parts])  # [L, S]
        seats = np.repeat(np.arange(num_clusters), num_keys // num_clusters)
        _, keys = scipy.optimize.linear_sum_assignment(gain[seats], maximize=True)
        mass = gain[seats, keys].sum() / num_queries
        if mass > best_mass:
            best, best_mass = (parts, keys.reshape(num_clusters, -1)), mass
    assert best is not None
    orders = (jnp.asarray(order, jnp.int32)[None, None] for order in best)
    return Clustering(*orders), float(best_mass)


def _partitions(items: tuple[int, ...], size: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All ways to part items into sets of `size`, each once."""
    if not items:
        yield ()
        return
    first, rest = items[0], items[1:]
    for others in itertools.combinations(rest, size - 1):
        remaining = tuple(item for item in rest if item not in others)
        for parts in _partitions(remaining, size):
            yield ((first, *others), *parts)
