"""Images of every kind become RGB, and whatever is wrong with one is an ImageError that names it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from biggan import images
from biggan.images import SUFFIXES, ImageError, decode, printable, size_of, to_rgb


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def first_pixel(image, kind="PNG", **options):
    return decode(encoded(image, kind, **options), "x")[0, 0].tolist()


def png_of_16_bits(pixels):
    """[H, W, 3] uint16, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*of) for of in chunks)


def grey_profile():
    """A colour profile of CMYK in which all colours are the grey of lightness 50, and black is black."""
    table = struct.pack(">4sIBBBB9i", b"mft1", 0, 4, 3, 2, 0, *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = bytes(range(256))
    table += ramp * 4 + bytes((128, 128, 128, 0, 128, 128)) * 8 + ramp * 3
    size = 128 + 16 + len(table)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"", 0x02100000, b"prtr", b"CMYK", b"Lab ", b"", b"acsp")
    header += bytes(68 - len(header)) + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return header + bytes(128 - len(header)) + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "AVIF"])
def test_every_kind_is_read(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(pixels), kind, **options)
    np.testing.assert_allclose(decode(data, "x").astype(int), pixels.astype(int), atol=4)
    assert size_of(io.BytesIO(data), "x") == (16, 24)
    suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
    assert suffix in SUFFIXES


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_image_stands_as_its_exif_says(kind, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # the corner that is stored first
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(Image.fromarray(pixels), kind, exif=exif), "x")
    turned = np.rot90(pixels, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    assert image.shape == turned.shape
    assert np.abs(image.astype(int) - turned).mean() < 4


def test_16_bits_are_scaled():
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.round(grey / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        image = decode(encoded(Image.fromarray(grey), kind), "x")
        np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, 2))
    big_endian = Image.frombytes("I;16B", (8, 8), grey.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(encoded(big_endian, "TIFF"), "x")[..., 0], expected)
    white_is_zero = encoded(Image.fromarray(grey), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(decode(white_is_zero, "x")[..., 0], 255 - expected)
    twelve_bits = bytearray(encoded(Image.fromarray(grey), "TIFF"))
    twelve_bits[twelve_bits.index(struct.pack("<HHIH", 258, 3, 1, 16)) + 8] = 12
    with pytest.raises(ImageError, match="the range of its values is unknown"):
        decode(bytes(twelve_bits), "x")
    colour = np.stack([grey, grey[::-1], grey.T], -1)
    image = decode(png_of_16_bits(colour), "x")
    np.testing.assert_allclose(image.astype(int), colour / 257, atol=1)
    # The grey that is transparent is white.
    clear = decode(encoded(Image.fromarray(grey), "PNG", transparency=int(grey[0, 0])), "x")
    assert clear[0, 0].tolist() == [255, 255, 255]
    assert clear[0, 1, 0] == expected[0, 1]


@pytest.mark.parametrize("array", [np.full((8, 8), 1000, np.int32), np.full((8, 8), 0.5, np.float32)])
def test_numbers_of_unknown_range_are_refused(array):
    with pytest.raises(ImageError, match=r"cannot read the image a\.tif: the range of its values is unknown"):
        decode(encoded(Image.fromarray(array), "TIFF"), "a.tif")


def test_what_is_transparent_lies_over_white():
    assert first_pixel(Image.new("RGBA", (8, 8), (0, 100, 200, 0))) == [255, 255, 255]
    assert first_pixel(Image.new("RGBA", (8, 8), (0, 100, 200, 255))) == [0, 100, 200]
    assert first_pixel(Image.new("RGBA", (8, 8), (0, 100, 200, 51))) == [204, 224, 244]
    assert first_pixel(Image.new("RGBA", (8, 8), (10, 10, 10, 100))) == [159, 159, 159]  # 158.9
    assert first_pixel(Image.new("LA", (8, 8), (0, 51))) == [204, 204, 204]
    assert first_pixel(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3)) == [255, 255, 255]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([9, 9, 9, 10, 20, 30])
    assert first_pixel(palette) == [10, 20, 30]
    assert first_pixel(palette, transparency=1) == [255, 255, 255]
    assert first_pixel(palette, transparency=0) == [10, 20, 30]
    assert first_pixel(palette, "GIF", transparency=1) == [255, 255, 255]


def test_four_inks():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert first_pixel(cyan, "TIFF") == [0, 255, 255]
    np.testing.assert_allclose(first_pixel(cyan, "JPEG"), [0, 255, 255], atol=2)
    # Of YCCK the marker alone differs: what is stored as 200, 128, 128 is then brightness without colour.
    ycck = bytearray(encoded(Image.new("CMYK", (8, 8), (55, 127, 127, 0)), "JPEG"))
    ycck[ycck.index(b"Adobe") + 11] = 2
    np.testing.assert_allclose(decode(bytes(ycck), "x")[0, 0], [55, 55, 55], atol=3)
    grey = first_pixel(cyan, "JPEG", icc_profile=grey_profile())
    np.testing.assert_allclose(grey, [119, 119, 119], atol=3)
    with pytest.raises(ImageError, match="cannot read the image x"):
        first_pixel(cyan, "JPEG", icc_profile=ImageCms.ImageCmsProfile(images._SRGB).tobytes())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame_of_several(kind):
    frames = [Image.new("RGB", (16, 16), (value, 0, 0)) for value in (0, 255)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode(data, "x").max() < 4


def test_arrays():
    pixels = noise(4, 5, 3)
    np.testing.assert_array_equal(to_rgb(pixels, "x"), pixels)
    for grey in (pixels[..., 0], pixels[..., :1]):
        np.testing.assert_array_equal(to_rgb(grey, "x"), np.repeat(pixels[..., :1], 3, 2))
    clear = np.concatenate([pixels, np.zeros((4, 5, 1), np.uint8)], -1)
    np.testing.assert_array_equal(to_rgb(clear, "x"), 255)
    np.testing.assert_array_equal(to_rgb(pixels.astype(np.uint16) * 257, "x"), pixels)
    for array, what in (
        (pixels / 255, r"float64\[4, 5, 3\]"),
        (pixels[..., :2], r"uint8\[4, 5, 2\]"),
        (pixels[None], r"uint8\[1, 4, 5, 3\]"),
        (pixels.astype(np.int32), "int32"),
    ):
        with pytest.raises(ImageError, match=f"the image example 3 is {what}"):
            to_rgb(array, "example 3")


@pytest.mark.parametrize("limit", [100, 200])
def test_too_many_pixels(monkeypatch, limit):
    """Pillow refuses twice its limit, and warns from the limit on."""
    data = encoded(Image.new("RGB", (16, 16)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for look in (lambda: decode(data, "big.png"), lambda: size_of(io.BytesIO(data), "big.png")):
        with pytest.raises(ImageError, match=r"cannot read the image big\.png: .*256 pixels"):
            look()
    monkeypatch.setattr(images.Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data, "big.png").shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_where_warnings_are_no_errors(monkeypatch):
    data = encoded(Image.new("RGB", (16, 16)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ImageError, match=r"it has 16 x 16 pixels, more than 200"):
        decode(data, "big.png")


@pytest.mark.parametrize(
    "error",
    [struct.error("x"), IndexError("x"), ZeroDivisionError("x"), OverflowError("x"), SyntaxError("x")],
)
def test_whatever_pillow_raises_names_the_image(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(images.Image, "open", fail)
    with pytest.raises(ImageError, match=r"cannot read the image a\.png: x\."):
        decode(b"", "a.png")
    with pytest.raises(ImageError, match=r"cannot read the image a\.png: x\."):
        size_of(io.BytesIO(), "a.png")
    error = MemoryError()  # not of the image
    with pytest.raises(MemoryError):
        decode(b"", "a.png")


def test_only_image_formats_are_tried():
    """PPM is none of them; PostScript, of which Pillow starts an interpreter, neither."""
    with pytest.raises(ImageError, match="cannot identify"):
        decode(encoded(Image.new("RGB", (8, 8)), "PPM"), "x.png")


def test_names_that_are_no_utf8():
    assert printable(b"caf\xe9.png".decode("utf-8", "surrogateescape")) == "caf\\xe9.png"
    assert printable("café.png") == "café.png"
