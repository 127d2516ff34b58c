"""Heal a table: lost or damaged parts leave the log, so that the next run computes their rows."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dsvl_pipeline.errors import ConfigError, PartError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.checkpoints import repair_checkpoints
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.part import Receipt, read_part, read_superseded
from dsvl_pipeline.table.schema import LOGICAL_KEY
from dsvl_pipeline.table.writer import TableWriter
from dsvl_pipeline.wording import amount

_FEW = 3
_MOST_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A part of the table that cannot be read.

    Attributes:
        part: As it was committed.
        what: Is wrong with it.
        is_restorable: Whether there is a good copy (`part.keep_superseded`).
    """

    part: Receipt
    what: str
    is_restorable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What `repair` found, and did unless it was dry.

    Attributes:
        num_parts: Of the table, before.
        restored: Parts that were put back from a copy.
        dropped: Parts that left the table.
        checkpoints: URIs of damaged checkpoints of the log, which were made anew.
    """

    num_parts: int
    restored: tuple[Damage, ...]
    dropped: tuple[Damage, ...]
    checkpoints: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Rows that left the table."""
        return sum(damage.part.num_rows for damage in self.dropped)

    @property
    def is_large(self) -> bool:
        """Whether so many parts leave that somebody may have moved them: see `repair`."""
        num = len(self.dropped)
        is_all = num == self.num_parts > 1
        return is_all or num > max(_FEW, _MOST_SHARE * self.num_parts)


def repair(uri: str, *, is_dry: bool = False, is_sure: bool = False) -> Repair:
    """Read every part; take those out of the log that are missing or not what was committed.

    A part of which a good copy lies with those of earlier versions is put back instead. It holds
    the table's lease while it changes anything; where nothing is wrong, nothing is written.

    Args:
        uri: The table.
        is_dry: Only tell.
        is_sure: Also drop more than a tenth of the parts, and more than a few; or all of several.

    Raises:
        ConfigError: So many would be dropped, and it is not sure: nothing is changed.
        NotFoundError: There is no table.
        LeaseError: A run is at work.
        TableError: The log itself is damaged, beyond its checkpoints.
        StorageError: The store does not answer: then a part is not lost, nor is it here.
    """
    num_shards = read_format(uri).num_shards
    snapshot = read_snapshot(uri)
    found = _damages(uri, snapshot.parts.values())
    checkpoints = repair_checkpoints(snapshot, is_dry=True)
    planned = _result(len(snapshot.parts), found, checkpoints)
    if is_dry or not (found or checkpoints):
        return planned
    if planned.is_large and not is_sure:
        raise _too_many(uri, planned)
    run_id = f"repair-{uuid.uuid4().hex[:8]}"
    with TableWriter.open(
        uri, num_shards=num_shards, run_id=run_id, recipe="", operation="repair"
    ) as writer:
        # Once more: what was damaged on its way here, or replaced meanwhile, is as it should be.
        parts = writer.snapshot.parts
        again = [parts[damage.part.path] for damage in found if damage.part.path in parts]
        found = _damages(uri, again)
        _restore(uri, found)
        writer.drop([damage.part.path for damage in found if not damage.is_restorable])
        if checkpoints:
            writer.confirm()
            repair_checkpoints(writer.snapshot)  # those that the writer has not replaced itself
        writer.finish()
    return _result(len(parts), found, checkpoints)


def _too_many(uri: str, planned: Repair) -> ConfigError:
    place = objects.redact(uri)
    return ConfigError(
        f"{place}: {len(planned.dropped):,} of {amount(planned.num_parts, 'part')} are missing "
        f"or damaged, first {planned.dropped[0].part.path}; nothing was changed. Was "
        f"{objects.join(place, 'data')} moved, or restored only in part? Then put it back. "
        f"`dsvl repair {shlex.quote(place)} --dry-run` names them all; where they are lost, "
        f"--yes drops them ({amount(planned.num_rows, 'row')})"
    )


def _restore(uri: str, found: Iterable[Damage]) -> None:
    """Put back the parts of which there is a good copy."""
    for damage in found:
        body = read_superseded(uri, damage.part) if damage.is_restorable else None
        if body is not None:
            objects.put(objects.join(uri, damage.part.path), body)


def _damages(uri: str, parts: Iterable[Receipt]) -> list[Damage]:
    def look(part: Receipt) -> Damage | None:
        try:
            read_part(uri, part, LOGICAL_KEY, is_superseded_ok=False)
        except PartError as error:
            is_restorable = read_superseded(uri, part) is not None
            return Damage(part=part, what=error.found, is_restorable=is_restorable)
        return None

    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        return [damage for damage in threads.map(look, parts) if damage is not None]


def _result(num_parts: int, found: Iterable[Damage], checkpoints: Iterable[str]) -> Repair:
    found = list(found)
    return Repair(
        num_parts=num_parts,
        restored=tuple(damage for damage in found if damage.is_restorable),
        dropped=tuple(damage for damage in found if not damage.is_restorable),
        checkpoints=tuple(checkpoints),
    )
