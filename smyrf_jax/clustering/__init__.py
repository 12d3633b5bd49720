"""Queries and keys to balanced clusters."""

from smyrf_jax.clustering.clustering import Clustering, cluster_of_tokens
from smyrf_jax.clustering.hashing import e2lsh, gaussian_directions
from smyrf_jax.clustering.local import local_clustering
from smyrf_jax.clustering.smyrf import smyrf_clustering
from smyrf_jax.clustering.sorting import sort_clustering
from smyrf_jax.clustering.transforms import xbox_plus
from smyrf_jax.clustering.tree import tree_clustering

__all__ = [
    "Clustering",
    "cluster_of_tokens",
    "e2lsh",
    "gaussian_directions",
    "local_clustering",
    "smyrf_clustering",
    "sort_clustering",
    "tree_clustering",
    "xbox_plus",
]
