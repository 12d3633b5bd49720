"""Scatterbrain's theory in a picture: squared error of an entry against its inner product.

    python -m benchmarks.theory                              # a minute

Entries are e^(q . k), unnormalised: the operation's own output for values that tell keys apart, times its
total. Vectors lie on a sphere; hashes and features are drawn anew many times; but for one, each method
spends half of the pairs (a mean counts as a key, a feature of a query or of a key as a pair). Features err
most where the product is large, clusters where a product is left out; with as many features, both together
err less than features everywhere (arXiv:2110.15343, section 4). Writes theory.md and theory.png into
docs/results/tables/.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from benchmarks.tables import RESULTS, table
from smyrf_jax import Canopy, Method, Performer, Scatterbrain, Smyrf, attention
from training.provenance import header, picture_metadata

LENGTH, WIDTH = 128, 6
RADII = (0.7, 1.0, 1.5)
DRAWS = 400
METHODS: dict[str, Method] = {
    "features: Performer, 32": Performer(32),
    "clusters: SMYRF, 4 x 16": Smyrf(4, 16, deduplicate=True),
    "both: Scatterbrain, 2 x 16 and 16": Scatterbrain(2, 16, 16),
    "both: Scatterbrain, 2 x 16 and 32 (costs more)": Scatterbrain(2, 16, 32),
    "canopy, 32 and 32 means": Canopy(1, 32, 8),
}


def entries(query: Array, key: Array, rng: Array, method: Method) -> Array:
    """[T, S]"""
    if isinstance(method, Performer):
        rng = jax.random.split(rng)[1]  # of which Scatterbrain draws its features: the same ones
    tells = jnp.eye(LENGTH)[:, None]
    found: Any = attention(query, key, tells, method=method, rng=rng, scale=1.0, return_residual=True)
    output, logsumexp = found
    return (output * jnp.exp(logsumexp)[..., None])[:, 0]


def mean_squared_errors(query: Array, key: Array) -> dict[str, np.ndarray]:
    """[T, S] of each method, the mean over the draws."""
    exact = jnp.exp(jnp.einsum("tnd,snd->ts", query, key))

    @functools.partial(jax.jit, static_argnums=1)
    def of(rngs: Array, method: Method) -> Array:
        def add(total: Array, rng: Array) -> tuple[Array, None]:
            return total + (entries(query, key, rng, method) - exact) ** 2, None

        return jax.lax.scan(add, jnp.zeros_like(exact), rngs)[0] / len(rngs)

    rngs = jax.random.split(jax.random.key(1), DRAWS)
    return {name: np.asarray(of(rngs, method)) for name, method in METHODS.items()}


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
    axis.plot(centres, closed_form(centres, radius, 16), "k:", label="32 independent features, closed form")
    axis.set(yscale="log", xlabel="inner product q . k", ylabel="mean squared error of e^(q . k)")
    axis.set_title(f"on a sphere of radius {radius:g}")
    axis.grid(alpha=0.3)
    cells = []
    for number in range(0, len(centres), 2):
        label = f"{edges[number]:.2f} to {edges[number + 1]:.2f}"
        cells.append([label, *(f"{curve[number]:.2g}" for curve in curves.values())])
    cells.append(["all entries", *(f"{found.mean():.2g}" for found in errors.values())])
    return [f"**On a sphere of radius {radius:g}**", "", *table(["q . k", *curves], cells)]


def main() -> None:
    lines = [
        *header(),
        f"Mean squared error of an entry e^(q . k), by its inner product: {LENGTH} queries and keys of width",
        f"{WIDTH}, {DRAWS} draws of hashes and features.",
        "",
        *(
            f"- {name}: {method.cost(LENGTH, LENGTH).pairs:.0%} of the pairs."
            for name, method in METHODS.items()
        ),
        "",
    ]
    figure, axes = plt.subplots(1, len(RADII), figsize=(4.6 * len(RADII), 4.6), layout="constrained")
    for axis, radius in zip(axes, RADII, strict=True):
        lines += draw(axis, radius)
        print("\n".join(lines[-10:]))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(RESULTS / "theory.png", dpi=90, metadata=picture_metadata())
    (RESULTS / "theory.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
