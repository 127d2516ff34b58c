"""Kinds of picture files that cameras, scanners and microscopes write, as a viewer shows them."""

import base64
import struct
import zlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.processor.decode import decode, decode_frame
from tests.processor import tiffs
from tests.processor.test_image import chunk, encoded, png

HEIGHT, WIDTH = 32, 48
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH]
GREY = (ACROSS * 5).astype(np.uint8)
COLOUR = np.stack([ACROSS * 5, DOWN * 7, 255 - ACROSS * 5], 2).astype(np.uint8)
INKS = np.stack([ACROSS * 5, DOWN * 7, 255 - ACROSS * 5, ACROSS + DOWN], 2).astype(np.uint8)
ALPHA = (DOWN * 8).astype(np.uint8)
# Twelve bits: 0 to 4095 in steps of 273, eight rows of sixteen.
JPEG_OF_12_BITS = zlib.decompress(
    base64.b85decode(
        b"c-s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!5PS-4E#UHz|F(J!63lMD9G^t2!kltd}P4K4-}RVU|?cK73cNpIQIV"
        b"*0|!XGJ%jbOO-^=K`wapG#5~+@ZG6W6|0V!Pq8bb"
    )
)


def rgb_of_inks(inks: NDArray[Any]) -> NDArray[Any]:
    """What inks leave of white paper."""
    shares = 1 - inks.astype(np.float64) / 255
    return np.rint(255 * shares[..., :3] * shares[..., 3:])


def on_white(colours: NDArray[Any]) -> NDArray[Any]:
    """Colours behind `ALPHA`."""
    alpha = ALPHA / 255
    alpha = alpha if colours.ndim == 2 else alpha[..., None]
    return np.rint(255 * (1 - alpha) + colours * alpha)


def assert_shows(data: bytes, wanted: NDArray[Any], *, atol: float = 2, page: int = 0) -> None:
    """Compare what a page shows with grey or colours."""
    found = np.asarray(decode_frame(data, page).image).astype(int)
    wanted = wanted if wanted.ndim == 3 else wanted[..., None].repeat(3, 2)
    np.testing.assert_allclose(found, wanted, atol=atol)


def tiff_of(
    pixels: NDArray[Any], how: str, *, photometric: int, form: int = 1, extra: int | None = None
) -> bytes:
    """A TIFF in strips of ten rows or tiles of 16 by 16, as the words of ``how`` say."""
    words = how.split()
    order, is_big = ("<" if "little" in words else ">"), "big" in words
    planes = [pixels]
    if "planes" in words and pixels.ndim == 3:
        planes = [pixels[..., n] for n in range(pixels.shape[2])]
    size = (16, 16) if "tiles" in words else (10, WIDTH)
    body, offsets, sizes = b"", [], []
    for plane in planes:
        for top, left in product(range(0, HEIGHT, size[0]), range(0, WIDTH, size[1])):
            part = _packed(plane[top : top + size[0], left : left + size[1]], words, order)
            offsets.append((16 if is_big else 8) + len(body))
            sizes.append(len(part))
            body += part
    more: dict[int, tiffs.Values] = {tiffs.PLANAR: 2 if "planes" in words else 1}
    if "differences" in words:
        more[tiffs.PREDICTOR] = 3 if form == 3 else 2
    if extra is not None:
        more[tiffs.EXTRAS] = extra
    tags, _ = tiffs.page(pixels, photometric=photometric, form=form, more=more)
    tags[tiffs.COMPRESSION] = 5 if "lzw" in words else 8 if "deflate" in words else 1
    if "tiles" in words:
        tags |= {322: size[1], 323: size[0], 324: offsets, 325: sizes}
    else:
        tags |= {tiffs.ROWS: size[0], tiffs.OFFSETS: offsets, tiffs.SIZES: sizes}
    return tiffs.file((tags, body), order=order, is_big=is_big)


def _packed(part: NDArray[Any], words: list[str], order: str) -> bytes:
    size = part.dtype.itemsize
    if "differences" in words and part.dtype.kind == "f":
        stride = part.shape[2] if part.ndim == 3 else 1
        rows = len(part)
        by_byte = np.ascontiguousarray(part.reshape(rows, -1).astype(f">f{size}")).view(np.uint8)
        by_byte = by_byte.reshape(rows, -1, size).transpose(0, 2, 1).reshape(rows, -1, stride)
        steps = np.diff(by_byte, axis=1, prepend=np.zeros((rows, 1, stride), np.uint8))
        body = steps.astype(np.uint8).tobytes()
    else:
        numbers = part.view(f"u{size}")
        if "differences" in words:
            numbers = np.diff(numbers, axis=1, prepend=np.zeros_like(numbers[:, :1]))
        body = numbers.astype(f"{order}u{size}").tobytes()
    if "deflate" in words:
        return zlib.compress(body)
    return _lzw(body) if "lzw" in words else body


def _lzw(body: bytes) -> bytes:
    """Pack as TIFF 6.0, section 13, has it, without ever using a string: still a valid stream."""
    codes = [256]
    for at, value in enumerate(body):
        if at and at % 250 == 0:  # before codes need ten bits
            codes.append(256)
        codes.append(value)
    return tiffs.packed_bits(np.array([[*codes, 257]]), 9)


ALIKE: dict[str, tuple[NDArray[Any], dict[str, Any], NDArray[Any]]] = {
    "grey of 8": (GREY, {"photometric": 1}, GREY),
    "white is zero of 8": (255 - GREY, {"photometric": 0}, GREY),
    "grey of 16": (GREY.astype(np.uint16) * 257, {"photometric": 1}, GREY),
    "white is zero of 16": (65535 - GREY.astype(np.uint16) * 257, {"photometric": 0}, GREY),
    "signed of 16": (
        (GREY.astype(np.int32) * 257 - 32768).astype(np.int16),
        {"photometric": 1, "form": 2},
        GREY,
    ),
    "floats": ((GREY / 255).astype(np.float32), {"photometric": 1, "form": 3}, GREY),
    "colours of 8": (COLOUR, {"photometric": 2}, COLOUR),
    "colours of 16": (COLOUR.astype(np.uint16) * 257, {"photometric": 2}, COLOUR),
    "colours in floats": ((COLOUR / 255).astype(np.float32), {"photometric": 2, "form": 3}, COLOUR),
    "inks of 8": (INKS, {"photometric": 5}, rgb_of_inks(INKS)),
    "inks of 16": (INKS.astype(np.uint16) * 257, {"photometric": 5}, rgb_of_inks(INKS)),
}
for bits, kind in ((8, np.uint8), (16, np.uint16)):
    for premultiplied in (True, False):
        for name, colours, photometric in (("grey", GREY, 1), ("colours", COLOUR, 2)):
            alpha = ALPHA if colours.ndim == 2 else ALPHA[..., None]
            stored = np.rint(colours * (alpha / 255)) if premultiplied else colours
            ALIKE[f"{name} of {bits} with {'pre' if premultiplied else 'un'}multiplied alpha"] = (
                np.dstack([stored, ALPHA]).astype(kind) * kind(1 if bits == 8 else 257),
                {"photometric": photometric, "extra": 1 if premultiplied else 2},
                on_white(colours),
            )


@pytest.mark.parametrize(
    "how",
    [
        "little strips", "big-endian tiles", "little planes strips", "big-endian planes tiles",
        "little lzw strips differences", "big-endian lzw tiles", "little deflate tiles differences",
        "big-endian deflate strips differences planes", "little lzw planes tiles differences",
        "big little deflate strips", "big big-endian strips planes",
        "big big-endian lzw tiles differences",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ALIKE)
def test_a_tiff_shows_the_same_however_it_is_stored(name: str, how: str) -> None:
    """Pillow shows a negative of some that lie by planes, and alpha of others as a second row."""
    pixels, kind, wanted = ALIKE[name]
    assert_shows(tiff_of(pixels, how, **kind), wanted)


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_show_the_picture(
    bits: int, photometric: int, compression: int, planar: int
) -> None:
    """A single plane may be called one."""
    most = 2**bits - 1
    numbers = np.rint(GREY / 255 * most).astype(np.uint8)
    stored = most - numbers if photometric == 0 else numbers
    body = tiffs.packed_bits(stored, bits)
    made = tiffs.page(stored, bits=bits, photometric=photometric, compression=compression,
                      body=body, more={tiffs.PLANAR: planar})  # fmt: skip
    assert_shows(tiffs.file(made), numbers * (255 / most))


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_palette_of_16_entries_shows_its_colours(bits: int, compression: int) -> None:
    """Also where the samples could tell more of them apart."""
    indices = (ACROSS % 16).astype(np.uint8)
    palette = np.random.default_rng(1).integers(0, 256, (3, 16))
    entries = np.pad(palette, ((0, 0), (0, 2**bits - 16))) * 257
    made = tiffs.page(indices, bits=bits, photometric=3, compression=compression,
                      body=tiffs.packed_bits(indices, bits),
                      more={tiffs.COLOURS: entries.ravel().tolist()})  # fmt: skip
    assert_shows(tiffs.file(made), np.moveaxis(palette[:, indices], 0, 2), atol=0)


def ycbcr_units(across: int, down: int) -> bytes:
    """Luma of each unit of pixels, then its colour: TIFF 6.0, section 21."""
    samples = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    blocks = samples.reshape(HEIGHT // down, down, WIDTH // across, across, 3)
    luma = blocks[..., 0].transpose(0, 2, 1, 3).reshape(HEIGHT // down, WIDTH // across, -1)
    shared = np.rint(blocks[..., 1:].mean(axis=(1, 3))).astype(np.uint8)
    return np.concatenate([luma, shared], 2).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("unit", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), None])
def test_ycbcr_shows_its_colours(
    unit: tuple[int, int] | None, compression: int, order: str
) -> None:
    """Whose pixels share their colours; by the standard two by two, where nothing is said."""
    tags, body = tiffs.page(COLOUR, photometric=6, compression=compression, order=order,
                            body=ycbcr_units(*unit or (2, 2)))  # fmt: skip
    if unit:
        tags[530] = unit
    assert_shows(tiffs.file((tags, body), order=order), COLOUR, atol=16)


def test_ycbcr_of_video_has_its_own_black_and_white() -> None:
    """From 16 to 235, as the file says."""
    more: dict[int, tiffs.Values] = {530: [2, 1], 532: [16.0, 235.0, 128.0, 240.0, 128.0, 240.0]}
    body = bytes([16, 235, 128, 128] * 2)
    made = tiffs.page(np.zeros((1, 4, 3), np.uint8), photometric=6, body=body, more=more)
    assert np.asarray(decode(tiffs.file(made)))[0, :, 0].tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("photometric", [0, 1])
def test_jpeg_in_a_tiff_shows_white_where_it_says(photometric: int) -> None:
    """The JPEG itself knows nothing of it."""
    data = bytearray(encoded(Image.fromarray(GREY), "TIFF", compression="jpeg", quality=95))
    entry = data.index(struct.pack("<HHI", tiffs.PHOTOMETRIC, 3, 1))
    struct.pack_into("<H", data, entry + 8, photometric)
    assert_shows(bytes(data), 255 - GREY if photometric == 0 else GREY, atol=6)


def test_jpeg_of_12_bits_in_a_tiff_is_not_dark() -> None:
    """Pillow gives 4095 for white, in words of 16 bits."""
    numbers = np.arange(16)[None].repeat(8, 0) * 273
    tags, body = tiffs.page(numbers.astype(np.uint16), bits=12, body=JPEG_OF_12_BITS)
    assert_shows(tiffs.file((tags | {tiffs.COMPRESSION: 7}, body)), numbers * (255 / 4095))


@pytest.mark.parametrize("compression", [34712, 34887, 34933, 34934, 50001, 50002, 12345])
def test_a_tiff_that_nobody_unpacks_says_so(compression: int) -> None:
    """It is whole: to fetch it again helps nobody."""
    tags, body = tiffs.page(GREY)
    with pytest.raises(ImageError, match=f"compression {compression} is not read") as caught:
        decode(tiffs.file((tags | {tiffs.COMPRESSION: compression}, body)))
    assert caught.value.code == "image_samples"


@pytest.mark.parametrize("pixels", [GREY, COLOUR])
def test_without_photometric_interpretation_black_is_zero(pixels: NDArray[Any]) -> None:
    """As libtiff has it; Pillow shows a negative."""
    tags, body = tiffs.page(pixels)
    del tags[tiffs.PHOTOMETRIC]
    assert_shows(tiffs.file((tags, body)), pixels, atol=0)


def test_differences_are_of_those_who_know_of_them() -> None:
    """Some programs leave the tag where they have undone compression; libtiff pays no heed."""
    made = tiffs.page(GREY.astype(np.uint16) * 257, more={tiffs.PREDICTOR: 2})
    assert_shows(tiffs.file(made), GREY)


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """What an orientation makes of stored pixels."""
    transposed = np.swapaxes(pixels, 0, 1)
    return [
        pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1],
        transposed, transposed[:, ::-1], transposed[::-1, ::-1], transposed[::-1],
    ][orientation - 1]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_page_of_a_tiff_is_turned_by_its_own_orientation(orientation: int) -> None:
    """Scanners turn pages one by one; the deep ones are read by other code."""
    more = {274: orientation}
    data = tiffs.file(
        tiffs.page(GREY),
        tiffs.page(COLOUR, photometric=2, more=more),
        tiffs.page(GREY.astype(np.uint16) * 257, compression=8, more=more),
        tiffs.page(GREY, compression=8, more=more),
    )
    assert_shows(data, GREY)
    assert_shows(data, turned(COLOUR, orientation), page=1)
    assert_shows(data, turned(GREY, orientation), page=2)
    assert_shows(data, turned(GREY, orientation), page=3)


@pytest.mark.parametrize("is_boxed", [True, False])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_jpeg2000_of_any_depth_reaches_white(bits: int, is_boxed: bool) -> None:
    """Cinema has 12 bits."""
    numbers = np.rint(GREY / 255 * (2**bits - 1)).astype(np.int64)
    # Pillow writes 16. Samples are stored less the half of their range, and the header says what
    # that is: so the same stream is one of fewer bits.
    stored = (numbers - 2 ** (bits - 1) + 2**15).astype(np.uint16)
    data = bytearray(
        encoded(Image.fromarray(stored), "JPEG2000", irreversible=False, no_jp2=not is_boxed)
    )
    depth = data.index(b"\xff\x4f\xff\x51") + 42
    assert data[depth] == 15
    data[depth] = bits - 1
    if is_boxed:
        data[data.index(b"ihdr") + 14] = bits - 1
    assert_shows(bytes(data), numbers * (255 / (2**bits - 1)))


def cmyk_jpeg(stored: NDArray[Any]) -> tuple[bytes, int]:
    """A JPEG of four samples as they are given, and where Adobe's marker begins."""
    inverted = Image.frombytes("CMYK", (WIDTH, HEIGHT), (255 - stored).astype(np.uint8).tobytes())
    data = encoded(inverted, "JPEG", quality=98, subsampling=0)
    return data, data.index(b"Adobe") - 4


def test_a_cmyk_jpeg_shows_its_colours_with_adobes_marker_and_without() -> None:
    """Adobe stores how little ink there is, others how much."""
    data, _ = cmyk_jpeg(255 - INKS)
    assert_shows(data, rgb_of_inks(INKS), atol=14)
    data, at = cmyk_jpeg(INKS)
    plain = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    assert b"Adobe" not in plain
    assert_shows(plain, rgb_of_inks(INKS), atol=14)


def test_a_ycck_jpeg_shows_its_colours() -> None:
    """Photoshop's: luma and colours of the inverted inks, and black beside them."""
    luma = np.asarray(Image.fromarray(np.ascontiguousarray(INKS[..., :3])).convert("YCbCr"))
    data, at = cmyk_jpeg(np.dstack([luma, 255 - INKS[..., 3]]))
    ycck = bytearray(data)
    ycck[at + 15] = 2  # the transformation that Adobe's marker names
    assert_shows(bytes(ycck), rgb_of_inks(INKS), atol=16)


def test_a_transparent_grey_of_16_bits_is_that_one_alone() -> None:
    """Its neighbours have the same upper byte."""
    numbers = GREY.astype(np.uint16) * 257
    numbers[:, 1], numbers[:, 2] = 10000, 10001
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers)
    wanted = np.rint(numbers / 257)
    wanted[:, 1] = 255
    marked = png(WIDTH, HEIGHT, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 10000)))
    assert_shows(marked, wanted, atol=1)


@pytest.mark.parametrize(("kind", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_pngs_of_16_bits_show_colours_and_alpha(kind: int, samples: int) -> None:
    """Not only grey comes in 16 bits."""
    colours = COLOUR if samples > 2 else GREY
    stored = np.dstack([colours, ALPHA])[..., :samples].astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in stored)
    assert_shows(png(WIDTH, HEIGHT, 16, kind, rows), COLOUR if kind == 2 else on_white(colours))


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_what_a_first_frame_leaves_bare_is_white(format: str) -> None:
    """Viewers show nothing there, whatever the first colour of the palette is."""
    frames = [Image.new("RGB", (16, 10), colour) for colour in ("red", "blue")]
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    data = bytearray(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options))
    if format == "GIF":
        struct.pack_into("<HH", data, 6, 24, 20)
        frame = data.index(b"\x2c\0\0\0\0")
        struct.pack_into("<HH", data, frame + 1, 4, 6)
    else:
        struct.pack_into("<HxHx", data, data.index(b"VP8X") + 12, 23, 19)
        struct.pack_into("<HxHx", data, data.index(b"ANMF") + 8, 2, 3)  # in pairs of pixels
    wanted = np.full((20, 24, 3), 255)
    wanted[6:16, 4:20] = 255, 0, 0
    assert_shows(bytes(data), wanted)
    assert decode_frame(bytes(data)).num_frames == 2


def partial_webp(**options: Any) -> bytes:
    """An animation of 24 by 20 whose first frame, red, is 16 by 10 at (4, 6)."""
    frames = [Image.new("RGB", (16, 10), colour) for colour in ("red", "blue")]
    saved = encoded(
        frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, **options
    )
    data = bytearray(saved)
    struct.pack_into("<HxHx", data, data.index(b"VP8X") + 12, 23, 19)
    struct.pack_into("<HxHx", data, data.index(b"ANMF\x28") + 8, 2, 3)
    return bytes(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_first_frame_keeps_all_of_its_pixels(orientation: int) -> None:
    """What it covers is told of the picture as it is stored."""
    exif = Image.Exif()
    exif[274] = orientation
    wanted = np.full((20, 24, 3), 255)
    wanted[6:16, 4:20] = 255, 0, 0
    assert_shows(partial_webp(exif=exif), turned(wanted, orientation))


@pytest.mark.parametrize("profile", [b"ANMF" * 20, b"odd" + b"ANMF" + bytes(40)])
def test_a_frame_is_no_name_of_one_within_another_chunk(profile: bytes) -> None:
    """A profile stands before the first frame, and may hold any bytes."""
    wanted = np.full((20, 24, 3), 255)
    wanted[6:16, 4:20] = 255, 0, 0
    assert_shows(partial_webp(icc_profile=profile), wanted)


def test_another_kind_of_picture_has_no_frame_of_webp() -> None:
    """Its comment may say what it will."""
    head = b"P6\n#".ljust(12, b" ") + b"VP8X    \2".ljust(20, b"\2") + b"ANMF".ljust(40, b"\0")
    pixels = np.full((10, 10, 3), 7, np.uint8)
    assert_shows(head + b"\n10 10 255\n" + pixels.tobytes(), pixels)


IMAGEJ = b"ImageJ=1.53t\nimages=3\nslices=3\nloop=false\n"


def stack(tags: dict[int, tiffs.Values]) -> bytes:
    """Three pictures as a microscope's program writes them: behind each other, one directory."""
    found, body = tiffs.page(GREY)
    strips: dict[int, tiffs.Values] = {tiffs.OFFSETS: 8, tiffs.SIZES: len(body)}
    return tiffs.file((found | strips | tags, body * 3))


@pytest.mark.parametrize("tags", [{270: IMAGEJ}, {33629: [1, 2, 3]}, {32997: 3}])
def test_slices_without_a_directory_are_counted(tags: dict[int, tiffs.Values]) -> None:
    """Else all but the first are lost in silence."""
    frame = decode_frame(stack(tags))
    assert (frame.num_frames, frame.holds) == (3, "slices")
    assert_shows(stack(tags), GREY)


def test_a_slice_that_was_cut_out_is_one_picture() -> None:
    """Programs keep the description; and a stack that has directories has pages."""
    cut = stack({270: IMAGEJ.replace(b"images=3", b"images=9")})
    assert (decode_frame(cut).num_frames, decode_frame(cut).holds) == (1, "pages")
    many = tiffs.file(*[tiffs.page(GREY, more={270: IMAGEJ})] * 3)
    assert (decode_frame(many).num_frames, decode_frame(many).holds) == (3, "pages")
