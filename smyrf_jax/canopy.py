"""Attention near and far: exact inside clusters, estimated outside them."""

from typing import Any, Literal

import jax
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.arguments import check_arguments, check_means, check_settings
from smyrf_jax.attention import clustered_attention
from smyrf_jax.clustering import smyrf_clustering
from smyrf_jax.far_field import centroid_far_field, orthogonal_projection, performer_far_field
from smyrf_jax.tree import tree_clustering

CLUSTERS = {"tree": tree_clustering, "smyrf": smyrf_clustering}


def canopy_attention(
    query: Float[Array, "*B T N D"],
    key: Float[Array, "*B S M D"],
    value: Float[Array, "*B S M V"],
    mask: Bool[Array, "*#B #N 1 S"] | None = None,
    *,
    rng: Key[Array, ""],
    num_hashes: int,
    cluster_size: int,
    clusters: Literal["tree", "smyrf"] = "tree",
    outside: Literal["centroids", "features", "nothing"] = "centroids",
    means_per_cluster: int = 4,
    num_features: int = 64,
    scale: float | None = None,
    is_causal: bool = False,
    return_residual: bool = False,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Approximate attention in which every key counts: exactly in shared clusters, by an estimate elsewhere.

    Clusters come from balanced trees that fit the data (`tree_clustering`), and a key outside counts by
    the mean of its like in its cluster of the first tree (`centroid_far_field`). One tree of larger clusters
    takes less time than several; num_hashes=1, cluster_size=64 is a good start. clusters="smyrf",
    outside="features" is Scatterbrain (arXiv:2110.15343); clusters="smyrf", outside="nothing" is SMYRF
    (arXiv:2010.05315) with each key counted once.

    Args:
        query: [*B, T, N, D].
        key: [*B, S, M, D]; M divides N, and N / M neighbouring query heads share a key head.
        value: [*B, S, M, V].
        mask: [*B, 1|N, 1, S], True keeps a key; None keeps all. A query without keys gives zeros.
        rng: typed key (`jax.random.key`); the same key gives the same output.
        num_hashes: R, trees or hash rounds.
        cluster_size: C, queries a cluster. There are L = ceil(T / C) clusters of ceil(S / L) keys.
        clusters: how queries and keys are clustered.
        outside: "centroids"; "features": positive random features; "nothing".
        means_per_cluster: for "centroids": a power of two. They cost T * L * means_per_cluster pairs.
        num_features: for "features": even.
        scale: of the logits; None means 1 / sqrt(D).
        is_causal: query i sees key j <= i + S - T only. Centroids mix keys of all positions, and cannot.
        return_residual: return the logsumexp over all weights, exact and estimated, as well.

    Returns:
        [*B, T, N, V] in the dtype of value; with return_residual also the logsumexp, [*B, T, N], in
        float32 at least, -inf in rows without keys.

    Raises:
        ValueError: shapes or settings do not fit, or centroids are asked to be causal.
    """
    check_arguments(query, key, value, mask)
    check_settings(num_hashes, cluster_size)
    check_means(means_per_cluster)
    for name, found, known in (
        ("clusters", clusters, tuple(CLUSTERS)),
        ("outside", outside, ("centroids", "features", "nothing")),
    ):
        if found not in known:
            raise ValueError(f"{name} should be one of {known}, but got {found!r}.")
    if outside == "centroids" and is_causal:
        raise ValueError(
            'centroids are means of keys at all positions: is_causal wants outside="features" or "nothing".'
        )
    if outside == "features" and (num_features < 2 or num_features % 2):
        raise ValueError(f"num_features should be even and positive, but got {num_features}.")
    cluster_rng, feature_rng = jax.random.split(rng)
    clustering = CLUSTERS[clusters](
        query, key, mask, rng=cluster_rng, num_hashes=num_hashes, cluster_size=cluster_size
    )
    far = None
    if outside == "centroids":
        far = centroid_far_field(
            query, key, value, clustering, mask, means_per_cluster=means_per_cluster, scale=scale
        )
    elif outside == "features":
        projection = orthogonal_projection(feature_rng, num_features // 2, query.shape[-1])
        far = performer_far_field(
            query, key, value, mask, projection=projection, scale=scale, is_causal=is_causal
        )
    options: dict[str, Any] = {
        "scale": scale,
        "is_causal": is_causal,
        "return_residual": return_residual,
    }
    return clustered_attention(
        query, key, value, clustering, mask, deduplicate=True, far_field=far, **options
    )
