"""What every attention asks of its arguments."""

import jax.numpy as jnp
from jax import Array


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


def check_settings(num_hashes: int, cluster_size: int) -> None:
    """Raises ValueError unless both are positive."""
    if num_hashes < 1:
        raise ValueError(f"num_hashes must be positive, got num_hashes={num_hashes}.")
    if cluster_size < 1:
        raise ValueError(f"cluster_size must be positive, got cluster_size={cluster_size}.")


def check_means(means_per_cluster: int) -> None:
    """Raises ValueError unless it is a power of two."""
    if means_per_cluster < 1 or means_per_cluster & (means_per_cluster - 1):
        raise ValueError(f"means_per_cluster must be a power of two, got {means_per_cluster=}.")
