"""A job's whole input: manifests, image files and documents as one stream of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

import pyarrow as pa

from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.documents import document_rows
from dsvl_pipeline.sources.formats.lines import SUFFIXES as MANIFESTS
from dsvl_pipeline.sources.images import SUFFIXES as IMAGES
from dsvl_pipeline.sources.images import image_rows, may_have_pages
from dsvl_pipeline.sources.listing import Named, find, meaning, resolve
from dsvl_pipeline.sources.manifest import Manifest
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.sources.skips import Skipped, Skips
from dsvl_pipeline.sources.unique import refuse_repeats
from dsvl_pipeline.store.uris import as_text, local_path, scheme_of

ROWS_PER_BATCH = 4096
_SUFFIXES = {"input.manifest": MANIFESTS, "input.images": IMAGES, "input.documents": (".pdf",)}


class Input:
    """What a job reads, checked as far as that is possible before reading it.

    Attributes:
        config: Of the job, for those who read elsewhere: see `with_absolute_paths`.
        carry_schema: Names and types of ``Row.carry``; rows of files have None for each.
    """

    def __init__(self, config: InputConfig) -> None:
        self._named = _resolved(config)
        self.config = config = _spelled(config, self._named)
        self._sisters = Sisters(self._named)
        self._manifest_skips, self._file_skips = Skips(self._sisters), Skips()
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
        self._file_skips = Skips(self._sisters)
        rows = refuse_repeats(chain(batches, _batches(self._files(self._file_skips))))
        return map(_with_pages, rows) if self.config.frames == "pages" else rows

    def why_skipped(self, name: str) -> list[tuple[str, str, str]]:
        """List the files once more; say which that have this name are passed over.

        Args:
            name: A URI, a path or the end of one.

        Returns:
            Some of them: the setting that passes it over, why, and its URI.
        """
        whole = name if scheme_of(name) != "file" else local_path(name)

        def is_meant(uri: str) -> bool:
            return uri in (name, whole) or uri.endswith(f"/{name}")

        skips = Skips(self._sisters, is_meant)
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


class Sisters:
    """Tells of a file that one setting passes over whether another one reads it.

    Several settings may name one directory, each for the files of its own kind.
    """

    def __init__(self, named: Mapping[str, Sequence[Named]]) -> None:
        self._meanings = {
            setting: [
                meaning(one.pattern, setting=setting, suffixes=_SUFFIXES[setting])
                for one in named[setting.removeprefix("input.")]
            ]
            for setting in _SUFFIXES
        }

    def __call__(self, setting: str, uri: str) -> bool:
        return any(
            means(uri)
            for other, meanings in self._meanings.items()
            if other != setting
            for means in meanings
        )


def open_input(config: InputConfig) -> Input:
    """Open a job's input.

    Raises:
        ConfigError: It is missing, empty, not readable, or without a column that the job names.
    """
    return Input(config)


def with_absolute_paths(config: InputConfig) -> InputConfig:
    """Make local paths absolute, so that they mean the same elsewhere.

    In another working directory, on another machine, and when other files have come: what is a
    name here (see `listing.resolve`) stays one.
    """
    return _spelled(config, _resolved(config))


def _resolved(config: InputConfig) -> dict[str, tuple[Named, ...]]:
    return {
        name: tuple(resolve(value, setting=f"input.{name}") for value in getattr(config, name))
        for name in ("manifest", "images", "documents")
    }


def _spelled(config: InputConfig, named: Mapping[str, Sequence[Named]]) -> InputConfig:
    spellings = {name: tuple(one.spelling for one in found) for name, found in named.items()}
    roots = tuple(as_text(local_path(root)) for root in config.allowed_roots)
    return config.model_copy(update={**spellings, "allowed_roots": roots})


def _with_pages(row: Row) -> Row:
    """Find the TIFFs among the images: whether they have pages shows when they are opened."""
    if row.kind == "image" and len(row.sources) == 1 and may_have_pages(row.sources[0]):
        return replace(row, kind="tiff")
    return row


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, ROWS_PER_BATCH)):
        yield batch
