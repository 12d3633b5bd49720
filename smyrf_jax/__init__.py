"""Attention inside balanced clusters of queries and keys, in JAX."""

from smyrf_jax.attention import clustered_attention, smyrf_attention
from smyrf_jax.clustering import Clustering, cluster_of_tokens, smyrf_clustering, sort_clustering
from smyrf_jax.dense import dense_attention
from smyrf_jax.hashing import e2lsh, gaussian_directions
from smyrf_jax.merging import merge_attention
from smyrf_jax.transforms import xbox_plus

__all__ = [
    "Clustering",
    "cluster_of_tokens",
    "clustered_attention",
    "dense_attention",
    "e2lsh",
    "gaussian_directions",
    "merge_attention",
    "smyrf_attention",
    "smyrf_clustering",
    "sort_clustering",
    "xbox_plus",
]
