"""Estimates of what lies outside the clusters."""

from smyrf_jax.far_field.centroids import Centroids
from smyrf_jax.far_field.far_field import FarField
from smyrf_jax.far_field.features import Features, orthogonal_projection, positive_features

__all__ = ["Centroids", "FarField", "Features", "orthogonal_projection", "positive_features"]
