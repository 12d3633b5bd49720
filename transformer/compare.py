"""Swaps the attention of a pretrained encoder, and reports what that changes.

    python -m transformer.compare --model=minilm --attention=smyrf --lengths=512,2048

Nothing is trained: the weights are those of the dense model. Of each layer, on the queries, keys and values
that the dense model has there: the relative error of the attention's output, captured mass and entropy.
Of the whole model with every layer swapped: the cosine of its embedding (the mean of the tokens) with the
dense model's, and seconds a text. Writes compare_<model>.md and .png into --out. Wants the extra [text].
"""

import functools
import pathlib
import pydoc_data.topics
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tokenizers
from absl import app, flags
from jax import Array

from smyrf_jax import dense_attention, smyrf_attention, smyrf_clustering
from smyrf_jax.budget import Cost, budget, cost
from smyrf_jax.diagnostics import attention_entropy, attention_error, captured_mass
from transformer.encoder import AttentionFn, Encoder
from transformer.pretrained import Pretrained, load_encoder
from transformer.weights import folder_of

ATTENTION: dict[str, AttentionFn] = {
    "smyrf": smyrf_attention,
    "smyrf_deduplicated": functools.partial(smyrf_attention, deduplicate=True),
}

_MODEL = flags.DEFINE_string("model", "minilm", "minilm, or a folder with a checkpoint.")
_ATTENTION = flags.DEFINE_enum(
    "attention", "smyrf", sorted(ATTENTION), "what takes the place of dense attention."
)
_LENGTHS = flags.DEFINE_list(
    "lengths", ["512", "2048"], "tokens; positions are interpolated past the trained length."
)
_PAIRS = flags.DEFINE_list("pairs", ["0.0625", "0.125", "0.25", "0.5", "1"], "parts of all query-key pairs.")
_HASHES = flags.DEFINE_integer("num_hashes", 4, "hash rounds.")
_PASSAGES = flags.DEFINE_integer("passages", 4, "texts, cut from the manual that comes with Python.")
_OUT = flags.DEFINE_string("out", "benchmarks/results", "folder of the table and the plot.")


class Row(NamedTuple):
    """One length and setting. error, mass: [layers, heads]; cosine: mean over texts; seconds: a text."""

    length: int
    cost: Cost
    error: np.ndarray
    mass: np.ndarray
    cosine: float
    seconds: float
    dense_seconds: float


def passages(tokenizer: tokenizers.Tokenizer, length: int, count: int) -> np.ndarray:
    """[count, length] tokens of consecutive text, with the tokenizer's first and last token around each."""
    text = "\n\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    first, *_, last = tokenizer.encode("a").ids
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    inner = length - 2
    if len(tokens) < count * inner:
        raise app.UsageError(f"the text has {len(tokens)} tokens, too few for {count} passages of {length}.")
    # Spread over the manual, so that passages differ.
    starts = np.linspace(0, len(tokens) - inner, count).astype(int)
    return np.array([[first, *tokens[start : start + inner], last] for start in starts])


def settings_for(length: int, pairs: float, num_hashes: int, width: int, heads: int) -> Cost:
    """The cluster size for a part of the pairs; all of them are one cluster, which is dense attention."""
    if pairs >= 1:
        return cost(length, length, num_hashes=1, cluster_size=length, width=width, heads=heads)
    return budget(length, length, pairs=pairs, num_hashes=num_hashes, width=width, heads=heads)


def swapped(attention: AttentionFn, setting: Cost) -> AttentionFn:
    return functools.partial(attention, num_hashes=setting.num_hashes, cluster_size=setting.cluster_size)


def embedding(encoder: Encoder, params: Any, tokens: Array, rng: Array) -> Array:
    """[B, H], the mean of the tokens, of length one."""
    output: Any = encoder.apply({"params": params}, tokens, rngs={"hashing": rng})
    mean = jnp.mean(output.tokens, axis=1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def heads_of(model: Pretrained, tokens: np.ndarray) -> list[tuple[Array, Array, Array]]:
    """query, key and value [B, T, N, D] of each layer of the dense model."""

    @jax.jit
    def run(params: Any, tokens: Array) -> Any:
        _, variables = model.encoder.apply(
            {"params": params}, tokens, rngs={"hashing": jax.random.key(0)}, mutable="intermediates"
        )
        return variables["intermediates"]["encoder"]

    layers = run(model.params, tokens)
    own = [layers[f"layer_{i}"]["attention"]["self"] for i in range(model.encoder.config.num_hidden_layers)]
    return [(layer["queries"][0], layer["keys"][0], layer["values"][0]) for layer in own]


@functools.partial(jax.jit, static_argnames=("attention", "num_hashes", "cluster_size"))
def layer_figures(
    arrays: tuple[Array, Array, Array],
    rng: Array,
    *,
    attention: AttentionFn,
    num_hashes: int,
    cluster_size: int,
) -> tuple[Array, Array]:
    """Error and captured mass [N] of one layer's attention, means over texts (and queries)."""
    query, key, value = arrays
    settings: dict[str, Any] = {"num_hashes": num_hashes, "cluster_size": cluster_size}
    exact: Any = dense_attention(query, key, value)
    error = attention_error(attention(query, key, value, rng=rng, **settings), exact)
    mass = captured_mass(query, key, smyrf_clustering(query, key, rng=rng, **settings))
    return jnp.mean(error, axis=0), jnp.mean(mass, axis=(0, 1))


def median_seconds(run: Any, *arguments: Any) -> float:
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(5):
        before = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def rows_of(
    model: Pretrained, attention: AttentionFn, tokens: np.ndarray, parts: Sequence[float], num_hashes: int
) -> Iterator[Row]:
    """Measures each part of the pairs, on texts [B, T]."""
    config = model.encoder.config
    length, heads = tokens.shape[1], config.num_attention_heads
    layers = heads_of(model, tokens)
    rng = jax.random.key(0)
    dense = jax.jit(functools.partial(embedding, model.encoder))
    expected = dense(model.params, tokens, rng)
    dense_seconds = median_seconds(dense, model.params, tokens, rng) / len(tokens)
    for part in parts:
        setting = settings_for(length, part, num_hashes, config.hidden_size // heads, heads)
        sizes = {"num_hashes": setting.num_hashes, "cluster_size": setting.cluster_size}
        figures = [layer_figures(arrays, rng, attention=attention, **sizes) for arrays in layers]
        error, mass = (np.array(column) for column in zip(*figures, strict=True))
        encoder = model.encoder.clone(attention=swapped(attention, setting))
        run = jax.jit(functools.partial(embedding, encoder))
        cosine = jnp.mean(jnp.sum(run(model.params, tokens, rng) * expected, axis=-1))
        seconds = median_seconds(run, model.params, tokens, rng) / len(tokens)
        yield Row(length, setting, error, mass, float(cosine), seconds, dense_seconds)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    attention = ATTENTION[_ATTENTION.value]
    lengths, parts = [int(n) for n in _LENGTHS.value], [float(part) for part in _PAIRS.value]
    name = pathlib.Path(_MODEL.value).name
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    entropies: dict[int, np.ndarray] = {}
    for length in lengths:
        model = load_encoder(folder_of(_MODEL.value), max_length=length)
        if model.tokenizer is None:
            raise app.UsageError(f"--model={_MODEL.value} has no tokenizer.json.")
        tokens = passages(model.tokenizer, length, _PASSAGES.value)
        entropy = jax.jit(attention_entropy)
        entropies[length] = np.array(
            [jnp.mean(entropy(query, key), axis=(0, 1)) for query, key, _ in heads_of(model, tokens)]
        )
        for row in rows_of(model, attention, tokens, parts, _HASHES.value):
            rows.append(row)
            print(line(row), flush=True)
    command = f"python -m transformer.compare --model={_MODEL.value} --attention={_ATTENTION.value}"
    (out / f"compare_{name}.md").write_text(table(rows, entropies, command))
    plot(rows, out / f"compare_{name}.png")
    print(f"wrote {out / f'compare_{name}.md'} and .png")


def line(row: Row) -> str:
    setting = f"{row.cost.num_hashes} x {row.cost.cluster_size}"
    return (
        f"| {row.length} | {row.cost.pairs:.2%} | {setting} | {row.error.mean():.3f} | "
        f"{row.mass.mean():.3f} | {row.cosine:.4f} | {row.cost.memory_of_dense:.1%} | "
        f"{row.seconds:.3f} / {row.dense_seconds:.3f} |"
    )


def table(rows: Sequence[Row], entropies: dict[int, np.ndarray], command: str) -> str:
    lines = [
        "Error of the attention's output (relative) and captured mass: means over layers, heads and texts.",
        "Cosine: of the final embedding with the dense model's, every layer swapped. Memory: of attention,",
        f"forward and backward, of dense attention's, counted. Seconds a text, two CPU cores. `{command}`",
        "",
        "| tokens | pairs | setting | error | mass | cosine | memory | seconds / dense |",
        "|---|---|---|---|---|---|---|---|",
        *(line(row) for row in rows),
        "",
        "By layer: error at each part of the pairs, and the entropy of dense attention in nats.",
        "",
    ]
    for length, entropy in entropies.items():
        own = [row for row in rows if row.length == length]
        lines += [
            f"| {length} tokens, layer | entropy |" + "".join(f" {row.cost.pairs:.2%} |" for row in own),
            "|---|---|" + "---|" * len(own),
        ]
        for layer, of_heads in enumerate(entropy):
            errors = "".join(f" {row.error[layer].mean():.3f} |" for row in own)
            lines.append(f"| {layer} | {of_heads.mean():.2f} |{errors}")
        lines.append("")
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Error by layer, a line a part of the pairs, quartiles over heads; a panel a length."""
    lengths = list(dict.fromkeys(row.length for row in rows))
    figure, axes = plt.subplots(
        1, len(lengths), figsize=(5.5 * len(lengths), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, length in zip(axes[0], lengths, strict=True):
        for row in (row for row in rows if row.length == length and row.cost.pairs < 1):
            low, middle, high = np.quantile(row.error, (0.25, 0.5, 0.75), axis=1)
            layers = np.arange(len(middle))
            (drawn,) = axis.plot(layers, middle, marker="o", label=f"{row.cost.pairs:.2%} of the pairs")
            axis.fill_between(layers, low, high, alpha=0.15, color=drawn.get_color())
        axis.set(title=f"{length} tokens", xlabel="layer", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("error of the output (median, quartiles)")
    axes[0, 0].legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    app.run(main)
