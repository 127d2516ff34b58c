"""How the samples of a TIFF's page lie in it, by its tags."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import TiffImagePlugin

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.processor.tiff import Tags, number_of, numbers_of

WHITE_IS_ZERO, BLACK_IS_ZERO, IS_RGB, IS_PALETTE, IS_CMYK, IS_YCBCR = 0, 1, 2, 3, 5, 6

IS_LAB, IS_ICC_LAB = 8, 9

_NUM_COLOURS = {
    WHITE_IS_ZERO: 1,
    BLACK_IS_ZERO: 1,
    IS_RGB: 3,
    IS_PALETTE: 1,
    IS_CMYK: 4,
    IS_LAB: 3,
    IS_ICC_LAB: 3,
}

UNSIGNED, SIGNED, FLOAT, VOID = 1, 2, 3, 4

WORDS = (8, 16, 32, 64)  # bits that Numpy has a type for

NO_COMPRESSION = 1

# LZW, deflate (twice), PackBits, LZMA, Zstandard: what gives back the very bytes.
PREDICTED = (5, 8, 32946, 34925, 50000)  # those that know of differences

LOSSLESS = (NO_COMPRESSION, 32773, *PREDICTED)

_FAXES = (2, 3, 4, 32771)

# Faxes, JPEG's old form and JPEG, ThunderScan: what Pillow unpacks besides.
BY_PILLOW = (*_FAXES, 6, 7, 32809)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the samples of a page lie in its file.

    Attributes:
        width: In pixels.
        height: In pixels.
        photometric: What samples mean.
        form: 1 unsigned, 2 signed, 3 floating point.
        bits: Of each sample.
        num_samples: Of a pixel.
        alpha: 0 where there is none, 1 premultiplied, 2 not.
        is_planar: Whether each sample has strips of its own.
        unit: Pixels across and down that are stored as one, of which width and height are the
            numbers.
    """

    width: int
    height: int
    photometric: int
    form: int
    bits: int
    num_samples: int
    alpha: int
    is_planar: bool
    unit: tuple[int, int] = (1, 1)

    @property
    def num_colours(self) -> int:
        return _NUM_COLOURS[self.photometric]


def has_plain_samples(tags: Tags) -> bool:
    """Return whether Pillow shows a page's samples as they are meant, or does not know them."""
    bits, forms = numbers_of(tags, 258, (1,)), numbers_of(tags, 339, (1,))
    photometric, is_planar = photometric_of(tags), number_of(tags, 284, 1) == 2
    compression = number_of(tags, 259, 1)
    if compression not in LOSSLESS:
        return compression in BY_PILLOW
    if photometric == IS_YCBCR:
        # Where it lies open, Pillow takes it for three samples of each pixel.
        return compression != NO_COMPRESSION or (subsampling_of(tags) == (1, 1) and not is_planar)
    if set(forms) != {UNSIGNED} or is_planar or 262 not in tags:
        return False
    if photometric == IS_PALETTE:
        # Entries have 16 bits; some programs write 8, which Pillow would shift to black.
        entries = numbers_of(tags, 320, ())
        return set(bits) <= {1, 2, 4, 8} and max(entries, default=0) > 255
    if photometric in (IS_LAB, IS_ICC_LAB):
        return photometric == IS_LAB and set(bits) == {8}
    if set(bits) == {16} and photometric in (IS_RGB, IS_CMYK):
        return True
    if photometric == WHITE_IS_ZERO and number_of(tags, 277, 1) > 1:
        return False
    return set(bits) <= {1, 2, 4, 8}


class UntoldTiff(TiffImagePlugin.TiffImageFile):
    """A page without a photometric interpretation: Pillow would take all of them for negatives."""

    def _setup(self) -> None:
        self.tag_v2[262] = photometric_of(self.tag_v2)
        super()._setup()


def photometric_of(tags: Tags) -> int:
    """Return what samples mean; where the file does not say so, what libtiff shows."""
    if 262 not in tags and number_of(tags, 259, 1) in _FAXES:
        return WHITE_IS_ZERO
    num_colours = number_of(tags, 277, 1) - len(numbers_of(tags, 338, ()))
    return number_of(tags, 262, IS_RGB if num_colours == 3 else BLACK_IS_ZERO)


def subsampling_of(tags: Tags) -> tuple[int, int]:
    """Return how many pixels across and down share one colour in YCbCr.

    Two by two is the standard's default, which some programs that store all of them leave out.
    """
    told = numbers_of(tags, 530, ())
    if len(told) != 2:
        is_full = sum(numbers_of(tags, 279, ())) >= 3 * number_of(tags, 256, 0) * number_of(
            tags, 257, 0
        )
        return (1, 1) if is_full else (2, 2)
    return told[0], told[1]


def layout_of(tags: Tags) -> Layout:
    """Read from a page's tags how its samples lie.

    Raises:
        ImageError: With code ``image_samples``: in a way that nobody knows.
    """
    bits, forms = numbers_of(tags, 258, (1,)), numbers_of(tags, 339, (1,))
    photometric = photometric_of(tags)
    num_samples = number_of(tags, 277, len(bits))
    form = UNSIGNED if forms[0] == VOID else forms[0]
    extras = numbers_of(tags, 338, ())
    num_colours = _NUM_COLOURS.get(photometric, 0)
    most_bits = 64 if form == FLOAT or bits[0] == 64 else 32
    if (
        not num_colours
        or not num_colours <= num_samples <= 16
        or len(set(bits)) > 1
        or len(set(forms)) > 1
        or form not in (UNSIGNED, SIGNED, FLOAT)
        or not 1 <= bits[0] <= most_bits
        or (form == FLOAT and bits[0] not in (16, 32, 64))
        or (form == SIGNED and bits[0] not in (8, 16, 32, 64))
        or (photometric == IS_PALETTE and (form != UNSIGNED or bits[0] > 16))
        or (photometric in (IS_LAB, IS_ICC_LAB) and bits[0] not in (8, 16))
    ):
        raise unknown_layout(samples_of(tags))
    alpha = extras[0] if extras and extras[0] in (1, 2) else 0
    if not extras and photometric == IS_RGB and num_samples == 4:
        alpha = 2  # as Pillow has it
    return Layout(
        width=number_of(tags, 256, 0),
        height=number_of(tags, 257, 0),
        photometric=photometric,
        form=form,
        bits=bits[0],
        num_samples=num_samples,
        alpha=alpha if num_samples > num_colours else 0,
        is_planar=number_of(tags, 284, 1) == 2 and num_samples > 1,
    )


def samples_of(tags: Tags) -> str:
    """Describe the samples of a page, for an error."""
    bits, forms = numbers_of(tags, 258, (1,)), numbers_of(tags, 339, (1,))
    num_samples, sizes = number_of(tags, 277, len(bits)), "/".join(map(str, sorted(set(bits))))
    return (
        f"compression {number_of(tags, 259, 1)}, photometric interpretation "
        f"{photometric_of(tags)}, {num_samples} samples of {sizes} bits, "
        f"sample format {'/'.join(map(str, sorted(set(forms))))}"
    )


def unknown_layout(what: str) -> ImageError:
    """Make the error for what of a page is not known."""
    return ImageError(
        "image_samples",
        f"decoding the image: a TIFF with {what} is not read, so that no wrong picture is shown; "
        "convert it to 8-bit grey or RGB, compressed by LZW or not at all",
    )
