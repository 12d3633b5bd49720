"""How many clusters, and how many tokens, the nodes of a balanced tree have."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from smyrf_jax.clustering.clustering import places_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nodes:
    """Of trees whose leaves are clusters: a level has 2^level nodes.

    num_clusters: L.
    num_filled: [trees] int32, clusters that have tokens, the first ones; None: all.
    """

    num_clusters: int = dataclasses.field(metadata={"static": True})
    num_filled: Array | None

    @property
    def depth(self) -> int:
        """The last level: its nodes have one cluster or none."""
        return (self.num_clusters - 1).bit_length()

    def clusters(self, level: int) -> Any:
        """[trees or 1, 2^level + 1], the first cluster of each node, and L.

        That is floor(node * L / 2^level), for L filled clusters. A node of one cluster gives it to one of its
        children, and none to the other.
        """
        if self.num_filled is None:
            return np.arange(2**level + 1)[None] * self.num_clusters // 2**level
        nodes = jnp.arange(2**level + 1, dtype=jnp.uint32)[None]
        filled = self.num_filled[:, None].astype(jnp.uint32)
        # In two parts: the product could overflow.
        whole, rest = filled >> level, filled & (2**level - 1)
        return (nodes * whole + ((nodes * rest) >> level)).astype(jnp.int32)

    def tokens(self, level: int, kept: Int[Array, " trees"]) -> Int[Array, "trees nodes"]:
        """How many of a tree's tokens each node gets: clusters differ by one token at most."""
        filled = self.num_clusters if self.num_filled is None else self.num_filled[:, None]
        share, extra = jnp.divmod(kept[:, None], filled)
        clusters = jnp.asarray(self.clusters(level), jnp.int32)
        return jnp.diff(clusters * share + jnp.minimum(clusters, extra), axis=-1)

    def slots(self, level: int, length: int, size: int) -> int:
        """How many tokens of `length` a node has at most. size: of a cluster, at most."""
        # Of all clusters, or of as few as there may be.
        filled = np.arange(self.num_clusters if self.num_filled is None else 1, self.num_clusters + 1)
        clusters = -(-filled // 2**level)
        return int(np.max(clusters * np.minimum(-(-length // filled), size)))

    def spare(self, level: int, length: int, slots: int, *, masked: bool) -> int:
        """How many of a node's slots may be empty. masked: some tokens are left out."""
        if masked or self.num_filled is not None:
            return slots
        share, extra = divmod(length, self.num_clusters)
        clusters = self.clusters(level)
        return slots - int(np.min(np.diff(clusters * share + np.minimum(clusters, extra))))

    def leaves(self, tokens: Int[Array, "trees nodes C"], empty: int) -> Int[Array, "trees L C"]:
        """The tokens of the last level's nodes that have a cluster, in the order of the clusters."""
        bounds = self.clusters(self.depth)
        if isinstance(bounds, np.ndarray):
            return tokens[:, np.flatnonzero(np.diff(bounds[0])), :]
        cluster = jnp.where(jnp.diff(bounds) > 0, bounds[:, :-1], self.num_clusters)
        node = places_of(cluster[..., None], self.num_clusters)  # `nodes` where no node has the cluster

        def of_tree(tokens: Array, node: Array) -> Array:
            return tokens.at[node].get(mode="fill", fill_value=empty)

        leaves: Array = jax.vmap(of_tree)(tokens, node)
        return leaves
