"""Does a damaged file end a run? Reads thousands of them through every source.

    python -m benchmarks.damage [--files=3000] [--seed=0] [--out=docs/results/tables]

Makes images of every format, and archives of images, flips bits in them, cuts them, or swaps blocks, and
reads all with config.data.skip_corrupt. Whatever is raised but the errors that name what cannot be used ends
the program. Writes damage.md.
"""

import collections
import dataclasses
import functools
import io
import json
import pathlib
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import flax.serialization
import numpy as np
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from benchmarks.tables import table
from biggan.checks import check_sizes
from biggan.data import pipeline
from biggan.images import ImageError
from biggan.sources import open_source
from training.provenance import header

_FILES = flags.DEFINE_integer("files", 3000, "damaged images and archives.", lower_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "of the images and the damage.", lower_bound=0)
_OUT = flags.DEFINE_string("out", "docs/results/tables", "folder of the table.")

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif"}
# What else than RGB a format is written in.
MODES = {"JPEG": ("L", "CMYK"), "PNG": ("P", "RGBA", "I;16"), "TIFF": ("CMYK", "I;16"), "WEBP": ("RGBA",)}
RESOLUTION, IN_ARCHIVE = 32, 6


def flipped(data: bytearray, rng: np.random.Generator) -> bytearray:
    """1 to 20 bits anywhere; in every other file near its beginning."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 600)
    for place in rng.integers(0, end, rng.integers(1, 20, endpoint=True)):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def swapped(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Two blocks of 16 to 512 bytes."""
    size = int(min(rng.choice([16, 64, 512]), max(len(data) // 2, 1)))
    a, b = (int(place) for place in rng.integers(0, max(len(data) - size, 1), 2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


DAMAGE: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (flipped, cut, swapped)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    return bytes(DAMAGE[rng.integers(len(DAMAGE))](bytearray(data), rng))


@functools.cache
def image(kind: str, number: int) -> bytes:
    """A picture of smooth colours and noise, as a file."""
    rng = np.random.default_rng(number)
    colours = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(colours).resize((80, 64), Image.Resampling.BICUBIC)
    mode = ("RGB", *MODES.get(kind, ()))[number % (1 + len(MODES.get(kind, ())))]
    picture = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 1 + number % 8
    options: dict[str, Any] = {"exif": exif} if kind in ("JPEG", "WEBP", "TIFF", "PNG") else {}
    if kind == "TIFF" and number % 2:
        options["compression"] = "tiff_lzw"
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def images(num: int, rng: np.random.Generator, harm: bool) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files, the formats in turn."""
    for number in range(num):
        kind = list(FORMATS)[number % len(FORMATS)]
        data = image(kind, number // len(FORMATS) % 24)
        yield f"{number:05d}{FORMATS[kind]}", damaged(data, rng) if harm else data


def tar_of(files: Iterator[tuple[str, bytes]], path: pathlib.Path) -> pathlib.Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def records_of(files: Iterator[tuple[str, bytes]], path: pathlib.Path) -> pathlib.Path:
    from array_record.python.array_record_module import ArrayRecordWriter

    path.mkdir()
    writer, written = ArrayRecordWriter(str(path / "images.array_record"), "group_size:1"), 0
    for name, data in files:
        record = {"png": data, "label": 0, "name": name}
        writer.write(flax.serialization.msgpack_serialize(record))
        written += 1
    writer.close()
    (path / "info.json").write_text(json.dumps({"resolution": RESOLUTION, "images": written}))
    return path


@dataclasses.dataclass
class Count:
    """files: damaged ones. refused: archives that could not be opened. unusable, read, lost: images."""

    files: int = 0
    refused: int = 0
    unusable: int = 0
    read: int = 0
    lost: int = 0

    def add(self, kind: str, path: pathlib.Path, num: int) -> None:
        """Reads all images of a source, as a run does. num: that were put in."""
        try:
            source = open_source(kind, path=str(path), skip_corrupt=True)
            check_sizes(source, RESOLUTION, True, 2)
        except (ValueError, FileNotFoundError) as error:
            if str(path) not in str(error):
                raise
            self.refused += 1
            return
        stream, readable = pipeline(
            source, resolution=RESOLUTION, batch_size=1, seed=0, skip_corrupt=True, num_threads=2
        )
        try:
            for _ in range(len(source)):
                next(stream)
        except ImageError as error:
            if "none of the" not in str(error):
                raise
        self.unusable += len(readable.skipped)
        self.read += len(source) - len(readable.skipped)
        self.lost += num - len(source)


def measure(folder: pathlib.Path, num: int, rng: np.random.Generator) -> dict[tuple[str, str], Count]:
    """Counts by source and by what is damaged: two thirds images, one sixth each tar files and records."""
    counts: dict[tuple[str, str], Count] = collections.defaultdict(Count)
    num_archives = num // 6
    files = list(images(num - 2 * num_archives, rng, harm=True))
    (folder / "images").mkdir()
    for name, data in files:
        (folder / "images" / name).write_bytes(data)
    wholes = {
        "folder": folder / "images",
        "tar": tar_of(iter(files), folder / "images.tar"),
        "array_record": records_of(iter(files), folder / "records"),
    }
    for kind, path in tqdm(wholes.items(), desc="images"):
        counts[kind, "images"].files = len(files)
        counts[kind, "images"].add(kind, path, len(files))
    for number in tqdm(range(num_archives), desc="archives"):
        tar = tar_of(images(IN_ARCHIVE, rng, harm=False), folder / f"{number}.tar")
        records = records_of(images(IN_ARCHIVE, rng, harm=False), folder / f"{number}")
        # Every tenth time the description of the records.
        content = records / ("info.json" if number % 10 == 9 else "images.array_record")
        for kind, path, file in (("tar", tar, tar), ("array_record", records, content)):
            file.write_bytes(damaged(file.read_bytes(), rng))
            counts[kind, f"archives of {IN_ARCHIVE} images"].files += 1
            counts[kind, f"archives of {IN_ARCHIVE} images"].add(kind, path, IN_ARCHIVE)
    return counts


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF
    with tempfile.TemporaryDirectory() as folder:
        counts = measure(pathlib.Path(folder), _FILES.value, np.random.default_rng(_SEED.value))
    rows = [[kind, what, *map(str, dataclasses.astuple(of))] for (kind, what), of in counts.items()]
    lines = [
        *header(),
        f"{_FILES.value} damaged files (bits flipped, cut, or blocks swapped): {', '.join(FORMATS)}, tar and",
        "array_record. Read with config.data.skip_corrupt, as a run reads them, and none ended it. The same",
        "damaged images lie in a folder, in a tar file and in records; what can still be decoded counts as",
        "read. Archives that cannot be opened are refused by an error that names them; what lies behind the",
        "damaged place of a tar file is lost, which is told.",
        "",
        *table(["source", "damaged", "files", "refused", "unusable images", "read", "lost"], rows),
    ]
    path = pathlib.Path(_OUT.value) / "damage.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    print(path.read_text())


if __name__ == "__main__":
    app.run(main)
