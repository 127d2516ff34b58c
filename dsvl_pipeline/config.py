"""A job file: one YAML file, checked before anything starts.

``load_job`` reads it; every mistake is reported with file, line, key, value, what is allowed and
the nearest right key, all of them at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from dsvl_pipeline import grammar
from dsvl_pipeline.errors import ConfigError, GrammarError
from dsvl_pipeline.fields import FieldType, fields_of, merged
from dsvl_pipeline.records import EngineConfig, FakeEngineConfig, SamplingParams
from dsvl_pipeline.text_files import read_text

AtLeastOne = Annotated[int, Field(ge=1)]
_SHOWN = 200  # characters of a value in a message
_JOB_NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
_PROMPT_ID = r"^[A-Za-z0-9_.-]{1,64}$"
_NAMESPACE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_IMAGE = r"^[a-z0-9][A-Za-z0-9._/:-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$"
_CURRENCY = r"^[A-Z]{3}$"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_WORDS = {
    _CURRENCY: "use the three letters of ISO 4217, e.g. USD or EUR",
    _JOB_NAME: "use lower case letters, digits and dashes (not first or last), at most 40",
    _PROMPT_ID: "use letters, digits, '_', '.' and '-', at most 64",
    _NAMESPACE: "use lower case letters, digits and dashes (not first or last), at most 63",
    _IMAGE: "name an image by tag or digest, such as registry/dsvl-pipeline:0.1.0",
}


class Section(BaseModel):
    """A part of a job file: frozen, and unknown keys are mistakes.

    What users call ``schema`` is ``json_schema`` in Python, where pydantic has taken the name.
    """

    # Workers take jobs that are checked already: they need no validators.
    model_config = ConfigDict(
        extra="forbid", frozen=True, serialize_by_alias=True, defer_build=True
    )


class ColumnsConfig(Section):
    """Which manifest column holds what.

    Attributes:
        id: Unique name of the row; without it a digest of images and prompt.
        image: URI, or a list of URIs; none for text prompts.
        document: URI of a PDF; then a row stands for all its pages.
        prompt: The row's own prompt, asked as ``prompt_id="column"``.
        schema: JSON schema, as text, that the row's answers must satisfy: to its own prompt, and to
            those of the job that have neither schema nor regex.
        sha256: Digest of the content, where the manifest knows it: changed bytes run again.
        etag: The same with an object store's etag.
    """

    id: str | None = None
    image: str | None = None
    document: str | None = None
    prompt: str | None = None
    json_schema: str | None = Field(default=None, alias="schema")
    sha256: str | None = None
    etag: str | None = None


class FromEnvironment(Section):
    """A secret that the driver reads from its environment.

    Attributes:
        env: Name of the variable.
    """

    env: str


Password = SecretStr | FromEnvironment | None


class DocumentConfig(Section):
    """How pages are rendered.

    Attributes:
        dpi: Resolution in dots per inch; the longer edge is never more than ``max_page_px``.
        max_page_px: Longest edge of a rendered page.
        max_pages: A document or TIFF with more pages is an error row, never cut silently.
        page_timeout_s: Wall-clock limit for opening a document or rendering one page.
        memory_gib: Address space of the rendering process.
        draft: Whether the engine gets each page's text layer as a draft of the answer. It then
            verifies several of its tokens a step, which makes transcription up to three times as
            fast and changes no answer. Off by default: where something else is asked, reading
            the text layer and trying it costs a little for nothing.
        password: For documents that need one: the text itself, in quotes, or ``{env: NAME}`` for
            what an environment variable of the driver holds (and of `dsvl report`, which else
            shows no page that needs it). It changes no row that was read without it, and stands in
            no table, log or message; Ray hands it to its tasks in clear.
    """

    dpi: int = Field(default=144, ge=18, le=1200)
    max_page_px: int = Field(default=2048, ge=64, le=16384)
    max_pages: int = Field(default=5000, ge=1)
    page_timeout_s: float = Field(default=30.0, gt=0)
    memory_gib: float = Field(default=4.0, gt=0)
    draft: bool = False
    password: Password = None

    @field_validator("password", mode="before")
    @classmethod
    def _is_text_or_names_a_variable(cls, value: Any) -> Any:
        if isinstance(value, FromEnvironment):
            return value
        if isinstance(value, Mapping):
            name = value.get("env")
            if set(value) == {"env"} and isinstance(name, str) and _VARIABLE.fullmatch(name):
                return value
        elif value is None or _is_password(value):
            return value
        raise ValueError(
            "give the password as text in quotes (not empty), or {env: NAME} with the name of the "
            "environment variable that holds it"
        )

    @property
    def password_text(self) -> str | None:
        """The password itself.

        Raises:
            ConfigError: The environment variable is not set, or holds no password.
        """
        if not isinstance(self.password, FromEnvironment):
            return None if self.password is None else self.password.get_secret_value()
        name = self.password.env
        found = os.environ.get(name)
        if not _is_password(found):
            what = "is not set" if found is None else "holds no password"
            raise ConfigError(
                f"input.document.password: the environment variable {name} {what}; set it where "
                "the run is started (for `dsvl submit`: on the cluster)"
            )
        return found


def _is_password(value: Any) -> bool:
    """Tell whether something can be one: text that PDFs can hold."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    # Surrogates are what Python makes of bytes that are no UTF-8.
    return isinstance(value, str) and re.fullmatch("[^\0\ud800-\udfff]+", value) is not None


class InputConfig(Section):
    """What the job reads. At least one of manifest, images and documents; several are chained.

    Attributes:
        manifest: Parquet, JSONL or CSV files (globs); each of their rows is one thing to ask.
        images: Image files (globs); each is a row.
        documents: PDFs (globs); each page is a row.
        columns: What the manifest's columns mean.
        carry: Manifest columns copied to the output. Where their values change, rows are written
            again with the answers that they have.
        check_changes: Whether to ask the store about each ``s3://`` object that a manifest names
            (one request each), so that changed ones run again. Local files always do; a digest
            in ``columns`` serves without a request. Listed images and documents need neither.
        allow_http: Whether rows may name http(s) URLs (public addresses only).
        allowed_roots: Local directories that rows may name besides those of the input itself.
        allowed_prefixes: Where rows of a manifest may name objects: s3://BUCKET, s3://BUCKET/PREFIX,
            or s3:// for whatever the credentials may read. The manifests' own buckets by default.
        max_image_bytes: A larger file is an error row.
        max_document_bytes: The same for documents.
        frames: What becomes of an image file that holds several pictures. ``pages``: a TIFF gives a
            row for each page, as a PDF does (by its name, .tif or .tiff; one with a single page
            stays a row without a page index), and of an animation the first frame is asked;
            ``first``: of a TIFF too; ``error``: such files are error rows. The output's
            ``num_frames`` says how many there were.
        image_timeout_s: Wall-clock limit for decoding one image.
        image_memory_gib: Memory that decoding one image may take.
        fetch_timeout_s: Limit for reading one file or object, retries not counted.
        document: How pages are rendered.
    """

    manifest: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    columns: ColumnsConfig = ColumnsConfig()
    carry: tuple[str, ...] = ()
    check_changes: bool = False
    allow_http: bool = False
    allowed_roots: tuple[str, ...] = ()
    allowed_prefixes: tuple[str, ...] | None = None
    max_image_bytes: int = Field(default=64 << 20, ge=1)
    max_document_bytes: int = Field(default=512 << 20, ge=1)
    frames: Literal["pages", "first", "error"] = "pages"
    image_timeout_s: float = Field(default=60.0, gt=0)
    image_memory_gib: float = Field(default=4.0, gt=0)
    fetch_timeout_s: float = Field(default=60.0, gt=0)
    document: DocumentConfig = DocumentConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            names = {"manifest", "images", "documents", "carry"}
            names |= {"allowed_roots", "allowed_prefixes"}
            return {k: [v] if k in names and isinstance(v, str) else v for k, v in values.items()}
        return values

    @field_validator("allowed_prefixes")
    @classmethod
    def _are_prefixes(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for value in values or ():
            bucket = value.removeprefix("s3://").partition("/")[0]
            if not value.startswith("s3://") or "*" in value or not (bucket or value == "s3://"):
                raise ValueError("give s3://BUCKET or s3://BUCKET/PREFIX, without a pattern")
        return values

    @model_validator(mode="after")
    def _has_an_input(self) -> InputConfig:
        if not (self.manifest or self.images or self.documents):
            raise ValueError("input names nothing to read; give manifest, images or documents")
        columns = self.columns
        if not self.manifest and (self.carry or columns != ColumnsConfig()):
            raise ValueError("columns and carry belong to a manifest, but input.manifest is empty")
        if self.manifest and not (columns.image or columns.document or columns.prompt):
            raise ValueError("input.columns must name at least one of image, document, prompt")
        if columns.image and columns.document:
            raise ValueError("input.columns has both image and document; use two jobs")
        if len(set(self.carry)) != len(self.carry):
            raise ValueError(f"carry names a column twice ({', '.join(self.carry)}); keep one")
        return self


class PromptConfig(Section):
    """One question asked of every row.

    Attributes:
        id: Part of the row's key in the table; keep it when only the wording changes.
        text: What the user says; the images come before it.
        schema: JSON schema that every answer satisfies, or a file that holds it. Each top-level
            property of a scalar type becomes a column of the output.
        regex: Regular expression that every answer matches as a whole; not besides a schema.
    """

    id: str = Field(pattern=_PROMPT_ID)
    text: str = Field(min_length=1)
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    regex: str | None = Field(default=None, min_length=1)

    @property
    def schema_text(self) -> str | None:
        """The schema as the engine and the row's key take it."""
        if self.json_schema is None:
            return None
        return grammar.normal_schema(json.dumps(self.json_schema))

    @property
    def fields(self) -> dict[str, FieldType]:
        """The output's columns for the answers to this prompt."""
        return fields_of(self.json_schema or {})

    def check_grammar(self) -> None:
        """Refuse a schema or regular expression that cannot be enforced.

        Raises:
            GrammarError: It cannot, or llguidance is missing, without which nobody knows.
        """
        if self.json_schema is not None or self.regex is not None:
            grammar.check(self.schema_text, self.regex)

    @field_validator("json_schema", mode="before")
    @classmethod
    def _read_schema(cls, value: Any) -> Any:
        if isinstance(value, str):  # workers have other files, but get the job as it was read
            try:
                value = json.loads(read_text(Path(value)))
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


class ModelSection(Section):
    """Which checkpoint runs.

    Attributes:
        checkpoint: ``demo``, a directory, or a hub id.
        revision: Commit of a hub id; pin it, or a changed hub changes your results.
        dtype: Arithmetic of the weights. ``auto`` is bfloat16 on a GPU and float32 on a CPU.
    """

    checkpoint: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class OutputConfig(Section):
    """Where the table goes.

    Attributes:
        uri: Directory or s3:// prefix of the table.
        num_shards: Bounded pieces the rows are dealt into; fixed when the table is made.
        rows_per_part: Most results in one Parquet file.
        seconds_per_part: Results wait no longer than this, in seconds, for their commit.
        vanished: What becomes of rows whose input is no longer there: ``keep``, or ``drop`` from
            the table. A run with ``--limit`` keeps them: it has not seen the whole input.
    """

    uri: str
    num_shards: AtLeastOne | Literal["auto"] = "auto"
    rows_per_part: int = Field(default=2000, ge=1, le=100_000)
    seconds_per_part: float = Field(default=30.0, gt=0)
    vanished: Literal["keep", "drop"] = "keep"


class ClusterConfig(Section):
    """How much of the cluster the job takes.

    Attributes:
        replicas: Engines, one GPU each; ``auto`` is every GPU of the cluster, or one CPU engine.
        rows_per_batch: Rows that travel together from preprocessing to an engine.
        batches_in_flight: Batches an engine works on at once; ``auto`` keeps it fed.
        cpus_per_engine: CPUs reserved for a CPU engine.
        address: Ray cluster to join, as ``host:port``; ``local`` starts one on this machine, and
            ``auto`` does unless the environment variable ``RAY_ADDRESS`` names one.
        price_per_gpu_hour: What a GPU costs, with its share of the machine around it; where engines
            have none, what an engine costs. For the plan's prediction and the run's summary.
        currency: Of the price: the three letters of ISO 4217.
    """

    replicas: AtLeastOne | Literal["auto"] = "auto"
    rows_per_batch: int = Field(default=16, ge=1, le=32)
    batches_in_flight: AtLeastOne | Literal["auto"] = "auto"
    cpus_per_engine: float = Field(default=1.0, gt=0)
    address: str = "auto"
    price_per_gpu_hour: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    currency: str = Field(default="USD", pattern=_CURRENCY)

    def price(self, replicas: int, seconds: float) -> float | None:
        """Give what engines cost over some time, in ``currency``; None without a price."""
        if self.price_per_gpu_hour is None:
            return None
        return self.price_per_gpu_hour * replicas * seconds / 3600


class KubernetesConfig(Section):
    """The job's own Ray cluster on Kubernetes (``dsvl submit --target k8s``).

    Attributes:
        image: What the pods run, by tag or digest.
        namespace: Where the job is created; the one of the current kubeconfig context by default.
        workers: Pods that hold engines.
        gpus_per_worker: GPUs of each; 0 for a cluster that only has CPUs.
        cpus_per_worker: CPUs of each: one for the engine of each GPU, the others preprocess.
        memory_gib_per_worker: Memory of each, in GiB; a third of it is Ray's object store.
    """

    image: str = Field(default="dsvl-pipeline:0.1.0", pattern=_IMAGE)
    namespace: str | None = Field(default=None, pattern=_NAMESPACE)
    workers: AtLeastOne = 1
    gpus_per_worker: int = Field(default=1, ge=0)
    cpus_per_worker: AtLeastOne = 8
    memory_gib_per_worker: AtLeastOne = 48

    @field_validator("image")
    @classmethod
    def _stays_the_same(cls, value: str) -> str:
        if value.endswith(":latest"):
            raise ValueError("latest is another image tomorrow; give a version's tag or a digest")
        return value


class LimitsConfig(Section):
    """When a run that has gone wrong stops itself: exit code 3, and what was committed is safe.

    Attributes:
        max_error_fraction: Stop where more of the last ``window_rows`` rows fail. Without it the
            job's own ``max_error_fraction`` counts. Rows that had failed before, for a passing
            reason, may fail again.
        window_rows: How many rows back that looks; fewer never stop a run by their share of errors.
        first_rows: Stop where the first so many rows of a run all fail with one code; 0: never.
        stall_timeout_s: Stop when no row has finished for so long; the first ones wait for nodes
            and for the model to load.
        store_patience_s: Go on trying for so long where the table's store does not answer; a
            full disk or missing permission ends the run at once.
    """

    max_error_fraction: float | None = Field(default=None, ge=0, le=1)
    window_rows: AtLeastOne = 10_000
    first_rows: int = Field(default=1000, ge=0)
    stall_timeout_s: float = Field(default=1800.0, gt=0)
    store_patience_s: float = Field(default=300.0, ge=0)


_MAX_LOOP_TOKENS = 256


class JobConfig(Section):
    """A whole job file. See ``configs/`` for commented examples.

    Attributes:
        name: Of the job: lower case letters, digits and dashes, at most 40. On Kubernetes also of
            what is created there.
        input: What the job reads.
        prompts: What is asked of every row; may be empty where ``input.columns.prompt`` is given.
        model: Which checkpoint runs.
        generation: How answers are decoded.
        output: Where the table goes.
        engine: What one engine may use.
        cluster: How much of the cluster the job takes.
        kubernetes: The job's own cluster on Kubernetes.
        limits: When a run that has gone wrong stops itself.
        max_error_fraction: Of the rows that the job wants; where more are errors in the end, the
            exit code is 1.
    """

    name: str = Field(pattern=_JOB_NAME)
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
        """The output's columns for answers that satisfy the prompts' schemas."""
        return merged((prompt.id, prompt.fields) for prompt in self.prompts)

    def as_yaml(self) -> str:
        """Write a job file that means the same, with ``--set`` and the files of schemas in it.

        Raises:
            ConfigError: It has a password in it, which would then stand where the file goes.
        """
        if isinstance(self.input.document.password, SecretStr):
            raise ConfigError(
                "input.document.password: a job that is sent elsewhere would hold the password for "
                "all to read; name an environment variable of the cluster, {env: NAME}, instead"
            )
        values = self.model_dump(mode="json", exclude_unset=True)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)

    def with_password(self) -> JobConfig:
        """The same job for workers, whose environment is another: with the password itself.

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


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobConfig:
    """Read and check a job file.

    Args:
        path: The YAML file.
        overrides: ``a.b=value`` settings that win over the file; values are YAML.

    Raises:
        ConfigError: The file is missing or wrong; the message lists every mistake.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ConfigError(
            f"job file {path} does not exist; configs/ holds examples to copy"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"job file {path} cannot be read: {error}") from error
    values, lines = _parse(path, text)
    for override in overrides:
        lines[_apply(values, override)] = 0
    if holders := [key for key, text in _texts(values, ()) if "\0" in text]:
        name = ".".join(map(str, holders[0]))
        raise ConfigError(
            f"{_place(path, lines, holders[0])}: {name}: holds a NUL character; remove it"
        )
    try:
        job = JobConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain_all(path, lines, error))) from None
    problems = [
        f"{_place(path, lines, key)}: {'.'.join(map(str, key))}: {problem}"
        for key, problem in _grammar_problems(job)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return job


def _texts(value: Any, at: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, (*at, key))


def check_grammars(job: JobConfig) -> None:
    """Refuse schemas and regular expressions that cannot be enforced; `load_job` does that too.

    Raises:
        ConfigError: The message lists every mistake.
    """
    problems = [f"{'.'.join(map(str, key))}: {text}" for key, text in _grammar_problems(job)]
    if problems:
        raise ConfigError("\n".join(problems))


def _grammar_problems(job: JobConfig) -> Iterator[tuple[KeyPath, str]]:
    for index, prompt in enumerate(job.prompts):
        try:
            prompt.check_grammar()
        except GrammarError as error:
            yield ("prompts", index, "schema" if prompt.regex is None else "regex"), str(error)


KeyPath = tuple[str | int, ...]


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases (a small file must not expand to a large one) or repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            mark = event.start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)


# A date or number that YAML allows and Python does not; a tag that does not fit its value.
_UNREADABLE = (ValueError, KeyError, AttributeError, TypeError)


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        _collect_lines(path, node, (), lines)
        values = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem
        if _is_secret(_around(text, line)):  # the problem quotes the value
            problem = "the value cannot be read; put it in quotes"
        raise ConfigError(f"{path}:{line}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_in_a_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; a job file has few levels") from None
    except _UNREADABLE as error:
        detail = "put it in quotes" if _is_secret(text) else _in_a_line(error)
        raise ConfigError(f"{path}: a value cannot be read: {detail}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: holds {type(values).__name__}, expected keys such as input, prompts, model, "
            "output; configs/ holds examples to copy"
        )
    return values, lines


def _around(text: str, line: int) -> str:
    """Give a line of YAML, the one before it, and those that it stands below by indentation."""
    lines = text.splitlines()[:line]
    found, depth = lines[-1:], len(text)
    above = [each for each in lines if each.strip() and not each.lstrip().startswith("#")]
    found += above[-2:]
    for each in reversed(above):
        indentation = len(each) - len(each.lstrip(" -"))
        if indentation < depth:
            depth = indentation
            found.append(each)
    return "\n".join(found)


def _collect_lines(
    path: Path, node: yaml.Node | None, at: KeyPath, into: dict[KeyPath, int]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, str(key.value))
            line = key.start_mark.line + 1
            if inner in into:
                name = ".".join(map(str, inner))
                raise ConfigError(
                    f"{path}:{line}: {name} is given twice (first in line {into[inner]}); keep one"
                )
            into[inner] = line
            _collect_lines(path, value, inner, into)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            into[*at, index] = value.start_mark.line + 1
            _collect_lines(path, value, (*at, index), into)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _apply(values: dict[str, Any], override: str) -> KeyPath:
    """Put one ``--set`` in its place, and tell which that is."""
    name, equals, text = override.partition("=")
    is_secret = _is_secret(override)
    if is_secret:
        override = f"{name}=[hidden]"
    override = override if len(override) <= _SHOWN else f"{override[:_SHOWN]}..."
    if not equals or not name:
        raise ConfigError(f"--set {override}: expected KEY=VALUE, e.g. generation.temperature=0.2")
    try:
        value = yaml.load(text, _StrictLoader)  # a SafeLoader
    except RecursionError:
        raise ConfigError(f"--set {override}: the value is nested too deeply") from None
    except (yaml.YAMLError, *_UNREADABLE) as error:
        detail = "put it in quotes" if is_secret else _in_a_line(error)
        message = f"the value is not valid YAML: {detail}"
        raise ConfigError(f"--set {override}: {message}") from None
    where: list[str | int] = []
    target: Any = values
    *parents, last = name.split(".")
    for part in parents:
        key = _key_in(target, part, where, override)
        if isinstance(target, dict):
            target.setdefault(key, {})
        where.append(key)
        target = target[key]
    key = _key_in(target, last, where, override)
    target[key] = value
    return (*where, key)


def _key_in(target: Any, part: str, where: list[str | int], override: str) -> str | int:
    """Read one part of a ``--set`` key: a name in a section, a number from 0 in a list."""
    if isinstance(target, dict):
        return part
    place = ".".join(map(str, where))
    if not isinstance(target, list):
        raise ConfigError(f"--set {override}: {place} is not a section")
    if not part.isdecimal() or int(part) >= len(target):
        raise ConfigError(
            f"--set {override}: {place} is a list of {len(target)}; use a number from 0 to "
            f"{len(target) - 1}, or set the whole list"
        )
    return int(part)


def _explain_all(path: Path, lines: dict[KeyPath, int], error: ValidationError) -> list[str]:
    by_place: dict[KeyPath, list[dict[str, Any]]] = {}
    for problem in error.errors():  # a union reports every alternative it tried: one mistake
        where = tuple(part for part in problem["loc"] if not _is_union_tag(part))
        by_place.setdefault(where, []).append(dict(problem))
    return [_explain(path, lines, where, problems) for where, problems in by_place.items()]


def _explain(
    path: Path, lines: dict[KeyPath, int], where: KeyPath, problems: list[dict[str, Any]]
) -> str:
    """One mistake as ``file:line: key: what was found, what is allowed, the nearest right key``."""
    problem = problems[0]
    place = _place(path, lines, where)
    name = ".".join(map(str, where)) or "the job"
    kind, found = problem["type"], problem["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        keys = _keys_at(where[:-1])
        near = difflib.get_close_matches(str(where[-1]), keys, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{place}: {name}: no such key; {hint}known keys: {', '.join(keys)}"
    if kind == "missing":
        return f"{place}: {name}: required, but not given"
    if found is None:
        return f"{place}: {name}: found nothing (null); give a value, or leave the key out"
    if kind in ("dataclass_type", "model_type", "model_attributes_type"):
        message = f"this is a section; set {name}.KEY, with one of {', '.join(_keys_at(where))}"
        # Who writes text there may mean the password.
        shown = "" if where[:1] == ("input",) else _found(name, found)
        return f"{place}: {name}: {shown}{message}"
    if kind == "string_pattern_mismatch":
        problems = [{"msg": _IN_WORDS[problem["ctx"]["pattern"]]}]
    elif kind == "tuple_type":
        problems = [{"msg": "Input should be a list"}]
    message = ", or ".join(map(_wanted, problems)) + _near_choice(found, problems)
    if isinstance(found, Mapping) or len(_shown(found)) > 80:
        return f"{place}: {name}: {message}"
    return f"{place}: {name}: {_found(name, found)}{message}"


def _wanted(problem: Mapping[str, Any]) -> str:
    if problem.get("type") in ("bool_parsing", "bool_type"):
        return "Input should be true or false"
    return str(problem["msg"]).removeprefix("Value error, ")


def _near_choice(found: Any, problems: list[dict[str, Any]]) -> str:
    """Ask whether one of the texts was meant that are allowed here; nothing if none is near."""
    choices = {
        choice.lower(): choice
        for problem in problems
        if problem.get("type") == "literal_error"
        for choice in re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    }
    if not isinstance(found, str):
        return ""
    near = difflib.get_close_matches(found.lower(), choices, n=1)
    return f"; did you mean {choices[near[0]]}?" if near else ""


def _found(name: str, value: Any) -> str:
    shown = _shown(value)
    return "" if _is_secret(name + shown) else f"found {shown}: "


def _is_secret(text: str) -> bool:
    """Tell whether a piece of a job may hold a password, which no message repeats."""
    return "password" in text.lower()


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # YAML has keys that JSON has not
        return f"a {type(value).__name__} that cannot be shown"


def _place(path: Path, lines: dict[KeyPath, int], where: KeyPath) -> str:
    """The file and line of a key; of its section where the key is missing."""
    known = next((where[:n] for n in range(len(where), 0, -1) if where[:n] in lines), ())
    line = lines.get(known, 1)
    return f"{path}:{line}" if line else f"{path} (--set)"


def _is_union_tag(part: str | int) -> bool:
    """Pydantic adds the tried alternative to the place, e.g. ``float`` or ``literal['auto']``."""
    return isinstance(part, str) and (
        part in ("int", "float", "str", "constrained-int") or part.startswith("literal[")
    )


def _keys_at(where: KeyPath) -> list[str]:
    section: Any = JobConfig
    for part in where:
        if isinstance(part, int):
            continue
        annotation = _fields(section)[part]
        choices = [annotation, *get_args(annotation)]
        section = next(c for c in choices if isinstance(c, type) and _fields(c))
    return list(_fields(section))


def _fields(section: Any) -> dict[str, Any]:
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {f.alias or name: f.annotation for name, f in section.model_fields.items()}
    if not dataclasses.is_dataclass(section):
        return {}
    special = {"fake": FakeEngineConfig}  # annotations of the plain dataclasses are strings
    return {f.name: special.get(f.name, str) for f in dataclasses.fields(section)}
