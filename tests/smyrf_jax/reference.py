"""Inputs for the tests of attention, and the obvious, slow attention that it is compared with."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from smyrf_jax import cluster_of_tokens, smyrf_clustering

# B, T, S, N, D, V: self-attention, BigGAN's pooled keys, lengths that divide nothing, one token.
SHAPES = [(2, 16, 16, 2, 4, 4), (1, 32, 8, 1, 3, 6), (2, 13, 7, 2, 4, 5), (1, 1, 1, 1, 2, 2)]


def arrays_of(shape, dtype=jnp.float32, seed=0):
    batch, num_queries, num_keys, heads, width, value_width = shape
    rngs = jax.random.split(jax.random.key(seed), 3)
    sizes = [(num_queries, width), (num_keys, width), (num_keys, value_width)]
    return [
        jax.random.normal(rng, (batch, length, heads, size), dtype)
        for rng, (length, size) in zip(rngs, sizes, strict=True)
    ]


def padding_mask(shape):
    batch, _, num_keys, _, _, _ = shape
    kept = np.arange(num_keys) < np.array([num_keys, max(num_keys // 2, 1)])[:batch, None]
    return jnp.asarray(kept)[:, None, None, :]


def cluster(query, key, mask=None, num_hashes=2, cluster_size=4, seed=3):
    rng = jax.random.key(seed)
    return smyrf_clustering(query, key, mask, rng=rng, num_hashes=num_hashes, cluster_size=cluster_size)


def reference(query, key, value, clustering, mask=None, *, scale=None, deduplicate=False, is_causal=False):
    """Dense attention in which a pair counts as often as it shares a cluster: obvious and slow.

    Returns the output and its logsumexp.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    key, value = (jnp.repeat(array, query.shape[2] // key.shape[2], axis=2) for array in (key, value))
    num_queries, num_keys = query.shape[1], key.shape[1]
    of_query = cluster_of_tokens(clustering.query_order, num_queries)
    of_key = cluster_of_tokens(clustering.key_order, num_keys)
    met = (of_query[..., :, None] == of_key[..., None, :]) & (of_key[..., None, :] >= 0)
    count = jnp.sum(met, axis=2)  # [B, N, T, S]
    if is_causal:
        position = jnp.arange(num_queries)[:, None]
        count = jnp.maximum(count, (jnp.arange(num_keys)[None] == position)[None, None])
        count = jnp.where((jnp.arange(num_keys)[None] <= position)[None, None], count, 0)
    if deduplicate:
        count = jnp.minimum(count, 1)
    if mask is not None:
        count = jnp.where(mask, count, 0)
    logits = scale * jnp.einsum("btnd,bsnd->bnts", query, key)
    weights = count * jnp.exp(logits)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    found = total > 0
    output = jnp.einsum("bnts,bsnv->btnv", weights / jnp.where(found, total, 1), value)
    logsumexp = jnp.where(found, jnp.log(jnp.where(found, total, 1)), -jnp.inf)
    return output, jnp.swapaxes(logsumexp[..., 0], 1, 2)


def loss_of(output, logsumexp):
    """A function of output and logsumexp to which each entry matters."""
    finite = jnp.where(jnp.isfinite(logsumexp), logsumexp, 0)
    return jnp.sum(jnp.sin(output)) + jnp.sum(jnp.cos(finite))


def avals_of(jaxpr):
    """Every intermediate array, also of inner jaxprs."""
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from avals_of(inner)
