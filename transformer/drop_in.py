"""A T2T-ViT_t that was trained with dense attention, tested with others in its place."""

import concurrent.futures
import fractions
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

import smyrf_jax
from smyrf_jax import Dense, Method
from smyrf_jax.diagnostics import attention_error
from transformer.class_images import ClassImages, prepared
from transformer.contenders import CONTENDERS, contender
from transformer.t2t import PretrainedT2T, T2TConfig, T2TViT
from transformer.vision import normalised

_THREADS = 8
# Of the two token-to-token attentions.
Stages = tuple[Method, Method]


class Outcome(NamedTuple):
    """What a model does with one method.

    top1, top5: parts of the images whose class is the first, or among the first five. errors: of the output
    of each token-to-token attention, relative to the dense one on the dense model's queries, keys and values,
    means over images, NaN where there
    were none. seconds: an image, the median over batches.
    """

    methods: Stages
    top1: float
    top5: float
    errors: tuple[float, float]
    seconds: float


def methods_for(config: T2TConfig, names: Sequence[str], pairs: str) -> dict[str, Stages]:
    """The methods of both token-to-token attentions, by name.

    Raises:
        ValueError: there is no such method, or pairs are no part in which there is room for it.
    """
    try:
        part = float(fractions.Fraction(pairs))
    except (ValueError, ZeroDivisionError):
        part = -1.0
    if not 0 < part <= 1:
        raise ValueError(f"--pairs={pairs} should be a part above 0 and at most 1, such as 1/32.")
    if not names:
        raise ValueError(f"--methods should be some of {', '.join(CONTENDERS)}.")
    found = {}
    for name in dict.fromkeys(names):
        try:
            first, second = (
                contender(name, length, part, width=config.token_size) for length in config.lengths
            )
        except ValueError as error:
            raise ValueError(f"--methods={name} with --pairs={pairs}: {error}") from error
        found[name] = (first, second)
    return found


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model: T2TViT, params: Any, images: Array, rng: Array) -> Any:
    """[B, K], of images [B, R, R, 3] uint8."""
    return model.apply({"params": params}, normalised(images / 255), rngs={"hashing": rng})


@functools.partial(jax.jit, static_argnums=0)
def heads_of(model: T2TViT, params: Any, images: Array) -> list[tuple[Array, Array, Array]]:
    """query, key and value [B, T, 1, D] of both token-to-token attentions."""
    _, sown = model.apply({"params": params}, normalised(images / 255), mutable="intermediates")
    stages: Any = sown["intermediates"]["tokens_to_token"]
    found = [stages[f"attention{number}"]["attn"] for number in (1, 2)]
    return [(of["queries"][0], of["keys"][0], of["values"][0]) for of in found]


@functools.partial(jax.jit, static_argnames=("method", "scale"))
def errors_of(arrays: tuple[Array, Array, Array], rng: Array, *, method: Method, scale: float) -> Array:
    """[B], an image at a time: what is dense here takes T x T."""

    def of_image(drawn: tuple[tuple[Array, Array, Array], Array]) -> Array:
        arrays, rng = drawn
        exact: Any = smyrf_jax.attention(*arrays, method=Dense(), scale=scale)
        output: Any = smyrf_jax.attention(*arrays, method=method, scale=scale, rng=rng)
        return attention_error(output, exact)[0]

    return jax.lax.map(of_image, (arrays, jax.random.split(rng, len(arrays[0]))))


def _batches(images: ClassImages, size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images [batch_size, R, R, 3] uint8 and their places [n]; the last batch is filled up.

    The next batch is read while one is looked at.
    """
    places = [
        np.arange(start, min(start + batch_size, len(images.paths)))
        for start in range(0, len(images.paths), batch_size)
    ]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:

        def begin(rows: np.ndarray) -> list[concurrent.futures.Future]:
            return [pool.submit(prepared, images.paths[i], size) for i in rows]

        waiting = begin(places[0])
        for number, rows in enumerate(places):
            current, waiting = waiting, begin(places[number + 1]) if number + 1 < len(places) else []
            pixels = np.stack([future.result() for future in current])
            yield pixels[np.resize(np.arange(len(rows)), batch_size)], rows


def outcomes(
    pretrained: PretrainedT2T,
    images: ClassImages,
    methods: Mapping[str, Stages],
    *,
    batch_size: int,
    num_errors: int,
    seed: int,
    progress: Callable[[int, str], None] = lambda number, shown: None,
) -> dict[str, Outcome]:
    """Tests a model with each of the methods.

    Args:
        pretrained: with dense attention.
        images: at least one.
        methods: name -> of each token-to-token attention.
        batch_size: images at once.
        num_errors: images on which attention's errors are looked at, the first ones.
        seed: of what methods draw, anew for each batch.
        progress: is called after each batch with its number of images and what was found so far.

    Raises:
        ValueError: an image cannot be read.
    """
    model, params = pretrained
    models = {name: model.clone(attention=of) for name, of in methods.items()}
    hits: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    times: dict[str, list[float]] = {name: [] for name in methods}
    errors: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for number, (pixels, rows) in enumerate(_batches(images, model.config.image_size, batch_size)):
        heads = heads_of(model, params, pixels) if rows[0] < num_errors else None
        for name, own in models.items():
            # The same for every method, whatever the others are.
            rng_batch = jax.random.fold_in(jax.random.key(seed), number)
            rng_first, rng_logits, *rngs = jax.random.split(rng_batch, 4)
            if number == 0:  # compiles
                logits_of(own, params, pixels, rng_first)
            start = time.perf_counter()
            logits = np.asarray(logits_of(own, params, pixels, rng_logits))[: len(rows)]
            times[name].append((time.perf_counter() - start) / batch_size)
            hits[name].append(_ranks(logits, images.labels[rows]))
            if heads is not None:
                stages = zip(heads, rngs, methods[name], model.config.scales, strict=True)
                found = [errors_of(of, rng, method=method, scale=s) for of, rng, method, s in stages]
                errors[name].append(np.stack(found)[:, : min(len(rows), num_errors - rows[0])])
        shown = ", ".join(f"{name} {np.mean(np.concatenate(of) < 1):.1%}" for name, of in hits.items())
        progress(len(rows), shown)
    results = {}
    for name, of in methods.items():
        ranks = np.concatenate(hits[name])
        both = np.concatenate(errors[name], axis=1).mean(axis=1) if errors[name] else np.full(2, np.nan)
        top1, top5 = float(np.mean(ranks < 1)), float(np.mean(ranks < 5))
        results[name] = Outcome(
            of, top1, top5, (float(both[0]), float(both[1])), float(np.median(times[name]))
        )
    return results


def _ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[B], classes before the right one; one that is as likely counts as before it, and so does a NaN."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return np.sum(~(logits < own), axis=1) - 1
