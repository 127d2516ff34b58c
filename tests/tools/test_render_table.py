"""``docs/table.md`` says what the code does, because it is made from it."""

from __future__ import annotations

import re

from dsvl_pipeline.table import verify
from dsvl_pipeline.table.schema import output_schema
from tools import render_table


def test_the_page_of_the_table_is_what_the_tool_prints() -> None:
    """What a column means is declared once."""
    assert render_table.PAGE.read_text(encoding="utf-8") == render_table.rendered()


def test_the_page_has_every_column_in_the_tables_order() -> None:
    """Neither one that is not written, nor one that is not told."""
    names = re.findall(r"^\| `(\w+)` \| `[a-z]", render_table.rendered(), re.MULTILINE)
    assert names == output_schema().names


def test_the_pages_files_are_the_tables() -> None:
    """`dsvl verify` takes each of them for the table's own."""
    for line in render_table.LAYOUT.splitlines():
        path = re.split(r" {3,}", line)[0]
        path = path.replace("<32 hex digits>", "0" * 32).replace("<run_id>", "1f").replace("<", "")
        ours = verify._PART.fullmatch(path)
        assert ours or verify._BOOKKEEPING.fullmatch(path.removeprefix("_dsvl/")), line
