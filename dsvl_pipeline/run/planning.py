"""The plan of a run: what each shard of the table has to do, written down beside the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.plan import carried, shard_plan
from dsvl_pipeline.plan.committed import read_committed
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.run.wanted import Wanted
from dsvl_pipeline.stages import work_files
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import shown
from dsvl_pipeline.table.failures import read_selected
from dsvl_pipeline.table.history import near_rows
from dsvl_pipeline.table.schema import KEY_COLUMNS
from dsvl_pipeline.table.writer import TableWriter


class Planning:
    """Compares what is wanted with what is committed, shard by shard, and writes down the rest.

    Args:
        wanted: Whose rows and keys they are.
        writer: Holds the table's lease.
        run_id: Of the run; names its work files.
        limit: How many inputs are read; all if None.
        is_fresh: Whether everything runs again.
        redrive: Which rows alone are planned; all if None.

    Attributes:
        run_id: Of the run.
        is_partial: Whether the run is about some rows only.
    """

    def __init__(
        self,
        wanted: Wanted,
        writer: TableWriter,
        run_id: str,
        *,
        limit: int | None,
        is_fresh: bool,
        redrive: Redrive | None,
    ) -> None:
        self.run_id = run_id
        self.is_partial = limit is not None or redrive is not None
        self._wanted = wanted
        self._writer = writer
        self._prefix = objects.join(work_folder(writer.uri), run_id)
        self._key = work_files.new_key()
        self._is_fresh = is_fresh
        self._redrive = redrive
        self._unknown = redrive.named_rows if redrive is not None else frozenset()

    def plan(self, shards: Iterable[tuple[int, pa.Table]]) -> tuple[list[ShardPlan], pa.Schema]:
        """Return what each shard has to do, and the schema of all parts after a good end.

        Args:
            shards: Their numbers and wanted rows (`Spool.shards`).

        Raises:
            ConfigError: A row that is to be redriven is not in the table.
        """
        plans, found = list[ShardPlan](), list[carried.Found]()
        for shard, rows in shards:
            plan, of_shard = self._plan_shard(shard, rows)
            plans.append(plan)
            found.append(of_shard)
        if self._unknown:
            raise ConfigError(
                f"redrive: the table has no row {', '.join(self._named_unknown())}; "
                "a row's id is that of its manifest, or the URI of its file, as `dsvl export` "
                "shows it"
            )
        schema = carried.table_schema(self._wanted.schema, found)
        plans = [
            replace(plan, rewrites=carried.rewrites(one, schema, is_partial=self.is_partial))
            for plan, one in zip(plans, found, strict=True)
        ]
        return plans, schema

    def _plan_shard(self, shard: int, rows: pa.Table) -> tuple[ShardPlan, carried.Found]:
        there = read_committed(self._writer.snapshot, shard, KEY_COLUMNS)
        committed, others = there.rows, there.rows.slice(0, 0)
        if self._redrive is not None:
            selected = read_selected(self._writer.snapshot, shard, self._redrive.selection)
            self._unknown = self._unknown.difference(selected["row_id"].to_pylist())
            rows, committed, others = self._redrive.narrow(rows, committed, selected)
        compared = self._wanted.compare(
            rows, committed, is_fresh=self._is_fresh, is_partial=self.is_partial
        )
        staying = pa.concat_tables([compared.staying, others])
        compared = replace(compared, staying=staying)
        work_uri = f"{self._prefix}-{shard:05d}"
        values_files = dict[int, str]()

        def save(group: int, values: pa.Table) -> None:
            values_files[group] = f"{work_uri}-values-{group:06d}.parquet"
            work_files.write(values_files[group], values, self._key)

        is_redrive = self._redrive is not None
        found = self._wanted.find_carried(there, rows, compared, is_redrive=is_redrive, save=save)
        plan = shard_plan.plan_shard(shard, compared, work_uri=work_uri, work_key=self._key)
        plan = replace(plan, num_changed=found.num_changed, values_files=values_files)
        return plan, found.without_rows()

    def _named_unknown(self) -> Iterable[str]:
        for row_id in sorted(self._unknown)[:3]:
            near = near_rows(self._writer.snapshot, row_id).strip()
            yield f"{shown(row_id)} ({near})" if near else shown(row_id)


def work_folder(table_uri: str) -> str:
    """Return the place of the work files of a table's run."""
    return objects.join(table_uri, "_dsvl", "plan")
