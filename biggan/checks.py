"""What is looked at before training starts: classes, those of the run before, sizes of images."""

import concurrent.futures
import json

import numpy as np
from etils import epath

from biggan.images import ImageError, too_small
from biggan.listing import some
from biggan.sources import Sized, Source
from training.files import keep_aside, write_whole
from training.processes import is_first, say

# Headers that are read at most, evenly spread over the images.
MOST_HEADERS = 20_000


def check_classes(source: Source, num_classes: int) -> None:
    """Compares a source's classes with config.num_classes.

    Raises:
        ValueError: there are more or less; names both.
    """
    names = source.class_names
    if names is not None and len(names) != num_classes:
        high = " Is config.data.path a folder too high?" if len(names) == 1 else ""
        raise ValueError(
            f"config.num_classes is {num_classes}, but the data has {len(names)} classes: "
            f"{some(names, 20)}.{high}"
        )


def keep_classes(names: list[str], path: str, resumed: bool, write: bool) -> None:
    """Keeps a run's classes in a file; of a run that is resumed, compares them with it.

    write: this process does.

    Raises:
        ValueError: they are others, or in another order; names both.
    """
    file = epath.Path(path)
    before = _kept_classes(file) if resumed and file.exists() else None
    if before is not None and before != names:
        raise ValueError(
            f"this run began with the classes {some(before, 20)} ({path}), but the data in "
            f"config.data.path has {some(names, 20)}. Take the data of before, or another --workdir."
        )
    if before is None and write:
        write_whole(file, json.dumps(names, indent=1).encode())


def _kept_classes(file: epath.Path) -> list[str] | None:
    """What was kept; None: it is damaged, and a copy stays."""
    try:
        names = json.loads(file.read_bytes())
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    except (ValueError, RecursionError):
        pass
    if is_first():
        say(f"DAMAGED: {file} cannot be read. It is written anew, and kept as {keep_aside(file)}.")
    return None


def check_sizes(
    source: Source, resolution: int, skip_corrupt: bool, num_threads: int, most: int = MOST_HEADERS
) -> list[str]:
    """Looks at headers of image files for those too small or damaged: all of them, or `most`.

    Returns:
        Remarks: with skip_corrupt, how many cannot be used. Sources without files have none.

    Raises:
        ImageError: without skip_corrupt, if there is one; names the first few, and counts.
    """
    if not isinstance(source, Sized):
        return []

    def fault(index: int) -> str | None:
        try:
            height, width = source.size(index)
        except ImageError as error:
            return str(error)
        if min(height, width) < resolution:
            return too_small(source.name(index), height, width, resolution)
        return None

    num = min(len(source), most)
    places = np.linspace(0, len(source) - 1, num).round().astype(int)
    with concurrent.futures.ThreadPoolExecutor(max(num_threads, 1)) as pool:
        faults = [found for found in pool.map(fault, places.tolist()) if found is not None]
    if not faults:
        return []
    among = f"{num} images" if num == len(source) else f"{num} images looked at, of {len(source)},"
    first = "; ".join(found.rstrip(".") for found in faults[:5]) + ("; ..." if len(faults) > 5 else ".")
    remark = f"{len(faults)} of {among} cannot be used at {resolution}x{resolution}: {first}"
    if not skip_corrupt:
        raise ImageError(f"{remark} Set config.data.skip_corrupt to go on without them.")
    return [remark]
