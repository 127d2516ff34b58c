"""Why rows run: each cause told apart from the others, from what the table keeps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa

from dsvl_pipeline import keys
from dsvl_pipeline.job.prompts import PromptConfig
from dsvl_pipeline.plan import compare, reasons
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.plan.spool import Spool
from dsvl_pipeline.records import Row, RowFailure
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
EXPLAINED = COMMITTED.append(pa.field("prompt_digest", pa.string())).append(
    pa.field("recipe", pa.string())
)


def committed(row: dict[str, Any], prompt: PromptConfig = CAPTION) -> dict[str, Any]:
    """A committed row with what lineage keeps of its key."""
    return row | {"prompt_digest": keys.prompt_digest(prompt.text).hex(), "recipe": RECIPE}


def why(
    rows: list[Row],
    old: list[dict[str, Any]],
    *,
    prompts: tuple[PromptConfig, ...] = (CAPTION,),
    recipe: str = RECIPE,
    **how: bool,
) -> tuple[list[str], Counter[str]]:
    """The reasons of the rows that run, and the counts of those that stay."""
    spool = Spool(rows, prompts, recipe, pa.schema([]))
    ((_, wanted),) = spool.shards(1)
    spool.close()
    table = pa.Table.from_pylist(old, schema=EXPLAINED)
    asked = {"", *(prompt.id for prompt in prompts)}
    compared = compare.compare(wanted, table, recipe=recipe, asked=asked, **how)
    found = reasons.reasons_to_run(compared, table, recipe)
    return [reason for _, reason in found], reasons.count_to_keep(compared, wanted)


def test_a_row_that_never_ran_is_new() -> None:
    """Beside one that did."""
    assert why([image("a"), image("b")], [committed(committed_image(image("a")))]) == (
        ["new"],
        {"up to date": 1},
    )


def test_a_new_prompt_is_no_new_row() -> None:
    """The row has answers, though none to this question."""
    old = [committed(committed_image(image("a")))]
    assert why([image("a")], old, prompts=(CAPTION, COLOUR))[0] == ["prompt added"]


def test_each_part_of_the_key_is_told_apart() -> None:
    """Content, prompt and recipe, alone and all at once."""
    old = [committed(committed_image(image("a")))]
    reworded = PromptConfig(id="caption", text="Describe it well.")
    assert why([image("a", version="2")], old)[0] == ["content changed"]
    assert why([image("a")], old, prompts=(reworded,))[0] == ["prompt changed"]
    assert why([image("a")], old, recipe="r2")[0] == ["recipe changed"]
    all_changed = why([image("a", version="2")], old, prompts=(reworded,), recipe="r2")[0]
    assert all_changed == ["content and prompt and recipe changed"]


def test_errors_that_may_pass_run_and_others_stay() -> None:
    """A final error is kept, and named as one."""
    old = [
        committed(committed_image(image("a"), status="error", is_retryable=True)),
        committed(committed_image(image("b"), status="error", is_retryable=False)),
    ]
    assert why([image("a"), image("b")], old) == ([reasons.RETRY], {reasons.FINAL_ERROR: 1})


def test_fresh_is_a_reason_of_its_own() -> None:
    """Nothing changed, and yet it runs."""
    old = [committed(committed_image(image("a")))]
    assert why([image("a")], old, is_fresh=True)[0] == [reasons.FRESH]


def test_a_document_runs_for_its_missing_pages_or_its_change() -> None:
    """A page's row key tells for the document, although the work row has no page."""
    old = [committed(page) for page in committed_pages(document("d"), [1], 3)]
    assert why([document("d")], old)[0] == [reasons.PAGES_MISSING]
    assert why([document("d", version="2")], old)[0] == ["content or rendering changed"]
    assert why([document("d")], old, recipe="r2")[0] == ["recipe changed"]


def test_a_line_that_turned_bad_and_good_again() -> None:
    """A bad line is asked nothing, so its prompts are neither new nor changed."""
    bad = image("a", failure=RowFailure(code="no_image", message="line 3: no image"))
    was_good = [committed(committed_image(image("a")))]
    assert why([bad], was_good)[0] == [reasons.ROW_TURNED]
    digest = keys.prompt_digest("line 3: no image")
    was_bad = {
        "row_id": "a",
        "prompt_id": "",
        "row_key": keys.row_key(bad.content_id, None, digest, RECIPE),
        "status": "error",
        "recipe": RECIPE,
    }
    assert why([image("a")], [was_bad])[0] == [reasons.ROW_TURNED]
    assert why([bad], [was_bad]) == ([], {reasons.FINAL_ERROR: 1})


def test_what_stays_is_counted_by_why_it_stays() -> None:
    """Answers whose file, input or prompt is gone are told from those that are up to date."""
    lost = replace(image("lost"), content_id=b"")
    old = [committed(committed_image(image(name))) for name in ("a", "lost", "vanished")]
    old.append(committed(committed_image(image("a"), COLOUR), COLOUR))
    runs, stays = why([image("a"), lost], old)
    assert runs == []
    assert stays == {
        reasons.UP_TO_DATE: 1,
        reasons.FILE_GONE: 1,
        reasons.VANISHED: 1,
        reasons.NOT_ASKED: 1,
    }


def test_a_million_reasons_do_not_take_minutes() -> None:
    """Every row is compared with one committed row, not with all of them."""
    import time

    rows = [image(f"i{n}") for n in range(20_000)]
    old = [committed(committed_image(row)) for row in rows]
    started = time.perf_counter()
    assert Counter(why(rows, old, recipe="r2")[0]) == {"recipe changed": 20_000}
    assert time.perf_counter() - started < 20


def test_nothing_to_run_has_no_reasons() -> None:
    """An empty comparison gives nothing."""
    nothing = COMMITTED.empty_table()
    spool = Spool([], (CAPTION,), RECIPE, pa.schema([]))
    todo = spool.schema.empty_table()
    spool.close()
    compared = Comparison(todo=todo, kept=nothing, stale=nothing, staying=nothing)
    assert list(reasons.reasons_to_run(compared, EXPLAINED.empty_table(), RECIPE)) == []


def test_a_redriven_row_whose_prompt_changed_has_the_same_content() -> None:
    """Its key is that of the job file, its recipe that of the redrive."""
    old = [committed(committed_image(image("a"))) | {"recipe": "of the redrive"}]
    reworded = PromptConfig(id="caption", text="Describe it well.")
    assert why([image("a")], old, prompts=(reworded,))[0] == ["prompt and recipe changed"]
