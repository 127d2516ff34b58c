"""Manifests: tables of what to read and what to ask, one row each.

Reading is lazy and bounded: a batch of lines at a time, only the needed columns. A bad line
becomes a row with a failure; a bad file raises `ConfigError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain

import pyarrow as pa

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.inputs import ColumnsConfig
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.formats.lake_tables import refuse_tables
from dsvl_pipeline.sources.formats.line import UnfitError
from dsvl_pipeline.sources.formats.lines import SUFFIXES, format_of, read_lines, read_schema
from dsvl_pipeline.sources.listing import find
from dsvl_pipeline.sources.manifest_columns import ManifestColumns
from dsvl_pipeline.sources.manifest_file import open_file
from dsvl_pipeline.sources.manifest_rows import RowMaker
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.sources.skips import Skips
from dsvl_pipeline.sources.unique import number_equal_rows
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.named import Named
from dsvl_pipeline.store.uris import directory_of, shown
from dsvl_pipeline.wording import amount

_JUDGED_ROWS = 1000  # so many are looked at before a whole job is refused for what rows name


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
        self._check_changes = check_changes
        self._prefixes = prefixes
        setting = "input.manifest"
        self._files = list(find(patterns, setting=setting, suffixes=SUFFIXES, skips=skips))
        refuse_tables(patterns, [file.uri for file in self._files])
        self._format = self._one_format()
        self._columns = ManifestColumns(columns, carry, self._format)
        self._columns.check(self._files[0].uri, self._first_schema())
        self.carry_schema = self._columns.carry_schema(self._files)
        self._maker = RowMaker(
            self._columns.by_role,
            num_carried=len(self._columns.carry),
            has_json_values=self._format == "jsonl",
            check_changes=check_changes,
            prefixes=prefixes,
        )

    def batches(self) -> Iterator[list[Row]]:
        """Read all rows, file after file; ids are not yet checked for repetitions."""
        by_file = map(self._read, self._files)
        if "id" not in self._columns.by_role:
            by_file = map(number_equal_rows, by_file)
        batches = chain.from_iterable(by_file)
        first = list[list[Row]]()
        while sum(map(len, first)) < _JUDGED_ROWS and (batch := next(batches, None)) is not None:
            first.append(batch)
        self._check_prefixes(list(chain.from_iterable(first)))
        yield from chain(first, batches)

    def _check_prefixes(self, rows: Sequence[Row]) -> None:
        """Refuse before anything starts what each row would otherwise refuse, one by one."""
        named = [uri for row in rows for uri in row.sources]
        if self._prefixes is not None and named and all(map(self._prefixes.refuse, named)):
            raise ConfigError(
                f"input.manifest: none of what its first rows name ({len(rows):,}) may be read: "
                f"{self._prefixes.refusal(named[0])}"
            )

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

    def _read(self, file: ObjectInfo) -> Iterator[list[Row]]:
        wanted = list(self._columns.by_role.values())
        carry = {field.name: field.type for field in self.carry_schema}
        directory, name = directory_of(file.uri), shown(file.uri)
        with open_file(file) as stream:
            if self._format != "jsonl":  # a JSONL file has no schema: a key may come late, or never
                schema = read_schema(file.uri, stream)
                if not schema.names:
                    return
                self._columns.check(file.uri, schema)
                stream.seek(0)
            threads = ThreadPoolExecutor(objects.NUM_THREADS) if self._check_changes else None
            with threads or nullcontext():
                run = threads.map if threads else map
                try:
                    for lines in read_lines(file.uri, stream, wanted, carry):
                        yield list(run(lambda line: self._maker.row(line, directory, name), lines))
                except UnfitError as error:
                    raise self._columns.unfit(name, schema, error) from None
