"""Fine-tunes a pretrained encoder to labelled texts, with any method of attention:

    python -m transformer.finetune --config=configs/imdb_minilm_smyrf.py [--workdir=runs/imdb_minilm_smyrf]

The same command continues a run that was interrupted, exactly. At the end the weights are tested with every
attention of config.attentions, whatever they were trained with; the figures are in results.json.
--config.init takes a checkpoint's folder (BERT or RoBERTa in Hugging Face's format). Wants the extra [text].
"""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax import Array
from jaxtyping import Key, PyTree

from smyrf_jax import Method, method_from_config
from training import command, loop
from training.curves import save_curves
from training.files import path_of, write_whole
from training.parallel import AXIS, local_devices
from training.processes import say
from training.task import Task, due
from training.writers import MetricWriter
from transformer.buckets import Encoded, batches, encode
from transformer.classifier import Classifier
from transformer.encoder import check_inputs
from transformer.glue import METRICS, Examples
from transformer.pretrained import load_encoder
from transformer.texts import Splits, check_labels, open_texts
from transformer.weights import folder_of


class FinetuneState(flax.struct.PyTreeNode):
    """step: updates so far. params: of the Classifier."""

    step: Any  # a scalar; with a leading axis while it is replicated
    params: PyTree
    opt_state: PyTree


def build_optimizer(optimizer: Mapping[str, float], num_steps: int) -> optax.GradientTransformation:
    """AdamW, with a warmup and a linear decay to zero at num_steps, and gradients clipped by norm.

    optimizer: learning_rate, warmup (part of the steps), weight_decay (kernels and embeddings alone), clip.

    Raises:
        ValueError: warmup is no part of the steps.
    """
    if not 0 <= optimizer["warmup"] <= 1:
        raise ValueError(
            f"config.optimizer.warmup should be a part of the steps, 0 .. 1, but is {optimizer['warmup']}."
        )
    warmup = round(optimizer["warmup"] * num_steps)
    # Without steps a warmup of optax never ends: its rate stays 0.
    rate = optax.schedules.constant_schedule(optimizer["learning_rate"])
    if warmup:
        rate = optax.schedules.warmup_constant_schedule(0.0, optimizer["learning_rate"], warmup)
    decay = optax.schedules.linear_schedule(1.0, 0.0, num_steps - warmup, warmup)

    def decayed(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key in ("kernel", "embedding"), params
        )

    return optax.chain(
        optax.clip_by_global_norm(optimizer["clip"]),
        optax.adamw(
            lambda step: rate(step) * decay(step),
            weight_decay=optimizer["weight_decay"],
            mask=decayed,
        ),
    )


def loss_of(logits: Array, labels: Array) -> Array:
    """Cross-entropy of classes; the squared difference where there is one logit."""
    if logits.shape[-1] == 1:
        return jnp.mean((logits[:, 0] - labels) ** 2)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def train_step(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    state: FinetuneState,
    batch: Encoded,
    rng: Key[Array, ""],
) -> tuple[FinetuneState, dict[str, Array]]:
    """An update of one replica of AXIS, with the gradients of all."""
    rng = jax.random.fold_in(jax.random.fold_in(rng, state.step), jax.lax.axis_index(AXIS))
    rngs = dict(zip(("dropout", "hashing"), jax.random.split(rng), strict=True))

    def loss(params: PyTree) -> Array:
        inputs = (batch.tokens, batch.kept, batch.token_types)
        logits: Any = model.apply({"params": params}, *inputs, deterministic=False, rngs=rngs)
        return loss_of(logits, jnp.asarray(batch.labels))

    value, gradients = jax.lax.pmean(jax.value_and_grad(loss)(state.params), AXIS)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    metrics = {"loss": value, "grad_norm": optax.tree.norm(gradients)}
    params = optax.apply_updates(state.params, updates)
    return FinetuneState(state.step + 1, params, opt_state), metrics


def metrics_of(
    model: Classifier, params: PyTree, encoded: Encoded, metrics: Sequence[str], batch_size: int
) -> dict[str, float]:
    """The metrics of a model on texts, without dropout. Its method draws the same every time."""
    apply = _apply(model)
    order = np.argsort(encoded.widths(), kind="stable")
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        # The last batch is filled up: a width is compiled once.
        *inputs, _ = encoded.batch(np.resize(rows, batch_size))
        parts.append(np.asarray(apply(params, *inputs))[: len(rows)])
    sorted_logits = np.concatenate(parts)
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    predicted = logits[:, 0] if logits.shape[-1] == 1 else np.argmax(logits, axis=-1)
    return {name: METRICS[name](predicted, encoded.labels) for name in metrics}


@functools.lru_cache(maxsize=16)
def _apply(model: Classifier) -> Callable[..., Array]:
    def apply(params: PyTree, *inputs: Array) -> Any:
        return model.apply({"params": params}, *inputs)

    return jax.jit(apply)


def texts_per_step(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> int:
    """Texts that one training step takes, over all replicas."""
    return config.batch_size * len(devices)


def splits_of(config: ml_collections.ConfigDict) -> Splits:
    """The texts that a config names."""
    options = config.data.to_dict()
    options.pop("length")
    return open_texts(**options)


def methods_of(config: ml_collections.ConfigDict) -> dict[str, Method]:
    """The attentions that a config names.

    Raises:
        ValueError: one of them is not the name and the fields of a method.
    """
    methods = {}
    for name, options in config.attentions.to_dict().items():
        if not isinstance(options, Mapping) or "name" not in options:
            raise ValueError(
                f"config.attentions.{name} should be the name and fields of a method, such as "
                f"{{'name': 'canopy'}}, but is {options!r}."
            )
        methods[name] = method_from_config(**options)
    return methods


class FinetuneTask(Task):
    """A classifier's training; at intervals it is tried on the validation texts, and tested at the end."""

    unit = "texts"
    state_fields = ("init", "data.", "optimizer.")

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        splits: Splits,
        workdir: str,
        devices: Sequence[jax.Device],
    ):
        self._config, self._workdir, self._num_local = config, workdir, len(local_devices(devices))
        check_labels(splits)
        self._splits, self._notes = splits, list(splits.notes)
        self._pretrained = load_encoder(folder_of(config.init), max_length=config.data.length)
        tokenizer, encoder = self._pretrained.tokenizer, self._pretrained.encoder.config
        if tokenizer is None:
            raise FileNotFoundError(f"--config.init={config.init}: tokenizer.json is missing.")
        methods = methods_of(config)
        if config.attention not in methods:
            raise ValueError(
                f"config.attention should be one of config.attentions, {sorted(methods)}, but is "
                f"{config.attention!r}."
            )
        num_labels = self._splits.num_labels
        self._tests = {name: Classifier(encoder, num_labels, method) for name, method in methods.items()}
        self._model = self._tests[config.attention]
        self._tokens_of = functools.partial(
            encode,
            tokenizer,
            length=config.data.length,
            pad=encoder.pad_token_id,
            num_types=encoder.type_vocab_size,
        )
        self._validation = self._encode(self._splits.validation)
        self._optimizer = build_optimizer(config.optimizer.to_dict(), config.num_steps)
        self.examples_per_step = texts_per_step(config, devices)

    def initial_state(self) -> FinetuneState:
        """With random weights; `first_state` has the pretrained."""
        # The first of two keys: so were the recorded runs begun.
        rng, _ = jax.random.split(jax.random.key(self._config.seed))
        params = self._model.init(rng, jnp.zeros((1, 1), jnp.int32))["params"]
        return FinetuneState(jnp.zeros((), jnp.int32), params, self._optimizer.init(params))

    def first_state(self) -> FinetuneState:
        state = super().first_state()
        name = self._model.config.model_type
        # A part that the checkpoint has not, or the classifier, keeps or loses its fresh weights.
        known = {part: self._pretrained.params.get(part, fresh) for part, fresh in state.params[name].items()}
        return state.replace(params=state.params | {name: jax.tree.map(np.asarray, known)})

    def _encode(self, examples: Examples) -> Encoded:
        encoded = self._tokens_of(examples)
        # Here, where they have values: the compiled step does not know them.
        check_inputs(self._model.config, *encoded[:3])
        return encoded

    def batches(self, start: int) -> Iterator[Encoded]:
        num_local = self._num_local
        stream = batches(
            self._encode(self._splits.train),
            batch_size=self._config.batch_size * num_local,
            seed=self._config.seed,
            start=start,
            shard=(jax.process_index(), jax.process_count()),
        )
        for batch in stream:
            yield Encoded(*(array.reshape(num_local, -1, *array.shape[1:]) for array in batch))

    def step(self) -> Callable[..., Any]:
        return functools.partial(train_step, self._model, self._optimizer)

    def is_due(self, step: int) -> bool:
        return due(step, self._config.evaluate.every)

    def evaluate(self, state: FinetuneState, writer: MetricWriter, last: bool) -> dict[str, float]:
        values: dict[str, float] = {}
        metrics, size = self._splits.metrics, self._config.evaluate.batch_size
        if len(self._validation.labels):
            found = metrics_of(self._model, state.params, self._validation, metrics, size)
            values = {f"validation_{name}": value for name, value in found.items()}
            writer.write(int(state.step), values)
            shown = " ".join(f"{name}={value:.4f}" for name, value in values.items())
            self._notes.append(f"step {int(state.step)}: {shown}")
        panels = {"loss": ("loss",), "gradient norm": ("grad_norm",), "validation": ("validation",)}
        save_curves(writer.path, os.path.join(self._workdir, "curves.png"), panels, log=("gradient norm",))
        if last:
            results = json.dumps(self.test(state.params), indent=1)
            write_whole(self.results()["results"], results.encode())
        return values

    def test(self, params: PyTree) -> dict[str, dict[str, dict[str, float]]]:
        """Tests parameters with every attention, and tells: attention -> file -> metric."""
        metrics, size = self._splits.metrics, self._config.evaluate.batch_size
        results: dict[str, dict[str, dict[str, float]]] = {}
        for attention, model in self._tests.items():
            results[attention] = {}
            for name, examples in self._splits.tests.items():
                found = metrics_of(model, params, self._encode(examples), metrics, size)
                results[attention][name] = found
                shown = " ".join(f"{metric}={value:.4f}" for metric, value in found.items())
                say(f"{name} ({len(examples.labels)} texts) with {attention} attention: {shown}")
        return results

    def messages(self) -> list[str]:
        notes, self._notes = self._notes, []
        return notes

    def results(self) -> dict[str, str]:
        return {name: os.path.join(self._workdir, name + end) for name, end in _RESULTS}


_RESULTS = (("results", ".json"), ("curves", ".png"))


def train(
    config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None
) -> FinetuneState:
    """Trains to config.num_steps, from the last checkpoint in workdir if there is one.

    Args:
        config: as in configs/imdb_minilm_smyrf.py.
        workdir: checkpoints, metrics.jsonl, curves.png, results.json, config.json, tensorboard/.
        devices: one replica each, of all processes; None: all there are.

    Returns:
        The last state, on the host.

    Raises:
        FileNotFoundError, ValueError: the config names what is not there or has no meaning, or the run's
            checkpoint does not fit it.
        FloatingPointError: the loss is not finite; names the step.
    """
    workdir = str(path_of(workdir))
    devices = list(devices or jax.devices())
    sizes = {"batch_size": config.batch_size, "evaluate.batch_size": config.evaluate.batch_size}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"config.{name} must be positive, got {size}.")
    splits = splits_of(config)
    if config.seed < 0:
        raise ValueError(f"config.seed must not be negative, got {config.seed}.")
    if not config.num_steps:
        config = config.copy_and_resolve_references()
        config.num_steps = round(config.epochs * len(splits.train.labels) / texts_per_step(config, devices))
    if config.num_steps < 1:
        raise ValueError(
            f"config.num_steps, or the steps of config.epochs, must be positive, got {config.num_steps}."
        )
    return loop.train(FinetuneTask(config, splits, workdir, devices), config, workdir, devices)


if __name__ == "__main__":
    command.run(train)
