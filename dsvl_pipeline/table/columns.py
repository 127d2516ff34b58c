"""The columns of a table's rows: for each its name, its type, what it means, and who fills it.

This is the one place where they are declared. Derived from it are the schema of the table
(`table.schema`), the row on its way to the table (`stages.rows`, which adds the columns that never
reach it), what ``dsvl lineage`` tells, and ``docs/table.md``.

Types and names are fixed: tables of earlier versions are read, and earlier versions read these.
A new column goes to the end of its group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa

Place = Literal["plan", "pages", "preprocess", "engine", "answers", "run", "writer"]
PLACES: Mapping[Place, str] = {
    "plan": "planning, from the input (`plan/spool.py`)",
    "pages": "opening a document or TIFF (`stages/pages.py`)",
    "preprocess": "fetching, decoding and tokenising (`stages/preprocess.py`)",
    "engine": "the engine, or the actor that holds it (`cluster/engine_actor.py`)",
    "answers": "making the output row (`stages/answers.py`)",
    "run": "the run, once for all of its rows (`run/prepare.py`)",
    "writer": "writing a part of the table (`cluster/part_tasks.py`)",
}
"""Where a column gets its values, in the order in which a row comes there."""

Section = Literal["row", "answer", "read", "asked", "made", "model", "run"]
"""Heading under which ``dsvl lineage`` tells a column."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the row.

    Attributes:
        name: In the table, and on the way there.
        type: Its Arrow type.
        meaning: One sentence.
        filled: Where it gets its value; a later place replaces what an earlier one said.
        nulls: Which rows have none; empty where all have one.
        section: For ``dsvl lineage``.
    """

    name: str
    type: pa.DataType
    meaning: str
    filled: tuple[Place, ...]
    nulls: str = ""
    section: Section = "row"


_text, _texts = pa.string(), pa.list_(pa.string())
_count, _sizes = pa.int32(), pa.list_(pa.int32())
_NOT_ASKED = "errors and blank pages"
_NO_PAGE = "images, and files that could not be opened"
_NO_LOGPROBS = "without `generation.logprobs`, and where nothing was answered"
_FAILING: tuple[Place, ...] = ("plan", "pages", "preprocess", "engine", "answers")

_planned = partial(Column, filled=("plan",))
_read = partial(
    Column, filled=("preprocess",), nulls="rows of which nothing was read", section="read"
)
_answered = partial(Column, filled=("engine",), nulls=_NOT_ASKED, section="answer")
_counted = partial(Column, filled=("engine",), nulls=_NOT_ASKED, section="asked")
_derived = partial(Column, filled=("answers",))
_of_run = partial(Column, filled=("run",))

RESULT = (
    _planned(
        "row_id", _text, "The manifest's id column, else a digest of the row; of a file its URI."
    ),
    Column(
        "row_key",
        pa.binary(16),
        "Digest of content, page, prompt and recipe; as long as it stays, so does the answer.",
        ("plan", "pages"),
        section="asked",
    ),
    _derived(
        "status",
        _text,
        "`ok`, `degraded` (an answer with a known defect) or `error` (no answer).",
        section="answer",
    ),
    _answered(
        "text",
        _text,
        "The answer; empty for a blank page, which the model was not asked.",
        nulls="errors",
    ),
    _answered(
        "finish_reason",
        _text,
        "How the answer ended: `stop`, `length` (cut off), `repetition` or `cancelled`.",
    ),
    Column(
        "error_code",
        _text,
        "Why there is no answer, or what its defect is, as a short stable name.",
        _FAILING,
        "`ok` rows, and answers of which `finish_reason` says all",
        "answer",
    ),
    Column(
        "error_message",
        _text,
        "The reason in words, with what to change.",
        _FAILING,
        "as `error_code`",
        "answer",
    ),
    Column(
        "is_retryable",
        pa.bool_(),
        "Whether the next run asks an error row again by itself.",
        _FAILING[:-1],
        section="answer",
    ),
    _planned(
        "prompt_id",
        _text,
        "The prompt that was asked: `column` is the row's own, empty a row that is bad as it is.",
    ),
    Column(
        "page_index",
        _count,
        "The page of a document or TIFF that was asked about, counted from 0.",
        ("pages",),
        _NO_PAGE,
    ),
    Column(
        "num_pages",
        _count,
        "How many pages the document has; once all are there, it is never opened again.",
        ("plan", "pages"),
        _NO_PAGE,
        "read",
    ),
    _answered(
        "mean_logprob",
        pa.float64(),
        "Mean log-probability of the answer's tokens, its end included.",
        nulls=_NO_LOGPROBS,
    ),
    _answered(
        "min_logprob",
        pa.float64(),
        "Log-probability of the answer's least likely token.",
        nulls=_NO_LOGPROBS,
    ),
    _answered(
        "logprobs",
        pa.list_(pa.float32()),
        "Log-probability of each token of the answer, in order.",
        nulls=_NO_LOGPROBS,
    ),
    _read(
        "num_frames",
        _count,
        "How many pictures the image's file holds, of which the first was shown.",
        nulls="pages, and files that were not read",
    ),
)
"""What was asked and answered. Columns of answers' fields follow, then those that are carried."""

LINEAGE = (
    _derived(
        "source_uris",
        _texts,
        "What was to be read: images in order, or one document; without credentials.",
        section="read",
    ),
    _derived(
        "source_uri_sha256s",
        _texts,
        "SHA-256 of each URI as the input gave it, which tells signed ones apart.",
        section="read",
    ),
    _read("source_etags", _texts, "ETag of each file; null where the store has none."),
    _read(
        "source_versions", _texts, "Version of each file in its bucket; null without versioning."
    ),
    _read("source_sha256s", _texts, "SHA-256 of each file's bytes."),
    _read("source_bytes", pa.list_(pa.int64()), "Size of each file in bytes."),
    _read("image_widths", _sizes, "Width of each picture in pixels, as decoded or rendered."),
    _read("image_heights", _sizes, "Height of each picture in pixels."),
    _of_run(
        "transform", _text, "Version of the preprocessing (`plan/recipe.py`).", section="asked"
    ),
    _derived(
        "prompt_digest",
        _text,
        "Digest of the prompt's text and of the schema or expression for its answer.",
        nulls="rows that are bad as they are",
        section="asked",
    ),
    _of_run(
        "model",
        _text,
        "The checkpoint as the job names it; `fake` for the fake engine.",
        section="model",
    ),
    _of_run(
        "model_revision",
        _text,
        "Its revision as the job names it.",
        nulls="without one in the job",
        section="model",
    ),
    _of_run(
        "weights_digest",
        _text,
        "Digest of the weights' bytes.",
        nulls="the fake engine",
        section="model",
    ),
    _of_run(
        "processor_digest",
        _text,
        "Digest of the tokenizer's and the processor's files.",
        section="model",
    ),
    _of_run("decoding_digest", _text, "Digest of the job's `generation` section.", section="model"),
    _of_run(
        "recipe", _text, "Digest of all that changes the results of every row.", section="model"
    ),
    _counted("num_prompt_tokens", _count, "Tokens of the prompt, image tokens included."),
    _counted("num_completion_tokens", _count, "Tokens of the answer, its end included."),
    _of_run(
        "plan_id",
        _text,
        "Digest of what the run was to answer; equal for two runs of one plan.",
        section="run",
    ),
)
"""What the answer was made from."""

OCCASION = (
    _of_run("run_id", _text, "The run that made the row.", section="made"),
    Column(
        "shard",
        _count,
        "The shard that holds the row, which its `row_id` decides.",
        ("writer",),
        section="made",
    ),
    Column(
        "attempt",
        _count,
        "The attempt at which the engine answered the row's batch, counted from 1.",
        ("engine",),
        section="made",
    ),
    _of_run("code_version", _text, "Version of this package.", section="run"),
    _derived("node", _text, "Name of the machine.", section="made"),
    Column(
        "device",
        _text,
        "The GPU's name; `cpu`, or `fake` for the fake engine.",
        ("engine",),
        section="made",
    ),
    _derived(
        "produced_at",
        pa.timestamp("us", tz="UTC"),
        "When the row's batch was answered.",
        section="made",
    ),
    Column(
        "latency_s",
        pa.float64(),
        "Seconds from the engine's taking the request to its answer.",
        ("engine",),
        _NOT_ASKED,
        "made",
    ),
)
"""When and where a row was made: free to differ between two runs of one plan."""

COLUMNS = (*RESULT, *LINEAGE, *OCCASION)


def told_under(section: Section) -> list[str]:
    """Return the columns that ``dsvl lineage`` tells under a heading."""
    return [one.name for one in COLUMNS if one.section == section]
