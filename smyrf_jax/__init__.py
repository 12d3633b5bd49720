"""Attention inside balanced clusters of queries and keys, and outside them, in JAX.

`attention` with a method is the front. What it is made of is public too: clusterings, far fields, and
`clustered_attention`, which takes them.
"""

from smyrf_jax.attention import attention, smyrf_attention
from smyrf_jax.clustered import clustered_attention
from smyrf_jax.clustering import (
    Clustering,
    cluster_of_tokens,
    e2lsh,
    gaussian_directions,
    local_clustering,
    smyrf_clustering,
    sort_clustering,
    tree_clustering,
    xbox_plus,
)
from smyrf_jax.dense import dense_attention
from smyrf_jax.far_field import Centroids, FarField, Features, orthogonal_projection
from smyrf_jax.merging import merge_attention
from smyrf_jax.methods import (
    Canopy,
    CausalCanopy,
    Dense,
    Local,
    Method,
    Performer,
    Scatterbrain,
    Smyrf,
    Streaming,
    method_from_config,
)

__version__ = "0.2.0"

__all__ = [
    "Canopy",
    "CausalCanopy",
    "Centroids",
    "Clustering",
    "Dense",
    "FarField",
    "Features",
    "Local",
    "Method",
    "Performer",
    "Scatterbrain",
    "Smyrf",
    "Streaming",
    "attention",
    "cluster_of_tokens",
    "clustered_attention",
    "dense_attention",
    "e2lsh",
    "gaussian_directions",
    "local_clustering",
    "merge_attention",
    "method_from_config",
    "orthogonal_projection",
    "smyrf_attention",
    "smyrf_clustering",
    "sort_clustering",
    "tree_clustering",
    "xbox_plus",
]
