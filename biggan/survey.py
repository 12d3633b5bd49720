"""What a data set holds: counts, sizes, classes, what cannot be used, and a sheet of images."""

import collections
import concurrent.futures
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from biggan.images import ImageError, too_small
from biggan.pictures import save_grid
from biggan.sources import Source
from training.photographs import middle_square

_THREADS = 8
# Of the sheet: images, and the side of each.
_IMAGES, _SIDE = 64, 64


class Seen(NamedTuple):
    """An image that can be read: its place in the source, (height, width) and label."""

    place: int
    size: tuple[int, int]
    label: int


class Survey(NamedTuple):
    """Images that can be read, and a message for each that cannot be used."""

    seen: list[Seen]
    unusable: list[str]


def survey(source: Source, resolution: int, progress: Callable[..., Any]) -> Survey:
    """Reads all images; those smaller than `resolution` can be read, and not be used.

    progress: wraps an iterable and takes its length as `total`, as tqdm does.
    """

    def look(place: int) -> tuple[Seen | None, str | None]:
        try:
            element = source[place]
        except ImageError as error:
            return None, str(error)
        height, width = element["image"].shape[:2]
        small = min(height, width) < resolution
        fault = too_small(element["name"], height, width, resolution) if small else None
        return Seen(place, (height, width), element["label"]), fault

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(progress(pool.map(look, range(len(source))), total=len(source)))
    seen = [image for image, _ in found if image is not None]
    return Survey(seen, [fault for _, fault in found if fault is not None])


def lines(source: Source, found: Survey) -> list[str]:
    """A survey in words."""
    result = [*source.remarks, f"{len(source)} images, {len(found.unusable)} of them cannot be used."]
    result += [f"  {message}" for message in found.unusable]
    if found.seen:
        ordered = sorted((image.size for image in found.seen), key=lambda size: (min(size), size))
        shown = [f"{h}x{w}" for h, w in (ordered[0], ordered[len(ordered) // 2], ordered[-1])]
        result.append("Sizes, height x width: smallest {}, median {}, largest {}.".format(*shown))
    if source.class_names is not None:
        counts = collections.Counter(image.label for image in found.seen)
        result.append(f"{len(source.class_names)} classes:")
        result += [f"  {label} {name}: {counts[label]}" for label, name in enumerate(source.class_names)]
        strange = {label: num for label, num in counts.items() if not 0 <= label < len(source.class_names)}
        result += [f"  {label}, which is none of them: {num}" for label, num in sorted(strange.items())]
    return result


def save_sheet(source: Source, seen: list[Seen], path: str, seed: int) -> None:
    """64 of the images, drawn at random, as a grid of 64 x 64 pixels each."""
    drawn = np.random.default_rng(seed).permutation([image.place for image in seen])[:_IMAGES]
    save_grid(
        np.stack([middle_square(source[int(place)]["image"], _SIDE) for place in drawn]), path, columns=8
    )
