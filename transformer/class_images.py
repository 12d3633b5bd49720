"""Labelled images in folders, and what a classifier of ImageNet makes of them before it looks."""

import math
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
# The square that is cut out, as a part of the shorter side.
_CROP = 0.9


class ClassImages(NamedTuple):
    """paths: of B images; labels: [B], their classes; notes: to be told."""

    paths: list[pathlib.Path]
    labels: np.ndarray
    notes: tuple[str, ...] = ()

    def spread(self, number: int) -> "ClassImages":
        """So many of them at most, evenly from beginning to end."""
        chosen = np.linspace(0, len(self.paths) - 1, min(number, len(self.paths))).round().astype(int)
        return self._replace(paths=[self.paths[i] for i in chosen], labels=self.labels[chosen])


def open_class_images(images: str, *, labels: str, classes: str, num_labels: int) -> ClassImages:
    """The images of a folder, with their classes.

    Args:
        images: a folder with a folder for each class, whose sorted names (ImageNet's synsets) are classes
            0 .. num_labels - 1; or, with labels, of images alone.
        labels: a text file with a line for each image, its name and its class, as
            "ILSVRC2012_val_00000001.JPEG 65"; "": there are class folders.
        classes: a text file with the name of a class in each line, in their order, by which folders and
            labels may then be called; "": none.
        num_labels: classes of the model.

    Raises:
        FileNotFoundError: a file or folder is missing, or there are no images.
        ValueError: classes are not those of the model, or a line is not as above; names the flag.
    """
    folder = pathlib.Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"--images={images} is no folder.")
    index = _classes_of(classes, num_labels) if classes else {}
    if labels:
        return _from_file(folder, pathlib.Path(labels), index, num_labels)
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if not folders:
        raise ValueError(
            f"--images={images} has no folders, one a class. For images alone give --labels, a file with "
            "their names and classes."
        )
    if not index:
        if len(folders) != num_labels:
            raise ValueError(
                f"--images={images} has {len(folders)} folders, but the model has {num_labels} classes. For "
                "some of the classes give --classes, a file with the names of all in their order."
            )
        index = {of.name: number for number, of in enumerate(folders)}
    strange = [of.name for of in folders if of.name not in index]
    if strange:
        raise ValueError(f"--images={images}: the folder {strange[0]!r} is no class of --classes={classes}.")
    found = [(path, index[of.name]) for of in folders for path in _images_in(of)]
    if not found:
        raise FileNotFoundError(f"--images={images}: its folders have no images ({', '.join(_SUFFIXES)}).")
    return ClassImages([path for path, _ in found], np.array([number for _, number in found]))


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _lines_of(flag: str, path: pathlib.Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"--{flag}={path} is no file.")
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--{flag}={path} should be text in UTF-8: {error}.") from error


def _classes_of(classes: str, num_labels: int) -> dict[str, int]:
    # A name may be followed by what it means.
    names = [line.split()[0] for line in _lines_of("classes", pathlib.Path(classes)) if line.split()]
    if len(set(names)) != len(names) or len(names) != num_labels:
        raise ValueError(
            f"--classes={classes} should have {num_labels} different names, one a line, but has "
            f"{len(names)} with {len(set(names))} different ones."
        )
    return {name: number for number, name in enumerate(names)}


def _from_file(
    folder: pathlib.Path, path: pathlib.Path, index: Mapping[str, int], num_labels: int
) -> ClassImages:
    found: dict[pathlib.Path, int] = {}
    for number, line in enumerate(_lines_of("labels", path), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(
                f"--labels={path}, line {number}: {line!r} should be a file's name and its class."
            )
        name, label = words
        digits = label.isascii() and label.isdecimal()
        value = index.get(label, int(label) if digits else -1)
        if not 0 <= value < num_labels:
            names = " or a name of --classes" if index else " (for names give --classes)"
            raise ValueError(
                f"--labels={path}, line {number}: the class {label!r} should be 0 .. {num_labels - 1}{names}."
            )
        if not (folder / name).is_file():
            raise FileNotFoundError(f"--labels={path}, line {number}: {folder / name} is missing.")
        found[folder / name] = value
    if not found:
        raise ValueError(f"--labels={path} names no images.")
    left = [image for image in _images_in(folder) if image not in found]
    notes = (f"{len(left)} images of {folder} have no line in {path} and were left out.",) if left else ()
    return ClassImages(list(found), np.array(list(found.values())), notes)


def prepared(path: pathlib.Path, size: int) -> UInt8[np.ndarray, "R R 3"]:
    """An image as a classifier sees it: its shorter side resized to size / 0.9, the middle square cut out.

    Pillow's bicubic with antialiasing, as torchvision's Resize and CenterCrop: the preprocessing of T2T-ViT.

    Raises:
        ValueError: it cannot be read as an image.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    short = math.floor(size / _CROP)
    sides = [short * side // min(image.size) for side in image.size]
    resized = image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in sides)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
