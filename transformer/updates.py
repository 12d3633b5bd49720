"""How a Transformer's parameters are updated: the state, the optimizer and its schedules, a step."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Key, PyTree

from training.parallel import AXIS

# (params, batch, rngs) -> the mean loss of the batch.
Loss = Callable[[PyTree, Any, dict[str, Array]], Array]


class TrainState(flax.struct.PyTreeNode):
    """step: updates so far. params: of the model."""

    step: Any  # a scalar; with a leading axis while it is replicated
    params: PyTree
    opt_state: PyTree


def build_optimizer(optimizer: Mapping[str, Any], num_steps: int) -> optax.GradientTransformation:
    """AdamW with a schedule, and gradients clipped by norm.

    optimizer: learning_rate, the highest; warmup, a linear rise to it (part of the steps); weight_decay
    (kernels and embeddings alone); clip. Where they are given, b2, and schedule, what comes after the warmup:
    "linear" or "cosine" to zero at num_steps, or "invsqrt", by the root of the warmup's steps over the step.

    Raises:
        ValueError: warmup is no part of the steps, or there is no such schedule.
    """
    if not 0 <= optimizer["warmup"] <= 1:
        raise ValueError(
            f"config.optimizer.warmup should be a part of the steps, 0 .. 1, but is {optimizer['warmup']}."
        )
    schedule = optimizer.get("schedule", "linear")
    if schedule not in _DECAYS:
        raise ValueError(
            f"config.optimizer.schedule should be one of {sorted(_DECAYS)}, but is {schedule!r}."
        )
    warmup = round(optimizer["warmup"] * num_steps)
    # Without steps a warmup of optax never ends: its rate stays 0.
    rate = optax.schedules.constant_schedule(optimizer["learning_rate"])
    if warmup:
        rate = optax.schedules.warmup_constant_schedule(0.0, optimizer["learning_rate"], warmup)
    decay = _DECAYS[schedule](warmup, num_steps)

    def decayed(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key in ("kernel", "embedding"), params
        )

    return optax.chain(
        optax.clip_by_global_norm(optimizer["clip"]),
        optax.adamw(
            lambda step: rate(step) * decay(step),
            b2=optimizer.get("b2", 0.999),
            weight_decay=optimizer["weight_decay"],
            mask=decayed,
        ),
    )


def _cosine(warmup: int, num_steps: int) -> optax.Schedule:
    decay = optax.schedules.cosine_decay_schedule(1.0, max(1, num_steps - warmup))
    return lambda step: decay(jnp.maximum(step - warmup, 0))


_DECAYS: dict[str, Callable[[int, int], optax.Schedule]] = {
    "linear": lambda warmup, num_steps: optax.schedules.linear_schedule(1.0, 0.0, num_steps - warmup, warmup),
    "cosine": _cosine,
    "invsqrt": lambda warmup, _: lambda step: jnp.sqrt(max(1, warmup) / jnp.maximum(step, max(1, warmup))),
}


def loss_of(logits: Array, labels: Array) -> Array:
    """Cross-entropy of classes; the squared difference where there is one logit."""
    if logits.shape[-1] == 1:
        return jnp.mean((logits[:, 0] - labels) ** 2)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    rng: Key[Array, ""],
) -> tuple[TrainState, dict[str, Array]]:
    """An update of one replica of AXIS, with the gradients of all."""
    rng = jax.random.fold_in(jax.random.fold_in(rng, state.step), jax.lax.axis_index(AXIS))
    rngs = dict(zip(("dropout", "hashing"), jax.random.split(rng), strict=True))
    value, gradients = jax.lax.pmean(
        jax.value_and_grad(lambda params: loss(params, batch, rngs))(state.params), AXIS
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    metrics = {"loss": value, "grad_norm": optax.tree.norm(gradients)}
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), metrics
