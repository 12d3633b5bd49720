"""Generated and real images of a GAN, as an evaluation takes them."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, PyTree, UInt8

from biggan.data import resize
from biggan.images import ImageError
from biggan.pictures import save_grid
from biggan.sampling import Sampler
from biggan.sources import Photos, Source, open_source
from biggan.survey import survey
from evaluation.evaluator import Evaluator, check_metrics
from evaluation.images import Images
from evaluation.inception import INCEPTION_SHA256, network_name
from evaluation.metrics import METRICS
from evaluation.neighbours import Pair
from evaluation.networks import INCEPTION, load_network
from training.photographs import middle_square, random_square
from training.task import Best

# Of the picture of pairs, the side of an image.
_SIDE = 128
# Images by which those who ask at the same time can be apart.
_APART = 64
_NONE = -1


class Samples:
    """The images of a sampler, drawn a batch at a time as they are asked for, in order best.

    variables: of the generator. noise [B, Z], labels [B]: of `latents`. rng: of the hashes.
    """

    def __init__(
        self,
        sampler: Sampler,
        variables: Mapping[str, PyTree],
        noise: Float[np.ndarray, "B Z"],
        labels: Int[np.ndarray, " B"],
        rng: Key[Array, ""],
    ):
        self._sampler, self._arguments = sampler, (noise, labels)
        self._variables, self._rng = variables, rng
        self._lock = threading.Lock()
        self._stream, self._next = self._from(0), 0
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._arguments[0])

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, place = divmod(index, self._sampler.images_at_once)
        with self._lock:
            if number not in self._drawn:
                if number != self._next:
                    self._stream = self._from(number)
                # Should it fail, the next who asks begins a stream of its own.
                self._next = _NONE
                self._drawn[number] = next(self._stream)
                self._next = number + 1
                # Threads ask in order, but for a few places.
                for old in list(self._drawn)[: -2 - _APART // self._sampler.images_at_once]:
                    del self._drawn[old]
            return self._drawn[number][place]

    def _from(self, number: int) -> Iterator[np.ndarray]:
        """The batches from a number on."""
        noise, labels = (array[number * self._sampler.images_at_once :] for array in self._arguments)
        return self._sampler.batches(self._variables, noise, labels, self._rng)


class SourceImages:
    """The images of a source, all or those at `places`, as they are or as squares of `resolution`.

    `[]` raises ImageError for one that cannot be used. where: the flag or field that names the source.
    way_out: what to do about it.
    """

    def __init__(
        self,
        source: Source,
        resolution: int | None,
        places: np.ndarray | None,
        *,
        where: str,
        way_out: str,
    ):
        self._source, self._resolution = source, resolution
        self._places = np.arange(len(source)) if places is None else places
        self._where, self._way_out = where, way_out

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        try:
            element = self._source[int(self._places[index])]
            return element["image"] if self._resolution is None else resize(element, self._resolution)
        except ImageError as error:
            raise ImageError(f"{self._where}: {str(error).rstrip('.')}. {self._way_out}".rstrip()) from error


def usable_places(
    source: Source, resolution: int | None, progress: Callable[..., Any]
) -> tuple[np.ndarray, list[str]]:
    """Places of the images that can be used, and a message for each other. Reads all."""
    found = survey(source, resolution or 1, progress)
    places = [image.place for image in found.seen if min(image.size) >= (resolution or 1)]
    return np.array(places, int), found.unusable


def open_images(
    flag: str,
    path: str,
    resolution: int | None,
    *,
    split: str = "train",
    skip_corrupt: bool | None = None,
    progress: Callable[..., Any],
    most: int | None = None,
    seed: int = 0,
) -> SourceImages:
    """The images that a flag names; `most` of them at most, drawn at random by the seed.

    skip_corrupt: leave out what cannot be used; None: the command has no such flag.

    Prints what is passed over.

    Raises:
        FileNotFoundError, ValueError: there are none, or fewer than two; names the flag.
    """
    names = {"path": f"--{flag}"} | ({} if skip_corrupt is None else {"skip_corrupt": "--skip_corrupt"})
    source = open_source(path=path, split=split, skip_corrupt=bool(skip_corrupt), names=names)
    for remark in source.remarks:
        print(f"--{flag}: {remark}")
    places = np.arange(len(source))
    if skip_corrupt:
        places, unusable = usable_places(source, resolution, progress)
        for message in unusable:
            print(f"--{flag}: skipped: {message}")
    if most is not None and len(places) > most:
        places = np.sort(np.random.default_rng(seed).choice(places, most, replace=False))
    if len(places) < 2:
        raise ValueError(
            f"--{flag}={path} holds {len(places)} images that can be used; two or more are wanted."
        )
    way_out = "" if skip_corrupt is None else "--skip_corrupt leaves out what cannot be used."
    return SourceImages(source, resolution, places, where=f"--{flag}", way_out=way_out)


class Crops:
    """`num` squares cut at random from photographs, as training cuts them."""

    def __init__(self, source: Photos, resolution: int, num: int, seed: int):
        self._source, self._resolution, self._num, self._seed = source, resolution, num, seed

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "R R 3"]:
        rng = np.random.default_rng([self._seed, index])
        return random_square(self._source[index % len(self._source)]["image"], self._resolution, rng)


def save_pairs(pairs: list[Pair], fake: Images, real: Images, path: str) -> None:
    """A picture of generated images, left, and the real ones that they are nearest to, right."""
    images = [image for pair in pairs for image in (fake[pair.fake], real[pair.real])]
    save_grid(np.stack([middle_square(image, _SIDE) for image in images]), path, columns=4)


def build_real(config: ml_collections.ConfigDict, num_crops: int, most: int = 0) -> Images:
    """The data of a run as an evaluation takes it: squares of the generator's resolution.

    num_crops: of the bundled photographs, from which squares are cut at random. most: images at most, drawn
    at random by config.seed; 0: all.

    Raises:
        ValueError: none can be used, or what `open_source` raises.
    """
    data = config.data.to_dict()
    options = {name: data[name] for name in ("source", "path", "name", "split", "skip_corrupt")}
    source, resolution = open_source(**options), config.generator.resolution
    if isinstance(source, Photos):
        return Crops(source, resolution, num_crops, config.seed)
    places = np.arange(len(source))
    if config.data.skip_corrupt:
        places, _ = usable_places(source, resolution, _quiet)
    if 0 < most < len(places):
        places = np.sort(np.random.default_rng(config.seed).choice(places, most, replace=False))
    way_out = "config.data.skip_corrupt leaves out what cannot be used."
    return SourceImages(source, resolution, places, where="config.data", way_out=way_out)


def build_evaluator(
    config: ml_collections.ConfigDict, cache: str, devices: Sequence[jax.Device]
) -> Evaluator | None:
    """What measures samples as config.evaluate says; None: nothing does.

    cache: a folder that keeps what was measured of the data.

    Raises:
        FileNotFoundError, ValueError: names and weights that there are not.
    """
    section = config.evaluate
    for name in ("every", "num_real"):
        if section[name] < 0:
            raise ValueError(f"config.evaluate.{name} must not be negative, got {section[name]}.")
    if not section.metrics:
        return None
    paths = {"inception": section.inception_weights, "dinov2": section.dinov2_weights}
    sha256 = section.inception_sha256 or INCEPTION_SHA256
    with _flags_as_fields():
        networks = [
            load_network(name, paths, inception_sha256=sha256) for name in section.features.split(",")
        ]
        metrics = section.metrics.split(",")
        evaluator = Evaluator(networks, metrics, _quiet, cache=cache, devices=devices, seed=config.seed)
        evaluator.check_counts(section.num, None)
    return evaluator


@contextlib.contextmanager
def _flags_as_fields() -> Iterator[None]:
    """What the program biggan.evaluate says of its flags, with the names that the fields have here."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(re.sub(r"--(\w+)", r"config.evaluate.\1", str(error))) from error


def measured_by(config: ml_collections.ConfigDict) -> dict[str, bool]:
    """What is measured as config.evaluate says, by name, and whether smaller is better.

    Raises:
        ValueError: a metric is unknown.
    """
    section = config.evaluate
    if not section.metrics:
        return {}
    metrics = section.metrics.split(",")
    with _flags_as_fields():
        check_metrics(metrics)
    networks = [
        network_name(section.inception_sha256 or INCEPTION_SHA256) if features == INCEPTION else features
        for features in section.features.split(",")
    ]
    return {
        f"{part}_{network}": smaller
        for metric in metrics
        for part, smaller in METRICS[metric].smaller_is_better.items()
        for network in networks
    }


def build_best(config: ml_collections.ConfigDict) -> Best | None:
    """By what metric the best checkpoint is kept.

    Raises:
        ValueError: it is none of those that are measured.
    """
    measured, name = measured_by(config), config.evaluate.best
    if not name or not measured:
        return None
    if name not in measured:
        raise ValueError(
            f"config.evaluate.best should be one of {', '.join(measured)}, as config.evaluate.metrics and "
            f".features say, but got {name!r}."
        )
    return Best(name, measured[name], fields=("evaluate.", "data.", "generator.resolution"))


def _quiet(items: Any, **kwargs: Any) -> Any:
    return items
