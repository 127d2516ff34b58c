"""The ``input:`` section of a job file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.section import Section
from dsvl_pipeline.store.uris import EVERY_OBJECT, bucket_and_key, is_object

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
            is_whole = is_object(value) and (bucket_and_key(value)[0] or value == EVERY_OBJECT)
            if not is_whole or "*" in value:
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
