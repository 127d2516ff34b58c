"""The process that holds pdfium: reads commands on stdin, answers on stdout.

pdfium is not thread-safe, and a hostile document can make it hang, crash or eat memory: here it
can be killed. Run as a script, with pypdfium2 and the standard library alone, so that it starts
fast and imports nothing of the pipeline.

Both directions carry frames: a JSON header, its length first, then ``num_bytes`` of payload.
Commands: ``open`` with the document as payload, answered by ``num_pages``; ``render`` with
``page_index``, ``dpi`` and ``max_px``, answered by ``width``, ``height`` and RGB bytes; ``text``
with ``page_index`` and ``max_chars``, answered by the page's text layer as UTF-8. An answer with
``error`` (a code) and ``message`` means that document or page are bad, not the process.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

LENGTH = struct.Struct("<I")


def write_frame(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame."""
    text = json.dumps({**header, "num_bytes": len(payload)}).encode()
    stream.write(LENGTH.pack(len(text)) + text)
    stream.write(payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read one frame.

    Raises:
        EOFError: The other side is gone.
    """
    (length,) = LENGTH.unpack(_read_exactly(stream, LENGTH.size))
    header = json.loads(_read_exactly(stream, length))
    return header, _read_exactly(stream, header["num_bytes"])


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


class Refused(Exception):  # noqa: N818 (it is an answer, not an accident)
    """Carries code and message of an answer with ``error``."""


def open_document(data: bytes) -> pdfium.PdfDocument:
    """Parse a document.

    Raises:
        Refused: ``document_encrypted`` or ``document_unreadable``.
    """
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        code = getattr(error, "err_code", None)
        if code in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
            raise Refused("document_encrypted", "needs a password") from None
        raise Refused("document_unreadable", f"is not a PDF that can be read ({error})") from None
    if len(document) == 0:
        raise Refused("document_unreadable", "holds no pages")
    # Without this, what was filled into a form's fields would be missing from the picture.
    document.init_forms()
    return document


def render_page(
    document: pdfium.PdfDocument, page_index: int, dpi: float, max_px: int
) -> tuple[int, int, bytes]:
    """Render a page, rotated as it says itself: width, height, RGB bytes.

    The scale is clamped before anything is allocated: a page may claim to be a kilometre long.

    Raises:
        Refused: ``page_unreadable``.
    """
    try:
        page = document[page_index]
        width, height = page.get_size()
        longest = max(width, height)
        if not (math.isfinite(longest) and min(width, height) > 0):
            raise Refused("page_unreadable", f"says it is {width} x {height} points large")
        bitmap = page.render(
            scale=min(dpi / 72, max_px / longest),
            force_bitmap_format=pdfium_c.FPDFBitmap_BGR,
            rev_byteorder=True,
        )
    except (pdfium.PdfiumError, IndexError, ValueError) as error:
        raise Refused("page_unreadable", f"cannot be rendered ({error})") from None
    rows = memoryview((ctypes.c_ubyte * (bitmap.stride * bitmap.height)).from_buffer(bitmap.buffer))
    used = 3 * bitmap.width
    starts = range(0, bitmap.stride * bitmap.height, bitmap.stride)
    pixels = b"".join(rows[start : start + used] for start in starts)
    result = bitmap.width, bitmap.height, pixels
    page.close()
    return result


def read_text(document: pdfium.PdfDocument, page_index: int, max_chars: int) -> str:
    """Read the beginning of a page's text layer; empty where it has none.

    Raises:
        Refused: ``page_unreadable``.
    """
    try:
        page = document[page_index]
        text_page = page.get_textpage()
        count = min(text_page.count_chars(), max_chars)
        text: str = text_page.get_text_range(0, count) if count > 0 else ""
    except (pdfium.PdfiumError, IndexError, ValueError) as error:
        raise Refused("page_unreadable", f"has no text that can be read ({error})") from None
    page.close()  # with its text page
    return text


def limit_memory(num_bytes: int) -> None:
    """Bound the address space, where the system can."""
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, num_bytes)


def limit_cpu(seconds: float) -> None:
    """Grant so many more seconds of CPU: an orphan in an endless loop ends by itself."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _lower(resource.RLIMIT_CPU, limit)


def _lower(what: int, limit: int) -> None:
    _, hard = resource.getrlimit(what)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (soft, hard))


def main(memory_bytes: int, cpu_s: float) -> None:
    """Answer commands until stdin ends."""
    commands = sys.stdin.buffer
    # Whatever a library prints must not get between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit_memory(memory_bytes)
    document: pdfium.PdfDocument | None = None
    write_frame(answers, {"ready": True})
    while True:
        try:
            header, payload = read_frame(commands)
        except EOFError:
            return
        limit_cpu(cpu_s)
        try:
            if header["command"] == "open":
                if document is not None:
                    document.close()
                    document = None
                document = open_document(payload)
                write_frame(answers, {"num_pages": len(document)})
            elif header["command"] == "text":
                assert document is not None
                text = read_text(document, header["page_index"], header["max_chars"])
                write_frame(answers, {}, text.encode(errors="replace"))
            else:
                assert document is not None
                width, height, pixels = render_page(
                    document, header["page_index"], header["dpi"], header["max_px"]
                )
                write_frame(answers, {"width": width, "height": height}, pixels)
        except Refused as refused:
            code, message = refused.args
            write_frame(answers, {"error": code, "message": message})


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
