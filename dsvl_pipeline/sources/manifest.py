"""Manifests: tables of what to read and what to ask, one row each.

Reading is lazy and bounded: a batch of lines at a time, only the needed columns. A bad line
becomes a row with a failure; a bad file raises `ConfigError`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain
from typing import Any, Literal

import pyarrow as pa

from dsvl_pipeline.errors import (
    AccessError,
    ConfigError,
    GrammarError,
    ManifestError,
    NotFoundError,
)
from dsvl_pipeline.job.column_types import common_type, portable_type
from dsvl_pipeline.job.grammar import normal_schema
from dsvl_pipeline.job.inputs import ColumnsConfig
from dsvl_pipeline.keys import content_id_from, content_id_of_many, row_id_for
from dsvl_pipeline.records import Row, RowFailure
from dsvl_pipeline.sources.formats.lake_tables import refuse_tables
from dsvl_pipeline.sources.formats.line import Line, UnfitError
from dsvl_pipeline.sources.formats.lines import (
    SUFFIXES,
    format_of,
    read_lines,
    read_schema,
    types_of,
)
from dsvl_pipeline.sources.listing import Named, find, open_file
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.sources.skips import Skips
from dsvl_pipeline.sources.unique import number_equal_rows
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.uris import directory_of, join, local_path, row_id_of, scheme_of, shown
from dsvl_pipeline.wording import amount

_ROLES = ("id", "image", "document", "prompt", "schema", "sha256", "etag")
_JUDGED_ROWS = 1000  # so many are looked at before a whole job is refused for what rows name
_MAY_BE_LISTS = ("image", "sha256", "etag")
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Manifest:
    """The files of one ``input.manifest``, opened far enough to know their columns.

    Args:
        patterns: Files or globs, local or ``s3://``.
        columns: Which column holds what.
        carry: Columns copied to the output.
        check_changes: Whether to ask the store about every object that the rows name.
        prefixes: Which of them may be asked about and read; all without it.
        skips: Takes what the patterns pass over.

    Attributes:
        kind: What the rows are.
        carry_schema: Types of the carried columns. Parquet keeps its own (times in microseconds),
            or what its files have in common; CSV gives strings, JSONL too (a value that is no
            string as JSON text).

    Raises:
        ConfigError: No file, no row, a file that cannot be read, or a column that is missing or of
            a type that cannot be used; or, from `batches`, ``prefixes`` refuse all that the
            first rows name.
    """

    def __init__(
        self,
        patterns: Sequence[str | Named],
        columns: ColumnsConfig,
        carry: Sequence[str],
        *,
        check_changes: bool = False,
        prefixes: Prefixes | None = None,
        skips: Skips | None = None,
    ) -> None:
        self.kind: Literal["image", "document"] = "document" if columns.document else "image"
        named = columns.model_dump()
        self._columns: dict[str, str] = {role: named[role] for role in _ROLES if named[role]}
        self._at = {role: position for position, role in enumerate(self._columns)}
        self._carry = tuple(carry)
        self._check_changes = check_changes
        self._prefixes = prefixes
        setting = "input.manifest"
        self._files = list(find(patterns, setting=setting, suffixes=SUFFIXES, skips=skips))
        refuse_tables(patterns, [file.uri for file in self._files])
        self._format = self._one_format()
        self.carry_schema = self._carry_schema(self._first_schema())

    def batches(self) -> Iterator[list[Row]]:
        """Read all rows, file after file; ids are not yet checked for repetitions."""
        by_file = map(self._read, self._files)
        if "id" not in self._columns:
            by_file = map(number_equal_rows, by_file)
        batches = chain.from_iterable(by_file)
        first = list[list[Row]]()
        while sum(map(len, first)) < _JUDGED_ROWS and (batch := next(batches, None)) is not None:
            first.append(batch)
        self._check_prefixes(list(chain.from_iterable(first)))
        yield from chain(first, batches)

    def _check_prefixes(self, rows: Sequence[Row]) -> None:
        """Say before anything starts what would otherwise be said by each row, one by one."""
        named = [uri for row in rows for uri in row.sources]
        if self._prefixes is not None and named and all(map(self._prefixes.refuse, named)):
            raise ConfigError(
                f"input.manifest: none of what its first rows name ({len(rows):,}) may be read: "
                f"{self._prefixes.refusal(named[0])}"
            )

    # ---------------------------------------------------------------- columns

    def _one_format(self) -> str:
        formats = {format_of(file.uri): shown(file.uri) for file in reversed(self._files)}
        if len(formats) > 1:
            raise ConfigError(
                f"input.manifest names files of several formats ({', '.join(sorted(formats))}), "
                f"such as {' and '.join(formats[name] for name in sorted(formats))}; "
                "give each format a job of its own"
            )
        return next(iter(formats))

    def _first_schema(self) -> pa.Schema:
        for file in self._files:
            with open_file(file) as stream:
                schema = read_schema(file.uri, stream)
                stream.seek(0)
                if next(read_lines(file.uri, stream, ()), None):
                    return schema
        first = shown(self._files[0].uri)
        raise ConfigError(
            f"input.manifest holds no rows: {amount(len(self._files), 'file')}, all empty "
            f"(first {first})"
        )

    def _carry_schema(self, schema: pa.Schema) -> pa.Schema:
        self._check(self._files[0].uri, schema)
        if self._format != "parquet":
            return pa.schema([(name, pa.string()) for name in self._carry])
        # Types differ from file to file, as each was written from what its rows happened to hold.
        self._types: dict[str, dict[pa.DataType, str]] = {name: {} for name in self._carry}
        with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
            schemas = threads.map(_types_of, self._files if self._carry else ())
            for file, found in zip(self._files, schemas, strict=False):
                if found is not None:
                    self._note_types(file.uri, found)
        return pa.schema([(name, self._common(name)) for name in self._carry])

    def _note_types(self, uri: str, schema: pa.Schema) -> None:
        self._check(uri, schema)
        for name in self._carry:
            try:
                kind = portable_type(schema.field(name).type)
            except ValueError as error:
                raise ConfigError(
                    f"manifest {shown(uri)}: column {name!r} cannot be carried: {error}; leave it "
                    "out of input.carry, or write it with another type"
                ) from None
            self._types[name].setdefault(kind, shown(uri))

    def _common(self, column: str) -> pa.DataType:
        """Give the type that a carried column has in all files together.

        Raises:
            ConfigError: There is none.
        """
        first = common = next(iter(self._types[column]))
        for kind, name in self._types[column].items():
            if (wider := common_type(common, kind)) is None:
                raise self._unlike(column, self._types[column][first], first, name, kind)
            if wider != common:
                first, common = kind, wider
        return common

    def _unlike(
        self, column: str, name: str, kind: pa.DataType, other: str, other_kind: pa.DataType
    ) -> ConfigError:
        return ConfigError(
            f"input.carry: column {column!r} holds {kind} in {name}, but {other_kind} in {other}; "
            "no type holds both without loss, so write all files of a manifest with one type, or "
            "leave the column out"
        )

    def _check(self, name: str, schema: pa.Schema) -> None:
        for key, column in [
            *((f"columns.{role}", column) for role, column in self._columns.items()),
            *(("carry", column) for column in self._carry),
        ]:
            if schema.names.count(column) > 1:
                raise ConfigError(
                    f"manifest {shown(name)} has the column {column!r}, which input.{key} names, "
                    f"{schema.names.count(column)} times; rename all but one"
                )
            if column not in schema.names:
                near = difflib.get_close_matches(column, schema.names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                for separator, word in ((";", "';'"), ("\t", "tabs")):
                    if self._format == "csv" and any(separator in n for n in schema.names):
                        hint = f"is it separated by {word}? it must be by commas; "
                raise ConfigError(
                    f"manifest {shown(name)} has no column {column!r}, which input.{key} names; "
                    f"{hint}its columns: {', '.join(schema.names)}"
                )
        for role, column in self._columns.items():
            found = schema.field(column).type
            if not _fits(role, found):
                wanted = "strings" + (" or lists of strings" if role in _MAY_BE_LISTS else "")
                raise ConfigError(
                    f"manifest {shown(name)}: column {column!r} holds {_shown_type(found)}, but "
                    f"input.columns.{role} needs {wanted}"
                )

    # ------------------------------------------------------------------- rows

    def _read(self, file: ObjectInfo) -> Iterator[list[Row]]:
        wanted = list(self._columns.values())
        carry = {field.name: field.type for field in self.carry_schema}
        directory, name = directory_of(file.uri), shown(file.uri)
        with open_file(file) as stream:
            if self._format != "jsonl":  # a JSONL file has no schema: a key may come late, or never
                schema = read_schema(file.uri, stream)
                if not schema.names:
                    return
                self._check(file.uri, schema)
                stream.seek(0)
            threads = ThreadPoolExecutor(objects.NUM_THREADS) if self._check_changes else None
            with threads or nullcontext():
                run = threads.map if threads else map
                try:
                    for lines in read_lines(file.uri, stream, wanted, carry):
                        yield list(run(lambda line: self._row(line, directory, name), lines))
                except UnfitError as error:
                    raise self._unfit(name, schema.field(error.column).type, error) from None

    def _unfit(self, name: str, kind: pa.DataType, error: UnfitError) -> ConfigError:
        """Say which file made a column's type, and which one has a value that does not fit it."""
        column, kind = error.column, portable_type(kind)
        others = [(k, n) for k, n in self._types[column].items() if k != kind] or [(kind, name)]
        other_kind, other = others[0]
        return ConfigError(
            f"input.carry: column {column!r} holds {kind} in {name} and {other_kind} in {other}, "
            f"which makes it {self.carry_schema.field(column).type}, but: {error}; write all files "
            "of a manifest with one type, or leave the column out"
        )

    def _row(self, line: Line, directory: str, name: str) -> Row:
        try:
            if line.problem is not None:
                raise ManifestError("manifest_line", line.problem)
            return self._good_row(line.values, directory)
        except ManifestError as error:
            message = f"{name}:{line.number}: {error}"
            return Row(
                row_id=self._id(line.values) or f"{name}#{line.number}",
                kind=self.kind,
                sources=(),
                content_id=content_id_from(uri=message),
                carry=self._carried(line.values) if line.values else (None,) * len(self._carry),
                failure=RowFailure(code=error.code, message=message),
            )

    def _good_row(self, values: Sequence[Any], directory: str) -> Row:
        row_id = self._id(values)
        if row_id is None and "id" in self._at:
            raise self._wrong("id", values, "a string that is not empty, or a whole number")
        prompt = self._value("prompt", values) if "prompt" in self._at else None
        if prompt is not None and not isinstance(prompt, str):
            raise self._wrong("prompt", values, "a string")
        sources = tuple(join(directory, name) for name in self._names(values))
        if row_id is None:
            # A document is its URI, unless several rows ask different things about it.
            by_uri = self.kind == "document" and "prompt" not in self._at
            row_id = objects.name_of(sources[0]) if by_uri else row_id_for(sources, prompt)
        return Row(
            row_id=row_id,
            kind=self.kind,
            sources=sources,
            content_id=self._content_id(sources, values),
            prompt=prompt,
            schema=self._schema(values),
            carry=self._carried(values),
        )

    def _value(self, role: str, values: Sequence[Any]) -> Any:
        """Give a value, None where it is empty: CSV has no other way to say so."""
        at = self._at.get(role)
        value = values[at] if at is not None else None
        return None if value == "" or value == [] else value

    def _id(self, values: Sequence[Any]) -> str | None:
        value = self._value("id", values) if values else None
        if type(value) is int:  # not bool
            return str(value)
        return row_id_of(value) if isinstance(value, str) else None

    def _names(self, values: Sequence[Any]) -> Sequence[str]:
        role = self.kind
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
        if self._format == "jsonl":
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


def _types_of(file: ObjectInfo) -> pa.Schema | None:
    with open_file(file) as stream:
        return types_of(file.uri, stream)


def _shown_type(kind: pa.DataType) -> str:
    try:
        return str(kind)
    except UnicodeDecodeError:  # the name of a time zone
        return "a type with a name that is not UTF-8"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _fits(role: str, found: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if role in _MAY_BE_LISTS and any(is_one(found) for is_one in _LISTS):
        found = found.value_type
    if role == "id" and pa.types.is_integer(found):
        return True
    if role == "sha256" and any(is_one(found) for is_one in _BYTES):
        return True
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    # The columns of CSV and JSONL are null; their values are checked one by one.
    return any(is_one(found) for is_one in (pa.types.is_null, *texts))


def _of_all(content_ids: Sequence[bytes]) -> bytes:
    return content_id_of_many(content_ids) if all(content_ids) else b""
