"""A manifest's columns: whether they are there, of which types, and alike in all files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.column_types import common_type, portable_type
from dsvl_pipeline.job.inputs import ColumnsConfig
from dsvl_pipeline.sources.formats.line import UnfitError
from dsvl_pipeline.sources.formats.lines import types_of
from dsvl_pipeline.sources.manifest_file import open_file
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.uris import shown

_ROLES = ("id", "image", "document", "prompt", "schema", "sha256", "etag")
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


class ManifestColumns:
    """The columns that a job names, looked for in each file of its manifest.

    Args:
        columns: Which column holds what.
        carry: Columns copied to the output.
        file_format: Of all files: parquet, jsonl or csv.

    Attributes:
        by_role: Which column holds what, of those that are named.
        carry: As given.
    """

    def __init__(self, columns: ColumnsConfig, carry: Sequence[str], file_format: str) -> None:
        named = columns.model_dump()
        self.by_role: Mapping[str, str] = {role: named[role] for role in _ROLES if named[role]}
        self.carry = tuple(carry)
        self._format = file_format
        # Types differ from file to file, as each was written from what its rows happened to hold.
        self._types: dict[str, dict[pa.DataType, str]] = {name: {} for name in self.carry}

    def carry_schema(self, files: Sequence[ObjectInfo]) -> pa.Schema:
        """Find the types that the carried columns have in all files together.

        Raises:
            ConfigError: A column is missing, or has no such type.
        """
        if self._format != "parquet":
            return pa.schema([(name, pa.string()) for name in self.carry])
        with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
            schemas = threads.map(_types_of, files if self.carry else ())
            for file, found in zip(files, schemas, strict=False):
                if found is not None:
                    self._note_types(file.uri, found)
        return pa.schema([(name, self._common(name)) for name in self.carry])

    def check(self, name: str, schema: pa.Schema) -> None:
        """Check that a file has all columns, each once and of a type that can be used.

        Args:
            name: Of the file, for messages.
            schema: Of the file.

        Raises:
            ConfigError: It has not.
        """
        for key, column in [
            *((f"columns.{role}", column) for role, column in self.by_role.items()),
            *(("carry", column) for column in self.carry),
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
        for role, column in self.by_role.items():
            found = schema.field(column).type
            if not _fits(role, found):
                wanted = "strings" + (" or lists of strings" if role in _MAY_BE_LISTS else "")
                raise ConfigError(
                    f"manifest {shown(name)}: column {column!r} holds {_shown_type(found)}, but "
                    f"input.columns.{role} needs {wanted}"
                )

    def unfit(self, name: str, schema: pa.Schema, error: UnfitError) -> ConfigError:
        """Make the error for a value: which file made the type, and which one does not fit it."""
        column, kind = error.column, portable_type(schema.field(error.column).type)
        others = [(k, n) for k, n in self._types[column].items() if k != kind] or [(kind, name)]
        other_kind, other = others[0]
        return ConfigError(
            f"input.carry: column {column!r} holds {kind} in {name} and {other_kind} in {other}, "
            f"which makes it {self._common(column)}, but: {error}; write all files "
            "of a manifest with one type, or leave the column out"
        )

    def _note_types(self, uri: str, schema: pa.Schema) -> None:
        self.check(uri, schema)
        for name in self.carry:
            try:
                kind = portable_type(schema.field(name).type)
            except ValueError as error:
                raise ConfigError(
                    f"manifest {shown(uri)}: column {name!r} cannot be carried: {error}; leave it "
                    "out of input.carry, or write it with another type"
                ) from None
            self._types[name].setdefault(kind, shown(uri))

    def _common(self, column: str) -> pa.DataType:
        """Return the type that a carried column has in all files together.

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


def _types_of(file: ObjectInfo) -> pa.Schema | None:
    with open_file(file) as stream:
        return types_of(file.uri, stream)


def _shown_type(kind: pa.DataType) -> str:
    try:
        return str(kind)
    except UnicodeDecodeError:  # the name of a time zone
        return "a type with a name that is not UTF-8"


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
