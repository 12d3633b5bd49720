"""The image pipeline: a source, shuffled, cropped and batched by grain."""

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.serialization
import grain
import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from biggan.images import Element, ImageError, too_small
from biggan.sources import Photos, Source
from training.files import make_folder, write_whole
from training.photographs import middle_square, random_square


def resize(element: Element, resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """An element's largest centred square, at resolution x resolution.

    Raises:
        ImageError: the image is smaller than that.
    """
    image = element["image"]
    height, width, _ = image.shape
    if min(height, width) < resolution:
        raise ImageError(too_small(element["name"], height, width, resolution))
    return middle_square(image, resolution)


class Readable:
    """A source's images through `prepare`; with `skip`, the next one stands in for an unusable one.

    Places in the order of images stay what they are, so a run can be continued at any of them.
    remarks: on what was passed over before. skipped: message of each unusable image met so far, by index.
    """

    def __init__(self, source: Source, prepare: Callable[[Element], Element], skip: bool):
        self._source, self._prepare, self._skip = source, prepare, skip
        self._lock = threading.Lock()
        self.remarks = list(source.remarks)
        self.skipped: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                return self._prepare(self._source[place])
            except ImageError as error:
                if not self._skip:
                    raise ImageError(f"{error} Set config.data.skip_corrupt to go on.") from error
                with self._lock:
                    self.skipped[place] = str(error)
        last = next(reversed(self.skipped.values()))
        raise ImageError(f"none of the {len(self)} images can be used; the last: {last}")


def pipeline(
    source: Source,
    *,
    resolution: int,
    batch_size: int,
    seed: int,
    num_classes: int = 1,
    num_batches: int = 1,
    start: int = 0,
    flip: bool = False,
    skip_corrupt: bool = False,
    num_threads: int = 4,
    shard: tuple[int, int] = (0, 1),
) -> tuple[Iterator[dict[str, np.ndarray]], Readable]:
    """An endless stream of shuffled batches, and the source with its count of skipped images.

    The stream depends on seed alone, and can be entered anywhere: the image in place n is the same
    whatever batch_size, start and shard are. The processes take turns with batches. Photographs are cropped
    at random, all else is resized and centre-cropped.

    Args:
        source: of `open_source`.
        resolution: of the images.
        batch_size: of a batch of this process.
        num_classes: an image with another label cannot be used.
        num_batches: of this process that are yielded at once, one behind the other.
        start: images of all processes to pass over.
        flip: mirror half of the images.
        skip_corrupt: put the next image in the place of one that cannot be used.
        num_threads: that read ahead.
        shard: (index of this process, number of processes).

    Yields:
        {"image": uint8 [num_batches * batch_size, resolution, resolution, 3], "label": int32 [...]}.
    """
    crop = isinstance(source, Photos)
    recorded = getattr(source, "resolution", resolution)
    if recorded != resolution:
        raise ValueError(
            f"the records in config.data.path are {recorded}x{recorded}, but the generator's "
            f"resolution is {resolution}: convert them at --resolution={resolution}."
        )

    def prepare(element: Element) -> Element:
        if not 0 <= element["label"] < num_classes:
            raise ImageError(
                f"the image {element['name']} has the label {element['label']}, but config.num_classes is "
                f"{num_classes}."
            )
        return element if crop else Element({**element, "image": resize(element, resolution)})

    def augment(element: Element, rng: np.random.Generator) -> dict[str, Any]:
        image = random_square(element["image"], resolution, rng) if crop else element["image"]
        if flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return {"image": np.ascontiguousarray(image), "label": np.int32(element["label"])}

    readable = Readable(source, prepare, skip_corrupt)
    index, count = shard
    images = grain.MapDataset.source(readable).seed(seed).shuffle()
    # For ever: more would not fit the floats by which grain counts batches.
    images = images.repeat(2**53 // len(readable)).random_map(augment)
    batches = images.slice(slice(start, None)).batch(batch_size).slice(slice(index, None, count))
    batches = batches.batch(num_batches).map(_joined)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(num_threads, 2))
    return iter(batches.to_iter_dataset(options)), readable


def _joined(batches: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in batches.items()}


def write_array_record(
    source: Source, path: str, resolution: int, skip_corrupt: bool, progress: Callable[..., Any]
) -> Sequence[str]:
    """Writes images, resized and centre-cropped, as PNG records that `ArrayRecord` reads.

    progress: wraps the iterable of indices, as tqdm does.

    Returns:
        A message for each image that was skipped.

    Raises:
        ImageError: an image cannot be used, and skip_corrupt is off.
        FileExistsError: path holds records already.
        ValueError: path is on no disk of this machine.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    if "://" in path:
        raise ValueError(f"--out={path!r} should be a folder of this machine; copy it from there.")
    target = epath.Path(path)
    if (target / "info.json").exists():
        raise FileExistsError(f"{path!r} holds records already; choose another --out.")
    make_folder(target)
    part = target / "images.part"
    skipped: list[str] = []
    try:
        with contextlib.closing(ArrayRecordWriter(str(part), "group_size:1")) as writer:
            for record in _records(source, resolution, skip_corrupt, progress, skipped):
                writer.write(flax.serialization.msgpack_serialize(record))
        written = len(source) - len(skipped)
        if not written:
            raise ImageError(f"none of the {len(source)} images can be used; the last: {skipped[-1]}")
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.rename(target / "images.array_record")
    info = {
        "resolution": resolution,
        "images": written,
        "class_names": source.class_names,
        "skipped": skipped,
    }
    write_whole(target / "info.json", json.dumps(info, indent=1).encode())
    return skipped


def _records(
    source: Source, resolution: int, skip_corrupt: bool, progress: Callable[..., Any], skipped: list[str]
) -> Iterator[dict[str, Any]]:
    """What is written of each image; messages of those that cannot be used go to `skipped`."""
    for index in progress(range(len(source))):
        try:
            element = source[index]
            image = resize(element, resolution)
        except ImageError as error:
            if not skip_corrupt:
                raise ImageError(f"{error} Set --skip_corrupt to go on.") from error
            skipped.append(str(error))
            continue
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        yield {"png": buffer.getvalue(), "label": int(element["label"]), "name": element["name"]}
