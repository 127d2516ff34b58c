"""The plan is what makes runs resume: it must want exactly what is missing or changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline import keys
from dsvl_pipeline.job.prompts import PromptConfig
from dsvl_pipeline.plan import compare, shard_plan, spool
from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.plan.spool import Spool
from dsvl_pipeline.records import Row, RowFailure
from dsvl_pipeline.stages import work_files

RECIPE = "r1"
KEY = work_files.new_key()
CAPTION = PromptConfig(id="caption", text="Describe it.")
COMMITTED = pa.schema(
    [
        ("row_id", pa.string()),
        ("page_index", pa.int32()),
        ("prompt_id", pa.string()),
        ("row_key", pa.binary(16)),
        ("status", pa.string()),
        ("is_retryable", pa.bool_()),
        ("num_pages", pa.int32()),
        ("num_frames", pa.int32()),
    ]
)


def image(name: str, *, version: str = "1", **more: Any) -> Row:
    """An image whose store says that it is of this version."""
    content_id = keys.content_id_from(uri=name, etag=version)
    return Row(row_id=name, kind="image", sources=(name,), content_id=content_id, **more)


def document(name: str, *, version: str = "1") -> Row:
    """A document whose store says that it is of this version."""
    content_id = keys.content_id_from(uri=name, etag=version)
    return Row(row_id=name, kind="document", sources=(name,), content_id=content_id)


def planned(
    folder: Path,
    rows: list[Row],
    committed: list[dict[str, Any]] | None = None,
    *,
    prompts: tuple[PromptConfig, ...] = (CAPTION,),
    recipe: str = RECIPE,
    asked: frozenset[str] | None = None,
    is_fresh: bool = False,
    drops_vanished: bool = False,
) -> tuple[ShardPlan, list[dict[str, Any]]]:
    """Plan one shard; also return the work rows it wrote."""
    spool = Spool(rows, prompts, recipe, pa.schema([]))
    ((shard, wanted),) = spool.shards(1)
    spool.close()
    if asked is None:
        asked = frozenset({"", "column", *(prompt.id for prompt in prompts)})
    compared = compare.compare(
        wanted,
        pa.Table.from_pylist(committed or [], schema=COMMITTED),
        recipe=recipe,
        asked=asked,
        is_fresh=is_fresh,
        drops_vanished=drops_vanished,
    )
    result = shard_plan.plan_shard(shard, compared, work_uri=str(folder / "work"), work_key=KEY)
    todo = [row for uri in result.work_files for row in work_files.read(uri, KEY).to_pylist()]
    assert len(todo) == result.num_rows
    return result, todo


def num_stale(result: ShardPlan) -> int:
    """Count the committed rows that a shard's run replaces or drops."""
    return shard_plan.read_stale(result).num_rows


def committed_image(row: Row, prompt: PromptConfig = CAPTION, **more: Any) -> dict[str, Any]:
    """The committed answer of an image row."""
    digest = keys.prompt_digest(prompt.text, schema=prompt.schema_text, regex=prompt.regex)
    row_key = keys.row_key(row.content_id, None, digest, RECIPE)
    base = {"row_id": row.row_id, "prompt_id": prompt.id, "row_key": row_key, "status": "ok"}
    return base | more


def committed_pages(
    row: Row, pages: list[int], num_pages: int, prompt: PromptConfig = CAPTION
) -> list[dict[str, Any]]:
    """The committed answers of some of a document's pages."""
    digest = keys.prompt_digest(prompt.text)
    return [
        {
            "row_id": row.row_id,
            "page_index": page,
            "prompt_id": prompt.id,
            "row_key": keys.row_key(row.content_id, page, digest, RECIPE),
            "status": "ok",
            "num_pages": num_pages,
        }
        for page in pages
    ]


def test_a_new_table_wants_everything(tmp_path: Path) -> None:
    """Rows times prompts, and the row's own prompt beside the job's."""
    other = PromptConfig(id="colour", text="Which colour?")
    rows = [image("a"), image("b", prompt="What is it?")]
    _, todo = planned(tmp_path, rows, prompts=(CAPTION, other))
    asked = [(row["row_id"], row["prompt_id"], row["prompt"]) for row in todo]
    assert asked == [
        ("a", "caption", "Describe it."),
        ("a", "colour", "Which colour?"),
        ("b", "column", "What is it?"),
        ("b", "caption", "Describe it."),
        ("b", "colour", "Which colour?"),
    ]


def test_nothing_runs_twice(tmp_path: Path) -> None:
    """A second run over unchanged input computes nothing and replaces nothing."""
    rows = [image("a"), image("b")]
    result, todo = planned(tmp_path, rows, [committed_image(row) for row in rows])
    assert (todo, result.num_up_to_date, num_stale(result)) == ([], 2, 0)


def test_equal_content_under_two_names_is_two_rows(tmp_path: Path) -> None:
    """Equal row keys are no reason to think that the other row has its answer."""
    one = image("a")
    twin = Row(row_id="b", kind="image", sources=("a",), content_id=one.content_id)
    _, todo = planned(tmp_path, [one, twin], [committed_image(one)])
    assert [row["row_id"] for row in todo] == ["b"]


def test_changed_content_replaces_its_own_rows(tmp_path: Path) -> None:
    """The old answer is stale, those of other rows are not."""
    old = [committed_image(image("a")), committed_image(image("b"))]
    result, todo = planned(tmp_path, [image("a", version="2"), image("b")], old)
    assert [row["row_id"] for row in todo] == ["a"]
    assert shard_plan.read_stale(result).to_pylist() == [
        {"row_id": "a", "page_index": None, "prompt_id": "caption"}
    ]


def test_a_changed_prompt_touches_its_own_rows_only(tmp_path: Path) -> None:
    """Rewording one of two prompts must not cost the other's answers."""
    other = PromptConfig(id="colour", text="Which colour?")
    old = [committed_image(image("a")), committed_image(image("a"), other)]
    reworded = PromptConfig(id="colour", text="What colour is it?")
    result, todo = planned(tmp_path, [image("a")], old, prompts=(CAPTION, reworded))
    assert [row["prompt_id"] for row in todo] == ["colour"]
    assert shard_plan.read_stale(result)["prompt_id"].to_pylist() == ["colour"]


def test_retryable_errors_run_again_and_final_ones_do_not(tmp_path: Path) -> None:
    """A store that timed out deserves another try, a broken file does not."""
    rows = [image("slow"), image("broken")]
    old = [
        committed_image(rows[0], status="error", is_retryable=True),
        committed_image(rows[1], status="error", is_retryable=False),
    ]
    result, todo = planned(tmp_path, rows, old)
    assert [row["row_id"] for row in todo] == ["slow"]
    assert shard_plan.read_stale(result)["row_id"].to_pylist() == ["slow"]


def test_rows_whose_input_vanished_stay(tmp_path: Path) -> None:
    """Answers cost money; an input that is gone is no reason to lose them."""
    result, todo = planned(
        tmp_path, [image("a")], [committed_image(image("a")), committed_image(image("gone"))]
    )
    assert (todo, num_stale(result)) == ([], 0)


def test_rows_whose_input_vanished_leave_the_table_where_the_job_says_so(tmp_path: Path) -> None:
    """Those of other prompts as well; but not rows that are there and asked something else now."""
    other = PromptConfig(id="colour", text="Which colour?")
    old = [
        *(committed_image(image("gone"), prompt) for prompt in (CAPTION, other)),
        *(committed_image(image("a"), prompt) for prompt in (CAPTION, other)),
    ]
    result, todo = planned(tmp_path, [image("a")], old, drops_vanished=True)
    assert (todo, result.num_up_to_date, result.num_staying) == ([], 1, 1)
    stale = shard_plan.read_stale(result)
    assert stale["row_id"].to_pylist() == ["gone", "gone"]
    assert stale["prompt_id"].to_pylist() == ["caption", "colour"]


def test_dropping_what_vanished_spares_a_file_that_is_still_named(tmp_path: Path) -> None:
    """Its input is the manifest's line, and that is there."""
    lost = replace(image("a"), content_id=b"")
    result, todo = planned(tmp_path, [lost], [committed_image(image("a"))], drops_vanished=True)
    assert (todo, result.num_up_to_date, num_stale(result)) == ([], 1, 0)


def test_a_file_that_is_gone_keeps_its_answers(tmp_path: Path) -> None:
    """The manifest still names it: a new error must not replace what was answered before."""
    rows = [image("a"), image("b")]
    lost = [replace(row, content_id=b"") for row in (*rows, document("d"))]
    pages = committed_pages(document("d"), [0, 1], 2)
    result, todo = planned(tmp_path, lost, [committed_image(rows[0]), *pages])
    assert [row["row_id"] for row in todo] == ["b"]
    assert (result.num_up_to_date, num_stale(result)) == (3, 0)


def test_a_file_that_is_gone_keeps_its_answers_whatever_runs_again(tmp_path: Path) -> None:
    """With --fresh too, and a page of it that failed in a way that may pass stays as it is."""
    pages = committed_pages(document("d"), [0, 1], 2)
    pages[1] |= {"status": "error", "is_retryable": True}
    lost = [replace(row, content_id=b"") for row in (image("a"), document("d"))]
    old = [committed_image(image("a")), *pages]
    for is_fresh in (False, True):
        result, todo = planned(tmp_path, lost, old, is_fresh=is_fresh)
        assert (todo, result.num_up_to_date, num_stale(result)) == ([], 3, 0)


def test_fresh_replaces_everything_asked(tmp_path: Path) -> None:
    """--fresh computes up-to-date rows too, and names them stale."""
    result, todo = planned(tmp_path, [image("a")], [committed_image(image("a"))], is_fresh=True)
    assert (len(todo), num_stale(result)) == (1, 1)


def test_a_bad_row_is_one_row_and_is_settled_once(tmp_path: Path) -> None:
    """However many prompts there are, a bad line is one error row, and the same next time."""
    other = PromptConfig(id="colour", text="Which colour?")
    bad = image("a", failure=RowFailure(code="no_image", message="line 3: no image"))
    _, todo = planned(tmp_path, [bad], prompts=(CAPTION, other))
    assert [(row["prompt_id"], row["error_code"]) for row in todo] == [("", "no_image")]
    done = {**{name: todo[0].get(name) for name in COMMITTED.names}, "status": "error"}
    result, todo = planned(tmp_path, [bad], [done], prompts=(CAPTION, other))
    assert (todo, num_stale(result)) == ([], 0)


def test_a_row_without_any_prompt_is_an_error_row(tmp_path: Path) -> None:
    """An empty prompt column must not make the row vanish."""
    _, todo = planned(tmp_path, [image("a"), image("b", prompt="What?")], prompts=())
    assert [(row["row_id"], row["error_code"]) for row in todo] == [("a", "no_prompt"), ("b", None)]


def test_a_complete_document_is_not_opened(tmp_path: Path) -> None:
    """Committed pages say how many there are; all there means nothing to do."""
    result, todo = planned(tmp_path, [document("d")], committed_pages(document("d"), [0, 1, 2], 3))
    assert (todo, result.num_up_to_date) == ([], 3)


def test_missing_pages_are_asked_for_alone(tmp_path: Path) -> None:
    """A run killed inside a document goes on at the pages it lacks."""
    _, todo = planned(tmp_path, [document("d")], committed_pages(document("d"), [0, 2], 4))
    assert [row["done_pages"] for row in todo] == [[0, 2]]


def test_a_page_that_stands_twice_is_answered_again(tmp_path: Path) -> None:
    """One answer then takes the place of both; three rows of two pages are no whole document."""
    old = committed_pages(document("d"), [0, 1, 1], 3)
    result, todo = planned(tmp_path, [document("d")], old)
    assert [row["done_pages"] for row in todo] == [[0]]
    assert shard_plan.read_stale(result)["page_index"].to_pylist() == [1, 1]


def test_whatever_stands_twice_is_answered_again(tmp_path: Path) -> None:
    """An answer beside an error that may pass, and images: neither is left doubled."""
    pages = committed_pages(document("d"), [0, 1, 1, 2], 3)
    pages[2] |= {"status": "error", "is_retryable": True}
    old = [*pages, committed_image(image("a")), committed_image(image("a"))]
    result, todo = planned(tmp_path, [document("d"), image("a")], old)
    assert [(row["row_id"], row["done_pages"]) for row in todo] == [("a", []), ("d", [0, 2])]
    stale = shard_plan.read_stale(result).to_pylist()
    assert [(row["row_id"], row["page_index"]) for row in stale] == [
        ("d", 1),
        ("d", 1),
        ("a", None),
        ("a", None),
    ]


def test_pages_of_two_versions_are_read_again(tmp_path: Path) -> None:
    """A store without etags let it change unseen; which pages are of today nobody knows."""
    old = [*committed_pages(document("d"), [0, 1], 3), *committed_pages(document("d"), [2], 4)]
    result, todo = planned(tmp_path, [document("d")], old)
    assert [(row["done_pages"], row["num_pages"]) for row in todo] == [([], None)]
    assert num_stale(result) == 3


def test_an_unfinished_document_says_of_how_many_pages_it_was(tmp_path: Path) -> None:
    """Whoever lists its pages sees whether it is another one by now."""
    _, todo = planned(tmp_path, [document("d")], committed_pages(document("d"), [0, 1], 5))
    assert [(row["done_pages"], row["num_pages"]) for row in todo] == [([0, 1], 5)]


def test_a_changed_document_replaces_all_its_pages(tmp_path: Path) -> None:
    """Pages that the new version lacks must not stay behind."""
    result, todo = planned(
        tmp_path, [document("d", version="2")], committed_pages(document("d"), [0, 1], 2)
    )
    assert [row["done_pages"] for row in todo] == [[]]
    assert shard_plan.read_stale(result)["page_index"].to_pylist() == [0, 1]


def unreadable(row: Row, prompt: PromptConfig = CAPTION) -> dict[str, Any]:
    """The committed error row of a document that could not be opened."""
    digest = keys.prompt_digest(prompt.text)
    return {
        "row_id": row.row_id,
        "prompt_id": prompt.id,
        "row_key": keys.row_key(row.content_id, None, digest, RECIPE),
        "status": "error",
        "is_retryable": False,
    }


def test_an_unreadable_document_is_settled_until_it_changes(tmp_path: Path) -> None:
    """Its one error row counts as its answer, and goes when the document can be read."""
    error = unreadable(document("d"))
    result, todo = planned(tmp_path, [document("d")], [error])
    assert (todo, num_stale(result), result.num_up_to_date) == ([], 0, 1)
    assert result.num_final_errors == 1
    result, todo = planned(tmp_path, [document("d", version="2")], [error])
    assert (len(todo), num_stale(result)) == (1, 1)


def test_a_document_that_vanished_keeps_the_pages_it_had(tmp_path: Path) -> None:
    """A second prompt found it gone; the first one's answers are as good as ever."""
    other = PromptConfig(id="colour", text="Which colour?")
    old = [*committed_pages(document("d"), [0, 1], 2), unreadable(document("d"), other)]
    result, todo = planned(tmp_path, [document("d")], old, prompts=(CAPTION, other))
    assert (todo, num_stale(result), result.num_up_to_date) == ([], 0, 3)


def test_the_error_row_of_a_partly_read_document_settles_it(tmp_path: Path) -> None:
    """Pages of the same version stay beside it."""
    old = [*committed_pages(document("d"), [0], 2), unreadable(document("d"))]
    result, todo = planned(tmp_path, [document("d")], old)
    assert (todo, num_stale(result), result.num_up_to_date) == ([], 0, 2)


def test_a_row_that_turned_bad_loses_all_its_old_answers(tmp_path: Path) -> None:
    """Also where no other row of the shard is asked the prompt that it had."""
    bad = image("a", failure=RowFailure(code="no_image", message="line 3: no image"))
    result, todo = planned(tmp_path, [bad], [committed_image(image("a"))])
    assert [row["prompt_id"] for row in todo] == [""]
    assert shard_plan.read_stale(result)["prompt_id"].to_pylist() == ["caption"]


def test_a_shard_without_wanted_rows_counts_what_stays(tmp_path: Path) -> None:
    """Old errors in a shard that nobody asks about are not the new job's failures."""
    spool = Spool([image("a")], (CAPTION,), RECIPE, pa.schema([]))
    shards = list(spool.shards(3))
    spool.close()
    assert [shard for shard, _ in shards] == [0, 1, 2]
    assert sum(wanted.num_rows for _, wanted in shards) == 1
    result, todo = planned(tmp_path, [], [committed_image(image("gone"), status="error")])
    assert (todo, result.num_staying, result.num_staying_errors) == ([], 1, 1)


def test_a_trial_of_a_large_input_leaves_room(tmp_path: Path) -> None:
    """--limit makes the table too, and its number of shards is fixed then."""
    assert shard_plan.num_shards_for(100, 500) == 1
    assert shard_plan.num_shards_for(100, shard_plan.MOST_COUNTED_BEYOND_LIMIT) == 16
    assert shard_plan.num_shards_for(100_000_000, shard_plan.MOST_COUNTED_BEYOND_LIMIT) == 50


def test_shards_partition_the_rows(tmp_path: Path) -> None:
    """Every row is in exactly one shard, the one its id says."""
    spool = Spool([image(f"i{n}") for n in range(500)], (CAPTION,), RECIPE, pa.schema([]))
    seen = []
    for shard, wanted in spool.shards(4):
        ids = wanted["row_id"].to_pylist()
        assert {keys.shard_of(row_id, 4) for row_id in ids} == {shard}
        seen += ids
    spool.close()
    assert sorted(seen) == sorted(f"i{n}" for n in range(500))


SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}}


COLOUR = PromptConfig(id="colour", text="Which colour?")
BY_SCHEMA = PromptConfig.model_validate({"id": "colour", "text": COLOUR.text, "schema": SCHEMA})
BY_REGEX = PromptConfig(id="colour", text=COLOUR.text, regex="[a-z]+")


def test_a_prompts_grammar_travels_with_its_rows(tmp_path: Path) -> None:
    """The engine gets it with the request, whatever worker prepares that."""
    _, todo = planned(tmp_path, [image("a"), document("b")], prompts=(CAPTION, BY_SCHEMA))
    asked = [(row["row_id"], row["prompt_id"], row["schema"], row["regex"]) for row in todo]
    assert asked == [
        ("a", "caption", None, None),
        ("a", "colour", BY_SCHEMA.schema_text, None),
        ("b", "caption", None, None),
        ("b", "colour", BY_SCHEMA.schema_text, None),
    ]
    _, [row] = planned(tmp_path, [image("a")], prompts=(BY_REGEX,))
    assert (row["schema"], row["regex"]) == (None, "[a-z]+")


def test_a_changed_schema_touches_its_own_rows_only(tmp_path: Path) -> None:
    """It changes the answers just as the wording does; written with other blanks it is the same."""
    row = image("a")
    old = [committed_image(row), committed_image(row, BY_SCHEMA)]
    again = PromptConfig.model_validate({**BY_SCHEMA.model_dump(), "schema": dict(SCHEMA)})
    _, todo = planned(tmp_path, [row], old, prompts=(CAPTION, again))
    assert todo == []
    for changed in (
        COLOUR,
        BY_REGEX,
        PromptConfig.model_validate(
            {**BY_SCHEMA.model_dump(), "schema": {**SCHEMA, "required": ["colour"]}}
        ),
    ):
        result, todo = planned(tmp_path, [row], old, prompts=(CAPTION, changed))
        assert [row["prompt_id"] for row in todo] == ["colour"]
        assert shard_plan.read_stale(result)["prompt_id"].to_pylist() == ["colour"]


def test_a_changed_schema_reads_a_document_again(tmp_path: Path) -> None:
    """Its pages have keys of their own."""
    pages = committed_pages(document("d"), [0, 1], 2)
    _, todo = planned(tmp_path, [document("d")], pages)
    assert todo == []
    stricter = PromptConfig(id="caption", text=CAPTION.text, regex="[a-z]+")
    _, todo = planned(tmp_path, [document("d")], pages, prompts=(stricter,))
    assert [row["done_pages"] for row in todo] == [[]]


def test_a_rows_schema_is_for_what_has_none(tmp_path: Path) -> None:
    """The job's own word counts; the row's stands in where the job says nothing."""
    rows = [image("a", prompt="What is it?", schema="{}")]
    _, todo = planned(
        tmp_path,
        rows,
        prompts=(CAPTION, BY_SCHEMA, PromptConfig(id="code", text="Which code?", regex="[0-9]+")),
    )
    assert {row["prompt_id"]: (row["schema"], row["regex"]) for row in todo} == {
        "column": ("{}", None),
        "caption": ("{}", None),
        "colour": (BY_SCHEMA.schema_text, None),
        "code": (None, "[0-9]+"),
    }
    keys_of_both = {row["row_key"] for row in todo}
    _, todo = planned(tmp_path, [replace(rows[0], schema=None)], prompts=(CAPTION,))
    assert not keys_of_both & {row["row_key"] for row in todo}


def test_a_plan_of_another_schema_is_another_plan() -> None:
    """Lineage names the plan that a row was part of."""

    def digest(prompt: PromptConfig) -> str:
        spool = Spool([image("a")], [prompt], RECIPE, pa.schema([]))
        spool.close()
        return spool.digest

    assert len({digest(prompt) for prompt in (COLOUR, BY_SCHEMA, BY_REGEX)}) == 3


def test_a_spool_holds_few_long_prompts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may have a prompt of megabytes in each row; the plan is the same."""
    rows = [image(f"i{n}", prompt="x" * 100) for n in range(10)]
    written = []
    write = pq.ParquetWriter.write_table

    def counting(writer: pq.ParquetWriter, table: pa.Table) -> None:
        written.append(table.num_rows)
        write(writer, table)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", counting)
    digests = set()
    for most in (1 << 20, 300):
        monkeypatch.setattr(spool, "_CHARACTERS_PER_CHUNK", most)
        spooled = Spool(rows, (), RECIPE, pa.schema([]))
        digests.add(spooled.digest)
        spooled.close()
    assert written[0] == 10
    assert max(written[1:]) == 4
    assert (sum(written[1:]), len(digests)) == (10, 1)


def tiff(name: str) -> Row:
    """A TIFF, whose pages are counted when it is read."""
    return replace(document(name), kind="tiff")


@pytest.mark.parametrize("num_frames", [None, 1])
def test_the_one_row_of_a_tiff_is_settled(tmp_path: Path, num_frames: int | None) -> None:
    """It has the key of an image: tables from before its pages counted do not run again."""
    before = committed_image(tiff("a.tif"), num_frames=num_frames)
    result, todo = planned(tmp_path, [tiff("a.tif")], [before])
    assert (todo, result.num_up_to_date, num_stale(result)) == ([], 1, 0)


def test_a_tiff_of_which_only_the_first_page_was_asked_is_opened(tmp_path: Path) -> None:
    """The job said `first` then, and says `pages` now."""
    before = committed_image(tiff("a.tif"), num_frames=3)
    result, todo = planned(tmp_path, [tiff("a.tif")], [before])
    assert [(row["row_id"], row["done_pages"]) for row in todo] == [("a.tif", [])]
    assert (result.num_documents, num_stale(result)) == (1, 1)


def test_pages_of_a_tiff_are_replaced_by_its_first(tmp_path: Path) -> None:
    """The other way round its pages leave the table."""
    row = tiff("a.tif")
    before = committed_pages(row, [0, 1, 2], 3)
    result, todo = planned(tmp_path, [row], before)
    assert (todo, result.num_up_to_date) == ([], 3)
    result, todo = planned(tmp_path, [replace(row, kind="image")], before)
    assert [row["kind"] for row in todo] == ["image"]
    assert num_stale(result) == 3


def test_only_the_missing_pages_of_a_tiff_are_asked(tmp_path: Path) -> None:
    """As those of a document are."""
    row = tiff("a.tif")
    _, todo = planned(tmp_path, [row], committed_pages(row, [0, 2], 3))
    assert [(row["done_pages"], row["num_pages"]) for row in todo] == [([0, 2], 3)]
