"""Directories that hold a table of another format, whose Parquet files alone are not the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from dsvl_pipeline.errors import AccessError, ConfigError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.named import Named, resolve
from dsvl_pipeline.store.patterns import escape, split
from dsvl_pipeline.store.uris import is_local, last_part, parent_of, shown

# A table partitioned ten thousand times has as many directories; a store takes a request for each.
_MOST_LOOKED_AT = 200
_FORMATS = {
    "Delta": (
        "_delta_log/*",
        "DeltaTable('PLACE').file_uris() of deltalake",
        "FROM delta_scan('PLACE')",
    ),
    "Iceberg": (
        "metadata/*.metadata.json",
        "table.inspect.files()['file_path'] of pyiceberg",
        "FROM iceberg_scan('PLACE')",
    ),
    "Hudi": (".hoodie/*", "its timeline", "an engine that reads Hudi"),
}
"""By format: what lies beside its data, what tells its files, what reads it."""


def refuse_tables(patterns: Sequence[str | Named], uris: Sequence[str]) -> None:
    """Refuse Parquet files of a Delta, Iceberg or Hudi table, unless each is named by itself.

    Their directories also hold files that were deleted or replaced; only their logs know which.

    Args:
        patterns: As the job has them.
        uris: What they name.

    Raises:
        ConfigError: Some lie in such a table.
    """
    places = [split(resolve(pattern).pattern) for pattern in patterns]
    named = {head for head, tail in places if not tail}
    listed = [uri for uri in uris if uri.lower().endswith(".parquet") and uri not in named]
    for place in _places(listed):
        for name, (marker, files, scan) in _FORMATS.items():
            if _is_there(f"{escape(place)}/{marker}"):
                files, scan = (text.replace("PLACE", shown(place)) for text in (files, scan))
                if name != "Hudi":
                    scan = f"DuckDB: COPY ({scan}) TO 'manifest.parquet'"
                raise ConfigError(
                    f"input.manifest: {shown(place)} is a {name} table, whose directory also holds "
                    f"files that are no longer part of it ({shown(listed[0])} may be one); list "
                    f"the files of its present version one by one ({files}), or copy it into one "
                    f"file with {scan}"
                )


def _places(uris: Sequence[str]) -> Iterator[str]:
    """Yield the directories that files lie in, and those above them, each once."""
    seen = set[str]()
    for uri in uris:
        place = parent_of(uri)
        # Whatever partitions a table, its log lies above.
        while "=" in last_part(place):
            place = parent_of(place)
        while place not in seen and place and not place.endswith(":/"):
            if not is_local(place) and len(seen) >= _MOST_LOOKED_AT:
                return
            seen.add(place)
            yield place
            place = parent_of(place)


def _is_there(pattern: str) -> bool:
    try:
        return any(islice(objects.glob_objects(pattern, tells_problems=True), 1))
    except AccessError:  # who may read a directory may not always list those above it
        return False
