"""Scatterbrain's theory in a picture: squared error of an entry against its inner product.

    python -m benchmarks.theory                              # a minute

Entries are e^(q . k), unnormalised: the operation's own output for values that tell keys apart, times its
total. Vectors lie on a sphere; hashes and features are drawn anew many times; but for one, each attention
spends half of the pairs (a feature or a mean counts as a key). Features err most where the product is large,
clusters where a product is left out; with as many features, both together err less than features everywhere
(arXiv:2110.15343, section 4). Writes theory.md and theory.png into benchmarks/results/.
"""

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from smyrf_jax import canopy_attention, orthogonal_projection, performer_far_field

RESULTS = pathlib.Path(__file__).parent / "results"
LENGTH, WIDTH = 128, 6
RADII = (0.7, 1.0, 1.5)
DRAWS = 400
# entries(query, key, rng): [T, S]
Entries = Callable[[Array, Array, Array], Array]


def canopy(query: Array, key: Array, rng: Array, **options) -> Array:
    tells = jnp.eye(LENGTH)[:, None]
    output, logsumexp = canopy_attention(
        query, key, tells, rng=rng, scale=1.0, return_residual=True, **options
    )
    return (output * jnp.exp(logsumexp)[..., None])[:, 0]


def performer(query: Array, key: Array, rng: Array, *, num_features: int) -> Array:
    # The projections that canopy_attention draws.
    projection = orthogonal_projection(jax.random.split(rng)[1], num_features // 2, WIDTH)
    far = performer_far_field(query, key, jnp.eye(LENGTH)[:, None], projection=projection, scale=1.0)
    return (far.output * jnp.exp(far.logsumexp)[..., None])[:, 0]


SMYRF: dict[str, Any] = {"clusters": "smyrf", "cluster_size": 16}
ATTENTIONS: dict[str, Entries] = {
    "features: Performer, 64": functools.partial(performer, num_features=64),
    "clusters: SMYRF, 4 x 16": functools.partial(canopy, **SMYRF, num_hashes=4, outside="nothing"),
    "both: Scatterbrain, 2 x 16 and 32": functools.partial(
        canopy, **SMYRF, num_hashes=2, outside="features", num_features=32
    ),
    "both: Scatterbrain, 2 x 16 and 64 (costs more)": functools.partial(
        canopy, **SMYRF, num_hashes=2, outside="features", num_features=64
    ),
    "canopy, 32 and 32 means": functools.partial(canopy, num_hashes=1, cluster_size=32, means_per_cluster=8),
}


def mean_squared_errors(query: Array, key: Array) -> dict[str, np.ndarray]:
    """[T, S] of each attention, the mean over the draws."""
    exact = jnp.exp(jnp.einsum("tnd,snd->ts", query, key))

    @functools.partial(jax.jit, static_argnums=1)
    def of(rngs: Array, entries: Entries) -> Array:
        def add(total: Array, rng: Array) -> tuple[Array, None]:
            return total + (entries(query, key, rng) - exact) ** 2, None

        return jax.lax.scan(add, jnp.zeros_like(exact), rngs)[0] / len(rngs)

    rngs = jax.random.split(jax.random.key(1), DRAWS)
    return {name: np.asarray(of(rngs, entries)) for name, entries in ATTENTIONS.items()}


def closed_form(products: np.ndarray, radius: float, rows: int) -> np.ndarray:
    """The variance of features of independent projections (Performer, lemma 2)."""
    both = 2 * radius**2 + 2 * products  # |q + k|^2
    second = math.exp(-2 * radius**2) * (1 + np.exp(2 * both)) / 2
    return (second - np.exp(2 * products)) / rows


def draw(axis: Any, radius: float) -> list[str]:
    """One sphere's curves; returns lines of a table."""
    rngs = jax.random.split(jax.random.key(0), 2)
    query, key = (jax.random.normal(rng, (LENGTH, 1, WIDTH)) for rng in rngs)
    query, key = (radius * x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key))
    products = np.asarray(jnp.einsum("tnd,snd->ts", query, key))
    errors = mean_squared_errors(query, key)
    edges = np.linspace(-0.9, 0.9, 10) * radius**2
    centres = (edges[1:] + edges[:-1]) / 2
    bins = np.digitize(products, edges)
    curves = {
        name: [found[bins == number].mean() for number in range(1, len(edges))]
        for name, found in errors.items()
    }
    for name, curve in curves.items():
        axis.plot(centres, curve, marker="o", ms=4, label=name)
    axis.plot(centres, closed_form(centres, radius, 32), "k:", label="64 independent features, closed form")
    axis.set(yscale="log", xlabel="inner product q . k", ylabel="mean squared error of e^(q . k)")
    axis.set_title(f"on a sphere of radius {radius:g}")
    axis.grid(alpha=0.3)
    lines = [
        f"**On a sphere of radius {radius:g}**",
        "",
        "| q . k | " + " | ".join(curves) + " |",
        "|---|" + "---|" * len(curves),
    ]
    for number in range(0, len(centres), 2):
        cells = " | ".join(f"{curve[number]:.2g}" for curve in curves.values())
        lines.append(f"| {edges[number]:.2f} to {edges[number + 1]:.2f} | {cells} |")
    means = " | ".join(f"{found.mean():.2g}" for found in errors.values())
    return [*lines, f"| all entries | {means} |", ""]


def main() -> None:
    lines = [
        f"Mean squared error of an entry e^(q . k), by its inner product: {LENGTH} queries and keys of width",
        f"{WIDTH}, {DRAWS} draws of hashes and features. `python -m benchmarks.theory`",
        "",
    ]
    figure, axes = plt.subplots(1, len(RADII), figsize=(4.6 * len(RADII), 4.6), layout="constrained")
    for axis, radius in zip(axes, RADII, strict=True):
        lines += draw(axis, radius)
        print("\n".join(lines[-10:]))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(RESULTS / "theory.png", dpi=90)
    (RESULTS / "theory.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
