"""A redrive runs what was selected again, and touches nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from dsvl_pipeline.job.prompts import PromptConfig
from dsvl_pipeline.plan import compare
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.plan.spool import Spool
from dsvl_pipeline.records import Row
from dsvl_pipeline.table.failures import Selection
from dsvl_pipeline.table.schema import LOGICAL_KEY
from tests.jobs import fake_job, parse
from tests.plan.test_plan import (
    CAPTION,
    COMMITTED,
    RECIPE,
    committed_image,
    committed_pages,
    document,
    image,
)

COLOUR = PromptConfig(id="colour", text="Which colour?")
Key = tuple[str, int | None, str]


def redriven(
    rows: list[Row], committed: list[dict[str, Any]], selected: list[Key]
) -> tuple[list[tuple[str, str]], set[Key], set[Key]]:
    """Narrow and compare, as a run does; give what runs, what is replaced, and what stays."""
    spool = Spool(rows, (CAPTION, COLOUR), RECIPE, pa.schema([]))
    ((_, wanted),) = spool.shards(1)
    spool.close()
    table = pa.Table.from_pylist(committed, schema=COMMITTED)
    names = [dict(zip(LOGICAL_KEY, key, strict=True)) for key in selected]
    chosen = pa.Table.from_pylist(names, schema=table.select(LOGICAL_KEY).schema)
    redrive = Redrive(selection=Selection(), base=parse(fake_job({"images": "x"}, "out")))
    wanted, concerned, others = redrive.narrow(wanted, table, chosen)
    compared: Comparison = compare.compare(
        wanted, concerned, recipe=RECIPE, asked={"", "caption", "colour"}
    )
    todo = [(row["row_id"], row["prompt_id"]) for row in compared.todo.to_pylist()]
    staying = keys_of(compared.kept) | keys_of(compared.staying) | keys_of(others)
    return todo, keys_of(compared.stale), staying


def keys_of(rows: pa.Table) -> set[Key]:
    """Logical keys."""
    return {tuple(row.values()) for row in rows.select(LOGICAL_KEY).to_pylist()}  # type: ignore[misc]


def test_the_answers_to_other_prompts_stay() -> None:
    """One prompt's failure costs nobody the other one's answer."""
    old = [committed_image(image("a"), prompt) for prompt in (CAPTION, COLOUR)]
    old[0] |= {"status": "error"}
    todo, stale, staying = redriven([image("a")], old, [("a", None, "caption")])
    assert todo == [("a", "caption")]
    assert stale == {("a", None, "caption")}
    assert staying == {("a", None, "colour")}


def test_the_other_pages_stay_and_those_of_other_prompts() -> None:
    """Only the page that was selected is read again."""
    old = [
        row
        for prompt in (CAPTION, COLOUR)
        for row in committed_pages(document("d"), [0, 1, 2], 3, prompt)
    ]
    todo, stale, staying = redriven([document("d")], old, [("d", 1, "caption")])
    assert todo == [("d", "caption")]
    assert stale == {("d", 1, "caption")}
    assert len(staying) == 5


@pytest.mark.parametrize("row", [image("a"), document("a")])
def test_a_file_that_is_gone_is_left_alone(row: Row) -> None:
    """There is nothing that could be answered again."""
    old = [committed_image(row)] if row.kind == "image" else committed_pages(row, [0], 1)
    (key,) = keys_of(pa.Table.from_pylist(old, schema=COMMITTED))
    todo, stale, staying = redriven([replace(row, content_id=b"")], old, [key])
    assert (todo, stale, staying) == ([], set(), {key})
