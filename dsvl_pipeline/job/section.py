"""What the sections of a job file have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

KeyPath = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

AtLeastOne = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a job file: frozen, and unknown keys are mistakes.

    What users call ``schema`` is ``json_schema`` in Python, where pydantic has taken the name.
    """

    # Workers take jobs that are checked already: they need no validators.
    model_config = ConfigDict(
        extra="forbid", frozen=True, serialize_by_alias=True, defer_build=True
    )
