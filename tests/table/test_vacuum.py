"""Vacuum: what no log entry names goes, when it is old enough."""

from __future__ import annotations

import os
import time
from pathlib import Path

from dsvl_pipeline import storage
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.vacuum import vacuum
from tests.table.rows import image_rows, open_table, write


def test_vacuum_deletes_unlogged_parts_only(table_uri: str) -> None:
    """Named first when asked to; committed rows and other files stay."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        lost = storage.join(table_uri, write(writer, image_rows({"b": "1"})).path)
    notes = storage.join(table_uri, "data", "notes.txt")
    storage.put(notes, b"1")
    assert vacuum(table_uri) == []
    assert [info.uri for info in vacuum(table_uri, grace_s=-60, is_dry=True)] == [lost]
    assert storage.exists(lost)
    assert [info.uri for info in vacuum(table_uri, grace_s=-60)] == [lost]
    assert not storage.exists(lost)
    assert storage.exists(notes)
    assert read_table(table_uri)["row_id"].to_pylist() == ["a"]


def test_vacuum_removes_what_killed_writers_left(tmp_path: Path) -> None:
    """Local writers leave temporary files; young ones may have a living writer."""
    open_table(str(tmp_path)).close()
    old, young = (tmp_path / f".part.{age}.dsvl-tmp" for age in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"1")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    vacuum(str(tmp_path), grace_s=3600)
    assert not old.exists()
    assert young.exists()
