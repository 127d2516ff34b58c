"""The output rows, made of what was asked and what came back."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NoReturn, cast

import numpy as np
import pyarrow as pa
import pytest

from dsvl_pipeline.cluster.engine_actor import Generate
from dsvl_pipeline.errors import EngineError
from dsvl_pipeline.records import Completion, FinishReason, RowFailure
from dsvl_pipeline.stages.answers import output_rows
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.requests import requests_of
from dsvl_pipeline.stages.rows import image_columns, without_request, work_schema
from tests.jobs import fake_job, parse


def test_a_carried_column_wins_over_a_column_of_our_own() -> None:
    """Users may have a column `is_blank`; it is theirs, whatever we call ours."""
    carry = pa.schema([("is_blank", pa.string()), ("kind", pa.string())])
    row = {"row_id": "a", "kind": "image", "sources": ["a.jpg"], "prompt": "What?"}
    row |= {"error_code": "not_found", "carry.is_blank": "perhaps", "carry.kind": "shoe"}
    work = pa.Table.from_pylist([row], schema=work_schema(carry))
    work = work.append_column("is_blank", pa.array([False]))
    job = parse(fake_job({"images": "x/*.jpg"}, "out"))
    config = StageConfig(job=job, dtype="float32", recipe="r", lineage={})
    (found,) = output_rows(work, {}, config, "cpu", 1).to_pylist()
    assert (found["is_blank"], found["kind"]) == ("perhaps", "shoe")
    assert (found["status"], found["error_code"]) == ("error", "not_found")


class LeftError(Exception):
    """Stands in for the end of the process."""


@pytest.mark.parametrize("error", [EngineError("out of pages"), ValueError("a bug")])
def test_whatever_breaks_in_the_engine_ends_its_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """Nobody else collects completions: the batches would wait for ever."""

    class Broken:
        def poll(self, timeout_s: float) -> NoReturn:
            raise error

    def leave(status: int) -> NoReturn:
        assert status == 1
        raise LeftError

    monkeypatch.setattr(os, "_exit", leave)
    actor = object.__new__(Generate)
    actor._engine = cast(Any, Broken())
    with pytest.raises(LeftError):
        actor._deliver()
    assert f"replacing its process: {type(error).__name__}: {error}" in capsys.readouterr().out


SCHEMA = {"type": "object", "properties": {"kind": {"type": "string"}, "n": {"type": "integer"}}}


def config_of(**prompt: Any) -> StageConfig:
    """A job with two prompts: a plain one, and one with a schema or regular expression."""
    job = fake_job({"images": "x/*.jpg"}, "out")
    job["prompts"].append({"id": "facts", "text": "What is it?", **prompt})
    return StageConfig(job=parse(job), dtype="float32", recipe="r", lineage={})


def prepared(config: StageConfig, **columns: Any) -> pa.Table:
    """One row for each prompt of the job, as preprocessing leaves it."""
    rows = [
        {
            "row_id": "a",
            "kind": "image",
            "sources": ["a.jpg"],
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "schema": prompt.schema_text,
            "regex": prompt.regex,
            "row_key": bytes(16),
        }
        for prompt in config.job.prompts
    ]
    batch = pa.Table.from_pylist(rows, schema=work_schema(pa.schema([])))
    ids = pa.array([[1, 2, 3]] * len(rows), pa.list_(pa.int32()))
    drafts = pa.array(columns.pop("draft_ids", [None] * len(rows)), pa.list_(pa.int32()))
    batch = batch.append_column("is_blank", pa.array([False] * len(rows)))
    batch = batch.append_column("prompt_ids", ids).append_column("draft_ids", drafts)
    for name, column in image_columns([()] * len(rows)).items():
        batch = batch.append_column(name, column)
    return batch


def answered(
    config: StageConfig, text: str, finish_reason: FinishReason = "stop"
) -> dict[str, Any]:
    """The output row of the second prompt."""
    batch = prepared(config)
    completion = Completion(
        request_id="x",
        completion_ids=np.zeros(3, np.int32),
        text=text,
        finish_reason=finish_reason,
        num_prompt_tokens=3,
        timings={"finished_s": 1.0},
    )
    rows = without_request(batch)
    plain, facts = output_rows(rows, {0: completion, 1: completion}, config, "cpu", 1).to_pylist()
    assert [plain.get(name) for name in config.job.fields] == [None] * len(config.job.fields)
    assert plain["prompt_digest"] != facts["prompt_digest"]
    return cast(dict[str, Any], facts)


def test_a_request_carries_what_its_answer_must_satisfy() -> None:
    """Also the draft, where the source had one."""
    config = config_of(schema=SCHEMA)
    requests = requests_of(prepared(config, draft_ids=[[7, 8], None]), config.job.generation)
    plain, facts = requests.values()
    assert (plain.schema, plain.regex, facts.regex) == (None, None, None)
    assert facts.schema == config.job.prompts[1].schema_text
    assert plain.draft_ids is not None
    assert plain.draft_ids.tolist() == [7, 8]
    assert plain.draft_ids.dtype == np.int32
    assert facts.draft_ids is None
    config = config_of(regex="[a-z]+")
    _, facts = requests_of(prepared(config), config.job.generation).values()
    assert (facts.schema, facts.regex) == (None, "[a-z]+")


def test_fields_become_columns() -> None:
    """`text` keeps the answer as it is; our own `kind` of a row is no column of the output."""
    row = answered(config_of(schema=SCHEMA), '{"kind": "boat", "n": 3}')
    assert (row["status"], row["text"]) == ("ok", '{"kind": "boat", "n": 3}')
    assert (row["kind"], row["n"]) == ("boat", 3)
    assert answered(config_of(schema=SCHEMA), '{"n": 3}')["kind"] is None


def test_an_answer_that_was_cut_has_no_fields() -> None:
    """Half a list is no list: the row is degraded as any other that was cut."""
    row = answered(config_of(schema=SCHEMA), '{"kind": "boat", "n"', "length")
    assert (row["status"], row["finish_reason"]) == ("degraded", "length")
    assert row["error_code"] is None  # it is cut, nothing else is wrong with it
    assert (row["kind"], row["n"], row["text"]) == (None, None, '{"kind": "boat", "n"')


def test_an_answer_that_does_not_fit_is_degraded() -> None:
    """A stop text may cut it, and its numbers may be larger than a column can hold."""
    row = answered(config_of(schema=SCHEMA), '{"kind": "bo')
    assert (row["status"], row["error_code"]) == ("degraded", "schema_unsatisfied")
    assert row["error_message"].startswith("the answer does not fit the prompt's JSON schema: ")
    assert row["kind"] is None
    assert answered(config_of(schema=SCHEMA), '{"n": 1%s}' % ("0" * 30))["status"] == "degraded"
    assert answered(config_of(schema={"type": "array"}), "[1")["status"] == "degraded"
    assert answered(config_of(schema={"type": "array"}), "[1]")["status"] == "ok"


def test_a_loop_is_marked() -> None:
    """The row says why its text ends where it does, and what to change."""
    row = answered(config_of(regex="(ab)+"), "ab", "repetition")
    assert (row["status"], row["finish_reason"]) == ("degraded", "repetition")
    assert row["error_code"] == "repetition"
    assert "generation.max_loop_tokens" in row["error_message"]


def test_logprobs_are_columns_where_they_were_asked_for() -> None:
    """Of answered rows alone: a degraded one is answered, one that failed is not."""
    config = config_of()
    batch = prepared(config)
    sure = Completion(
        request_id="x",
        completion_ids=np.array([5, 6], np.int32),
        text="yes",
        finish_reason="length",
        num_prompt_tokens=3,
        logprobs=np.array([-0.5, -1.5], np.float32),
        timings={"finished_s": 1.0},
    )
    failed = replace(sure, error=RowFailure(code="schema_failed", message="it grew too complex"))
    rows = without_request(batch)
    columns = ("status", "mean_logprob", "min_logprob", "logprobs")

    def found(*answers: Completion) -> list[tuple[Any, ...]]:
        table = output_rows(rows, dict(enumerate(answers)), config, "cpu", 1)
        return [tuple(row[name] for name in columns) for row in table.to_pylist()]

    assert found(sure, failed) == [
        ("degraded", -1.0, -1.5, [-0.5, -1.5]),
        ("error", None, None, None),
    ]
    silent = replace(sure, logprobs=np.empty(0, np.float32))
    assert found(silent, replace(sure, logprobs=None)) == [("degraded", None, None, None)] * 2
