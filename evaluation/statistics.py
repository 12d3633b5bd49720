"""What is kept of a set of images: moments of its features and, where a metric wants them, all of them."""

import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from evaluation.frechet import Moments, sum_of
from evaluation.images import Observed
from evaluation.networks import Features, Network
from training.files import path_of, write_whole

# Parts of a set, whose distances tell how much that of the whole may be off.
PARTS = 10
# Features whose moments are made at once: a product of D x D for each would take long.
_AT_ONCE = 512


class Origin(NamedTuple):
    """What made statistics: they can be compared if all but the last two are equal.

    features: the network's name. weights: their digest. resizer: of `evaluation.resizers`. resolution: of the
    images, as "128x128", or "mixed". num_images, hash: of the images. "" and 0: not known, of another
    program's file. Of generated images there is no hash.
    """

    features: str
    weights: str
    resizer: str
    resolution: str
    num_images: int
    hash: str

    @classmethod
    def of(cls, network: Network, images: Observed, digest: str) -> "Origin":
        """That of images which were all asked for, or of what is known by now."""
        return cls(network.name, network.weights, network.resizer, images.resolution, len(images), digest)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """parts: moments of ten parts of the images. vectors: features [N, D]; logits [N, C]; None: not kept."""

    origin: Origin
    parts: list[Moments]
    vectors: np.ndarray | None = None
    logits: np.ndarray | None = None

    @property
    def moments(self) -> Moments:
        return sum_of(self.parts)


def collect(
    batches: Iterable[Features], keep_vectors: bool, keep_logits: bool, origin: Callable[[], Origin]
) -> Statistics:
    """Statistics of features that come in batches. Without the keeps, no more of them is in memory than that.

    origin: called when all batches are there.

    Raises:
        ValueError: there are fewer than two, or a feature is not finite.
    """
    parts = _Parts()
    kept: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    place = 0
    for batch in batches:
        features = np.asarray(batch.features)
        if not np.isfinite(features).all():
            raise ValueError(f"the features of image {place + _first_broken(features)} are not finite.")
        parts.add(features)
        place += len(features)
        if keep_vectors:
            kept.append(features)
        if keep_logits:
            logits.append(np.asarray(batch.logits))
    if place < 2:
        raise ValueError(f"statistics want two images or more, but got {place}.")
    return Statistics(
        origin(),
        parts.moments(),
        np.concatenate(kept) if kept else None,
        np.concatenate(logits) if logits else None,
    )


class _Parts:
    """Moments of PARTS parts of features that come in order.

    Each run of ten images is dealt to the parts at random: what comes in turn, such as classes, is in all.
    """

    def __init__(self) -> None:
        self._place = 0
        self._moments: list[Moments | None] = [None] * PARTS
        self._waiting: list[list[np.ndarray]] = [[] for _ in range(PARTS)]

    def add(self, features: np.ndarray) -> None:
        for row in features:
            run, index = divmod(self._place, PARTS)
            if index == 0 or self._place == 0:
                self._dealt = np.random.default_rng(run).permutation(PARTS)
            part = int(self._dealt[index])
            self._waiting[part].append(row)
            if len(self._waiting[part]) == _AT_ONCE:
                self._fold(part)
            self._place += 1

    def _fold(self, part: int) -> None:
        if self._waiting[part]:
            more, before = Moments.of(np.stack(self._waiting[part])), self._moments[part]
            self._moments[part] = more if before is None else before + more
            self._waiting[part] = []

    def moments(self) -> list[Moments]:
        """Of the parts that have images."""
        for part in range(PARTS):
            self._fold(part)
        return [moments for moments in self._moments if moments is not None]


def _first_broken(features: np.ndarray) -> int:
    return int(np.argmax(~np.isfinite(features).all(1)))


def save_statistics(path: str, statistics: Statistics) -> None:
    """Writes an .npz whose `mu` and `sigma` pytorch-fid and clean-fid read."""
    moments, origin = statistics.moments, statistics.origin
    arrays: dict[str, Any] = {"mu": moments.mean, "sigma": moments.covariance, **origin._asdict()}
    if statistics.vectors is not None:
        arrays["vectors"] = statistics.vectors
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path_of(path), buffer.getvalue())


def is_statistics(path: str) -> bool:
    """Whether a file is an .npz with mu or sigma."""
    file = path_of(path)
    if file.suffix != ".npz" or not file.exists():
        return False
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            return bool({"mu", "sigma"} & set(arrays.files))
    except Exception:  # of a damaged file, of many kinds
        return False


def load_statistics(path: str) -> Statistics:
    """Reads what `save_statistics` wrote, or another program's `mu` and `sigma`, whose origin is not known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or what is not finite.
    """
    file_path = path_of(path)
    if not file_path.exists():
        raise FileNotFoundError(f"there is no statistics file {path!r}.")
    try:
        with np.load(io.BytesIO(file_path.read_bytes())) as file:
            arrays = dict(file)
        mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
        fields: dict[str, Any] = {
            name: arrays[name].item() if name in arrays else "" for name in Origin._fields
        }
        count = int(fields["num_images"] or 0)
    except Exception as error:  # of damaged files, of many kinds
        raise ValueError(f"{path!r} is no statistics file: {type(error).__name__}: {error}.") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path!r}: mu is {mean.shape} and sigma {covariance.shape}; wanted are [D], [D, D]."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path!r}: mu or sigma is not finite.")
    if not np.allclose(covariance, covariance.T) or np.diagonal(covariance).min() < 0:
        raise ValueError(
            f"{path!r}: sigma is no covariance: it is not symmetric, or has a negative variance."
        )
    vectors = arrays.get("vectors")
    if vectors is not None and (
        vectors.shape != (count, len(mean)) or vectors.dtype.kind != "f" or not np.isfinite(vectors).all()
    ):
        raise ValueError(
            f"{path!r}: vectors should be [{count}, {len(mean)}] finite floats, as num_images and mu say, "
            f"but got {list(vectors.shape)} {vectors.dtype}."
        )
    # A count that is not known changes neither mean nor covariance.
    moments = Moments.from_covariance(count or 2, mean, covariance)
    return Statistics(Origin(**(fields | {"num_images": count})), [moments], vectors)


# What has to be equal for two sets to be compared, and the flag that makes it so.
_SETTINGS = {
    "features": "--features={}",
    "weights": "the same weights",
    "resizer": "--resize={}",
    "resolution": "--resolution={}, which cuts squares of all images",
}


def _smallest(*resolutions: str) -> int:
    """The shortest side of resolutions as "128x96"; of "mixed" nothing is known."""
    return min(int(side) for of in resolutions if of != "mixed" for side in of.split("x"))


def compared(fake: Origin, real: Statistics, width: int) -> list[str]:
    """Remarks on two sets that are compared. width: of the features.

    Real images of several sizes are compared with any, and remarked.

    Raises:
        ValueError: they cannot be; names what differs, and the way out.
    """
    remarks = []
    for name, way_out in _SETTINGS.items():
        ours, theirs = getattr(fake, name), getattr(real.origin, name)
        mixed = name == "resolution" and theirs == "mixed"
        if not theirs:
            remarks.append(f"The real statistics do not say their {name}: taken to be {ours}.")
        elif ours != theirs and mixed:
            remarks.append(f"Images of size {ours} are compared with real ones of size {theirs}.")
        elif ours != theirs:
            wanted = _smallest(ours, theirs) if name == "resolution" else theirs
            raise ValueError(
                f"the {name} of the generated images is {ours}, that of the real ones {theirs}. They cannot "
                f"be compared: take {way_out.format(wanted)}."
            )
    found = len(real.moments.mean)
    if found != width:
        raise ValueError(
            f"the real statistics are of {found} features, but --features={fake.features} has {width}: take "
            "the statistics or the network of the other."
        )
    return remarks
