"""A whole job file, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from dsvl_pipeline.errors import ConfigError, GrammarError
from dsvl_pipeline.job.fields import FieldType, merged
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.job.prompts import PromptConfig
from dsvl_pipeline.job.section import KeyPath, Section
from dsvl_pipeline.job.sections import (
    ClusterConfig,
    KubernetesConfig,
    LimitsConfig,
    ModelSection,
    OutputConfig,
)
from dsvl_pipeline.records import EngineConfig, SamplingParams

JOB_NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"

_MAX_LOOP_TOKENS = 256


class JobConfig(Section):
    """A whole job file. See ``configs/`` for commented examples.

    Attributes:
        name: Name of the job: at most 40 lower case letters, digits and dashes. On Kubernetes it
            names what is created there.
        input: What the job reads.
        prompts: What is asked of every row. The list may be empty if ``input.columns.prompt`` is
            given.
        model: Which checkpoint runs.
        generation: How answers are decoded.
        output: Where the table goes.
        engine: What one engine may use.
        cluster: How much of the cluster the job takes.
        kubernetes: The job's own cluster on Kubernetes.
        limits: When a run stops itself.
        max_error_fraction: A run ends with exit code 1 if a larger share of its rows are errors.
            This is also the default of ``limits.stop_above_error_fraction``, which ends a run
            early.
    """

    name: str = Field(pattern=JOB_NAME)
    input: InputConfig
    prompts: tuple[PromptConfig, ...] = ()
    model: ModelSection
    generation: SamplingParams = SamplingParams(max_loop_tokens=_MAX_LOOP_TOKENS)
    output: OutputConfig
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()
    limits: LimitsConfig = LimitsConfig()
    max_error_fraction: float = Field(default=0.05, ge=0, le=1)

    @property
    def fields(self) -> dict[str, FieldType]:
        """Return the output's columns for answers that satisfy the prompts' schemas."""
        return merged((prompt.id, prompt.fields) for prompt in self.prompts)

    def as_yaml(self) -> str:
        """Return a job file that means the same, with ``--set`` and the files of schemas in it.

        Raises:
            ConfigError: It holds a password, which would go wherever the file goes.
        """
        if isinstance(self.input.document.password, SecretStr):
            raise ConfigError(
                "input.document.password: a job that is sent elsewhere would hold the password for "
                "all to read; name an environment variable of the cluster, {env: NAME}, instead"
            )
        values = self.model_dump(mode="json", exclude_unset=True)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)

    def with_password(self) -> JobConfig:
        """Return the job with the password itself, for workers, which have another environment.

        Raises:
            ConfigError: See `DocumentConfig.password_text`.
        """
        text = self.input.document.password_text
        password = None if text is None else SecretStr(text)
        document = self.input.document.model_copy(update={"password": password})
        return self.model_copy(
            update={"input": self.input.model_copy(update={"document": document})}
        )

    @field_validator("generation", mode="before")
    @classmethod
    def _stops_loops(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and not value.get("ignore_eos"):
            return {"max_loop_tokens": _MAX_LOOP_TOKENS, **value}
        return value

    @model_validator(mode="after")
    def _has_one_type_for_each_field(self) -> JobConfig:
        merged((prompt.id, prompt.fields) for prompt in self.prompts)  # or a ValueError
        return self

    @model_validator(mode="after")
    def _asks_something(self) -> JobConfig:
        ids = [prompt.id for prompt in self.prompts]
        if len(set(ids)) != len(ids):
            raise ValueError(f"prompts has an id twice ({', '.join(ids)}); give each its own")
        if not ids and not self.input.columns.prompt:
            raise ValueError("nothing is asked; give prompts, or input.columns.prompt")
        return self


def check_grammars(job: JobConfig) -> None:
    """Check that schemas and regular expressions can be enforced; `load_job` does so too.

    Raises:
        ConfigError: The message lists every mistake.
    """
    problems = [f"{'.'.join(map(str, key))}: {text}" for key, text in grammar_problems(job)]
    if problems:
        raise ConfigError("\n".join(problems))


def grammar_problems(job: JobConfig) -> Iterator[tuple[KeyPath, str]]:
    """Return schemas and regular expressions that cannot be enforced: key, and what is wrong."""
    for index, prompt in enumerate(job.prompts):
        try:
            prompt.check_grammar()
        except GrammarError as error:
            yield ("prompts", index, "schema" if prompt.regex is None else "regex"), str(error)
