"""The process that holds pdfium and qpdf: reads commands on stdin, answers on stdout.

pdfium is not thread-safe, and a hostile document can make it hang, crash or eat memory: here it
can be killed. Run as a script, with pypdfium2, pikepdf and the standard library alone, so that it
starts fast and imports nothing of the pipeline.

Both directions carry frames (`sandbox.frames`). Commands: ``open`` with the document as payload,
``password`` (or null) and ``max_pages``, answered by ``num_pages``; ``render`` with ``page_index``,
``dpi`` and ``max_px``, answered by ``width``, ``height``, ``defects`` (codes and messages) and RGB
bytes; ``text`` with ``page_index`` and ``max_chars``, answered by the page's text layer as UTF-8.
An answer with ``error`` (a code), ``message`` and ``is_retryable`` means that document or page are
bad, not the process.
"""

from __future__ import annotations

import os
import sys

from dsvl_pipeline.sandbox.frames import read_frame, write_frame
from dsvl_pipeline.sandbox.limits import limit_cpu, limit_memory
from dsvl_pipeline.sources.pdf_document import Document, Refused, open_document, read_text
from dsvl_pipeline.sources.pdf_pages import render_page


def main(memory_bytes: int, cpu_s: float) -> None:
    """Answer commands until stdin ends."""
    commands = sys.stdin.buffer
    # Whatever a library prints must not get between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit_memory(memory_bytes)
    document: Document | None = None
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
                    document.pdf.close()
                    document = None
                password, max_pages = header["password"], header["max_pages"]
                document = open_document(payload, password=password, max_pages=max_pages)
                write_frame(answers, {"num_pages": document.num_pages})
            elif header["command"] == "text":
                assert document is not None
                text = read_text(document, header["page_index"], header["max_chars"])
                write_frame(answers, {}, text.encode(errors="replace"))
            else:
                assert document is not None
                width, height, defects, pixels = render_page(
                    document, header["page_index"], header["dpi"], header["max_px"]
                )
                answer = {"width": width, "height": height, "defects": defects}
                write_frame(answers, answer, pixels)
        except Refused as refused:
            code, message, is_retryable = refused.args
            refusal = {"error": code, "message": message, "is_retryable": is_retryable}
            write_frame(answers, refusal)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
