"""Pictures of clusters and of errors. The one file of this package that wants matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Num
from matplotlib.figure import Figure

from smyrf_jax.clustering import Clustering, cluster_of_tokens
from smyrf_jax.diagnostics import shared_cluster


def clusters_over_image(
    image: Num[Any, "H W 3"], clustering: Clustering, pixel: tuple[int, int], *, key_grid: tuple[int, int]
) -> Figure:
    """The keys that one pixel attends to: an image a hash round, everything else darkened.

    Args:
        image: [H, W, 3], uint8 or 0 to 1.
        clustering: of one head, orders [R, L, C] and [R, L, K].
        pixel: row and column of the query, in a grid of H x W queries.
        key_grid: rows and columns of the keys; each divides H and W. Pooled keys cover several pixels.

    Returns:
        The figure, to be saved with `savefig`.

    Raises:
        ValueError: sizes do not fit.
    """
    image = np.asarray(image)
    image = image / 255 if image.dtype == np.uint8 else image
    height, width = image.shape[:2]
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise ValueError(f"pixel should be within {height} x {width}, but got {pixel=}.")
    if height % key_grid[0] or width % key_grid[1]:
        raise ValueError(f"key_grid should divide {height} x {width}, but got {key_grid=}.")
    of_query = np.asarray(cluster_of_tokens(clustering.query_order, height * width))  # [R, T]
    of_key = np.asarray(cluster_of_tokens(clustering.key_order, key_grid[0] * key_grid[1]))
    met = of_key == of_query[:, pixel[0] * width + pixel[1], None]
    rounds = len(met)
    figure, axes = plt.subplots(
        1, rounds + 1, figsize=(3 * (rounds + 1), 3), layout="constrained", squeeze=False
    )
    titles = [*(f"round {i + 1}" for i in range(rounds)), "any round"]
    for axis, keys, title in zip(axes[0], [*met, met.any(0)], titles, strict=True):
        seen = keys.reshape(key_grid).repeat(height // key_grid[0], 0).repeat(width // key_grid[1], 1)
        axis.imshow(np.where(seen[..., None], image, 0.15 * image), interpolation="nearest")
        axis.plot(pixel[1], pixel[0], "o", mfc="none", mec="red", ms=9, mew=2)
        axis.set_title(f"{title}: {np.mean(keys):.0%} of the keys")
        axis.axis("off")
    return figure


def shared_pairs(clustering: Clustering, num_queries: int, num_keys: int) -> Figure:
    """The map of query-key pairs that share a cluster, in tokens' own order; darker where in more rounds.

    Args:
        clustering: of one head, orders [R, L, C] and [R, L, K].
        num_queries: T.
        num_keys: S.
    """
    rounds = clustering.query_order.shape[0]
    one_round = [jax.tree.map(lambda order, i=i: order[None, i : i + 1], clustering) for i in range(rounds)]
    count = sum(np.asarray(shared_cluster(one, num_queries, num_keys))[0].astype(int) for one in one_round)
    figure, axis = plt.subplots(figsize=(5, 5 * num_queries / num_keys), layout="constrained")
    drawn = axis.imshow(count, cmap="Greys", interpolation="nearest", vmin=0)
    axis.set_xlabel("key")
    axis.set_ylabel("query")
    axis.set_title(f"{np.mean(np.asarray(count) > 0):.1%} of the pairs share a cluster")
    figure.colorbar(drawn, label="rounds", shrink=0.7)
    return figure


def errors_by_pairs(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Error against pairs (the papers' memory), from `diagnostics.error_by_pairs`; a line a name."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, points in curves.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    axis.set_xscale("log", base=2)
    ticks = [2.0**-power for power in range(7)]
    axis.set_xticks(ticks, [f"{100 * tick:.3g} %" for tick in ticks])
    axis.set_xlabel("pairs, of dense attention's")
    axis.set_ylabel("relative error of the output")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
