"""Rows of a manifest: the values of one line, checked and made a `Row`."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dsvl_pipeline.errors import (
    AccessError,
    ConfigError,
    GrammarError,
    ManifestError,
    NotFoundError,
)
from dsvl_pipeline.job.grammar import normal_schema
from dsvl_pipeline.keys import content_id_from, content_id_of_many, row_id_for
from dsvl_pipeline.records import Row, RowFailure
from dsvl_pipeline.sources.formats.line import Line
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import local_path, resolved, row_id_of, scheme_of

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class RowMaker:
    """Makes rows of lines whose values are the columns of all roles, then the carried ones.

    Args:
        columns: Which column holds what, in the order of a line's values.
        num_carried: How many values follow them.
        has_json_values: Whether carried values that are no strings become JSON text.
        check_changes: Whether to ask the store about every object that the rows name.
        prefixes: Which of them may be asked about; all without it.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        num_carried: int,
        has_json_values: bool,
        check_changes: bool,
        prefixes: Prefixes | None,
    ) -> None:
        self._kind: Literal["image", "document"] = "document" if "document" in columns else "image"
        self._columns = columns
        self._at = {role: position for position, role in enumerate(columns)}
        self._num_carried = num_carried
        self._has_json_values = has_json_values
        self._check_changes = check_changes
        self._prefixes = prefixes

    def row(self, line: Line, directory: str, name: str) -> Row:
        """Make a row of a line; of one that is wrong a row with a failure.

        Args:
            line: As read.
            directory: What the names in it are relative to.
            name: Of the file, for messages.
        """
        try:
            if line.problem is not None:
                raise ManifestError("manifest_line", line.problem)
            return self._good_row(line.values, directory)
        except ManifestError as error:
            message = f"{name}:{line.number}: {error}"
            return Row(
                row_id=self._id(line.values) or f"{name}#{line.number}",
                kind=self._kind,
                sources=(),
                content_id=content_id_from(uri=message),
                carry=self._carried(line.values) if line.values else (None,) * self._num_carried,
                failure=RowFailure(code=error.code, message=message),
            )

    def _good_row(self, values: Sequence[Any], directory: str) -> Row:
        row_id = self._id(values)
        if row_id is None and "id" in self._at:
            raise self._wrong("id", values, "a string that is not empty, or a whole number")
        prompt = self._value("prompt", values) if "prompt" in self._at else None
        if prompt is not None and not isinstance(prompt, str):
            raise self._wrong("prompt", values, "a string")
        sources = tuple(resolved(directory, name) for name in self._names(values))
        if row_id is None:
            # A document is its URI, unless several rows ask different things about it.
            by_uri = self._kind == "document" and "prompt" not in self._at
            row_id = objects.name_of(sources[0]) if by_uri else row_id_for(sources, prompt)
        return Row(
            row_id=row_id,
            kind=self._kind,
            sources=sources,
            content_id=self._content_id(sources, values),
            prompt=prompt,
            schema=self._schema(values),
            carry=self._carried(values),
        )

    def _value(self, role: str, values: Sequence[Any]) -> Any:
        """Return a value, None where it is empty: CSV has no other way to say so."""
        at = self._at.get(role)
        value = values[at] if at is not None else None
        return None if value == "" or value == [] else value

    def _id(self, values: Sequence[Any]) -> str | None:
        value = self._value("id", values) if values else None
        if type(value) is int:  # not bool
            return str(value)
        return row_id_of(value) if isinstance(value, str) else None

    def _names(self, values: Sequence[Any]) -> Sequence[str]:
        role = self._kind
        if role not in self._at:
            return ()  # a text prompt
        value = self._value(role, values)
        if value is None:
            raise ManifestError(
                f"no_{role}", f"column {self._columns[role]!r} names no {role}; fill it in"
            )
        if isinstance(value, str):
            return (value,)
        if role == "document":
            raise self._wrong(role, values, "a string")
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise self._wrong(role, values, "a string, or a list of strings that are not empty")
        return value

    def _schema(self, values: Sequence[Any]) -> str | None:
        schema = self._value("schema", values)
        if schema is None:
            return None
        if not isinstance(schema, str):
            raise self._wrong("schema", values, "a JSON schema as text")
        try:
            return normal_schema(schema)
        except GrammarError as error:
            message = f"column {self._columns['schema']!r}: {error}"
            raise ManifestError(error.code, message) from None

    def _content_id(self, sources: Sequence[str], values: Sequence[Any]) -> bytes:
        if "sha256" not in self._at and "etag" not in self._at:
            return _of_all([self._identify(uri) for uri in sources])
        sha256 = self._digests("sha256", len(sources), values)
        etag = self._digests("etag", len(sources), values)
        return _of_all(
            [
                content_id_from(uri=uri, sha256=sha, etag=tag)
                if sha or tag
                else self._identify(uri)
                for uri, sha, tag in zip(sources, sha256, etag, strict=True)
            ]
        )

    def _identify(self, uri: str) -> bytes:
        """Identify what the manifest gives no digest of, so that it runs again once it changed.

        What is not there has the empty id, so that its old answers stay (see `Row`). What would
        take a request to find out counts as its bare URI, unless the job asks for that.
        """
        scheme = scheme_of(uri)
        try:
            if scheme == "file":
                found = os.stat(local_path(uri))
                if stat.S_ISREG(found.st_mode):
                    size, mtime_ns = found.st_size, found.st_mtime_ns
                    return content_id_from(uri=uri, size=size, mtime_ns=mtime_ns)
            elif scheme == "s3" and self._check_changes:
                if self._prefixes is not None and self._prefixes.refuse(uri):
                    return b""
                info = objects.stat(uri)
                return content_id_from(uri=uri, etag=info.etag, size=info.size)
        # A store that fails otherwise stops the plan: every row would seem to have changed.
        except (OSError, ValueError, NotFoundError, AccessError, ConfigError):
            return b""  # reading it will fail the row, and say why
        return content_id_from(uri=uri)

    def _digests(self, role: str, count: int, values: Sequence[Any]) -> Sequence[str | None]:
        value = self._value(role, values)
        if value is None:
            return (None,) * count
        digests = value if isinstance(value, list) else [value]
        if role == "sha256":
            digests = [digest.hex() if isinstance(digest, bytes) else digest for digest in digests]
        is_good = _is_sha256 if role == "sha256" else _is_text
        if len(digests) != count or not all(
            digest is None or is_good(digest) for digest in digests
        ):
            shape = "64 hexadecimal digits" if role == "sha256" else "a string"
            raise self._wrong(role, values, f"{shape} for each of {count} file(s)")
        return digests

    def _carried(self, values: Sequence[Any]) -> tuple[Any, ...]:
        carried = tuple(values[len(self._at) :])
        if self._has_json_values:
            return tuple(
                value
                if value is None or isinstance(value, str)
                else json.dumps(value, ensure_ascii=False)
                for value in carried
            )
        return carried

    def _wrong(self, role: str, values: Sequence[Any], wanted: str) -> ManifestError:
        found = values[self._at[role]]
        kind = type(found).__name__
        if found is None or found == "":
            text = "nothing"
        elif isinstance(found, dict | list):  # whatever stands in there, nobody meant it for us
            text = f"{kind} of {len(found)}"
        else:
            text = f"{kind} {found!r}"
        text = objects.redact_text(text)  # before it is cut: half a secret is one too
        text = text if len(text) <= 80 else text[:77] + "..."
        return ManifestError(
            "manifest_line", f"column {self._columns[role]!r} holds {text}, expected {wanted}"
        )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _of_all(content_ids: Sequence[bytes]) -> bytes:
    return content_id_of_many(content_ids) if all(content_ids) else b""
