"""Compare the log with the parts, and the rows with what was asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline import keys
from dsvl_pipeline.errors import PartError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import path_below
from dsvl_pipeline.table import lineage
from dsvl_pipeline.table.document import warn_of_stranger
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lease import is_released
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.part import Receipt, keys_digest, read_part
from dsvl_pipeline.table.schema import LOGICAL_KEY, logical_key, output_schema
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.table.vacuum import list_parts, unlogged
from dsvl_pipeline.wording import amount

_COLUMNS = (*LOGICAL_KEY, "row_key", "status", "num_pages")
_MOST_NAMED = 3
_PART = re.compile(r"data/\d{5,}/\d{8,}-[0-9a-f]{32}\.parquet")
_HIDDEN = re.compile(r"/[._]")  # Spark, pyarrow and pandas pass over those
_BOOKKEEPING = re.compile(
    r"format\.json|(?:probe|clock)-[^/]+\.json|(?:log|checkpoints)/\d{8}\.json"
    r"|lease/\d{8}(?:\.renewed)?\.json|runs/[^/]+\.json|(?:superseded|plan|openlineage)/.+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a table.

    Attributes:
        where: A part's path, a shard, a run or a row.
        what: Found and wanted.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found.

    Attributes:
        version: Of the table, as it was checked.
        num_parts: In the log.
        num_rows: In the parts that could be read.
        num_expected: Rows that the last run says there must be; None where it cannot say.
        has_expected: Whether each shard holds as many of them as it must; True where nobody knows.
        num_bad_parts: Parts that are lost or damaged.
        problems: Empty for a good table.
        unlogged: Parts on the store that are not in the log. Harmless to readers of the log; after
            a good end there are none, so that then they are problems as well.
        last_run: How the last run ended; None if it left no manifest.
    """

    version: int
    num_parts: int
    num_rows: int
    num_expected: int | None
    has_expected: bool
    num_bad_parts: int
    problems: tuple[Problem, ...]
    unlogged: tuple[str, ...]
    last_run: lineage.RunStatus | None


def verify(uri: str) -> Verification:
    """Check a table from its bytes up, one shard in memory at a time.

    Raises:
        NotFoundError: There is no table.
        TableError: The log itself is damaged, so there is nothing to check against.
    """
    num_shards = read_format(uri).num_shards
    snapshot = read_snapshot(uri)
    problems: list[Problem] = []
    run = _last_run(snapshot, problems)
    # What a run wanted is there when it is done, not before.
    wanted = run if run is not None and run.status == "done" else None
    rows_in_shards: dict[int, int] = {}
    num_bad_parts = 0
    for shard in range(num_shards):
        receipts = snapshot.in_shard(shard)
        if receipts:
            rows, bad = _read_shard(snapshot, receipts, problems)
            num_bad_parts += bad
            rows_in_shards[shard] = rows.num_rows
            problems += check_keys(rows, shard, num_shards)
            if wanted is not None:
                problems += check_documents(rows, wanted.prompt_ids)
    expected = wanted.rows_expected if wanted else {}
    differing = list(_check_numbers(rows_in_shards, expected))
    # While a run is at work, or after one that was killed or stopped, some parts are not committed.
    is_at_rest = (run is None or run.status == "done") and is_released(uri)
    return Verification(
        version=snapshot.version,
        num_parts=len(snapshot.parts),
        num_rows=sum(rows_in_shards.values()),
        num_expected=sum(expected.values()) if expected else None,
        has_expected=not differing,
        num_bad_parts=num_bad_parts,
        problems=(*problems, *differing, *check_files(snapshot, is_at_rest=is_at_rest)),
        unlogged=tuple(info.uri for info in unlogged(list_parts(uri), snapshot)),
        last_run=run.status if run is not None else None,
    )


def _last_run(snapshot: Snapshot, problems: list[Problem]) -> lineage.RunManifest | None:
    """Read the manifest of the table's last run; a damaged one is a problem."""
    run_id = snapshot.last_run_id
    try:
        return lineage.read_run(snapshot.uri, run_id) if run_id is not None else None
    except TableError as error:
        problems.append(Problem(where=f"run {run_id}", what=str(error)))
        return None


def _check_numbers(found: Mapping[int, int], wanted: Mapping[int, int]) -> Iterator[Problem]:
    """Compare each shard's number of rows with what its last run wanted."""
    for shard, num_rows in wanted.items():
        if num_rows != found.get(shard, 0):
            there = amount(found.get(shard, 0), "row")
            what = f"has {there}, but its last run wanted {num_rows:,}"
            yield Problem(where=f"shard {shard}", what=what)


def _read_shard(
    snapshot: Snapshot, receipts: Sequence[Receipt], problems: list[Problem]
) -> tuple[pa.Table, int]:
    """Return the rows of the parts that can be read, and the number of those that cannot."""

    def read(receipt: Receipt) -> tuple[pa.Table | None, list[Problem]]:
        try:
            rows = read_part(snapshot.uri, receipt, _COLUMNS, is_superseded_ok=False)
            rows = rows.replace_schema_metadata(None)
        except PartError as error:
            return None, [Problem(where=receipt.path, what=error.found)]
        return rows, list(_check_part(rows, receipt))

    tables = []
    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        for rows, found in threads.map(read, receipts):
            problems += found
            if rows is not None:
                tables.append(rows)
    rows = pa.concat_tables(tables or [output_schema().empty_table().select(_COLUMNS)])
    return rows, len(receipts) - len(tables)


def _check_part(rows: pa.Table, receipt: Receipt) -> Iterator[Problem]:
    statuses = Counter(rows["status"].to_pylist())
    for what, found, wanted in (
        ("rows", rows.num_rows, receipt.num_rows),
        ("rows by status", dict(statuses), receipt.statuses),
        ("digest of the keys", keys_digest(rows), receipt.keys_digest),
    ):
        if found != wanted:
            yield Problem(where=receipt.path, what=f"{what}: {found}, but the log says {wanted}")


def check_keys(rows: pa.Table, shard: int, num_shards: int) -> Iterator[Problem]:
    """Find rows of a shard that stand twice, and such as belong into another one."""
    counted = pc.value_counts(logical_key(rows).combine_chunks())
    doubled = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    if len(doubled):
        named = rows.filter(pc.is_in(logical_key(rows), value_set=doubled.slice(0, _MOST_NAMED)))
        yield Problem(
            where=f"shard {shard}",
            what=f"{amount(len(doubled), 'logical key')} in more than one row, first "
            + _named(named.select(LOGICAL_KEY).group_by(list(LOGICAL_KEY)).aggregate([])),
        )
    row_ids = pc.unique(rows["row_id"]).to_pylist()
    strays = [row_id for row_id in row_ids if keys.shard_of(row_id, num_shards) != shard]
    if strays:
        yield Problem(
            where=f"shard {shard}",
            what=f"{amount(len(strays), 'row id')} of another shard, first {strays[:_MOST_NAMED]}",
        )


def check_files(snapshot: Snapshot, *, is_at_rest: bool) -> Iterator[Problem]:
    """Find files in ``data/`` that tools take for rows although they are none of the table's.

    Warns of files in ``_dsvl/`` that nobody knows.

    Args:
        snapshot: The table.
        is_at_rest: Whether no run is at work, and none left parts that it had not committed.
    """
    names = {path.rpartition("/")[2] for path in snapshot.parts}
    for info in objects.list_objects(objects.join(snapshot.uri, "data")):
        path = path_below(info.uri, snapshot.uri)
        if path in snapshot.parts or (_HIDDEN.search(path) and not path.endswith(".parquet")):
            continue
        if not _PART.fullmatch(path) or path.rpartition("/")[2] in names:
            yield Problem(
                where=path,
                what="this file is none of the table's, but tools that read data/ as it is take it "
                "for rows of it; move it away",
            )
        elif is_at_rest:
            yield Problem(
                where=path,
                what="no log entry names this part although no run is at work, so tools that read "
                "data/ as it is see rows that are not in the table; `dsvl vacuum`, or the next "
                "run's good end, deletes it",
            )
    folder = objects.join(snapshot.uri, "_dsvl")
    for info in objects.list_objects(folder):
        if not _BOOKKEEPING.fullmatch(path_below(info.uri, folder)):
            warn_of_stranger(info.uri)


def check_documents(rows: pa.Table, prompt_ids: Iterable[str]) -> Iterator[Problem]:
    """Compare the pages of each document, under each prompt, with their number.

    A row without a page says that the document could not be opened: it answers its prompt.
    """
    is_page = pc.is_valid(rows["page_index"])
    of_documents = rows.filter(pc.is_in(rows["row_id"], pc.unique(rows.filter(is_page)["row_id"])))
    found = of_documents.group_by(["row_id", "prompt_id"]).aggregate(
        [
            ("page_index", "list"),
            ("num_pages", "min"),
            ("num_pages", "max"),
        ]
    )
    asked: dict[str, set[str]] = {}
    for group in found.to_pylist():
        asked.setdefault(group["row_id"], set()).add(group["prompt_id"])
        where = f"document {group['row_id']}, prompt {group['prompt_id']}"
        least, most = group["num_pages_min"], group["num_pages_max"]
        there = set(group["page_index_list"])
        if least != most:
            yield Problem(
                where=where,
                what=f"some rows say that it has {amount(least, 'page')}, others {most:,}",
            )
        elif None in there:
            continue
        elif most is None:
            yield Problem(where=where, what="its rows do not say how many pages it has")
        elif len(there) != most:
            missing = sorted(set(range(most)) - there)
            yield Problem(
                where=where,
                what=f"has {len(there):,} of {amount(most, 'page')}; missing by index: "
                + _first(missing),
            )
    for row_id, answered in asked.items():
        unasked = sorted(set(prompt_ids) - answered)
        if unasked:
            yield Problem(where=f"document {row_id}", what=f"was not asked the prompts {unasked}")


def _first(values: list[int]) -> str:
    shown = ", ".join(f"{value:,}" for value in values[:_MOST_NAMED])
    return shown if len(values) <= _MOST_NAMED else f"{shown}, ... ({len(values):,} in all)"


def _named(rows: pa.Table) -> str:
    return ", ".join(
        f"({row['row_id']}, page {row['page_index']}, prompt {row['prompt_id']})"
        for row in rows.to_pylist()
    )
