"""What a data set holds: counts, sizes, classes, what cannot be used, and a sheet of images."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from biggan.data import resize
from biggan.images import ImageError
from biggan.pictures import save_grid
from biggan.sources import Source
from training.photographs import middle_square

_THREADS = 8
# Of the sheet: images, and the side of each.
_IMAGES, _SIDE = 64, 64


@dataclasses.dataclass(frozen=True)
class Survey:
    """heights, widths, labels: of usable images, by their places in the source. unusable: messages."""

    places: list[int]
    sizes: list[tuple[int, int]]
    labels: list[int]
    unusable: list[str]


def survey(source: Source, resolution: int, progress: Callable[..., Any]) -> Survey:
    """Reads all images; those smaller than `resolution` cannot be used either.

    progress: wraps an iterable and takes its length as `total`, as tqdm does.
    """

    def look(place: int) -> tuple[int, tuple[int, int], int] | str:
        try:
            element = source[place]
            resize(element, resolution)
        except ImageError as error:
            return str(error)
        return place, element["image"].shape[:2], element["label"]

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(progress(pool.map(look, range(len(source))), total=len(source)))
    good = [of for of in found if not isinstance(of, str)]
    places, sizes, labels = ([of[field] for of in good] for field in range(3))
    return Survey(places, sizes, labels, [of for of in found if isinstance(of, str)])


def lines(source: Source, found: Survey) -> list[str]:
    """A survey in words."""
    result = [*source.remarks, f"{len(source)} images, {len(found.unusable)} of them cannot be used."]
    result += [f"  {message}" for message in found.unusable]
    if found.sizes:
        ordered = sorted(found.sizes, key=lambda size: (min(size), size))
        shown = [f"{h}x{w}" for h, w in (ordered[0], ordered[len(ordered) // 2], ordered[-1])]
        result.append("Sizes, height x width: smallest {}, median {}, largest {}.".format(*shown))
    if source.class_names is not None:
        counts = collections.Counter(found.labels)
        result.append(f"{len(source.class_names)} classes:")
        result += [f"  {label} {name}: {counts[label]}" for label, name in enumerate(source.class_names)]
        strange = {label: num for label, num in counts.items() if not 0 <= label < len(source.class_names)}
        result += [f"  {label}, which is none of them: {num}" for label, num in sorted(strange.items())]
    return result


def save_sheet(source: Source, places: list[int], path: str, seed: int) -> None:
    """64 of the images at `places`, drawn at random, as a grid of 64 x 64 pixels each."""
    drawn = np.random.default_rng(seed).permutation(places)[:_IMAGES]
    save_grid(
        np.stack([middle_square(source[int(place)]["image"], _SIDE) for place in drawn]), path, columns=8
    )
