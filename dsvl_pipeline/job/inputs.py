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
    """Which column of the manifest holds what.

    Attributes:
        id: Column with the row's name, which must be unique. Without it a digest of images and
            prompt is the name.
        image: Column with a URI, or a list of URIs. Leave it out for prompts without a picture.
        document: Column with the URI of a PDF. Each of its pages becomes a row of the table.
        prompt: Column with a prompt of the row's own. Its answers have the ``prompt_id``
            ``column``.
        schema: Column with a JSON schema, as text. The row's answers follow it, except to prompts
            that have a schema or regex of their own.
        sha256: Column with the sha256 of the file. A row runs again when it changes.
        etag: Column with the object store's etag of the file. A row runs again when it changes.
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
    """How pages of documents are rendered.

    Attributes:
        dpi: Resolution of a rendered page, in dots per inch. ``max_page_px`` may lower it.
        max_page_px: Longest edge of a rendered page.
        max_pages: A document or TIFF with more pages is one error row. It is never cut short.
        page_timeout_s: Longest time to open a document, or to render one page.
        memory_gib: Most memory (address space) of the process that renders pages.
        draft: Whether the engine gets each page's text layer as a draft of the answer.
            Transcription is then faster, and the answers stay the same. Leave it off for other
            questions: the draft then costs a little and saves nothing.
        password: Password for documents that need one. Write the text itself, in quotes, or ``{env:
            NAME}`` for an environment variable of the driver. It is never written to a table, log
            or message. Ray passes it to its tasks unencrypted. ``dsvl report`` needs the variable
            too. Rows that were read without a password are not run again.
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
        """Return the password itself, or None.

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
    """Return whether a value can be a password: text that PDFs can hold."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    # Surrogates are what Python makes of bytes that are no UTF-8.
    return isinstance(value, str) and re.fullmatch("[^\0\ud800-\udfff]+", value) is not None


class InputConfig(Section):
    """What the job reads: a manifest, images, documents, or several of them together.

    Attributes:
        manifest: Parquet, JSONL or CSV files, as paths, URIs or glob patterns. Each of their rows
            is one thing to ask.
        images: Image files, directories or glob patterns. Each image is a row.
        documents: PDF files, directories or glob patterns. Each page is a row.
        columns: What the columns of the manifest mean.
        carry: Columns of the manifest that are copied to the output. If a value changes, the row is
            written again with the answer that it has.
        check_changes: Whether to ask the store if ``s3://`` objects named in a manifest have
            changed. This costs a request for each object. A column with a digest
            (``columns.sha256``, ``columns.etag``) does the same without requests. Local files, and
            listed images and documents, are always checked.
        allow_http: Whether rows may name ``http`` and ``https`` URLs. Only public addresses are
            fetched.
        allowed_roots: Local directories whose files rows may name. The directories of the input
            itself are always allowed.
        allowed_prefixes: Prefixes of objects that rows may name: ``s3://BUCKET``,
            ``s3://BUCKET/PREFIX``, or ``s3://`` for all that the credentials may read. The default
            is the buckets of the manifests.
        max_image_bytes: An image file that is larger is an error row.
        max_document_bytes: A document that is larger is an error row.
        frames: How to treat a file that holds several pictures. ``pages``: each page of a TIFF is a
            row, and of an animation the first frame is used. ``first``: the first picture is used.
            ``error``: the file is an error row. docs/pictures.md lists the cases.
        image_timeout_s: Longest time to decode one image.
        image_memory_gib: Most memory for decoding one image.
        fetch_timeout_s: Longest time of one download over ``http`` or ``https``, redirects
            included. A retry has the whole time again. Object stores have fixed limits instead.
        document: How pages of documents are rendered.
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
