"""Ray tasks that make parts of the table out of blocks of answered rows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import ray
from ray.exceptions import RayError

from dsvl_pipeline.cluster.ledger import timed
from dsvl_pipeline.cluster.ray_errors import explained
from dsvl_pipeline.errors import DsvlError
from dsvl_pipeline.plan import rewriting
from dsvl_pipeline.plan.redrive import replacing
from dsvl_pipeline.store.retry import with_retries
from dsvl_pipeline.table import part
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.schema import LOGICAL_KEY

Block: TypeAlias = "ray.ObjectRef[pa.Table]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where parts go.

    Attributes:
        table_uri: The table.
        shard: Of all of their rows.
        lease: Number of the driver's lease.
        metadata: What every part says of its run.
        schema: Of every part.
        retry_for_s: How long the store may be away.
    """

    table_uri: str
    shard: int
    lease: int
    metadata: dict[str, str]
    schema: pa.Schema
    retry_for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPart:
    """What became of some blocks.

    Attributes:
        receipt: Of the part; None where none of its rows goes into the table.
        losses: Keys and codes of errors that do not go into it (`redrive.replacing`); else None.
    """

    receipt: Receipt | None
    losses: pa.Table | None


class PartTasks:
    """Writes parts in tasks, each of which Ray runs again where its node is lost.

    Args:
        target: Where they go.
        ledger: Handle of a `Ledger` actor.
        answers: Of a redrive, the logical keys of those it may only replace by answers; else None.
    """

    def __init__(self, target: Target, ledger: Any, answers: pa.Table | None) -> None:
        self._target = target
        self._ledger = ledger
        self._answers = None if answers is None else ray.put(answers)
        self._write = ray.remote(num_cpus=0, max_retries=3)(write_part)
        self._running: list[ray.ObjectRef[WrittenPart]] = []

    @property
    def num_running(self) -> int:
        """Tasks that `ready` has not returned yet."""
        return len(self._running)

    def start(self, blocks: Sequence[Block]) -> None:
        """Start to write a part of some blocks."""
        self._running.append(self._write.remote(self._target, self._ledger, self._answers, *blocks))

    def ready(self, wait_s: float) -> list[WrittenPart | DsvlError]:
        """Return what has ended since the last call, each part or the error that prevented it.

        Args:
            wait_s: For the first to end; 0 does not wait.
        """
        num_wanted = 1 if wait_s else len(self._running)
        ended, self._running = ray.wait(self._running, num_returns=num_wanted, timeout=wait_s)
        return [_result_of(task) for task in ended]


def _result_of(task: ray.ObjectRef[WrittenPart]) -> WrittenPart | DsvlError:
    try:
        return ray.get(task)
    except RayError as error:
        return explained(error)
    except DsvlError as error:
        return error


def write_part(
    target: Target, ledger: Any, answers: pa.Table | None, *blocks: pa.Table
) -> WrittenPart:
    """Write one part; runs as a Ray task. A retry writes another one: only a receipt counts."""
    rows, losses = pa.concat_tables(blocks), None
    if answers is not None:
        rows, lost = replacing(rows, answers)
        losses = lost.select((*LOGICAL_KEY, "error_code"))
        if not rows.num_rows:
            return WrittenPart(receipt=None, losses=losses)
    column = pa.array([target.shard] * rows.num_rows, pa.int32())
    rows = rows.set_column(rows.column_names.index("shard"), "shard", column)
    rows = rewriting.conform(rows, target.schema)
    write = functools.partial(
        part.write_part,
        target.table_uri,
        rows,
        shard=target.shard,
        lease=target.lease,
        metadata=target.metadata,
    )
    with timed(ledger, "write"):
        receipt = with_retries(write, uri=target.table_uri, timeout_s=target.retry_for_s)
    return WrittenPart(receipt=receipt, losses=losses)
