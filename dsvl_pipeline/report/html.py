"""One HTML page that shows a table: each picture beside its answers. No script, no other file."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from itertools import groupby, islice
from typing import Any

from PIL import Image

from dsvl_pipeline.codes import STATUSES
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.report.pictures import Source
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import is_inside, last_part
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.wording import amount

MOST_INPUTS = 500
"""Images and pages that are shown; a page with more would be slow to open."""

PictureLoader = Callable[[Source], Image.Image | str]
"""Gives a picture, or says why there is none to show (`pictures.RunPictures.read`)."""

_LONGEST_EDGE_PX = 320
_COLUMNS = ("row_id", "page_index", "prompt_id", "status", "text", "error_code", "error_message")
_SOURCE_COLUMNS = ("source_uris", "source_sha256s", "run_id")
_MOST_PICTURES = 4

# Answers are a model's and names are anybody's: besides being escaped, nothing here may load.
_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
section { display: grid; grid-template-columns: 20rem 1fr; gap: 1.5rem; padding: 1rem 0;
 border-top: 1px solid #ccc }
img { max-width: 100%; border: 1px solid #ddd }
h2 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere }
h3 { font-size: .85rem; margin: .75rem 0 .25rem; color: #555 }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; padding: .5rem;
 background: #f6f6f6 }
.ok { color: #17692c } .degraded { color: #8a5a00 } .error { color: #a11212 }
.none { color: #777 }
@media (max-width: 40rem) { section { grid-template-columns: 1fr } }
</style>
"""


def write_report(uri: str, destination: str, *, picture: PictureLoader) -> int:
    """Show a table's rows, sorted by input, page and prompt, on one self-contained page.

    Args:
        uri: The table.
        destination: Path or s3:// URI of the page. Replaced if it exists.
        picture: Called once for each input that is shown.

    Returns:
        How many rows are shown.

    Raises:
        ConfigError: The destination does not end in .html, or lies in the table.
    """
    if not destination.lower().endswith(".html"):
        raise ConfigError(f"report to {destination}: this is a web page; let its name end in .html")
    if is_inside(destination, uri):
        raise ConfigError(
            f"report to {destination}: this lies inside the table {uri}, which holds nothing but "
            "its own files; choose another place"
        )
    table = read_table(uri, columns=[*_COLUMNS, *_SOURCE_COLUMNS])
    order = [(key, "ascending") for key in ("row_id", "page_index", "prompt_id")]
    rows = table.sort_by(order).to_pylist()
    inputs = [list(of_one) for _, of_one in groupby(rows, key=_input_of)]
    shown = inputs[:MOST_INPUTS]
    parts = [_HEAD, _summary(uri, rows, num_left_out=len(inputs) - len(shown))]
    parts += [_section(of_one, picture) for of_one in shown]
    objects.put(destination, "".join(parts).encode())
    return sum(map(len, shown))


def _input_of(row: Mapping[str, Any]) -> tuple[str, int | None]:
    return row["row_id"], row["page_index"]


def _summary(uri: str, rows: Iterable[Mapping[str, Any]], *, num_left_out: int) -> str:
    name = escape(objects.redact(uri))
    counts = Counter(row["status"] for row in rows)
    statuses = ", ".join(
        f'<span class="{status}">{counts[status]:,} {status}</span>' for status in STATUSES
    )
    more = f"<p>Not shown here: {amount(num_left_out, 'more input')}.</p>\n" if num_left_out else ""
    return f"<title>{name}</title>\n<h1>{name}</h1>\n<p>Rows: {statuses}.</p>\n{more}"


def _section(rows: list[dict[str, Any]], picture: PictureLoader) -> str:
    first = rows[0]
    page = "" if first["page_index"] is None else f", page {first['page_index'] + 1}"
    name = last_part(first["row_id"]) or first["row_id"]
    answers = "".join(map(_answer, rows))
    return (
        f'<section>\n<div>{_pictures(rows, picture)}</div>\n<div><h2 title="'
        f'{escape(first["row_id"])}">{escape(name + page)}</h2>\n{answers}</div>\n</section>\n'
    )


def _answer(row: Mapping[str, Any]) -> str:
    status = escape(row["status"])
    head = f'<h3>{escape(row["prompt_id"])} <span class="{status}">{status}</span></h3>\n'
    if row["status"] == "error":
        failure = f"{row['error_code']}: {row['error_message']}"
        return f"{head}<pre>{escape(failure)}</pre>\n"
    if not row["text"]:
        return f'{head}<p class="none">(an empty answer)</p>\n'
    return f"{head}<pre>{escape(row['text'])}</pre>\n"


def _pictures(rows: list[dict[str, Any]], picture: PictureLoader) -> str:
    tags = []
    for source in islice(_sources(rows), _MOST_PICTURES):
        found = picture(source)
        tags.append(
            f'<p class="none">no picture: {escape(found)}</p>'
            if isinstance(found, str)
            else _tag(found)
        )
    return "\n".join(tags) or '<p class="none">no picture</p>'


def _sources(rows: list[dict[str, Any]]) -> Iterator[Source]:
    """Yield what was read for an input: under the prompt whose row says most of it."""
    row = max(rows, key=lambda row: len(row["source_sha256s"] or ()))
    digests = row["source_sha256s"] or ()
    # An id is no place to look for a picture, whatever it looks like.
    for at, uri in enumerate(row["source_uris"] or ()):
        yield Source(
            uri=uri,
            sha256=digests[at] if at < len(digests) else None,
            page_index=row["page_index"],
            run_id=row["run_id"],
        )


def _tag(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((_LONGEST_EDGE_PX, _LONGEST_EDGE_PX))
    body = io.BytesIO()
    small.save(body, "JPEG", quality=80)
    data = base64.b64encode(body.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'
