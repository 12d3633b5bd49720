"""The public call: attention with any method."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from smyrf_jax.blockwise import Implementation, check_implementation
from smyrf_jax.budget import dense_is_faster
from smyrf_jax.checks import (
    check_arguments,
    empty_attention,
    is_empty,
    rng_of,
    scale_of,
    with_positive_scale,
)
from smyrf_jax.floats import float32_at_least
from smyrf_jax.methods import Canopy, Dense, Method, Smyrf
from smyrf_jax.methods.method import Clustered
from smyrf_jax.padding import both, mask_of_lengths, of_tokens, without_masked
from smyrf_jax.sharding import over_shards


def attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    *,
    method: Method = Canopy(),  # noqa: B008
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
    rng: Key[Array, ""] | None = None,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "*B"] | None = None,
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    return_residual: bool = False,
    implementation: Implementation | None = None,
    bias: None = None,
    local_window_size: None = None,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Attention by a method: approximate and fast, or exact.

    The conventions are those of `jax.nn.dot_product_attention`. What every method promises:

    - Pure: the same arguments give the same output. jit, vmap, grad (reverse mode, of any order), remat,
      scan, pmap, shard_map and jax.export (also of a symbolic batch) compose with it.
    - Padding changes nothing: a padded sample gives what it gives alone, up to rounding. (Where keys are not
      padded as queries are, and a sample has several times the keys a query that the arrays have, it is cut
      into more clusters than alone.)
    - What is masked does not matter: a NaN there reaches no output and no gradient.
    - Causal means that no output depends on a later token. Local, Performer, Dense and Scatterbrain with a
      window keep that. Of the others, Canopy refuses with its means, and the rest unless there is one
      cluster or the field clusters_see_future allows it.
    - One cluster is exact: settings by which all tokens share one give dense attention.
    - A query without keys gives zeros, a logsumexp of -inf, and no gradient; so do arrays without tokens.
    - Float32 inside at least: logits, sums and logsumexps, also of half-precision inputs. Large logits give
      no NaN where `jax.nn` gives none.
    - Memory is linear in T and S (but of Dense).
    - Batch and heads may be sharded, over automatic and explicit axes of a mesh: no token is sent.
    - What cannot be kept raises ValueError; nothing is left out silently.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        method: a `Method`: Canopy(), Smyrf(), Scatterbrain(), Performer(), Local() or Dense() with their
            settings, which `Method.for_budget` finds for a cost.
        mask: [*B, 1|N, 1, S], True keeps a key; None keeps all. A query without keys gives zeros.
        query_mask: [*B, 1|N, 1, T], True keeps a query; None keeps all. The others give zeros, and clusters
            have no slots for them. In self-attention give the same array as mask and query_mask: clusters
            then have a quarter of the key slots that they need where the two may differ.
        rng: typed key (`jax.random.key`) of what the method draws; None: always the same one.
        scale: of the logits, one number, which may be traced and learned; None means 1 / sqrt(D).
        is_causal: query i sees key j <= i only.
        query_seq_lengths: [*B], queries that each sample has, as a query_mask.
        key_value_seq_lengths: [*B], keys that each sample has, as a mask. Give the same array as both where
            they are the same, as above.
        return_residual: return the logsumexp as well, with which `merge_attention` puts attentions over
            several sets of keys together. (Smyrf counts a key in every round in which it is met, in the
            logsumexp too, unless deduplicate is set.)
        implementation: of methods with clusters. None: the fastest of the platform that the program is for.
            "loop", what CPUs run: a few clusters at a time, read and written where they lie. "gather", what
            GPUs run: tokens gathered into clusters and back, no scatter. "pallas", what TPUs run: the same,
            and clusters attended by kernels; interpreted, slowly, on other platforms (within shard_map JAX's
            interpreter wants check_vma=False). All do the same.
        bias: refused: it needs memory for every pair.
        local_window_size: refused: method=Local(window=...) says it.

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also the logsumexp over all weights, exact
        and estimated, [*B, T, N], in float32 at least, -inf in rows without keys.

    Raises:
        ValueError: shapes do not fit, rng is no typed key, or the method cannot do what is asked (Canopy is
            not causal).
    """
    check_arguments(query, key, value, mask, query_mask)
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
    check_implementation(implementation)
    if implementation is not None and not isinstance(method, Clustered):
        raise ValueError(
            f"{type(method).__name__} has no implementations to choose from: leave out "
            f"implementation={implementation!r}."
        )
    rng = rng_of(rng)
    query, scale = with_positive_scale(query, scale_of(scale, query.shape[-1]))
    lengths = query_seq_lengths, key_value_seq_lengths
    alike = query_mask is mask and lengths[0] is lengths[1] and query.shape[-3] == key.shape[-3]
    if lengths[1] is not None:
        mask = both(mask, mask_of_lengths("key_value_seq_lengths", lengths[1], key))
    if alike:
        query_mask = mask
    elif lengths[0] is not None:
        query_mask = both(query_mask, mask_of_lengths("query_seq_lengths", lengths[0], query))
    if is_empty(query, key):
        output, logsumexp = empty_attention(query, value)
    else:
        attend = functools.partial(_attend, method, is_causal, implementation)
        scale = jnp.asarray(scale, float32_at_least(query.dtype))
        output, logsumexp = over_shards(attend, query, key, value, mask, query_mask, rng, scale)
    return (output, logsumexp) if return_residual else output


def _attend(
    method: Method,
    is_causal: bool,
    implementation: Implementation | None,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    query_mask: Array | None,
    rng: Array,
    scale: Array,
) -> tuple[Array, Array]:
    query, key, value = without_masked(query, key, value, mask, query_mask)
    options: dict[str, Any] = {"rng": rng, "scale": scale, "is_causal": is_causal}
    if implementation is not None:
        options["implementation"] = implementation
    if query_mask is None:
        return method.attend(query, key, value, mask, **options)
    output, logsumexp = method.attend(query, key, value, mask, query_mask=query_mask, **options)
    kept = of_tokens(query_mask)
    output = jnp.where(kept, output, jnp.zeros((), output.dtype))
    return output, jnp.where(kept[..., 0], logsumexp, -jnp.inf)


def smyrf_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    deduplicate: bool = False,
    clusters_see_future: bool = False,
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
        query_mask: [*B, 1|N, 1, T], True keeps a query, as for `attention`.
        rng: typed key (`jax.random.key`); the same key gives the same output.
        num_hashes: R, hash rounds.
        cluster_size: C, queries a cluster. There are L = ceil(T / C) clusters of ceil(S / L) keys.
        scale: of the logits, as for `attention`. Hashing looks at unscaled queries and keys.
        is_causal: query i sees key j <= i only, and the key at its own position in any case. Refused for
            clusters, which depend on later tokens too, unless clusters_see_future is set.
        deduplicate: each key counts once, in however many rounds it is met.
        clusters_see_future: see is_causal.
        return_residual: return the logsumexp over the attended keys as well, for `merge_attention`.
        implementation: "clustered"; "dense" for exact attention in T x S memory; "auto" for dense where it
            takes less time than clustered attention with these settings, by a fit to what was measured
            (`budget.dense_is_faster`), on the platform that the program is for. GPUs go by the TPUs' fit.

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
    method: Method = Smyrf(num_hashes, cluster_size, deduplicate, clusters_see_future=clusters_see_future)

    def attend(method: Method, query: Array, key: Array, value: Array) -> Array | tuple[Array, Array]:
        return attention(
            query,
            key,
            value,
            method=method,
            mask=mask,
            query_mask=query_mask,
            rng=rng,
            scale=scale,
            is_causal=is_causal,
            return_residual=return_residual,
        )

    if implementation != "auto":
        return attend(Dense() if implementation == "dense" else method, query, key, value)
    check_arguments(query, key, value, mask, query_mask)  # before their shapes are read
    settings = {"num_hashes": num_hashes, "cluster_size": cluster_size}
    on_cpu, on_tpu = (
        functools.partial(
            attend,
            Dense()
            if dense_is_faster(query.shape[-3], key.shape[-3], platform=platform, **settings)
            else method,
        )
        for platform in ("cpu", "tpu")
    )
    if on_cpu.args == on_tpu.args:
        return on_cpu(query, key, value)
    found: Array | tuple[Array, Array] = jax.lax.platform_dependent(
        query, key, value, cpu=on_cpu, default=on_tpu
    )
    return found
