"""Fine-tunes a pretrained encoder to labelled texts, with any method of attention:

    python -m transformer.finetune --config=configs/imdb_minilm_smyrf.py [--workdir=runs/imdb_minilm_smyrf]

The same command continues a run that was interrupted, exactly. At the end the weights are tested with every
attention of config.attentions, whatever they were trained with; the figures are in results.json.
--config.init takes a checkpoint's folder (BERT or RoBERTa in Hugging Face's format). Wants the extra [text].
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array
from jaxtyping import Key, PyTree

from training import command, loop
from training.files import path_of
from training.parallel import local_devices
from training.processes import say
from transformer.buckets import Encoded, batches, encode
from transformer.classifier import Classifier
from transformer.encoder import check_inputs
from transformer.fields import FINETUNE_FIELDS
from transformer.glue import METRICS, Examples
from transformer.learning import (
    LearningTask,
    Results,
    check_chosen,
    check_positive,
    methods_of,
    steps_of,
    tell,
)
from transformer.pretrained import load_encoder
from transformer.texts import Splits, check_labels, open_texts
from transformer.updates import TrainState, build_optimizer, loss_of
from transformer.weights import folder_of


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


class FinetuneTask(LearningTask):
    """A classifier's training; its weights are tested with every attention."""

    unit = "texts"
    state_fields = ("init", "data.", "optimizer.")

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        splits: Splits,
        workdir: str,
        devices: Sequence[jax.Device],
    ):
        super().__init__(
            workdir=workdir,
            seed=config.seed,
            optimizer=build_optimizer(config.optimizer.to_dict(), config.num_steps),
            evaluate_every=config.evaluate.every,
        )
        self._config, self._num_local = config, len(local_devices(devices))
        check_labels(splits)
        for note in splits.notes:
            say(note)
        self._splits = splits
        self._pretrained = load_encoder(folder_of(config.init, "config.init"), max_length=config.data.length)
        tokenizer, encoder = self._pretrained.tokenizer, self._pretrained.encoder.config
        if tokenizer is None:
            raise FileNotFoundError(f"--config.init={config.init}: tokenizer.json is missing.")
        methods = methods_of(config.attentions.to_dict())
        check_chosen(config.attention, methods)
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
        self.examples_per_step = texts_per_step(config, devices)

    def fresh(self, rng: Key[Array, ""]) -> PyTree:
        return self._model.init(rng, jnp.zeros((1, 1), jnp.int32))["params"]

    def loss(self, params: PyTree, batch: Encoded, rngs: dict[str, Array]) -> Array:
        inputs = (batch.tokens, batch.kept, batch.token_types)
        logits: Any = self._model.apply({"params": params}, *inputs, deterministic=False, rngs=rngs)
        return loss_of(logits, jnp.asarray(batch.labels))

    def first_state(self) -> TrainState:
        """With the pretrained weights."""
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

    def validate(self, params: PyTree) -> dict[str, float]:
        if not len(self._validation.labels):
            return {}
        size = self._config.evaluate.batch_size
        return metrics_of(self._model, params, self._validation, self._splits.metrics, size)

    def test(self, params: PyTree) -> Results:
        """Tests parameters with every attention, and tells."""
        metrics, size = self._splits.metrics, self._config.evaluate.batch_size
        results: Results = {}
        for attention, model in self._tests.items():
            results[attention] = {}
            for name, examples in self._splits.tests.items():
                found = metrics_of(model, params, self._encode(examples), metrics, size)
                results[attention][name] = found
                tell(name, f"{len(examples.labels)} texts", f"{attention} attention", found)
        return results


def train(
    config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None
) -> TrainState:
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
    check_positive(**{"batch_size": config.batch_size, "evaluate.batch_size": config.evaluate.batch_size})
    splits = splits_of(config)
    if config.seed < 0:
        raise ValueError(f"config.seed must not be negative, got {config.seed}.")
    config = config.copy_and_resolve_references()
    per_step = texts_per_step(config, devices)
    config.num_steps = steps_of(config.num_steps, config.epochs, len(splits.train.labels), per_step)
    return loop.train(FinetuneTask(config, splits, workdir, devices), config, workdir, devices)


if __name__ == "__main__":
    command.run(train, FINETUNE_FIELDS, "imdb_minilm_smyrf")
