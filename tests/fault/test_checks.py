"""The checks of the fault campaign: one that finds nothing must be able to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dsvl_pipeline.table.reader import read_table
from tests.fault.campaign import check_table
from tests.tables import write_table

ROWS = [{"row_id": name, "text": name.upper()} for name in "abc"]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([*ROWS, ROWS[0]], "read_table: 1 rows stand twice"),
        (ROWS[:2], "read_table: 1 of 3 rows are lost"),
        ([*ROWS, {"row_id": "d"}], "read_table: 4 rows, wanted 3"),
        ([*ROWS[:2], {"row_id": "c", "text": "other"}], "other answers"),
        (ROWS, "None"),  # all rows are right, but no run says that it ended well
    ],
)
def test_wrong_rows_are_found(tmp_path: Path, rows: list[dict[str, str]], problem: str) -> None:
    """Lost, doubled, one too many, and the right rows with a wrong answer."""
    for name, content in (("wanted", ROWS), ("found", rows)):
        write_table(str(tmp_path / name), content)
    with pytest.raises(AssertionError, match=problem):
        check_table(str(tmp_path / "found"), read_table(str(tmp_path / "wanted")))


def test_debris_is_found_where_the_log_does_not_look(tmp_path: Path) -> None:
    """A part that nobody committed doubles its rows for tools that read the directory."""
    write_table(str(tmp_path / "table"), ROWS)
    (part,) = (tmp_path / "table" / "data").rglob("*.parquet")
    shutil.copy(part, part.with_name("00000001-stray.parquet"))
    with pytest.raises(AssertionError, match=r"pyarrow.dataset: 3 rows stand twice"):
        check_table(str(tmp_path / "table"), read_table(str(tmp_path / "table")))
