"""The output rows, made of what was asked and what came back."""

from __future__ import annotations

import os
from typing import Any, NoReturn, cast

import pyarrow as pa
import pytest

from dsvl_pipeline.errors import EngineError
from dsvl_pipeline.pipeline import blocks
from dsvl_pipeline.pipeline.generate import Generate, _results
from dsvl_pipeline.pipeline.preprocess import StageConfig
from tests.pipeline.jobs import fake_job, parse


def test_a_carried_column_wins_over_a_column_of_our_own() -> None:
    """Users may have a column `is_blank`; it is theirs, whatever we call ours."""
    carry = pa.schema([("is_blank", pa.string()), ("kind", pa.string())])
    row = {"row_id": "a", "kind": "image", "sources": ["a.jpg"], "prompt": "What?"}
    row |= {"error_code": "not_found", "carry.is_blank": "perhaps", "carry.kind": "shoe"}
    work = pa.Table.from_pylist([row], schema=blocks.work_schema(carry))
    work = work.append_column("is_blank", pa.array([False]))
    job = parse(fake_job({"images": "x/*.jpg"}, "out"))
    config = StageConfig(job=job, dtype="float32", recipe="r", lineage={})
    (found,) = _results(work, {}, config, "cpu").to_pylist()
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
        actor._collect()
    assert f"replacing its process: {type(error).__name__}: {error}" in capsys.readouterr().out
