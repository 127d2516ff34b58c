"""A job's whole input: manifests, image files and documents as one stream of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

import pyarrow as pa

from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.job.places import absolute_input, resolve_patterns
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.documents import document_rows
from dsvl_pipeline.sources.file_filter import FileFilter
from dsvl_pipeline.sources.formats.lines import SUFFIXES as MANIFESTS
from dsvl_pipeline.sources.images import SUFFIXES as IMAGES
from dsvl_pipeline.sources.images import image_rows, may_have_pages
from dsvl_pipeline.sources.listing import find
from dsvl_pipeline.sources.manifest import Manifest
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.sources.skips import Skipped, Skips
from dsvl_pipeline.sources.unique import refuse_repeats
from dsvl_pipeline.store.named import Named
from dsvl_pipeline.store.uris import is_local, local_path

ROWS_PER_BATCH = 4096
_SUFFIXES = {"input.manifest": MANIFESTS, "input.images": IMAGES, "input.documents": (".pdf",)}


class Input:
    """What a job reads, checked as far as that is possible before reading it.

    Attributes:
        config: Of the job, for those who read elsewhere: see `places.absolute_input`.
        carry_schema: Names and types of ``Row.carry``; rows of files have None for each.
    """

    def __init__(self, config: InputConfig) -> None:
        self._named = resolve_patterns(config)
        self.config = config = absolute_input(config, self._named)
        self._others = OtherSettings(self._named)
        self._manifest_skips, self._file_skips = Skips(self._others), Skips()
        self._manifest = (
            Manifest(
                self._named["manifest"],
                config.columns,
                config.carry,
                check_changes=config.check_changes,
                prefixes=Prefixes(config),
                skips=self._manifest_skips,
            )
            if config.manifest
            else None
        )
        self.carry_schema = self._manifest.carry_schema if self._manifest else pa.schema([])
        self._files(Skips())

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was passed over beside the rows that have been read so far."""
        return (*self._file_skips.report(), *self._manifest_skips.report())

    def rows(self) -> Iterator[Row]:
        """Read all rows: the manifest's in its order, then images, then documents, by URI.

        The order is the same each time; ids are unique (a repeated one is a row with a failure).

        Raises:
            ConfigError: A manifest file turns out to be damaged.
        """
        batches = self._manifest.batches() if self._manifest else iter(())
        self._file_skips = Skips(self._others)
        rows = refuse_repeats(chain(batches, _batches(self._files(self._file_skips))))
        return map(_with_pages, rows) if self.config.frames == "pages" else rows

    def why_skipped(self, name: str) -> list[tuple[str, str, str]]:
        """List the files once more; say which that have this name are passed over.

        Args:
            name: A URI, a path or the end of one.

        Returns:
            Some of them: the setting that passes it over, why, and its URI.
        """
        whole = local_path(name) if is_local(name) else name

        def is_meant(uri: str) -> bool:
            return uri in (name, whole) or uri.endswith(f"/{name}")

        skips = Skips(self._others, is_meant)
        if manifest := self._named["manifest"]:
            for _ in find(manifest, setting="input.manifest", suffixes=MANIFESTS, skips=skips):
                pass
        for _ in self._files(skips):
            pass
        return skips.seen

    def _files(self, skips: Skips) -> Iterator[Row]:
        images, documents = self._named["images"], self._named["documents"]
        num_carried = len(self.carry_schema)
        return chain(
            image_rows(images, num_carried=num_carried, skips=skips) if images else (),
            document_rows(documents, num_carried=num_carried, skips=skips) if documents else (),
        )


class OtherSettings:
    """Tells of a file that one setting passes over whether another one reads it.

    Several settings may name one directory, each for the files of its own kind.
    """

    def __init__(self, named: Mapping[str, Sequence[Named]]) -> None:
        self._filters = {
            setting: [
                FileFilter(one.pattern, setting=setting, suffixes=_SUFFIXES[setting])
                for one in named[setting.removeprefix("input.")]
            ]
            for setting in _SUFFIXES
        }

    def __call__(self, setting: str, uri: str) -> bool:
        return any(
            one.means(uri)
            for other, filters in self._filters.items()
            if other != setting
            for one in filters
        )


def open_input(config: InputConfig) -> Input:
    """Open a job's input.

    Raises:
        ConfigError: It is missing, empty, not readable, or without a column that the job names.
    """
    return Input(config)


def _with_pages(row: Row) -> Row:
    """Find the TIFFs among the images: whether they have pages shows when they are opened."""
    if row.kind == "image" and len(row.sources) == 1 and may_have_pages(row.sources[0]):
        return replace(row, kind="tiff")
    return row


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, ROWS_PER_BATCH)):
        yield batch
