"""``dsvl report``: a table as one web page, each picture beside its answers."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.arguments import named_by_user
from dsvl_pipeline.cli.text import amount

if TYPE_CHECKING:
    from PIL import Image

    from dsvl_pipeline.sources.documents import DocumentRenderer

HELP = "show a table's rows on one web page, each picture beside its answers"
EPILOG = """\
examples:
  dsvl report out/demo out/demo.html
  dsvl report s3://bucket/captions captions.html

The page holds everything itself. Pictures are read again where they are local files, and left out
where they are not. Of large tables the first 500 inputs are shown.
exit codes: 0 written; 2 there is no table, or the destination is wrong; 3 a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.add_argument("dest", metavar="DEST.html", help="the page to write")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Write the page, say how much it shows."""
    from dsvl_pipeline.config import DocumentConfig
    from dsvl_pipeline.report.html import write_report
    from dsvl_pipeline.sources.documents import DocumentRenderer

    with named_by_user(), closing(DocumentRenderer(DocumentConfig(dpi=72))) as renderer:
        num_rows = write_report(
            args.out, args.dest, picture=lambda uri, page: _local_picture(renderer, uri, page)
        )
    print(f"{amount(num_rows, 'row')} on {args.dest}")
    return 0


def _local_picture(
    renderer: DocumentRenderer, uri: str, page_index: int | None
) -> Image.Image | None:
    from dsvl_pipeline import storage
    from dsvl_pipeline.errors import DsvlError
    from dsvl_pipeline.processor import image

    if "://" in uri and not uri.startswith("file://"):
        return None
    try:
        data = storage.read(uri)
        return image.decode(data) if page_index is None else renderer.render(data, page_index)
    except DsvlError:  # moved or broken since, or always: the row itself says what was wrong
        return None
