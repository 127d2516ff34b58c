"""What the stages know of the job. Apart, as engines need none of what reads pictures and pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dsvl_pipeline.job.config import JobConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What the stages need to know of the job; small, pickled into every task.

    Attributes:
        job: The job file.
        dtype: Of the weights, resolved.
        recipe: Digest of what changes results (`keys.recipe_digest`), for the rows' keys.
        lineage: Columns with one value for the whole run, by name.
    """

    job: JobConfig
    dtype: str
    recipe: str
    lineage: dict[str, Any]
