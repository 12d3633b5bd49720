"""Swaps the attention of a pretrained encoder, and reports what that changes.

    python -m transformer.compare --model=minilm --attention=smyrf --lengths=512,2048
    python -m transformer.compare --model=focus --attention=smyrf --lengths=1370

Nothing is trained: the weights are those of the dense model. Of each layer, on the queries, keys and values
that the dense model has there: the relative error of the attention's output, captured mass and entropy.
Of the whole model with every layer swapped: the cosine of its embedding (the mean of a text's tokens, or an
image's class token) with the dense model's, and seconds an input. --swaps: the same cosine when one layer, or
one head, is swapped alone. Writes compare_<model>_<attention>.md and pictures into --out. Wants the extra
[text] or [vision].
"""

import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import Array

from smyrf_jax import Clustering, dense_attention, smyrf_clustering, tree_clustering
from smyrf_jax.budget import Cost, budget, cost
from smyrf_jax.diagnostics import attention_entropy, attention_error, captured_mass
from training.attention import ATTENTION
from transformer import report
from transformer.encoder import AttentionFn
from transformer.subjects import Subject, heads_of, mixed, open_subject

_MODEL = flags.DEFINE_string("model", "minilm", "minilm, focus, a checkpoint's folder or an ONNX file.")
_ATTENTION = flags.DEFINE_enum(
    "attention", "smyrf", ["smyrf", "canopy"], "what takes the place of dense attention."
)
_LENGTHS = flags.DEFINE_list(
    "lengths", ["512", "2048"], "tokens; positions are interpolated past the trained length."
)
_PAIRS = flags.DEFINE_list("pairs", ["0.0625", "0.125", "0.25", "0.5", "1"], "parts of all query-key pairs.")
_HASHES = flags.DEFINE_integer("num_hashes", 0, "hash rounds or trees; 0: 4 of smyrf, 1 of canopy.")
_INPUTS = flags.DEFINE_integer("inputs", 4, "texts of Python's manual, or photographs.")
_SWAPS = flags.DEFINE_string(
    "swaps", "0.25", "part of the pairs at which layers and heads are swapped one by one; empty: not done."
)
_OUT = flags.DEFINE_string("out", "benchmarks/results", "folder of the table and the pictures.")


class Swap(NamedTuple):
    """What takes the place of dense attention.

    clusters: of its kind, for captured mass. means: whether they are a part of its cost.
    num_hashes: unless told.
    """

    attention: AttentionFn
    clusters: Callable[..., Clustering]
    means: bool
    num_hashes: int


SWAPS = {
    "smyrf": Swap(ATTENTION["smyrf"], smyrf_clustering, False, 4),
    "canopy": Swap(ATTENTION["canopy"], tree_clustering, True, 1),
}


def settings_for(subject: Subject, swap: Swap, pairs: float, num_hashes: int) -> Cost:
    """The cluster size for a part of the pairs; all of them are one cluster, which is dense attention."""
    heads, length = subject.num_heads, subject.length
    sizes: dict[str, Any] = {"width": subject.encoder.config.hidden_size // heads, "heads": heads}
    if pairs >= 1:
        return cost(length, length, num_hashes=1, cluster_size=length, **sizes)
    return budget(length, length, pairs=pairs, num_hashes=num_hashes, means=swap.means, **sizes)


def swapped(attention: AttentionFn, setting: Cost) -> AttentionFn:
    return functools.partial(attention, **setting.settings)


@functools.partial(jax.jit, static_argnames=("swap", "setting"))
def layer_figures(
    arrays: tuple[Array, Array, Array],
    *,
    swap: Swap,
    setting: Cost,
) -> tuple[Array, Array]:
    """Error and captured mass [N] of one layer's attention, means over inputs (and queries)."""
    sizes = {"num_hashes": setting.num_hashes, "cluster_size": setting.cluster_size}

    def of_input(arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query, key, value = arrays  # [T, N, D]
        clustering = swap.clusters(query, key, rng=jax.random.key(0), **sizes)
        exact: Any = dense_attention(query, key, value)
        output = swap.attention(query, key, value, rng=jax.random.key(0), **setting.settings)
        error = attention_error(output, exact)

        def of_head(arrays: tuple[Array, Array, Clustering]) -> Array:
            query, key, clustering = arrays
            mass = captured_mass(
                query[:, None], key[:, None], jax.tree.map(lambda order: order[None], clustering)
            )
            return jnp.mean(mass)

        # A head at a time, and an input at a time: what is dense here takes T x T.
        mass = jax.lax.map(of_head, (query.swapaxes(0, 1), key.swapaxes(0, 1), clustering))
        return error, mass

    error, mass = jax.lax.map(of_input, arrays)
    return jnp.mean(error, axis=0), jnp.mean(mass, axis=0)


def median_seconds(run: Callable[..., Any], *arguments: Any) -> float:
    times = []
    for _ in range(5):
        before = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def rows_of(subject: Subject, swap: Swap, parts: Sequence[float], num_hashes: int) -> Iterator[report.Row]:
    """Measures each part of the pairs."""
    layers, arguments = heads_of(subject), (subject.params, subject.inputs)
    dense = jax.jit(functools.partial(subject.embedding, dense_attention))
    expected = dense(*arguments)
    dense_seconds = median_seconds(dense, *arguments) / len(subject.inputs)
    for part in parts:
        setting = settings_for(subject, swap, part, num_hashes)
        figures = [layer_figures(arrays, swap=swap, setting=setting) for arrays in layers]
        error, mass = (np.array(column) for column in zip(*figures, strict=True))
        run = jax.jit(functools.partial(subject.embedding, swapped(swap.attention, setting)))
        cosine = jnp.mean(jnp.sum(run(*arguments) * expected, axis=-1))
        seconds = median_seconds(run, *arguments) / len(subject.inputs)
        yield report.Row(subject.length, setting, error, mass, float(cosine), seconds, dense_seconds)


def entropies_of(subject: Subject) -> np.ndarray:
    """[layers, heads], the mean entropy of dense attention in nats."""

    @jax.jit
    def of_layer(query: Array, key: Array) -> Array:
        of_input = functools.partial(jax.lax.map, lambda arrays: attention_entropy(*arrays))
        return jnp.mean(of_input((query, key)), axis=(0, 1))

    return np.array([of_layer(query, key) for query, key, _ in heads_of(subject)])


def swaps_of(subject: Subject, attention: AttentionFn) -> tuple[np.ndarray, np.ndarray]:
    """1 - cosine of the embedding, [layers] with one layer swapped and [layers, heads] with one head."""
    arguments = (subject.params, subject.inputs)

    @jax.jit
    def embedding(chosen: Array, *arguments: Any) -> Array:  # chosen: [layers, heads]
        return subject.embedding(
            tuple(mixed(attention, dense_attention, heads) for heads in chosen), *arguments
        )

    shape = (subject.num_layers, subject.num_heads)
    expected = embedding(jnp.zeros(shape, bool), *arguments)

    def loss(chosen: np.ndarray) -> float:
        found = embedding(jnp.asarray(chosen), *arguments)
        return 1 - float(jnp.mean(jnp.sum(found * expected, axis=-1)))

    def only(place: Any) -> np.ndarray:
        chosen = np.zeros(shape, bool)
        chosen[place] = True
        return chosen

    of_layers = np.array([loss(only(layer)) for layer in range(shape[0])])
    of_heads = np.array([loss(only(place)) for place in np.ndindex(shape)]).reshape(shape)
    return of_layers, of_heads


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    swap = SWAPS[_ATTENTION.value]
    parts, hashes = [float(part) for part in _PAIRS.value], _HASHES.value or swap.num_hashes
    subjects = [open_subject(_MODEL.value, int(length), _INPUTS.value) for length in _LENGTHS.value]
    path = pathlib.Path(_OUT.value) / f"compare_{pathlib.Path(_MODEL.value).stem}_{_ATTENTION.value}"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[report.Row] = []
    entropies: dict[int, np.ndarray] = {}
    for subject in subjects:
        entropies[subject.length] = entropies_of(subject)
        for row in rows_of(subject, swap, parts, hashes):
            rows.append(row)
            print(report.line(row), flush=True)
    command = (
        f"python -m transformer.compare --model={_MODEL.value} --attention={_ATTENTION.value} "
        f"--lengths={','.join(_LENGTHS.value)} --pairs={','.join(_PAIRS.value)} --num_hashes={hashes} "
        f"--inputs={_INPUTS.value}"
    )
    path.with_suffix(".md").write_text(report.table(rows, entropies, subjects[0].unit, command))
    report.plot_errors(rows, path.with_suffix(".png"))
    if _SWAPS.value:
        setting = settings_for(subjects[0], swap, float(_SWAPS.value), hashes)
        of_layers, of_heads = swaps_of(subjects[0], swapped(swap.attention, setting))
        report.plot_swaps(of_layers, of_heads, setting, f"{path}_swaps.png")
    if subjects[0].unit == "image" and subjects[0].encoder.has_head:
        settings = [settings_for(subjects[0], swap, part, hashes) for part in sorted(parts, reverse=True)]
        columns = {"dense": dense_attention} | {
            f"{setting.pairs:.2%} of the pairs": swapped(swap.attention, setting)
            for setting in settings
            if setting.pairs < 1
        }
        report.draw_changes(subjects[0], columns, f"{path}_pictures.png")
    print("wrote " + ", ".join(sorted(str(file) for file in path.parent.glob(f"{path.name}*"))))


if __name__ == "__main__":
    app.run(main)
