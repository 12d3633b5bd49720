"""What helps clusters capture attention: transforms, hash families and settings at equal cost.

    python -m benchmarks.quality

Synthetic queries and keys (8 heads, 1024 tokens, width 64) of three kinds, and a photograph. Writes
quality.md, quality.png, errors.png and clusters.png into docs/results/tables/ in about 3 minutes; wants the
extra [train], for the photograph. Cost is the pairs whose logits are computed, as a part of all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import skimage.color
from jax import Array
from matplotlib.figure import Figure

from benchmarks.tables import RESULTS, line, table
from smyrf_jax import (
    Dense,
    Method,
    Smyrf,
    attention,
    e2lsh,
    gaussian_directions,
    sort_clustering,
    xbox_plus,
)
from smyrf_jax.dense import dense_weights
from smyrf_jax.diagnostics import attention_error, captured_mass, error_by_pairs, largest_keys_attention
from smyrf_jax.methods import Clustered, Parts
from smyrf_jax.methods.comparators import gray_numbers
from smyrf_jax.pictures import clusters_over_image, errors_by_pairs
from training.photographs import middle_square, photograph
from training.provenance import header, picture_metadata
from training.timing import medians

HEADS, LENGTH, WIDTH = 8, 1024, 64
SEEDS = 5
Arrays = tuple[Array, Array, Array]
# row(kind): captured mass and output error
Row = Callable[[str], tuple[Any, Any]]
Transform = Callable[[Array, Array], tuple[Array, Array]]
Family = Callable[[Array, Array, Array, int], tuple[Array, Array]]


def data(kind: str) -> Arrays:
    """query, key, value [1, LENGTH, HEADS, WIDTH]; logits (q.k / 8) have a standard deviation of about 2."""
    rngs = jax.random.split(jax.random.key(0), 6)
    shape = (1, LENGTH, HEADS, WIDTH)
    query, key, value = (jax.random.normal(rng, shape) for rng in rngs[:3])
    if kind == "clustered":  # 64 centres that queries and keys share
        centres = jax.random.normal(rngs[3], (64, HEADS, WIDTH))
        of_query, of_key = (jax.random.randint(rng, (LENGTH,), 0, 64) for rng in rngs[4:])
        query, key = (0.8 * centres[i][None] + 0.6 * x for i, x in ((of_query, query), (of_key, key)))
        # Values of a cluster are alike, as they are in trained networks.
        value = 0.6 * value + 0.8 * jax.random.normal(rngs[3], (64, HEADS, WIDTH))[of_key][None]
    query, key = (jnp.sqrt(2.0) * x for x in (query, key))
    if kind == "offset":  # the same vector in every key: dense attention does not see it
        key = key + 3 * jax.random.normal(rngs[3], (1, 1, HEADS, WIDTH))
    return query, key, value


def norms(x: Array) -> Array:
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


def xbox(query: Array, key: Array) -> tuple[Array, Array]:
    """[q; 0], [k; sqrt(M^2 - |k|^2)] (Bachrach et al., RecSys 2014)."""
    size = norms(key)
    rest = jnp.sqrt(jnp.maximum(jnp.max(size, axis=1, keepdims=True) ** 2 - size**2, 0))
    return jnp.concatenate([query, jnp.zeros_like(size)], -1), jnp.concatenate([key, rest], -1)


def h2lsh(query: Array, key: Array) -> tuple[Array, Array]:
    """XBOX with queries scaled to the longest key (Huang et al., KDD 2018)."""
    longest = jnp.max(norms(key), axis=1, keepdims=True)
    return xbox(longest * query / norms(query), key)


def l2lsh(query: Array, key: Array) -> tuple[Array, Array]:
    """[q / |q|; 1/2; 1/2; 1/2], [k'; |k'|^2; |k'|^4; |k'|^8], |k'| <= .83 (Shrivastava, Li, NIPS 2014)."""
    key = 0.83 * key / jnp.max(norms(key), axis=1, keepdims=True)
    powers = [norms(key) ** power for power in (2, 4, 8)]
    halves = jnp.full((*query.shape[:-1], 3), 0.5)
    return jnp.concatenate([query / norms(query), halves], -1), jnp.concatenate([key, *powers], -1)


def centred(query: Array, key: Array) -> tuple[Array, Array]:
    """No transform, but the mean of the keys taken off, which changes no attention."""
    return query, key - jnp.mean(key, axis=1, keepdims=True)


def sorted_e2lsh(rng: Array, query: Array, key: Array, rounds: int) -> tuple[Array, Array]:
    directions = gaussian_directions(rng, rounds, query.shape[-1])
    return e2lsh(query, directions), e2lsh(key, directions)


def projections(rng: Array, query: Array, key: Array, rounds: int, count: int) -> list[Array]:
    """[1, HEADS, rounds, LENGTH, count] of queries and of keys."""
    directions = jax.random.normal(rng, (rounds, count, query.shape[-1]))
    return [jnp.einsum("btnd,rcd->bnrtc", x, directions) for x in (query, key)]


def with_order(rng: Array, buckets: list[Array]) -> tuple[Array, Array]:
    """Bucket numbers whose ties are broken at random."""
    rngs = jax.random.split(rng)
    query, key = (b + jax.random.uniform(r, b.shape) for r, b in zip(rngs, buckets, strict=True))
    return query, key


def gray_signs(rng: Array, query: Array, key: Array, rounds: int, bits: int = 7) -> tuple[Array, Array]:
    """Signs of projections, read as a Gray code (HyperAttention, arXiv:2310.05869)."""
    rngs = jax.random.split(rng)
    along = projections(rngs[0], query, key, rounds, bits)
    return with_order(rngs[1], [gray_numbers(x).astype(float) for x in along])


def cross_polytope(rng: Array, query: Array, key: Array, rounds: int, size: int = 32) -> tuple[Array, Array]:
    """The nearest of 2 * size signed axes after a random projection (Andoni et al., NIPS 2015)."""

    def bucket(values: Array) -> Array:
        return jnp.argmax(jnp.concatenate([values, -values], -1), -1).astype(float)

    rngs = jax.random.split(rng)
    return with_order(rngs[1], [bucket(x) for x in projections(rngs[0], query, key, rounds, size)])


def voronoi(rng: Array, query: Array, key: Array, rounds: int, size: int = 64) -> tuple[Array, Array]:
    """The random direction of largest projection."""
    rngs = jax.random.split(rng)
    buckets = [jnp.argmax(x, -1).astype(float) for x in projections(rngs[0], query, key, rounds, size)]
    return with_order(rngs[1], buckets)


def at_random(rng: Array, query: Array, key: Array, rounds: int) -> tuple[Array, Array]:
    return with_order(rng, [jnp.zeros((1, HEADS, rounds, LENGTH)) for _ in range(2)])


TRANSFORMS: dict[str, Transform] = {
    "none": lambda query, key: (query, key),
    "none, keys centred": centred,
    "XBOX": xbox,
    "XBOX+": xbox_plus,
    "L2LSH": l2lsh,
    "H2LSH": h2lsh,
}
FAMILIES: dict[str, Family] = {
    "E2LSH, sorted": sorted_e2lsh,
    "signs in Gray order": gray_signs,
    "cross-polytope": cross_polytope,
    "Voronoi": voronoi,
}


@dataclasses.dataclass(frozen=True)
class Hashed(Clustered):
    """Clusters of sorted hashes by any transform and family; each key counts once."""

    transform: Transform
    family: Family
    num_hashes: int
    cluster_size: int

    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """See `Clustered`."""
        hashes = self.family(rng, *self.transform(query, key), self.num_hashes)
        clustering = sort_clustering(*hashes, mask, cluster_size=self.cluster_size, query_mask=query_mask)
        return Parts(clustering, deduplicate=True)


@functools.partial(jax.jit, static_argnames="method")
def figures_of_draw(rng: Array, arrays: Arrays, exact: Array, *, method: Method) -> tuple[Array, Array]:
    """Captured mass and output error of one draw, means over heads."""
    output: Any = attention(*arrays, method=method, rng=rng)
    mass = captured_mass(*arrays[:2], method, rng=rng)
    return jnp.mean(mass), jnp.mean(attention_error(output, exact))


def figures(arrays: Arrays, exact: Array, method: Method) -> tuple[float, float]:
    """Captured mass and output error, means over draws and heads."""
    draws = [figures_of_draw(jax.random.key(seed), arrays, exact, method=method) for seed in range(SEEDS)]
    mass, error = np.mean(np.asarray(draws), axis=0)
    return float(mass), float(error)


@functools.partial(jax.jit, static_argnums=2)
def oracle(arrays: Arrays, exact: Array, count: int) -> tuple[Array, Array]:
    """Captured mass and output error of each query with its `count` largest keys."""
    mass = jnp.sum(jax.lax.top_k(dense_weights(*arrays[:2]), count)[0], axis=-1)
    output = largest_keys_attention(*arrays, count=count)
    return jnp.mean(mass), jnp.mean(attention_error(output, exact))


def error_at_equal_time(kinds: dict[str, Arrays], exact: dict[str, Array]) -> list[str]:
    """Rounds of clusters of 64, with and without counting each key once: error beside time."""
    methods = [Smyrf(rounds, LENGTH // 16, once) for rounds in (1, 2, 3, 4, 6, 8) for once in (False, True)]

    def step_of(method: Method) -> Callable[[], Any]:
        def loss(*arrays: Array) -> Array:
            output: Any = attention(*arrays, method=method)
            return jnp.sum(output**2)

        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        return lambda: jax.block_until_ready(step(*kinds["clustered"]))

    times = medians({said(method): step_of(method) for method in methods}, 20.0)
    rows = []
    for method in methods:
        errors = [figures(kinds[kind], exact[kind], method)[1] for kind in kinds]
        milliseconds = f"{1e3 * times[said(method)]:.1f}"
        rows.append([said(method), milliseconds, *(f"{error:.3f}" for error in errors)])
        print(line(rows[-1]), flush=True)
    return [
        "**Error at equal time** (XBOX+; E2LSH, sorted; time of forward+backward, medians)",
        "",
        *table(["", "milliseconds", *kinds], rows),
    ]


def said(method: Smyrf) -> str:
    once = "each key once" if method.deduplicate else "once a round"
    return f"{method.num_hashes} x {method.cluster_size}, {once}"


def main() -> None:
    kinds = {kind: data(kind) for kind in ("isotropic", "clustered", "offset")}
    exact: dict[str, Any] = {kind: attention(*arrays, method=Dense()) for kind, arrays in kinds.items()}
    lines = [
        *header(),
        "Captured mass / relative error of the output; mean over 8 heads and 5 draws. 1024 tokens, width 64;",
        "each key counted once unless said otherwise.",
        "",
    ]

    def add(title: str, rows: dict[str, Row]) -> dict[str, list[tuple[float, float]]]:
        results, cells = {}, []
        for name, row in rows.items():
            results[name] = [(float(mass), float(error)) for mass, error in map(row, kinds)]
            cells.append([name, *(f"{mass:.3f} / {error:.3f}" for mass, error in results[name])])
            print(line(cells[-1]), flush=True)
        lines.extend([f"**{title}**", "", *table(["", *kinds], cells)])
        return results

    def row_of(method: Method) -> Row:
        return lambda kind: figures(kinds[kind], exact[kind], method)

    def oracle_row(count: int) -> Row:
        return lambda kind: oracle(kinds[kind], exact[kind], count)

    # 2 rounds of 16 clusters and 4 of 16: an eighth and a quarter of the pairs.
    size = LENGTH // 16
    for rounds in (2, 4):
        methods = {
            f"{name}; E2LSH, sorted": Hashed(transform, sorted_e2lsh, rounds, size)
            for name, transform in TRANSFORMS.items()
        }
        for name in ("XBOX+", "none, keys centred"):
            methods |= {
                f"{name}; {label}": Hashed(TRANSFORMS[name], family, rounds, size)
                for label, family in FAMILIES.items()
                if family is not sorted_e2lsh
            }
        methods["random clusters"] = Hashed(TRANSFORMS["none"], at_random, rounds, size)
        rows = {name: row_of(method) for name, method in methods.items()}
        rows["oracle: largest keys of each query"] = oracle_row(rounds * size)
        cost = Smyrf(rounds, size).cost(LENGTH, LENGTH).pairs
        shown = add(f"Cost {cost:.1%}: {rounds} rounds of clusters of {size}", rows)
    counted = [
        Smyrf(rounds, size, once)
        for rounds, size in ((1, 256), (2, 128), (4, 64), (8, 32), (16, 16))
        for once in (True, False)
    ]
    add(
        "Cost 25 %: rounds x cluster size, and how often a key counts (XBOX+; E2LSH, sorted)",
        {said(method): row_of(method) for method in counted},
    )
    lines.extend(error_at_equal_time(kinds, exact))
    (RESULTS / "quality.md").write_text("\n".join(lines))
    plot(shown, list(kinds))
    save(
        "errors.png",
        errors_by_pairs(
            {
                f"{kind}, {rounds} rounds": error_by_pairs(
                    *kinds[kind], method=Smyrf, num_hashes=rounds, deduplicate=True
                )
                for kind in ("isotropic", "clustered")
                for rounds in (1, 4)
            }
        ),
    )
    save("clusters.png", clusters_of_a_photograph())


def clusters_of_a_photograph(size: int = 64) -> Figure:
    """The keys of one pixel of a photograph; queries are colours and places, keys those of 2 x 2 pixels."""
    image = middle_square(photograph("astronaut"), size)
    place = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, size)], indexing="ij"), axis=-1)
    colours = skimage.color.rgb2lab(image) / 25
    features = np.concatenate([colours - colours.mean((0, 1)), 1.5 * place], axis=-1)
    pooled = features.reshape(size // 2, 2, size // 2, 2, -1).mean((1, 3))
    query, key = (jnp.asarray(x.reshape(1, -1, 1, x.shape[-1]), jnp.float32) for x in (features, pooled))
    method = Smyrf(num_hashes=4, cluster_size=size * size // 16)
    clustering = method.clustering(query, key, rng=jax.random.key(3))
    one_head = jax.tree.map(lambda order: order[0, 0], clustering)
    return clusters_over_image(image, one_head, (20, 28), key_grid=(size // 2, size // 2))


def save(name: str, figure: Figure) -> None:
    figure.savefig(RESULTS / name, dpi=100, metadata=picture_metadata())
    plt.close(figure)


def plot(rows: dict[str, list], kinds: list[str]) -> None:
    """Output error at a quarter of the pairs."""
    figure, axes = plt.subplots(1, len(kinds), figsize=(12, 5), sharey=True, layout="constrained")
    for axis, kind, column in zip(axes, kinds, zip(*rows.values(), strict=True), strict=True):
        axis.barh(list(rows), [error for _, error in column], color="tab:blue")
        axis.set_title(kind)
        axis.set_xlabel("relative error of the output")
    axes[0].invert_yaxis()
    figure.suptitle("A quarter of the pairs: 4 rounds of clusters of 64 of 1024 tokens")
    save("quality.png", figure)


if __name__ == "__main__":
    main()
