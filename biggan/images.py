"""Image files and arrays of any kind to RGB, and errors that name those that cannot be used."""

import io
import posixpath
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, features

_AVIF = features.check("avif")
SUFFIXES: tuple[str, ...] = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
)
SUFFIXES += (".avif",) if _AVIF else ()
# No others are tried, whatever a file calls itself: some formats start programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(("AVIF",) if _AVIF else ()))

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF's tags
_ORIENTATION = 0x0112  # EXIF's tag; its values 2 to 8:
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.createProfile("sRGB")
Result = TypeVar("Result")


class Element(TypedDict):
    """An image [H, W, 3] uint8 of any size, its class, and what to call it in a message."""

    image: np.ndarray
    label: int
    name: str


class ImageError(ValueError):
    """An image that cannot be used; says which and why."""


def printable(name: str) -> str:
    """A file's name with what is no UTF-8 in it written out, as \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_image(name: str) -> bool:
    """Whether a file's name has one of SUFFIXES."""
    return posixpath.splitext(name)[1].lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the data: .ipynb_checkpoints, ._x.jpg, __MACOSX."""
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def too_small(name: str, height: int, width: int, resolution: int) -> str:
    """Says that an image is."""
    return f"the image {name} is {height}x{width}, smaller than {resolution}."


def usable(name: str, read: Callable[[], Result]) -> Result:
    """What `read` returns.

    Raises:
        ImageError: it failed, with whatever but MemoryError; names the image.
    """
    try:
        return read()
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # libraries raise about anything on damaged files
        what = str(error) or type(error).__name__
        raise ImageError(f"cannot read the image {name}: {printable(what).rstrip('.')}.") from error


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image file, of an animation those of its first frame.

    It is turned as its EXIF orientation says, and laid over white where it is transparent. 16 bits are
    scaled to 8. CMYK (and YCCK) goes through the file's colour profile where there is one.

    Raises:
        ImageError: not an image, damaged, too many pixels (PIL.Image.MAX_IMAGE_PIXELS), or of numbers
            whose range is unknown: 32-bit integers and floats.
    """

    def pixels() -> np.ndarray:
        with _opened(io.BytesIO(data)) as image:
            return to_rgb(_array(image), name)

    return usable(name, pixels)


def size_of(file: Any, name: str) -> tuple[int, int]:
    """Height and width as the header of an open file says, before it is turned.

    Raises:
        ImageError: not an image, or too many pixels.
    """

    def size() -> tuple[int, int]:
        with _opened(file) as image:
            return image.height, image.width

    return usable(name, size)


def to_rgb(array: np.ndarray, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """An array [H, W] or [H, W, C], uint8 or uint16, as RGB. C: 1 (gray), 3 or 4 (laid over white).

    Raises:
        ImageError: another shape or dtype.
    """
    given = array
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype not in (np.uint8, np.uint16) or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ImageError(
            f"the image {name} is {given.dtype}{list(given.shape)}; wanted are 8 or 16 bits, unsigned, in "
            "[H, W] or [H, W, 1, 3 or 4]."
        )
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if array.shape[-1] == 4:
        alpha = array[..., 3:].astype(np.uint32)
        white = array[..., :3] * alpha + 255 * (255 - alpha)
        array = ((white + 127) // 255).astype(np.uint8)
    return np.broadcast_to(array, (*array.shape[:2], 3))


def _opened(file: Any) -> Image.Image:
    image = Image.open(file, formats=_FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        # Pillow itself refuses twice as many, and warns of these.
        raise ValueError(f"it has {image.height} x {image.width} pixels, more than {limit}")
    return image


def _array(image: Image.Image) -> np.ndarray:
    """[H, W] uint16, or [H, W, 3 or 4] uint8."""
    image.load()
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    if image.mode in ("I", "F") or (image.mode.startswith("I;16") and bits != (16,)):
        raise ValueError("the range of its values is unknown; wanted are 8 or 16 bits, unsigned")
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        array = np.asarray(image).astype(np.uint16)
        if tags.get(_PHOTOMETRIC) == 0:  # zero is white, which Pillow leaves to others
            array = 65535 - array
        return np.where(array == image.info.get("transparency", -1), np.uint16(65535), array)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and profile:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
        assert converted is not None  # as inPlace is off
        image = converted
    return np.asarray(image.convert("RGB"))
