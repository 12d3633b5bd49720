"""The public call: attention with any method."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from smyrf_jax.budget import dense_is_faster
from smyrf_jax.checks import (
    check_arguments,
    check_lengths,
    empty_attention,
    is_empty,
    rng_of,
    scale_of,
)
from smyrf_jax.methods import Canopy, Dense, Method, Smyrf


def attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    *,
    method: Method = Canopy(),  # noqa: B008
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    rng: Key[Array, ""] | None = None,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "*B"] | None = None,
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    return_residual: bool = False,
    bias: None = None,
    local_window_size: None = None,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Attention by a method: approximate and fast, or exact.

    The conventions are those of `jax.nn.dot_product_attention`. Pure: jit, vmap, grad (reverse mode), pmap,
    remat and shard_map compose with it, and the same arguments give the same output.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        method: a `Method`: Canopy(), Smyrf(), Scatterbrain(), Performer(), Local() or Dense() with their
            settings, which `Method.for_budget` finds for a cost.
        mask: [*B, 1|N, 1, S], True keeps a key; None keeps all. A query without keys gives zeros.
        rng: typed key (`jax.random.key`) of what the method draws; None: always the same one.
        scale: of the logits, one number, which may be traced and learned; None means 1 / sqrt(D). Random
            features (Scatterbrain, Performer) want it positive, also where it is traced.
        is_causal: query i sees key j <= i only.
        query_seq_lengths: [*B], queries that each sample has; the others give zeros.
        key_value_seq_lengths: [*B], keys that each sample has; the others are masked.
        return_residual: return the logsumexp as well, with which `merge_attention` puts attentions over
            several sets of keys together. (Smyrf counts a key in every round in which it is met, in the
            logsumexp too, unless deduplicate is set.)
        bias: refused: it needs memory for every pair.
        local_window_size: refused: method=Local(window=...) says it.

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also the logsumexp over all weights, exact
        and estimated, [*B, T, N], in float32 at least, -inf in rows without keys.

    Raises:
        ValueError: shapes do not fit, or the method cannot do what is asked (Canopy is not causal).
    """
    check_arguments(query, key, value, mask)
    if not isinstance(method, Method):
        raise ValueError(
            f"method should be a Method such as Canopy() or Smyrf(num_hashes=4), but got {method!r}. "
            "method_from_config makes one from a name."
        )
    if bias is not None:
        raise ValueError(
            "bias is not supported: it needs memory for every pair. For padding give mask or "
            "key_value_seq_lengths; for a bias take jax.nn.dot_product_attention."
        )
    if local_window_size is not None:
        raise ValueError(
            "local_window_size is not supported: for n keys on both sides take "
            "method=Local(window=2 * n + 1)."
        )
    scale = scale_of(scale, query.shape[-1])
    real = _before("query_seq_lengths", query_seq_lengths, query)
    kept = _before("key_value_seq_lengths", key_value_seq_lengths, key)
    if kept is not None:
        kept = kept[..., None, None, :]
        mask = kept if mask is None else mask & kept
    if is_empty(query, key):
        output, logsumexp = empty_attention(query, value)
    else:
        options: dict[str, Any] = {"rng": rng_of(rng), "scale": scale, "is_causal": is_causal}
        output, logsumexp = method.attend(query, key, value, mask, **options)
    if real is not None:
        real = real[..., None]  # [*B, T, 1]
        output = jnp.where(real[..., None], output, 0)
        logsumexp = jnp.where(real, logsumexp, -jnp.inf)
    return (output, logsumexp) if return_residual else output


def _before(name: str, lengths: Any, array: Array) -> Array | None:
    """[*B, T], True at positions of array [*B, T, N, D] before each of the lengths [*B]."""
    if lengths is None:
        return None
    lengths = jnp.asarray(lengths)
    check_lengths(name, lengths, array.shape[:-3])
    shape = array.shape[:-2]
    positions = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    before: Array = positions < lengths.astype(jnp.int32)[..., None]
    return before


def smyrf_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    deduplicate: bool = False,
    return_residual: bool = False,
    implementation: Literal["auto", "dense", "clustered"] = "clustered",
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """SMYRF in one call: attention(method=Smyrf(...)) with the paper's settings as arguments.

    With a cluster_size of T or more there is one cluster, and the result is dense attention for any rng.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        mask: [*B, 1|N, 1, S], True keeps a key; None keeps all. A query without keys gives zeros.
        rng: typed key (`jax.random.key`); the same key gives the same output.
        num_hashes: R, hash rounds.
        cluster_size: C, queries a cluster. There are L = ceil(T / C) clusters of ceil(S / L) keys.
        scale: of the logits, as for `attention`. Hashing looks at unscaled queries and keys.
        is_causal: query i sees key j <= i only, and the key at its own position in any case.
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
    if implementation not in ("auto", "dense", "clustered"):
        raise ValueError(
            f"implementation should be 'auto', 'dense' or 'clustered', but got {implementation!r}."
        )
    method: Method = Smyrf(num_hashes, cluster_size, deduplicate)
    settings = {"num_hashes": num_hashes, "cluster_size": cluster_size}
    if implementation == "auto":
        check_arguments(query, key, value, mask)  # before their shapes are read
        if dense_is_faster(query.shape[-3], key.shape[-3], **settings):
            implementation = "dense"
    return attention(
        query,
        key,
        value,
        method=Dense() if implementation == "dense" else method,
        mask=mask,
        rng=rng,
        scale=scale,
        is_causal=is_causal,
        return_residual=return_residual,
    )
