"""The ``prompts:`` of a job file: what is asked, and what an answer must satisfy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from dsvl_pipeline.errors import GrammarError
from dsvl_pipeline.job import grammar
from dsvl_pipeline.job.fields import FieldType, fields_of
from dsvl_pipeline.job.section import Section
from dsvl_pipeline.job.text_files import read_text
from dsvl_pipeline.store.uris import at_home, is_local, path_of

PROMPT_ID = r"^[A-Za-z0-9_.-]{1,64}$"


class PromptConfig(Section):
    """One question that is asked of every row.

    Attributes:
        id: Name of the prompt, and part of the row's key. Keep it when only the wording changes.
        text: The user's message. The row's images come before it.
        schema: JSON schema that every answer follows, or the path of a file with one. Each
            top-level property of a scalar type becomes a column of the output.
        regex: Regular expression that the whole answer matches. A prompt has a schema or a regex,
            not both.
    """

    id: str = Field(pattern=PROMPT_ID)
    text: str = Field(min_length=1)
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    regex: str | None = Field(default=None, min_length=1)

    @property
    def schema_text(self) -> str | None:
        """Return the schema as the engine and the row's key take it."""
        if self.json_schema is None:
            return None
        return grammar.normal_schema(json.dumps(self.json_schema))

    @property
    def fields(self) -> dict[str, FieldType]:
        """Return the output's columns for the answers to this prompt."""
        return fields_of(self.json_schema or {})

    def check_grammar(self) -> None:
        """Check that the schema or regular expression can be enforced.

        Raises:
            GrammarError: It cannot, or llguidance is missing, which checks it.
        """
        if self.json_schema is not None or self.regex is not None:
            grammar.check(self.schema_text, self.regex)

    @field_validator("json_schema", mode="before")
    @classmethod
    def _read_schema(cls, value: Any) -> Any:
        if isinstance(value, str) and is_local(value):
            try:  # workers have other files, but get the job as it was read
                value = json.loads(read_text(Path(path_of(at_home(value)))))
            except RecursionError:
                raise ValueError("this file is nested too deeply") from None
            except (OSError, ValueError) as error:
                raise ValueError(f"this file cannot be read as JSON: {error}") from None
        elif not isinstance(value, Mapping | None):
            raise ValueError("give a JSON schema, or the path of a file that holds one")
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:  # YAML has dates
            raise ValueError(f"a JSON schema holds only JSON: {error}") from None
        try:
            return value if value is None else json.loads(grammar.normal_schema(text))
        except GrammarError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _has_one_grammar(self) -> PromptConfig:
        if self.json_schema is not None and self.regex is not None:
            raise ValueError("the prompt has both schema and regex; keep one")
        return self

    @model_validator(mode="after")
    def _column_is_taken(self) -> PromptConfig:
        if self.id == "column":
            raise ValueError("prompt id 'column' is kept for the manifest's own prompt column")
        return self
