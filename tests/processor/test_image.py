"""Files of every kind to the RGB pixels that a person would see on white paper."""

import contextlib
import io
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.processor.colours import to_rgb
from dsvl_pipeline.processor.decode import decode
from dsvl_pipeline.processor.refusals import FORMATS

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def row(data: bytes) -> list[tuple[int, ...]]:
    """The first row of pixels of a file."""
    return [tuple(pixel) for pixel in np.asarray(decode(data))[0].tolist()]


def greys(data: bytes) -> list[int]:
    """The first row of a file that must be grey."""
    pixels = row(data)
    assert all(red == green == blue for red, green, blue in pixels)
    return [pixel[0] for pixel in pixels]


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand: Pillow writes neither wrong sizes nor 16-bit alpha."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def palette_image() -> Image.Image:
    """Red, green and blue by palette."""
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    return image


def test_rgb_is_taken_as_it_is() -> None:
    """Lossless files keep every pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    for format in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), format)), pixels)


def test_grey_and_one_bit_pictures_become_three_equal_channels() -> None:
    """The towers want three channels."""
    assert greys(encoded(Image.fromarray(np.array([[0, 77, 255]], np.uint8)), "PNG")) == [
        0,
        77,
        255,
    ]
    for format in ("PNG", "TIFF", "BMP", "PPM"):
        one_bit = Image.fromarray(np.array([[True, False]]))
        assert greys(encoded(one_bit, format)) == [255, 0]


@pytest.mark.parametrize(
    ("kind", "least", "greatest"),
    [
        (np.uint16, 0, 65535),
        (np.int32, 0, 65535),
        (np.int32, -(2**31), 2**31),
        (np.float32, 0, 1),
        (np.float32, -1e6, 1e9),
    ],
)
def test_deep_grey_is_scaled_as_a_whole_in_little_memory(
    kind: Any, least: float, greatest: float
) -> None:
    """Large pictures are converted a few rows at a time, by one range for all of them."""
    source = np.random.default_rng(3)
    pixels = source.uniform(least, greatest, (1500, 1001)).astype(kind)
    pixels[700, 5:7] = (
        least,
        min(greatest, np.iinfo(np.int32).max if kind == np.int32 else greatest),
    )
    if kind == np.float32:
        pixels[1400, :3] = np.nan, np.inf, -np.inf
    image = Image.fromarray(pixels)
    tracemalloc.start()
    try:
        found = np.asarray(to_rgb(image))
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    grey = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0)
    black, white = 0.0, 1.0 if kind == np.float32 else 65535.0
    if grey.min() < black or grey.max() > white:
        black, white = grey.min(), grey.max()
    wanted = np.rint((grey - black) * (255 / (white - black))).astype(np.uint8)
    assert np.array_equal(found, wanted[..., None].repeat(3, 2))
    # a byte for each of grey, its copy and three channels, and the rows at hand
    assert most_bytes < 8 * pixels.size


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG2000"])
def test_16_bit_grey_is_scaled_not_clipped(format: str) -> None:
    """Pillow's own conversion turns everything above 255 white."""
    pixels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert greys(encoded(Image.fromarray(pixels), format)) == [0, 1, 128, 255]
    if format == "TIFF":
        assert greys(encoded(Image.fromarray(pixels.astype(">u2")), format)) == [0, 1, 128, 255]


def test_other_deep_greys_are_scaled_to_their_range() -> None:
    """32-bit integers and floats carry no white point; what is infinite is white."""
    of = Image.fromarray
    assert greys(encoded(of(np.array([[0, 257, 65535]], np.int32)), "TIFF")) == [0, 1, 255]
    assert greys(encoded(of(np.array([[0, 100_000, 200_000]], np.int32)), "TIFF")) == [0, 128, 255]
    assert greys(encoded(of(np.array([[0, 0.5, 1]], np.float32)), "TIFF")) == [0, 128, 255]
    assert greys(encoded(of(np.array([[-5, 0, 5]], np.float32)), "TIFF")) == [0, 128, 255]
    odd = np.array([[np.nan, np.inf, 1]], np.float32)
    assert greys(encoded(of(odd), "TIFF")) == [0, 255, 255]
    assert greys(encoded(of(np.array([[7, 7]], np.float32)), "TIFF")) == [0, 0]
    assert greys(b"P5\n3 1\n1023\n" + struct.pack(">3H", 0, 512, 1023)) == [0, 128, 255]


def test_palettes_become_colours() -> None:
    """Indices are no pixels."""
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        assert row(encoded(palette_image(), format)) == [RED, GREEN, BLUE]


@pytest.mark.parametrize(
    ("transparency", "format", "expected"),
    [
        (1, "PNG", [RED, WHITE, BLUE]),
        (1, "GIF", [RED, WHITE, BLUE]),
        (bytes([255, 51, 0]), "PNG", [RED, (204, 255, 204), WHITE]),
    ],
)
def test_transparent_palette_entries_show_white(
    transparency: object, format: str, expected: list[tuple[int, int, int]]
) -> None:
    """Dropping alpha instead shows the colour that happens to lie below, often black."""
    assert row(encoded(palette_image(), format, transparency=transparency)) == expected


def test_alpha_is_composited_on_white() -> None:
    """Text on a transparent page must not become black on black."""
    grey = np.array([[[0, 0], [0, 51], [0, 255], [100, 255]]], np.uint8)
    assert greys(encoded(Image.fromarray(grey), "PNG")) == [255, 204, 0, 100]
    rgba = np.array([[[*RED, 0], [*RED, 51], [*RED, 255]]], np.uint8)
    for format in ("PNG", "TIFF"):
        found = row(encoded(Image.fromarray(rgba), format))
        assert found == [WHITE, (255, 204, 204), RED]
    assert row(encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)) == found


def test_one_transparent_colour_shows_white() -> None:
    """PNG marks a single colour of grey and RGB pictures as transparent."""
    for image in (Image.new("L", (1, 1), 9), Image.new("RGB", (1, 1), (1, 2, 3))):
        assert row(encoded(image, "PNG", transparency=image.getpixel((0, 0)))) == [WHITE]
    deep = b"\0" + struct.pack(">2H", 1000, 40000)
    marked = png(2, 1, 16, 0, deep, chunk(b"tRNS", struct.pack(">H", 1000)))
    assert greys(marked) == [255, 156]


def test_a_transparent_colour_is_found_at_every_depth() -> None:
    """Pillow scales the pixels of these files, but not the colour that it compares them with."""
    marked = png(2, 1, 4, 0, b"\0\x5a", chunk(b"tRNS", struct.pack(">H", 5)))
    assert greys(marked) == [255, 170]
    marked = png(4, 1, 2, 0, b"\0\x1b", chunk(b"tRNS", struct.pack(">H", 1)))
    assert greys(marked) == [0, 255, 170, 255]
    two = struct.pack(">6H", 1000, 40000, 500, 0, 32896, 65535)
    marked = png(2, 1, 16, 2, b"\0" + two, chunk(b"tRNS", struct.pack(">3H", 1000, 40000, 500)))
    assert row(marked) == [WHITE, (0, 128, 255)]


@pytest.mark.parametrize("most", [31, 100, 300, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_portable_maps_of_any_greatest_value_are_scaled(most: int, channels: int) -> None:
    """A camera's 10 or 12 bits, whose white is not that of the bytes that hold them."""
    form = ">H" if most > 255 else ">B"
    values = [0, round(most / 3), most]
    body = b"".join(struct.pack(form, value) for value in values)
    head = b"P5 3 1" if channels == 1 else b"P6 1 1"
    found = np.asarray(decode(head + f" {most}\n".encode() + body))[0]
    shown = found[:, 0] if channels == 1 else found[0]
    np.testing.assert_allclose(shown, [value * 255 / most for value in values], atol=1)


def test_premultiplied_alpha_is_understood() -> None:
    """Pictures that callers made may be of any mode of Pillow."""
    image = Image.new("RGBA", (1, 1), (255, 0, 0, 51))
    assert np.asarray(to_rgb(image.convert("RGBa")))[0, 0].tolist() == [255, 204, 204]


def test_cmyk_becomes_rgb_also_from_adobe_jpegs() -> None:
    """Adobe's files hold inverted values; inverting once too often gives a negative."""
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert row(encoded(image, "TIFF"))[0] == RED
    written = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in written
    assert row(written)[0] == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    """Phones store pictures as the sensor lies; the model must see them upright."""
    pixels = np.full((32, 64, 3), 255, np.uint8)
    pixels[:16, :32] = 0  # dark in the upper left quarter
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    decoded = decode(encoded(image, format, exif=exif))
    found = np.asarray(decoded)
    assert found.shape == pixels.shape
    # The pipeline decodes in one step and prepares in another: not turned again.
    np.testing.assert_array_equal(np.asarray(to_rgb(decoded)), found)
    np.testing.assert_allclose(found.astype(int)[4::8, 4::8], pixels[4::8, 4::8], atol=12)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_cost_the_picture() -> None:
    """The pixels are whole, and upright is the likeliest guess."""
    image = Image.new("RGB", (8, 8), "red")
    assert row(encoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))[0] == RED
    assert row(encoded(image, "PNG", exif=b"Exif\0\0nonsense"))[0] == RED


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_animations_show_their_first_frame(format: str) -> None:
    """One row is one picture."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_allclose(row(data)[0], RED, atol=1)  # MPO, of two-lens cameras, is JPEG


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read")
def test_cut_files_are_errors_not_half_pictures(format: str, share: float) -> None:
    """A grey lower half would be described as such."""
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    data = encoded(image, format)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * share)])
    codes = {"image_truncated", "image_unreadable"}
    if share >= 0.5 and format not in ("JPEG2000", "AVIF"):  # which give no reason
        codes = {"image_truncated"}
    assert caught.value.code in codes
    assert "0x" not in str(caught.value)  # no addresses: messages of equal rows are equal


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"", "image_truncated", "the image has 0 bytes"),
        (b"%PDF-1.7 and so on", "image_format", "18 bytes starting with b'%PDF-1.7 and'"),
        (b"<html></html>", "image_format", "accepted are JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF,"),
        (b"GIF89a\x00\x01", "image_unreadable", "the header is damaged or cut off"),
        (png(9000, 8000, 1, 0, b""), "image_too_large", "9000 x 8000 pixels.*64 megapixels"),
        (png(14000, 7000, 1, 0, b""), "image_too_large", "64 megapixels; scale it down"),
        (png(60000, 60000, 1, 0, b""), "image_too_large", "64 megapixels; scale it down"),
        (png(4, 4, 8, 2, b"short"), "image_unreadable|image_truncated", "decoding the image"),
    ],
)
def test_messages_say_what_was_found_and_what_is_accepted(
    data: bytes, code: str, message: str
) -> None:
    """They end up in the output table, where nobody has the file at hand."""
    with pytest.raises(ImageError, match=message) as caught:
        decode(data)
    assert caught.value.code in code.split("|")
    assert pickle.loads(pickle.dumps(caught.value)).code == caught.value.code


def test_formats_that_run_other_programs_are_not_opened() -> None:
    """Pillow hands EPS to Ghostscript."""
    with pytest.raises(ImageError) as caught:
        decode(encoded(Image.new("RGB", (8, 8)), "EPS"))
    assert caught.value.code == "image_format"


def test_pictures_of_callers_obey_the_limit() -> None:
    """Whoever opened them: the pixels are decompressed here."""
    huge = Image.new("1", (8001, 8000))
    with pytest.raises(ImageError, match="8001 x 8000") as caught:
        to_rgb(huge)
    assert caught.value.code == "image_too_large"


def test_running_out_of_memory_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says more about the machine than about the picture."""
    image = Image.new("RGB", (2, 2))

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(image, "load", fail)
    with pytest.raises(ImageError, match="not enough memory") as caught:
        to_rgb(image)
    assert caught.value.is_retryable


WHOLE: dict[str, Callable[[], bytes]] = {
    format: lambda format=format: encoded(  # type: ignore[misc]
        Image.effect_noise((24, 24), 60).convert("RGB"), format
    )
    for format in FORMATS
}


@settings(deadline=None, max_examples=25)
@given(hits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=9))
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_image_errors_alone(format: str, hits: list[tuple[int, int]]) -> None:
    """Anything else would stop a run of millions for one bad file."""
    data = bytearray(WHOLE[format]())
    for place, value in hits:
        data[place % len(data)] = value
    with contextlib.suppress(ImageError):
        assert decode(bytes(data)).mode == "RGB"
