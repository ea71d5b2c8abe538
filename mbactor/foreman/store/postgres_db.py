"""The statements of the store in PostgreSQL, over a connection of the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mbactor.foreman.store.dialect import Begun, Db, Insert, Row, Update
from mbactor.foreman.store.operations import NAMING, Extend, Operation, Release
from mbactor.foreman.store.postgres_text import TREE, given_rows, insert_of, text_of, update_of

# The breakpoints come from the locked rows: what was committed while this waited for the lock is seen.
_LOCK = f"""WITH tree AS MATERIALIZED ({TREE})
    SELECT (SELECT count(*) FROM tree), extract(epoch FROM clock_timestamp())::float8,
        ARRAY(SELECT nextval('mbactor_step_id') FROM generate_series(1, $2::int)),
        ARRAY(SELECT nextval('mbactor_flow_id') FROM generate_series(1, $3::int)),
        pg_current_xact_id()::text::bigint,
        (SELECT json_object_agg(flow.id, convert_from(tree.breakpoints, 'UTF8')::json)::text FROM tree
            JOIN mbactor_flow AS flow ON flow.id = tree.id OR flow.root_id = tree.id
            WHERE tree.breakpoints IS NOT NULL)"""  # noqa: S608 - of constants


class PostgresDb:
    """A `Db`. Reads need no transaction; a batch needs an open one."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.number = 0
        """The transaction's own, by which the server knows it ever after."""

    async def begin(self, batch: Sequence[Operation], steps: int, flows: int) -> Begun:
        named = await _flows_of(self, batch)
        row = await self.connection.fetchrow(_LOCK, sorted(named), steps, flows)
        _, now, step_ids, flow_ids, self.number, breakpoints = row
        found = msgspec.json.decode(breakpoints, type=dict[int, msgspec.Raw]) if breakpoints is not None else {}
        return Begun(now, step_ids, flow_ids, {flow_id: bytes(nodes) for flow_id, nodes in found.items()})

    async def rows(self, query: str, *values: Any) -> list[Row]:
        return list(map(tuple, await self.connection.fetch(text_of(query), *values)))

    async def count(self, statement: str, *values: Any) -> int:
        told: str = await self.connection.execute(text_of(statement), *values)
        return int(told.rpartition(" ")[2])

    async def update(self, statement: Update, rows: Sequence[Row]) -> dict[int, Row]:
        found = await self.connection.fetch(update_of(statement), given_rows(statement.table, statement.values, rows))
        return {row[0] - 1: tuple(row)[1:] for row in found}

    async def insert(self, statement: Insert, rows: Sequence[Row]) -> list[Row]:
        given = given_rows(statement.table, statement.columns, rows)
        return list(map(tuple, await self.connection.fetch(insert_of(statement), given)))


async def _flows_of(db: Db, batch: Sequence[Operation]) -> set[int]:
    """The flows that the batch names, by themselves or by steps of theirs."""
    named = {one.flow_id for one in batch if isinstance(one, NAMING)}
    step_ids = [step_id for one in batch if isinstance(one, Extend) for step_id, _ in one.steps]
    step_ids += [step_id for one in batch if isinstance(one, Release) for step_id in one.steps or ()]
    if step_ids:
        named |= {row[0] for row in await db.rows("SELECT flow_id FROM mbactor_step WHERE id IN (<ids>)", step_ids)}
    workers = [one.worker for one in batch if isinstance(one, Release) and one.steps is None]
    if workers:
        query = "SELECT flow_id FROM mbactor_step WHERE status = 'running' AND worker IN (<texts>)"
        named |= {row[0] for row in await db.rows(query, workers)}
    return named
