"""A job's whole input: manifests, image files and documents as one stream of rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import pyarrow as pa

from dsvl_pipeline.config import InputConfig
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.documents import document_rows
from dsvl_pipeline.sources.images import image_rows
from dsvl_pipeline.sources.manifest import Manifest
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.sources.unique import refuse_repeats
from dsvl_pipeline.sources.uris import local_path, scheme_of

ROWS_PER_BATCH = 4096


class Input:
    """What a job reads, checked as far as that is possible before reading it.

    Attributes:
        carry_schema: Names and types of ``Row.carry``; rows of files have None for each.
    """

    def __init__(self, config: InputConfig) -> None:
        self._config = config
        self._manifest = (
            Manifest(
                config.manifest,
                config.columns,
                config.carry,
                check_changes=config.check_changes,
                prefixes=Prefixes(config),
            )
            if config.manifest
            else None
        )
        self.carry_schema = self._manifest.carry_schema if self._manifest else pa.schema([])
        self._files()

    def rows(self) -> Iterator[Row]:
        """Read all rows: the manifest's in its order, then images, then documents, by URI.

        The order is the same each time; ids are unique (a repeated one is a row with a failure).

        Raises:
            ConfigError: A manifest file turns out to be damaged.
        """
        batches = self._manifest.batches() if self._manifest else iter(())
        return refuse_repeats(chain(batches, _batches(self._files())))

    def _files(self) -> Iterator[Row]:
        images, documents = self._config.images, self._config.documents
        num_carried = len(self.carry_schema)
        return chain(
            image_rows(images, num_carried=num_carried) if images else (),
            document_rows(documents, num_carried=num_carried) if documents else (),
        )


def open_input(config: InputConfig) -> Input:
    """Open a job's input.

    Raises:
        ConfigError: It is missing, empty, not readable, or without a column that the job names.
    """
    return Input(config)


def with_absolute_paths(config: InputConfig) -> InputConfig:
    """Make local paths absolute, so that they mean the same in another working directory."""
    return config.model_copy(
        update={
            name: tuple(
                local_path(value) if scheme_of(value) == "file" else value
                for value in getattr(config, name)
            )
            for name in ("manifest", "images", "documents", "allowed_roots")
        }
    )


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, ROWS_PER_BATCH)):
        yield batch
