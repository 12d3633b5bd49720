"""Attention inside balanced clusters of queries and keys, and outside them, in JAX."""

from smyrf_jax.attention import clustered_attention, smyrf_attention
from smyrf_jax.canopy import canopy_attention
from smyrf_jax.clustering import (
    Clustering,
    cluster_of_tokens,
    local_clustering,
    smyrf_clustering,
    sort_clustering,
)
from smyrf_jax.dense import dense_attention
from smyrf_jax.far_field import centroid_far_field, orthogonal_projection, performer_far_field
from smyrf_jax.hashing import e2lsh, gaussian_directions
from smyrf_jax.merging import merge_attention
from smyrf_jax.steps import FarField
from smyrf_jax.transforms import xbox_plus
from smyrf_jax.tree import tree_clustering

__all__ = [
    "Clustering",
    "FarField",
    "canopy_attention",
    "centroid_far_field",
    "cluster_of_tokens",
    "clustered_attention",
    "dense_attention",
    "e2lsh",
    "gaussian_directions",
    "local_clustering",
    "merge_attention",
    "orthogonal_projection",
    "performer_far_field",
    "smyrf_attention",
    "smyrf_clustering",
    "sort_clustering",
    "tree_clustering",
    "xbox_plus",
]
