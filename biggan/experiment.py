"""From a config to networks, optimisers, steps and data: what the entry points share."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from biggan.augment import POLICIES, Augmentation, init_augment
from biggan.checks import check_classes, check_sizes, keep_classes
from biggan.data import Readable, pipeline
from biggan.discriminator import Discriminator
from biggan.generator import Generator
from biggan.sources import open_source
from biggan.state import GANState, init_state
from biggan.train_step import GAN
from smyrf_jax import Method, method_from_config
from training.parallel import AXIS
from training.processes import is_first

# How the names of the config's fields begin that decide what arrays a state has.
STATE_FIELDS = ("num_classes", "generator.", "discriminator.", "ema.", "augment")
# Fields of before, for which config.num_classes stands now.
OLD_FIELDS = (("generator", "num_classes"), ("discriminator", "num_classes"), ("data", "classes"))
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _fields(config: ml_collections.ConfigDict, section: str) -> dict[str, Any]:
    """A network's fields; `attention` maps a map size to a method's name and options."""
    fields = config[section].to_dict()
    attention: Mapping[str, Any] = fields.pop("attention", {})
    fields["attention"] = {
        int(size): _method(f"config.{section}.attention.{size}", options)
        for size, options in attention.items()
        if options
    }
    return fields


def _method(field: str, options: Mapping[str, Any]) -> Method:
    if "name" not in options:
        raise ValueError(f"{field}.name, of a method of attention, is missing.")
    try:
        return method_from_config(**options)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


def _augmentation(config: ml_collections.ConfigDict) -> Augmentation | None:
    """Of config.augment; None: off. Runs that began before the section was there have none."""
    section = config.get("augment")
    if section is None:
        return None
    fields = section.to_dict()
    policies = tuple(name.strip() for name in fields.pop("policy").split(",") if name.strip())
    if len(set(policies)) < len(policies) or not set(policies) <= set(POLICIES):
        raise ValueError(
            f"config.augment.policy should be some of {','.join(POLICIES)}, with commas between, each once, "
            f"but got {section.policy!r}."
        )
    if not 0 <= section.probability <= 1:
        raise ValueError(f"config.augment.probability should be in [0, 1], got {section.probability}.")
    if not -1 < section.target < 1:
        raise ValueError(f"config.augment.target should be between -1 and 1, got {section.target}.")
    if section.images < 1:
        raise ValueError(f"config.augment.images must be positive, got {section.images}.")
    if not policies:
        if section.adaptive:
            raise ValueError("config.augment.adaptive is on, but config.augment.policy is empty: name some.")
        return None
    return Augmentation(policies, **fields)


def build_gan(config: ml_collections.ConfigDict) -> GAN:
    """The networks, optimisers and settings of a config.

    Raises:
        ValueError: a field has no meaning; names it.
    """
    for name in ("num_classes", "batch_size", "d_steps", "accumulation", "num_steps"):
        if config[name] < 1:
            raise ValueError(f"config.{name} must be positive, got {config[name]}.")
    if config.sample.num < 1:
        raise ValueError(f"config.sample.num must be positive, got {config.sample.num}.")
    for section, name in OLD_FIELDS:
        if name in config[section]:
            raise ValueError(f"config.{section}.{name} is no field any more: set config.num_classes.")
    # Runs that began before the field was there have none in their config.json.
    dtype = config.get("dtype", "float32")
    if dtype not in DTYPES:
        raise ValueError(f"config.dtype should be one of {list(DTYPES)}, but got {dtype!r}.")
    shared = {"num_classes": config.num_classes, "dtype": DTYPES[dtype]}
    fields = _fields(config, "generator")
    if fields.pop("cross_replica_bn"):
        fields["axis_name"] = AXIS
    adam = functools.partial(optax.adam, b1=config.adam.b1, b2=config.adam.b2, eps=config.adam.eps)
    return GAN(
        Generator(**fields, **shared),
        Discriminator(**_fields(config, "discriminator"), **shared),
        g_optimizer=adam(config.adam.g_lr),
        d_optimizer=adam(config.adam.d_lr),
        d_steps=config.d_steps,
        accumulation=config.accumulation,
        g_ortho=config.ortho.g,
        d_ortho=config.ortho.d,
        ema_decay=config.ema.decay,
        ema_start=config.ema.start,
        augmentation=_augmentation(config),
        axis_name=AXIS,
    )


def build_state(config: ml_collections.ConfigDict, gan: GAN) -> GANState:
    """The state at step 0, which config.seed decides. jax.eval_shape of it costs nothing."""
    state = init_state(
        jax.random.fold_in(jax.random.key(config.seed), 0),
        gan.generator,
        gan.discriminator,
        gan.g_optimizer,
        gan.d_optimizer,
    )
    return state.with_average(config.ema.on).replace(augment=init_augment(gan.augmentation))


def images_per_step(config: ml_collections.ConfigDict, num_replicas: int) -> int:
    """Real images that one training step takes, over all replicas."""
    return config.batch_size * num_replicas * config.d_steps * config.accumulation


def build_data(
    config: ml_collections.ConfigDict, num_local: int, start: int, classes_file: str
) -> tuple[Iterator[dict[str, np.ndarray]], Readable]:
    """The stream of this process's images, a training step's at a time, from place `start` on.

    classes_file: keeps the names of the classes for a run that is resumed (start > 0).

    Raises:
        ValueError: the classes are not config.num_classes, or not those of before.
        ImageError: an image cannot be used, and config.data.skip_corrupt is off.
    """
    data = config.data.to_dict()
    options = {name: data.pop(name) for name in ("flip", "num_threads")}
    resolution = config.generator.resolution
    source = open_source(**data, classes=config.num_classes > 1)
    check_classes(source, config.num_classes)
    remarks = check_sizes(source, resolution, config.data.skip_corrupt, config.data.num_threads)
    if source.class_names is not None:
        keep_classes(source.class_names, classes_file, resumed=start > 0, write=is_first())
    stream, readable = pipeline(
        source,
        resolution=resolution,
        batch_size=config.batch_size * num_local,
        num_classes=config.num_classes,
        num_batches=config.d_steps * config.accumulation,
        seed=config.seed,
        start=start,
        skip_corrupt=config.data.skip_corrupt,
        shard=(jax.process_index(), jax.process_count()),
        **options,
    )
    readable.remarks += remarks
    return stream, readable
