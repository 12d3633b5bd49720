"""Swaps the attention of a pretrained encoder, and reports what that changes.

    python -m transformer.compare --model=minilm --method=canopy --lengths=512,2048
    python -m transformer.compare --model=focus --method=smyrf --fields=num_hashes=2 --lengths=1370

Nothing is trained: the weights are those of the dense model. Of each layer, on the queries, keys and values
that the dense model has there: the relative error of the attention's output, captured mass and entropy.
Of the whole model with every layer swapped: the cosine of its embedding (the mean of a text's tokens, or an
image's class token) with the dense model's, and seconds an input. --swaps: the same cosine when one layer, or
one head, is swapped alone. Writes compare_<model>_<method>.md and pictures into --out. Wants the extra
[text] or [vision].
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import Array

import smyrf_jax
from smyrf_jax import Dense, Method
from smyrf_jax.budget import Cost
from smyrf_jax.diagnostics import attention_entropy, attention_error, captured_mass
from smyrf_jax.methods import METHODS, Clustered
from training.command import start, without_traceback
from training.files import make_parent, say_if_replaced
from training.timing import medians
from transformer import report
from transformer.probes import Mixed, Probe, heads_of, open_probe
from transformer.settings import fields_of, numbers_of

_MODEL = flags.DEFINE_string("model", "minilm", "minilm, focus, a checkpoint's folder or an ONNX file.")
_METHOD = flags.DEFINE_enum("method", "smyrf", list(METHODS), "what takes the place of dense attention.")
_FIELDS = flags.DEFINE_list(
    "fields", [], "fields of the method, as num_hashes=2; the others are as large as --pairs allows."
)
_LENGTHS = flags.DEFINE_list(
    "lengths", ["512", "2048"], "tokens; positions are interpolated past the trained length."
)
_PAIRS = flags.DEFINE_list("pairs", ["0.0625", "0.125", "0.25", "0.5", "1"], "parts of all query-key pairs.")
_INPUTS = flags.DEFINE_integer("inputs", 4, "texts of Python's manual, or photographs.", lower_bound=1)
_SWAPS = flags.DEFINE_string(
    "swaps", "0.25", "part of the pairs at which layers and heads are swapped one by one; empty: not done."
)
_OUT = flags.DEFINE_string("out", ".", "folder of the table and the pictures.")

_SECONDS = 10.0  # for the times of one length


def method_for(probe: Probe, kind: type[Method], part: float, fields: Mapping[str, Any]) -> Method:
    """The method of a kind within a part of the pairs; all of them are dense attention.

    Raises:
        ValueError: nothing is within that part, or the kind has no such fields.
    """
    if part >= 1:
        return Dense()
    return kind.for_budget(probe.length, probe.length, pairs=part, **_sizes(probe), **fields)


def cost_of(probe: Probe, method: Method) -> Cost:
    """What a method costs in one layer, for one input."""
    return method.cost(probe.length, probe.length, **_sizes(probe))


def _sizes(probe: Probe) -> dict[str, Any]:
    return {"width": probe.head_width, "heads": probe.num_heads}


@functools.partial(jax.jit, static_argnames="method")
def layer_figures(arrays: tuple[Array, Array, Array], *, method: Method) -> tuple[Array, Array]:
    """Error and captured mass [N] of one layer's attention, means over inputs (and queries)."""

    def of_input(arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query, key, value = arrays  # [T, N, D]
        exact: Any = smyrf_jax.attention(query, key, value, method=Dense())
        output: Any = smyrf_jax.attention(query, key, value, method=method)
        return attention_error(output, exact), mass_of_heads(query, key, method)

    # An input at a time, and a head at a time: what is dense here takes T x T.
    error, mass = jax.lax.map(of_input, arrays)
    return jnp.mean(error, axis=0), jnp.mean(mass, axis=0)


def mass_of_heads(query: Array, key: Array, method: Method) -> Array:
    """Captured mass [N], mean over queries, of one input; NaN where the method has no clusters."""
    if not isinstance(method, Clustered):
        return jnp.full(query.shape[-2], jnp.nan)

    def of_head(arrays: tuple[Array, Array]) -> Array:
        query, key = (array[:, None] for array in arrays)
        return jnp.mean(captured_mass(query, key, method))

    return jax.lax.map(of_head, (query.swapaxes(0, 1), key.swapaxes(0, 1)))


def rows_of(probe: Probe, methods: Sequence[Method]) -> list[report.Row]:
    """Measures a model with each method in the place of dense attention."""
    layers, arguments = heads_of(probe), (probe.params, probe.inputs)
    runs = {
        method: jax.jit(functools.partial(probe.embedding, method))
        for method in dict.fromkeys((Dense(), *methods))
    }
    embeddings = {method: run(*arguments) for method, run in runs.items()}

    def step(method: Method) -> Array:
        return jax.block_until_ready(runs[method](*arguments))

    seconds = medians({repr(method): functools.partial(step, method) for method in runs}, _SECONDS)
    rows = []
    for method in methods:
        figures = [layer_figures(arrays, method=method) for arrays in layers]
        error, mass = (np.array(column) for column in zip(*figures, strict=True))
        cosine = jnp.mean(jnp.sum(embeddings[method] * embeddings[Dense()], axis=-1))
        own, dense = (seconds[repr(of)] / len(probe.inputs) for of in (method, Dense()))
        cost = cost_of(probe, method)
        rows.append(report.Row(probe.length, method, cost, error, mass, float(cosine), own, dense))
    return rows


def entropies_of(probe: Probe) -> np.ndarray:
    """[layers, heads], the mean entropy of dense attention in nats."""

    @jax.jit
    def of_layer(query: Array, key: Array) -> Array:
        of_input = functools.partial(jax.lax.map, lambda arrays: attention_entropy(*arrays))
        return jnp.mean(of_input((query, key)), axis=(0, 1))

    return np.array([of_layer(query, key) for query, key, _ in heads_of(probe)])


def swaps_of(probe: Probe, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """1 - cosine of the embedding, [layers] with one layer swapped and [layers, heads] with one head."""
    arguments = (probe.params, probe.inputs)

    @jax.jit
    def embedding(chosen: Array, *arguments: Any) -> Array:  # chosen: [layers, heads]
        return probe.embedding(tuple(Mixed(method, Dense(), heads) for heads in chosen), *arguments)

    shape = (probe.num_layers, probe.num_heads)
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


def write_table(probes: Sequence[Probe], methods: Sequence[Sequence[Method]], stem: str) -> list[str]:
    """Measures each probe with its methods, writes the table and the plot of errors; returns their paths."""
    paths = [f"{stem}.md", f"{stem}.png"]
    say_if_replaced(paths[0])
    rows: list[report.Row] = []
    entropies: dict[int, np.ndarray] = {}
    for probe, of_probe in zip(probes, methods, strict=True):
        entropies[probe.length] = entropies_of(probe)
        rows += rows_of(probe, of_probe)
        print("\n".join(report.line(row) for row in rows if row.length == probe.length), flush=True)
    pathlib.Path(paths[0]).write_text(report.table(rows, entropies, probes[0].unit))
    report.plot_errors(rows, paths[1])
    return paths


def draw_swaps(probe: Probe, method: Method, stem: str) -> list[str]:
    """Tells and draws what one layer and one head cost; returns the paths."""
    paths = [f"{stem}_swaps.md", f"{stem}_swaps.png"]
    swaps = swaps_of(probe, method)
    title = f"{method}: {cost_of(probe, method).pairs:.2%} of the pairs"
    pathlib.Path(paths[0]).write_text(report.swaps_table(*swaps, title))
    report.plot_swaps(*swaps, title, paths[1])
    return paths


def draw_pictures(probe: Probe, methods: Sequence[Method], stem: str) -> list[str]:
    """Draws what each method changes in photographs; returns the picture's path."""
    path = f"{stem}_pictures.png"
    pairs = {cost_of(probe, method).pairs: method for method in methods if method != Dense()}
    columns = {f"{part:.2%} of the pairs": pairs[part] for part in sorted(pairs, reverse=True)}
    report.draw_changes(probe, {"dense": Dense(), **columns}, path)
    return [path]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    without_traceback(compare, "--lengths or --inputs")


def compare() -> None:
    """Does what the flags say."""
    lengths = numbers_of(
        "lengths", _LENGTHS.value, int, lambda length: length > 2, "numbers of tokens, 3 at least"
    )
    wanted = "parts of 1, as .08 or 1/32"
    pairs = numbers_of("pairs", _PAIRS.value, float, lambda part: 0 < part <= 1, wanted)
    swaps = (
        numbers_of("swaps", [_SWAPS.value], float, lambda part: 0 < part <= 1, wanted) if _SWAPS.value else []
    )
    folder = pathlib.Path(_OUT.value)
    make_parent("out", str(folder / "table.md"))
    probes = [open_probe(_MODEL.value, length, _INPUTS.value) for length in lengths]
    of_kind = functools.partial(method_for, kind=METHODS[_METHOD.value], fields=fields_of(_FIELDS.value))
    methods = [[of_kind(probe, part=part) for part in pairs] for probe in probes]
    stem = str(folder / f"compare_{pathlib.Path(_MODEL.value).stem}_{_METHOD.value}")

    paths = write_table(probes, methods, stem)
    for part in swaps:
        paths += draw_swaps(probes[0], of_kind(probes[0], part=part), stem)
    if probes[0].unit == "image" and probes[0].encoder.has_head:
        paths += draw_pictures(probes[0], methods[0], stem)
    print("wrote " + ", ".join(paths))


if __name__ == "__main__":
    start(main)
