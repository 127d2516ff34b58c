"""TIFFs as a viewer shows them: samples of every kind, and where their pages lie."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.processor import tiff
from dsvl_pipeline.processor.decode import decode, decode_frame
from dsvl_pipeline.processor.tiff import pages
from tests.processor import tiffs
from tests.processor.test_image import encoded

GREY = np.array([[0, 60, 128, 200, 255], [255, 3, 90, 17, 254]], np.uint8)
WIDE = GREY.astype(np.float64) / 255


def shown(data: bytes) -> NDArray[np.uint8]:
    """The grey that a file shows."""
    pixels = np.asarray(decode(data))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def scaled(kind: Any, least: float, most: float) -> NDArray[Any]:
    """The picture in samples from ``least`` to ``most``."""
    return np.rint(least + WIDE * (most - least)).astype(kind)


UNSIGNED_32 = scaled(np.float64, 0, 2**32 - 1).astype(np.uint32)
DEEP: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
    "16 bits": (scaled(np.uint16, 0, 65535), {}),
    "16 bits, white is zero": (scaled(np.uint16, 65535, 0), {"photometric": 0}),
    "8 bits, white is zero": (255 - GREY, {"photometric": 0}),
    "32 bits": (UNSIGNED_32, {}),
    "32 bits, white is zero": (~UNSIGNED_32, {"photometric": 0}),
    "32 bits, of which 8 are used": (GREY.astype(np.uint32), {}),
    "64 bits": (UNSIGNED_32.astype(np.uint64) << np.uint64(32), {}),
    "signed 8 bits": (scaled(np.int8, -128, 127), {"form": 2}),
    "signed 16 bits": (scaled(np.int16, -32768, 32767), {"form": 2}),
    "signed 16 bits, none negative": (scaled(np.int16, 0, 32767), {"form": 2}),
    "signed 16 bits, some of them": (scaled(np.int16, -1024, 3071), {"form": 2}),
    "signed 32 bits": (scaled(np.int32, -(2**31), 2**31 - 1), {"form": 2}),
    "floats": (WIDE.astype(np.float32), {"form": 3}),
    "floats, white is zero": (1 - WIDE.astype(np.float32), {"form": 3, "photometric": 0}),
    "half floats": (WIDE.astype(np.float16), {"form": 3}),
    "double floats": (WIDE * 1e6 - 7, {"form": 3}),
    "floats with a range": (WIDE.astype(np.float32) * 50, {"form": 3, "more": {341: 50.0}}),
    "12 bits in words, white is zero": (
        scaled(np.uint16, 4095, 0),
        {"bits": 12, "photometric": 0},
    ),
    "10 bits in words": (scaled(np.uint16, 0, 1023), {"bits": 10}),
    "14 bits in 16, as told": (scaled(np.uint16, 0, 16383), {"more": {341: [16383]}}),
    "12 bits in 16, as an older tag tells": (scaled(np.uint16, 0, 4095), {"more": {281: 4095}}),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("name", DEEP)
def test_deep_samples_show_the_picture(name: str, compression: int, order: str) -> None:
    """Pillow shows some of them as a negative, some as black, and refuses others."""
    pixels, how = DEEP[name]
    data = tiffs.file(tiffs.page(pixels, compression=compression, order=order, **how), order=order)
    np.testing.assert_allclose(shown(data), GREY, atol=1)


@pytest.mark.parametrize("bits", [3, 5, 6, 7, 10, 11, 12, 13, 14, 20, 24])
@pytest.mark.parametrize("photometric", [0, 1])
def test_samples_of_any_number_of_bits_are_unpacked(bits: int, photometric: int) -> None:
    """Scanners and cameras write what their sensors give, bit after bit."""
    most = 2**bits - 1
    numbers = scaled(np.uint32, 0, most)
    stored = most - numbers if photometric == 0 else numbers
    if bits == 24:  # three bytes in the order of the file, and as deep as floats
        body = stored.astype("<u4").view(np.uint8).reshape(2, 5, 4)[..., :3].tobytes()
        wanted = GREY
    else:
        body = tiffs.packed_bits(stored, bits)
        wanted = np.rint(numbers * (255 / most)).astype(np.uint8)
    for compression in (1, 8):
        made = tiffs.page(stored, bits=bits, body=body, photometric=photometric,
                          compression=compression)  # fmt: skip
        np.testing.assert_allclose(shown(tiffs.file(made)), wanted, atol=1)


BROAD = np.random.default_rng(2).integers(0, 256, (48, 40), np.uint8)


def compressed(body: bytes, compression: str) -> tuple[int, bytes]:
    """The tag and the strip that Pillow makes of bytes."""
    picture = Image.frombytes("L", (len(body), 1), body)
    with Image.open(io.BytesIO(encoded(picture, "TIFF", compression=compression))) as image:
        (at,), (size,) = image.tag_v2[tiffs.OFFSETS], image.tag_v2[tiffs.SIZES]
        assert image.fp is not None
        image.fp.seek(at)
        return image.tag_v2[tiffs.COMPRESSION], image.fp.read(size)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("bits", [6, 9, 10, 12, 14, 15, 20])
@pytest.mark.parametrize("stored", ["packed", "lower bits", "upper bits", "all bits"])
def test_samples_in_words_show_whichever_bits_hold_them(
    stored: str, bits: int, compression: str, order: str
) -> None:
    """Packed ones, as the standard has it, are shorter than words of which some bits are spare."""
    numbers = np.rint(BROAD.astype(np.float64) / 255 * (2**bits - 1)).astype(np.uint32)
    word = 8 if bits < 8 else 16 if bits < 16 else 32
    if stored == "packed":
        body = tiffs.packed_bits(numbers, bits)
    else:
        words = numbers if stored == "lower bits" else numbers << (word - bits)
        if stored == "all bits":  # as shifters fill up, so that white is all ones
            words |= numbers >> (2 * bits - word)
        body = words.astype(f"{order}u{word // 8}").tobytes()
    kind, body = compressed(body, compression)
    tags, body = tiffs.page(numbers, bits=bits, body=body)
    data = tiffs.file((tags | {tiffs.COMPRESSION: kind}, body), order=order)
    np.testing.assert_allclose(shown(data), np.rint(numbers * (255 / (2**bits - 1))), atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [6, 10, 12, 14, 20])
@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x5a"])
def test_packed_samples_in_a_strip_as_long_as_words_stay_packed(
    filler: bytes, bits: int, order: str
) -> None:
    """A padded strip has just that length: only the bits that words would leave spare tell."""
    numbers = np.rint(BROAD.astype(np.float64) / 255 * (2**bits - 1)).astype(np.uint32)
    packed = tiffs.packed_bits(numbers, bits)
    word = 1 if bits < 8 else 2 if bits < 16 else 4
    tags, body = tiffs.page(numbers, bits=bits, body=packed.ljust(numbers.size * word, filler))
    data = tiffs.file((tags, body), order=order)
    np.testing.assert_allclose(shown(data), np.rint(numbers * (255 / (2**bits - 1))), atol=1)


def test_few_samples_with_spare_bits_do_not_make_a_packed_page_one_of_words() -> None:
    """All words of a page are filled up the same way: zeros and repeated bits do not mix."""
    numbers = np.repeat([[0x00F, 0x0F0, 0x0F0, 0x0FF, 0xF00, 0x000, 0xFF0, 0xFFF]], 9, 0)
    packed = tiffs.packed_bits(numbers, 12)
    words = np.frombuffer(packed, "<u2")
    assert all(word & 15 in (0, word >> 12) for word in words.tolist())
    tags, body = tiffs.page(numbers, bits=12, body=packed.ljust(numbers.size * 2, b"\0"))
    wanted = np.rint(numbers * (255 / 4095))
    np.testing.assert_allclose(shown(tiffs.file((tags, body))), wanted, atol=1)


@pytest.mark.parametrize("stored", ["packed", "lower bits", "upper bits"])
def test_words_are_told_by_the_page_and_not_by_a_strip(stored: str) -> None:
    """A dark strip fits into any, and a last one that is filled up is as long as one of words."""
    numbers = np.rint(BROAD.astype(np.float64) / 255 * 4095).astype(np.uint16)
    numbers[:16] = 0
    words = numbers << 4 if stored == "upper bits" else numbers
    body = tiffs.packed_bits(numbers, 12) if stored == "packed" else words.tobytes()
    row_bytes = len(body) // 48
    tags, body = tiffs.page(numbers[:40], bits=12, body=body)  # rows of 16, 16 and 8: filled up
    tables = {tiffs.OFFSETS: [8 + n * 16 * row_bytes for n in range(3)],
              tiffs.SIZES: [16 * row_bytes] * 3, tiffs.ROWS: 16}  # fmt: skip
    data = tiffs.file((tags | tables, body))
    np.testing.assert_allclose(shown(data), np.rint(numbers[:40] * (255 / 4095)), atol=1)


@pytest.mark.parametrize("size", [None, 0, 4000])
def test_packed_samples_are_no_words_whatever_their_strip_is_said_to_hold(size: int | None) -> None:
    """What follows the strip would be shown as its lower half."""
    numbers = scaled(np.uint16, 0, 4095)
    packed = tiffs.packed_bits(numbers, 12)
    tags, body = tiffs.page(numbers, bits=12, body=packed)
    data = bytearray(tiffs.file((tags, body)) + b"\xff" * 4000)
    entry = data.index(struct.pack("<HHII", tiffs.SIZES, 4, 1, len(packed)))
    if size is None:  # a private tag instead, in its place among the others
        struct.pack_into("<H", data, entry, 280)
    else:
        struct.pack_into("<I", data, entry + 8, size)
    np.testing.assert_allclose(shown(bytes(data)), GREY, atol=1)


def test_a_strip_may_have_more_bytes_than_pillow_lets_a_picture_have_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Floats have four; the picture's own size is checked before."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDE.size)
    made = tiffs.page(WIDE.astype(np.float32), form=3, compression=8)
    np.testing.assert_array_equal(shown(tiffs.file(made)), GREY)


def test_a_tile_beyond_all_measure_is_refused_before_it_is_unpacked() -> None:
    """A picture of a few pixels may claim one of gigabytes."""
    tags, body = tiffs.page(WIDE, form=3, compression=8)
    tags |= {322: 4096, 323: 1 << 20, 324: 8, 325: len(body)}
    with pytest.raises(ImageError, match="tiles of 4096 x 1048576"):
        decode(tiffs.file((tags, body)))


def test_differences_of_samples_are_summed() -> None:
    """Predictors 2 and 3 store what changes from pixel to pixel."""
    words = scaled(np.uint16, 65535, 0)
    steps = np.diff(words, axis=1, prepend=np.uint16(0))
    made = tiffs.page(steps, photometric=0, compression=8, more={tiffs.PREDICTOR: 2})
    np.testing.assert_array_equal(shown(tiffs.file(made)), GREY)
    planes = (WIDE.astype(">f8")[..., None]).view(np.uint8).reshape(2, 5, 8).transpose(0, 2, 1)
    bytes_of_row = planes.reshape(2, 40)
    steps_of_bytes = np.diff(bytes_of_row, axis=1, prepend=np.uint8(0))
    body = steps_of_bytes.astype(np.uint8).tobytes()
    made = tiffs.page(WIDE, form=3, compression=8, body=body, more={tiffs.PREDICTOR: 3})
    np.testing.assert_array_equal(shown(tiffs.file(made)), GREY)


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", ["u2", "u4", "f4", "i2"])
def test_deep_colours_keep_their_hue(kind: str, planar: int) -> None:
    """All channels share one range."""
    colour = np.stack([GREY, 255 - GREY, GREY // 2], 2)
    least, most, form = {
        "u2": (0, 2**16 - 1, 1),
        "u4": (0, 2**32 - 1, 1),
        "f4": (0, 1, 3),
        "i2": (-(2**15), 2**15 - 1, 2),
    }[kind]
    wide = least + colour / 255 * (most - least)
    pixels = (wide if kind == "f4" else np.rint(wide)).astype(kind)
    body = None
    more: dict[int, tiffs.Values] = {tiffs.PLANAR: planar}
    if planar == 2:  # a strip for each channel: one after the other here
        body = np.moveaxis(pixels, 2, 0).tobytes()
    tags, body = tiffs.page(pixels, photometric=2, form=form, body=body, more=more)
    data = tiffs.file((tags, body))
    if planar == 2:
        data = _three_strips(data, len(body) // 3)
    np.testing.assert_allclose(np.asarray(decode(data)), colour, atol=1)


def _three_strips(data: bytes, size: int) -> bytes:
    """Let the one strip of a file, which begins at 8, be three."""
    place = len(data)
    tables = struct.pack("<3I", 8, 8 + size, 8 + 2 * size) + struct.pack("<3I", size, size, size)
    found = bytearray(data + tables)
    for tag, at in ((tiffs.OFFSETS, place), (tiffs.SIZES, place + 12)):
        entry = data.index(struct.pack("<HHI", tag, 4, 1), 8 + 3 * size)
        struct.pack_into("<HHII", found, entry, tag, 4, 3, at)
    return bytes(found)


def test_alpha_of_deep_pictures_is_composited_on_white() -> None:
    """Premultiplied or not, as ExtraSamples says."""
    red = np.zeros((1, 3, 4), np.float32)
    red[..., 0], red[0, :, 3] = 1, (0, 0.2, 1)
    wanted = [[255, 255, 255], [255, 204, 204], [255, 0, 0]]
    made = tiffs.page(red, photometric=2, form=3, more={tiffs.EXTRAS: 2})
    assert np.asarray(decode(tiffs.file(made)))[0].tolist() == wanted
    red[..., 0] *= red[..., 3]
    made = tiffs.page(red, photometric=2, form=3, more={tiffs.EXTRAS: 1})
    assert np.asarray(decode(tiffs.file(made)))[0].tolist() == wanted


def test_palettes_of_16_bits_and_of_8_show_their_colours() -> None:
    """Entries have 16 bits; some programs write 8, which taken for 16 are black."""
    indices = np.array([[0, 1, 2]], np.uint8)
    by_channel = [255, 0, 0, 0, 0, 255, 0, 0, 10, 20, 250, 7]
    for factor in (1, 257):
        table = [factor * n for n in by_channel]
        made = tiffs.page(
            indices, photometric=3, bits=2, body=tiffs.packed_bits(indices, 2),
            more={tiffs.COLOURS: table},
        )  # fmt: skip
        found = np.asarray(decode(tiffs.file(made)))[0].tolist()
        assert found == [[255, 0, 10], [0, 255, 20], [0, 0, 250]]
    large = [0] * (3 << 16)
    large[40000] = large[65536 + 7] = 65535
    deep = np.array([[40000, 7]], np.uint16)
    found = decode(tiffs.file(tiffs.page(deep, photometric=3, more={tiffs.COLOURS: large})))
    assert np.asarray(found)[0].tolist() == [[255, 0, 0], [0, 255, 0]]


def test_lab_becomes_rgb() -> None:
    """CIE L*a*b* holds a and b signed."""
    lab = np.array([[[255, 0, 0], [0, 0, 0], [136, 81, 70]]], np.uint8)  # white, black, red
    white, black, red = np.asarray(decode(tiffs.file(tiffs.page(lab, photometric=8))))[0].astype(
        int
    )
    assert white.min() >= 253
    assert black.max() <= 2
    assert red[0] > 230
    assert red[1:].max() < 60
    deep = lab.astype(np.uint16) << 8
    found = np.asarray(decode(tiffs.file(tiffs.page(deep, photometric=8))))[0].astype(int)
    np.testing.assert_allclose(found, [white, black, red], atol=3)


@pytest.mark.parametrize(
    ("how", "bits"),
    [
        ({"photometric": 32803}, 16),  # a sensor's raw data
        ({"photometric": 34892}, 16),
        ({"form": 5}, 16),  # complex integers
        ({"form": 3}, 24),
        ({"form": 2}, 12),
    ],
)
def test_samples_that_nobody_knows_are_an_error_and_no_picture(
    how: dict[str, Any], bits: int
) -> None:
    """A wrong picture would be described as if it were right."""
    body = bytes(100)
    made = tiffs.page(np.zeros((2, 5), np.uint16), bits=bits, body=body, **how)
    with pytest.raises(ImageError, match=r"photometric interpretation|unknown") as caught:
        decode(tiffs.file(made))
    assert caught.value.code == "image_samples"


@pytest.mark.parametrize(
    ("mode", "compression", "is_negative"),
    [("L", "jpeg", False), ("RGB", "jpeg", False), ("1", "group4", True), ("1", "group3", True)],
)
def test_what_pillow_unpacks_is_no_negative_where_nothing_says_what_it_means(
    mode: str, compression: str, is_negative: bool
) -> None:
    """As libtiff has it: black is zero, but for faxes, whose codes make white zero."""
    steps = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 16, axis=0)
    picture = Image.fromarray(steps).convert(mode)
    body = io.BytesIO()
    picture.save(body, "TIFF", compression=compression, **({} if mode == "1" else {"quality": 100}))
    data = bytearray(body.getvalue())
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    stored_zero_is_black = data[entry + 8] != 0
    struct.pack_into("<H", data, entry, 263)
    wanted = np.asarray(picture.convert("RGB")).astype(int)
    if is_negative and stored_zero_is_black:
        wanted = 255 - wanted
    assert np.abs(np.asarray(decode(bytes(data))).astype(int) - wanted).max() <= 3


def test_jpeg_of_samples_that_nobody_knows_is_named_by_its_samples() -> None:
    """Not by its compression, which is read."""
    made = tiffs.page(np.zeros((2, 5, 2), np.uint8), photometric=2, body=b"", compression=7)
    with pytest.raises(ImageError, match="photometric interpretation 2, 2 samples of 8 bits"):
        decode(tiffs.file(made))


@pytest.mark.parametrize("compression", [1, 8])
def test_a_cut_strip_of_deep_samples_is_an_error(compression: int) -> None:
    """Half a picture would be described as a whole one."""
    tags, body = tiffs.page(
        np.random.default_rng(1).integers(0, 60000, (64, 64)).astype(np.uint16),
        photometric=0,
        compression=compression,
    )
    with pytest.raises(ImageError) as caught:
        decode(tiffs.file((tags, body[: len(body) // 2])))
    assert caught.value.code in ("image_truncated", "image_unreadable")


def test_the_limit_of_pixels_holds_for_deep_samples() -> None:
    """It is checked before anything is unpacked."""
    tags, body = tiffs.page(np.zeros((1, 1), np.uint16), photometric=0)
    with pytest.raises(ImageError, match="60000 x 60000") as caught:
        decode(tiffs.file((tags | {tiffs.WIDTH: 60000, tiffs.HEIGHT: 60000}, body)))
    assert caught.value.code == "image_too_large"


def fax(width: int, height: int, **more: Any) -> bytes:
    """A page of one bit with densities."""
    image = Image.new("1", (width, height), 1)
    return encoded(image, "TIFF", compression="group4", **more)


@pytest.mark.parametrize(
    ("dpi", "size"),
    [
        ((204, 98), (320, 125)),
        ((98, 204), (666, 60)),
        ((200, 100), (320, 120)),
        ((204, 196), (320, 60)),  # nearly square already
        ((300, 300), (320, 60)),
        ((300, 72), (320, 250)),
        ((3000, 1), (320, 60)),  # nothing has such pixels
        ((0, 0), (320, 60)),
    ],
)
def test_unequal_densities_of_a_tiff_are_squared(
    dpi: tuple[int, int], size: tuple[int, int]
) -> None:
    """A fax in coarse mode is twice as high on paper as in pixels."""
    assert decode(fax(320, 60, dpi=dpi)).size == size


def test_a_turned_fax_is_squared_along_its_own_rows() -> None:
    """Densities are of the rows as they are stored."""
    image = Image.new("1", (320, 60), 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "TIFF", dpi=(204, 98), exif=exif)
    assert decode(data).size == (125, 320)


def test_densities_elsewhere_are_believed_of_one_bit_alone() -> None:
    """Cameras and programs write anything into JPEG and PNG, and viewers pay no heed to it."""
    grey, fax_page = Image.new("L", (320, 60)), Image.new("1", (320, 60))
    assert decode(encoded(grey, "JPEG", dpi=(204, 98))).size == (320, 60)
    assert decode(encoded(grey, "PNG", dpi=(204, 98))).size == (320, 60)
    assert decode(encoded(fax_page, "PNG", dpi=(204, 98))).size == (320, 125)


# ------------------------------------------------------------------------------------------ pages


def five() -> list[tuple[dict[int, tiffs.Values], bytes]]:
    """Five pages, each of another grey."""
    return [tiffs.page(np.full((4, 6), 40 * n + 10, np.uint8)) for n in range(5)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_each_page_is_found_and_shows_itself(order: str, is_big: bool) -> None:
    """Also in BigTIFF."""
    data = tiffs.file(*five(), order=order, is_big=is_big)
    assert len(pages(data, most=100)) == 5
    for number in range(5):
        frame = decode_frame(data, number)
        assert np.asarray(frame.image)[0, 0, 0] == 40 * number + 10


def test_pages_may_differ_in_size_and_kind() -> None:
    """A scan of a letter and its colour cover."""
    data = tiffs.file(
        tiffs.page(np.zeros((4, 6), np.uint8)),
        tiffs.page(np.full((9, 2, 3), 255, np.uint8), photometric=2),
        tiffs.page(scaled(np.uint16, 65535, 0), photometric=0),
    )
    sizes = [decode_frame(data, number).image.size for number in range(3)]
    assert sizes == [(6, 4), (2, 9), (5, 2)]


def test_smaller_copies_and_masks_are_no_pages() -> None:
    """Previews and pyramids would be read once more, or instead."""
    (full, body), (copy, small), *_ = five()
    data = tiffs.file((copy | {254: 1}, small), (full, body), (copy | {254: 4}, small))
    frame = decode_frame(data)
    assert (np.asarray(frame.image)[0, 0, 0], frame.num_frames) == (10, 1)
    older = tiffs.file((full, body), (copy | {255: 2}, small), (copy | {254: 2}, small))
    assert len(pages(older, most=9)) == 2
    assert decode_frame(tiffs.file((full | {254: 1}, body))).num_frames == 1


@pytest.mark.parametrize(
    "kinds", [[1] * 25 + [0, 0], [0, *[1] * 10, 4, *[5] * 10, 0], [0, *[1] * 50, 0]]
)
def test_a_page_is_the_same_one_however_many_are_looked_for(kinds: list[int]) -> None:
    """A pyramid with its masks puts twenty copies between two pages."""
    (full, body), (other, other_body), (copy, small), *_ = five()
    bodies = iter([(full, body), (other, other_body)])
    data = tiffs.file(*((copy | {254: kind}, small) if kind else next(bodies) for kind in kinds))
    assert len(pages(data, most=100)) == 2
    assert [np.asarray(decode_frame(data, n).image)[0, 0, 0] for n in (0, 1)] == [10, 50]


def test_what_lies_behind_too_many_directories_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pages must not be missing in silence."""
    monkeypatch.setattr(tiff, "_MOST_DIRECTORIES", 3)
    data = tiffs.file(*five())
    assert [len(pages(data, most=most)) for most in (2, 3, 4, 100)] == [2, 3, 4, 4]
    with pytest.raises(ImageError):
        decode_frame(data, 3)


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "group4"])
def test_a_page_is_opened_as_the_first_of_its_file(compression: str) -> None:
    """Whoever reads all of it, or parts: but a file of one page is not copied for that."""
    frames = [Image.new("1", (64, 8), n % 2) for n in range(3)]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:],
                   compression=compression)  # fmt: skip
    found = tiff.Pages(data, most=9)
    others = pages(data, most=9)[1:]
    assert found.open(0).getvalue() is data
    for number, at in enumerate(others, 1):
        file = found.open(number)
        assert file.read(3) + file.read() == file.getvalue()
        assert file.getvalue() == data[:4] + struct.pack("<I", at) + data[8:]
        assert file.getvalue() is found.open(1).getvalue()  # one copy, not one for each
    levels = [np.asarray(decode_frame(data, n).image).mean() for n in range(3)]
    assert levels == [0, 255, 0]


def test_a_damaged_first_directory_leaves_the_pages_behind_it() -> None:
    """Compressed ones, which libtiff reads, too."""
    frames = [Image.new("1", (64, 8), n % 2) for n in range(2)]
    data = bytearray(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:],
                             compression="group4"))  # fmt: skip
    (at,) = struct.unpack_from("<I", data, 4)
    entry = data.index(struct.pack("<HHI", tiffs.WIDTH, 3, 1), at)
    struct.pack_into("<I", data, entry + 8, 0)
    assert np.asarray(decode_frame(bytes(data), 1).image).mean() == 255


def test_a_chain_in_a_circle_ends() -> None:
    """Each page is found once."""
    data = bytearray(tiffs.file(*five()))
    (first,) = struct.unpack_from("<I", data, 4)
    data[-4:] = struct.pack("<I", first)
    assert len(pages(bytes(data), most=100)) == 5


def test_a_chain_that_leads_nowhere_has_one_more_page_that_is_damaged() -> None:
    """How many are lost nobody knows, but that some are must not be silent."""
    data = tiffs.file(*five())
    broken = data[:-4] + struct.pack("<I", 2**31)
    assert len(pages(broken, most=100)) == 6
    with pytest.raises(ImageError):
        decode_frame(broken, 5)
    assert decode_frame(broken, 4).image.size == (6, 4)


def test_only_so_many_pages_are_looked_for() -> None:
    """A file of 64 MiB can hold millions of directories."""
    empty = struct.pack("<HHHIIHHIIHHIII", 3, 256, 3, 1, 1, 257, 3, 1, 1, 262, 3, 1, 1, 0)
    chain = b"II*\0\x08\0\0\0"
    for _ in range(10_000):
        after = len(chain) + len(empty)
        chain += empty[:-4] + struct.pack("<I", after)
    assert len(pages(chain, most=5001)) == 5001


def test_one_damaged_page_leaves_the_others() -> None:
    """Its strip lies outside of the file."""
    made = five()
    made[2] = (made[2][0] | {tiffs.HEIGHT: 4000, tiffs.ROWS: 4000}, made[2][1])
    data = tiffs.file(*made)
    with pytest.raises(ImageError):
        decode_frame(data, 2)
    for number in (0, 1, 3, 4):
        assert np.asarray(decode_frame(data, number).image)[0, 0, 0] == 40 * number + 10


@pytest.mark.parametrize(
    ("format", "count", "holds"),
    [("GIF", 3, "frames"), ("WEBP", 3, "frames"), ("PNG", 3, "frames"), ("AVIF", 3, "frames"),
     ("TIFF", 3, "pages"), ("MPO", 3, "views"), ("JPEG", 1, "frames")],
)  # fmt: skip
def test_how_many_pictures_a_file_holds_is_counted(format: str, count: int, holds: str) -> None:
    """One of them is shown; the others must not go without a word."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    more = {"append_images": frames[1:]} if format != "JPEG" else {}
    data = encoded(frames[0], format, save_all=format != "JPEG", **more)
    frame = decode_frame(data)
    assert (frame.num_frames, frame.holds) == (count, holds)


def test_a_cmyk_jpeg_without_adobes_marker_is_not_inverted() -> None:
    """Only Adobe's values are, and a white page would be black."""
    image = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    inverted = Image.new("CMYK", (16, 16), (255, 255, 255, 255))
    assert np.asarray(decode(encoded(image, "JPEG"))).min() > 250
    data = encoded(inverted, "JPEG")  # Pillow writes inverted values, and the marker
    at = data.index(b"\xff\xee")
    plain = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    assert b"Adobe" not in plain
    assert np.asarray(decode(plain)).min() > 250
