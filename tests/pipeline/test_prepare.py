"""The recipe: what makes every row of a table run again, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from dsvl_pipeline import keys
from dsvl_pipeline.pipeline.prepare import _recipe_parts
from tests.pipeline.jobs import fake_job, parse


def recipe(**sections: Any) -> str:
    """The recipe of a job with some settings changed, for one checkpoint."""
    job = fake_job({"documents": "x/*.pdf"}, "out")
    for name, settings in sections.items():
        job[name] = {**job[name], **settings} if isinstance(settings, dict) else settings
    return keys.recipe_digest(_recipe_parts(parse(job), {"weights_digest": "w"}))


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"document": {"draft": True}}},
        {"engine": {"prefix_sharing": False, "cuda_graphs": False}},
        {"cluster": {"rows_per_batch": 3}},
        {"output": {"rows_per_part": 3}},
        {"prompts": [{"id": "a", "text": "a", "regex": "a"}]},
    ],
)
def test_what_changes_no_answer_runs_nothing_again(change: dict[str, Any]) -> None:
    """A draft is verified; prompts and their schemas are in the rows' keys."""
    assert recipe(**change) == recipe()


@pytest.mark.parametrize(
    "change",
    [
        {"generation": {"max_loop_tokens": 0}},
        {"generation": {"max_new_tokens": 17}},
        {"engine": {"quantization": "fp8"}},
        {"input": {"document": {"dpi": 100}}},
    ],
)
def test_what_changes_answers_runs_everything_again(change: dict[str, Any]) -> None:
    """Two rows of one recipe were made in one way."""
    assert recipe(**change) != recipe()
