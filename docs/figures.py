"""Draws the figures of the documentation: `python docs/figures.py` writes docs/figures/*.png."""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from smyrf_jax import cluster_of_tokens, tree_clustering
from smyrf_jax.clustering.halving import halve_clusters

FOLDER = pathlib.Path(__file__).parent / "figures"
COLOURS = ("#3b6fb6", "#c8553d", "#4a8f5c", "#8a63a8")
GREY = "#555555"


def canopy(tokens: int = 128, cluster_size: int = 32, means: int = 4) -> Figure:
    """Keys of a plane in the clusters of a tree; what one query sees of them."""
    rng_centre, rng_spread, rng_tree = jax.random.split(jax.random.key(2), 3)
    centres = jax.random.normal(rng_centre, (8, 1, 2)) * 2.0
    keys = (centres + 0.55 * jax.random.normal(rng_spread, (8, tokens // 8, 2))).reshape(1, tokens, 1, 2)
    clustering = tree_clustering(keys, keys, rng=rng_tree, num_trees=1, cluster_size=cluster_size)
    order = clustering.key_order[0, :, 0]  # [1, L, K]
    pieces = np.asarray(halve_clusters(keys[0].swapaxes(0, 1), order, times=means.bit_length() - 1))[0]
    of_key = np.asarray(cluster_of_tokens(clustering.key_order, tokens))[0, 0, 0]
    points = np.asarray(keys[0, :, 0])
    query = int(np.argmin(np.linalg.norm(points - points[of_key == 1].mean(0), axis=-1)))
    own = int(of_key[query])

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", sharex=True, sharey=True)
    for cluster in range(int(of_key.max()) + 1):
        of_cluster = points[of_key == cluster]
        axes[0].scatter(*of_cluster.T, s=26, color=COLOURS[cluster], label=f"cluster {cluster + 1}")
        if cluster == own:
            axes[1].scatter(*of_cluster.T, s=26, color=COLOURS[cluster], label="exact: keys of its cluster")
        else:
            axes[1].scatter(*of_cluster.T, s=10, color=COLOURS[cluster], alpha=0.35)
    first = True
    for piece in pieces:
        places = piece[piece < tokens]
        if len(places) == 0 or of_key[places[0]] == own:
            continue
        mean, colour = points[places].mean(0), COLOURS[of_key[places[0]]]
        for place in places:
            axes[1].plot(*zip(points[place], mean, strict=True), color=colour, lw=0.6, alpha=0.5)
        label = f"means, each of {len(places)} like keys" if first else None
        axes[1].scatter(*mean, s=170, color=colour, edgecolor="white", lw=1.5, label=label, zorder=3)
        first = False
    for axis in axes:
        axis.scatter(*points[query], s=260, marker="*", color="black", zorder=4, label="a query")
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_title("A balanced tree: four clusters of 32 keys")
    axes[1].set_title("What the query attends to: 32 keys and 12 means")
    for axis in axes:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, frameon=False, fontsize=9)
    return figure


def _box(axis: Axes, x: float, y: float, width: float, title: str, names: str, colour: str) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (x, y), width, 1.1, boxstyle="round,pad=0,rounding_size=0.12", fc=colour + "22", ec=colour, lw=1.4
        )
    )
    axis.text(x + width / 2, y + 0.74, title, ha="center", va="center", fontsize=10.5)
    axis.text(
        x + width / 2, y + 0.32, names, ha="center", va="center", fontsize=8.5, family="monospace", color=GREY
    )


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=13,
            color=GREY,
            lw=1.3,
            shrinkA=2,
            shrinkB=2,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def chain() -> Figure:
    """The links from queries and keys to the output, with their public names."""
    figure, axis = plt.subplots(figsize=(11, 5.2), layout="constrained")
    blue, red, green, violet = COLOURS
    _box(axis, 0.0, 4.2, 2.2, "query, key", "[*B, T, N, D]", GREY)
    _box(axis, 3.0, 4.2, 2.2, "transforms", "xbox_plus", blue)
    _box(axis, 6.0, 4.2, 2.2, "hashing", "e2lsh", blue)
    _box(axis, 9.0, 4.2, 2.4, "sorting", "sort_clustering", blue)
    _box(axis, 3.0, 2.5, 2.2, "a tree", "tree_clustering", green)
    _box(axis, 6.0, 2.5, 2.2, "a window", "local_clustering", green)
    _box(axis, 9.0, 2.5, 2.4, "who shares a cluster", "Clustering", violet)
    _box(axis, 0.0, 0.3, 2.2, "value", "[*B, S, N, V]", GREY)
    _box(axis, 3.0, 0.3, 3.2, "far field: what lies outside", "Centroids, Features", red)
    _box(axis, 7.2, 0.3, 4.2, "attention inside clusters", "clustered_attention", violet)
    _box(axis, 12.3, 0.3, 1.9, "output", "[*B, T, N, V]", GREY)
    for start, end in (((2.2, 4.75), (3.0, 4.75)), ((5.2, 4.75), (6.0, 4.75)), ((8.2, 4.75), (9.0, 4.75))):
        _arrow(axis, start, end)
    axis.text(7.2, 5.55, "smyrf_clustering: the three in one", ha="center", fontsize=9, color=blue)
    axis.plot([3.0, 11.4], [5.42, 5.42], color=blue, lw=1)
    _arrow(axis, (10.2, 4.2), (10.2, 3.6))
    _arrow(axis, (1.1, 4.2), (3.0, 3.05), bend=0.25)
    _arrow(axis, (8.2, 3.05), (9.0, 3.05))
    axis.text(5.6, 3.05, "or", ha="center", va="center", fontsize=10, color=GREY)
    axis.text(4.1, 3.9, "or", ha="center", va="center", fontsize=10, color=GREY)
    _arrow(axis, (10.2, 2.5), (10.2, 1.4))
    _arrow(axis, (9.6, 2.5), (5.4, 1.4), bend=0.08)
    _arrow(axis, (6.2, 0.85), (7.2, 0.85))
    _arrow(axis, (2.2, 0.85), (3.0, 0.85))
    _arrow(axis, (11.4, 0.85), (12.3, 0.85))
    axis.set_xlim(-0.1, 14.4)
    axis.set_ylim(0.1, 5.9)
    axis.axis("off")
    return figure


def main() -> None:
    matplotlib.use("agg")
    FOLDER.mkdir(exist_ok=True)
    for figure_of in (canopy, chain):
        figure = figure_of()
        figure.savefig(FOLDER / f"{figure_of.__name__}.png", dpi=130, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    assert jnp.ones(()).dtype == jnp.float32  # what the pictures were drawn with
    main()
