"""Inside shard_map: over which axes of a mesh arrays vary."""

from typing import Any

import jax
from jax import Array


def vary_alike(tree: Any, *like: Any) -> Any:
    """The arrays of `tree`, varying over all axes that those of `like` vary over.

    shard_map asks for it of loops' first values, and of what a custom VJP takes: an array that is the same on
    all devices then gets the sum of its gradients. Does nothing elsewhere.
    """
    axes = frozenset().union(*(_axes(leaf) for leaf in jax.tree.leaves(like)))

    def vary(array: Array) -> Array:
        missing = tuple(sorted(axes - _axes(array)))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(vary, tree)


def _axes(array: Array) -> frozenset[str]:
    # Not an attribute of every version of JAX: without it, shard_map itself names what it misses.
    kind = getattr(jax.typeof(array), "manual_axis_type", None)
    return frozenset() if kind is None else kind.varying
