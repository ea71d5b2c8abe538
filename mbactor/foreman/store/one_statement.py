"""A batch of what happens most as one statement of PostgreSQL: outcomes that lead on, arrive at a fan-in or end a flow,
and new flows.

    written = await plan_of(batch)              # None: it has to be taken step by step
    (row,) = await connection.fetch(written.text, *written.values)
    committed = written.committed(row)

`apply_batch` runs over a `Recorder`, which writes nothing, notes the statements, and answers as if every lease still
held. They become parts of one statement, which locks what `Db.begin` locks before any of them writes, and commits.
Where a lease did not hold after all it fails, and the batch is taken step by step.

The time and the ids are known only to that statement: until then a moment is negative, counted from `NOW`, and an id is
negative, the place of it among the new ones. Whatever `apply_batch` puts into columns of times and ids may be either.
Which arrivals are the last of their cohort it alone knows, too: each is taken for that, and the fan-in that this makes
is written only where it is. Such a fan-in has a negative depth.
"""

# ruff: noqa: S608 - every statement is put together from constants of the store

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mbactor.foreman.store import schema
from mbactor.foreman.store.batch import apply_batch, writes_what_it_brings
from mbactor.foreman.store.dialect import Begun, Db, Insert, Row, Update
from mbactor.foreman.store.join import ARRIVE
from mbactor.foreman.store.operations import (
    Committed,
    Create,
    Created,
    Inserted,
    Operation,
    Result,
    Settle,
    Settled,
    Stopped,
)
from mbactor.foreman.store.postgres_text import ROOT, ROOTS, given_of, given_of_one, given_rows, text_of
from mbactor.foreman.store.transaction import BANDS, best_of

NOW = -float(1 << 33)
"""Far enough below any moment to tell the two apart, and near enough to leave microseconds."""


class Inapplicable(Exception):
    """The batch needs answers that only the database has."""


Write = tuple[Update | Insert, Sequence[Row]]

FAN_INS = Insert("mbactor_step", schema.NEW_STEP)
"""Those fan-ins, of which the row of their cohort says whether they are due, and where they stand."""
LAST = (1, 1, 0, 0, -2, None, None, 0)
"""What `ARRIVE` is assumed to return: one more than its depth is that of the fan-in."""
_OF_COHORT = {"depth": "joined.cohort_depth + 1", "spawn_id": "joined.spawn_id", "ordinal": "joined.ordinal"}
_COHORT, _DEPTH = (schema.NEW_STEP.index(name) for name in ("cohort_id", "depth"))


@dataclass
class Recorder:
    """A `Db` that notes what is to be written, and answers as if all of it could be."""

    writes: list[Write] = field(default_factory=list)
    steps: int = 0
    flows: int = 0

    async def begin(self, batch: Sequence[Operation], steps: int, flows: int) -> Begun:  # noqa: ARG002 - locked later
        self.steps, self.flows = steps, flows
        return Begun(NOW, range(-1, -steps - 1, -1), range(-steps - 1, -steps - flows - 1, -1))

    async def rows(self, query: str, *values: Any) -> list[Row]:  # noqa: ARG002 - nobody is asked
        if query is BANDS:
            return []
        raise Inapplicable

    async def count(self, statement: str, *values: Any) -> int:  # noqa: ARG002 - nobody is asked
        raise Inapplicable

    async def update(self, statement: Update, rows: Sequence[Row]) -> dict[int, Row]:
        self.writes.append((statement, rows))
        unknown = LAST if statement is ARRIVE else (None,) * len(_names(statement))
        return dict.fromkeys(range(len(rows)), unknown)

    async def insert(self, statement: Insert, rows: Sequence[Row]) -> list[Row]:
        fan_ins = [row for row in rows if row[_DEPTH] < 0] if statement.columns == schema.NEW_STEP else []
        if fan_ins:
            self.writes.append((FAN_INS, fan_ins))
            rows = [row for row in rows if row[_DEPTH] >= 0]
        if rows:
            self.writes.append((statement, rows))
        places = [statement.columns.index(name) for name in _names(statement)]
        return [tuple(row[place] for place in places) for row in rows] if places else []


class Written(msgspec.Struct, frozen=True, gc=False):
    """A batch as a statement with its values, and what comes of it if nothing stands in its way."""

    text: str
    values: tuple[Any, ...]
    writes: list[Write]
    expected: Committed

    def committed(self, row: Sequence[Any]) -> Committed:
        """What the batch came to, by the row that the statement returned."""
        now, ids, priorities, due, *told = row
        ended: dict[int, dict[str, Any]] = {}
        cohorts: dict[int, dict[str, Any]] = {}
        pending = list(zip(priorities, due, strict=True))
        for statement, rows in self.writes:
            if isinstance(statement, Update) and statement.returning:
                names = _names(statement)
                found = zip(*(told.pop(0) for _ in names), strict=True)
                place = statement.values.index("id")
                told_of = cohorts if statement is ARRIVE else ended
                told_of.update(
                    (row[place], dict(zip(names, one, strict=True))) for row, one in zip(rows, found, strict=True)
                )
            elif statement is FAN_INS:
                pending += _pending(FAN_INS, [row for row in rows if _is_full(cohorts[row[_COHORT]])], now)
            elif isinstance(statement, Insert) and statement.table == "mbactor_step":
                pending += _pending(statement, rows, now)
        results = [_known(result, ids, now, cohorts) for result in self.expected.results]
        stopped = tuple(_told(one, ended[one.flow_id]) for one in self.expected.stopped)
        best = best_of(sorted(pending), now)
        return msgspec.structs.replace(self.expected, results=results, stopped=stopped, best_due=best)


async def plan_of(batch: Sequence[Operation]) -> Written | None:
    """The batch as one statement, where it can be one."""
    if not all(map(_is_plain, batch)):
        return None
    recorder = Recorder()
    try:
        expected = await apply_batch(recorder, batch)
    except Inapplicable:
        return None
    kinds = tuple(statement for statement, _ in recorder.writes)
    alone = len(batch) == 1 and all(len(rows) == 1 for _, rows in recorder.writes)
    given: list[Any] = []
    for statement, rows in recorder.writes:
        given += rows[0] if alone else [given_rows(statement.table, _columns(statement), rows)]
    roots = sorted({one.root_id or one.flow_id for one in batch if isinstance(one, Settle)})
    named = next(iter(roots), None) if alone else roots
    values = (named, recorder.steps, recorder.flows, *given)
    return Written(statement_of(kinds, alone=alone), values, recorder.writes, expected)


def _is_plain(one: Operation) -> bool:
    """Whether it is worth trying. What reads before it writes, or makes a step due again, is not."""
    if not writes_what_it_brings(one):
        return False
    if not isinstance(one, Settle):
        return True
    arrival = one.arrival
    return one.status in {"completed", "failed"} and (
        arrival is None or (arrival.fan_in is not None and arrival.waits_for_all)
    )


# --- the statement -------------------------------------------------------------------------------------------


_IDS = "ARRAY(SELECT nextval('mbactor_{0}_id') FROM generate_series(1, {1}::int))"
_ID = "CASE {1}::int WHEN 0 THEN '{{}}' ELSE ARRAY[nextval('mbactor_{0}_id')] END"


@functools.cache
def statement_of(kinds: tuple[Update | Insert, ...], *, alone: bool) -> str:
    """One statement for a batch that writes by these, in this order. `alone`: one operation, which writes one row by
    each; without arrays it costs driver and server a quarter less.

    It gives back the time, the new ids, the bands as they were before, and what the writes return, in their order. It
    divides by zero, and writes nothing, where a row was not found as assumed.
    """
    ids = " || ".join((_ID if alone else _IDS).format(*one) for one in (("step", "$2"), ("flow", "$3")))
    parts = [
        f"tree AS MATERIALIZED ({ROOT if alone else ROOTS})",
        f"""begun AS MATERIALIZED (SELECT (SELECT count(*) FROM tree) AS locked,
        extract(epoch FROM clock_timestamp())::float8 AS now, {ids} AS ids)""",
        f"bands (priority, due) AS MATERIALIZED ({text_of(BANDS)})",
    ]
    told = ["begun.now", "begun.ids", "ARRAY(SELECT priority FROM bands)", "ARRAY(SELECT due FROM bands)"]
    # Before a breakpoint steps are not handed on. And where what was given as a root is none, the root is not locked.
    found = ["NOT EXISTS (SELECT FROM tree WHERE breakpoints IS NOT NULL OR root_id IS NOT NULL)"]
    place, arrived = 4, ""
    for number, statement in enumerate(kinds, 1):
        given = (given_of_one if alone else given_of)(statement.table, _columns(statement), place)
        if isinstance(statement, Insert):
            parts.append(f"write{number} AS ({_insert(statement, given, arrived)})")
            condition = "true" if statement.returning else ""
        else:
            parts.append(f"write{number} AS ({_update(statement, given)})")
            condition = statement.assumed or "true"
            arrived = f"write{number}" if statement is ARRIVE else arrived
            told += [f"ARRAY(SELECT {name} FROM write{number} ORDER BY number)" for name in _names(statement)]
        if condition:
            count = "1" if alone else f"cardinality(${place})"
            found.append(f"(SELECT count(*) FROM write{number} WHERE {condition}) = {count}")
        place += len(_columns(statement)) if alone else 1
    told.append(f"1 / CASE WHEN {' AND '.join(found)} THEN 1 ELSE 0 END")
    return f"WITH {', '.join(parts)} SELECT {', '.join(told)} FROM begun"


def _update(statement: Update, given: str) -> str:
    changed = _PLACE.sub(lambda found: _value(statement.table, found[1]), text_of(statement.set))
    # What a row is found by is known: an index finds it only by the bare value.
    where = _PLACE.sub(r"given._\1", statement.where)
    found_by = ["given._id AS found_by"] if statement is ARRIVE else []
    returning = ", ".join(["given.number", *found_by, *_names(statement)])
    return (
        f"UPDATE {statement.table} SET {changed} FROM begun, {given}"
        f" WHERE begun.locked IS NOT NULL AND {where} RETURNING {returning}"
    )


_PLACE = re.compile(r"(?<!:):(\w+)")


def _insert(statement: Insert, given: str, arrived: str) -> str:
    """`arrived`: the write that has counted the arrivals."""
    columns = ", ".join(statement.columns)
    known = _OF_COHORT if statement is FAN_INS else {}
    values = ", ".join(known.get(name) or _value(statement.table, name) for name in statement.columns)
    if statement is FAN_INS:
        given = f"{given} JOIN {arrived} AS joined ON joined.found_by = given._cohort_id AND {_IS_FULL}"
    conflict = "ON CONFLICT DO NOTHING " if statement.once else ""
    return (
        f"INSERT INTO {statement.table} ({columns}) SELECT {values} FROM begun, {given}"
        f" WHERE begun.locked IS NOT NULL ORDER BY given.number {conflict}RETURNING 1"
    )


_IS_FULL = "joined.cohort_arrivals >= joined.cohort_size"


def _is_full(cohort: Mapping[str, Any]) -> bool:
    full: bool = cohort["cohort_arrivals"] >= cohort["cohort_size"]
    return full


def _value(table: str, name: str) -> str:
    """A value as it was brought; a new id or a moment by what they are now known to be."""
    if name == "id" or name.endswith("_id"):
        return f"CASE WHEN given._{name} < 0 THEN begun.ids[-given._{name}] ELSE given._{name} END"
    if schema.TABLES[table][name].startswith("float"):
        return f"CASE WHEN given._{name} < 0 THEN given._{name} - ({NOW!r}) + begun.now ELSE given._{name} END"
    return f"given._{name}"


def _columns(statement: Update | Insert) -> tuple[str, ...]:
    return statement.values if isinstance(statement, Update) else statement.columns


@functools.cache
def _names(statement: Update | Insert) -> tuple[str, ...]:
    return tuple(statement.returning.replace(" ", "").split(",")) if statement.returning else ()


# --- what came of it -----------------------------------------------------------------------------------------


async def found_of(db: Db, batch: Sequence[Operation], newest: int) -> Committed | None:
    """What a batch came to whose statement was not answered; None where it was not written.

    Nobody goes on with the steps it made: they come back when their leases are over. `newest`: no flow of the batch
    has this id or a lower one.
    """
    tokens = [one.token for one in batch if isinstance(one, Create)]
    query = "SELECT token, id FROM mbactor_flow WHERE id > ? AND token IN (<texts>)"
    flows: dict[str, int] = dict(await db.rows(query, newest, tokens)) if tokens else {}
    query = "SELECT 1 FROM mbactor_step WHERE id = ? AND lease_number = ? AND status = ?"
    first = batch[0]
    if tokens:
        written = bool(flows)
    else:
        assert isinstance(first, Settle)
        written = bool(await db.rows(query, first.step_id, first.lease_number, first.status))
    return Committed([_abandoned(one, flows) for one in batch], (), None) if written else None


def _abandoned(one: Operation, flows: Mapping[str, int]) -> Result:
    if isinstance(one, Create):
        return Created(flows.get(one.token, 0), one.token, 0, existed=True, workflow=one.workflow)
    return Settled(landed=False)


def _pending(statement: Insert, rows: Sequence[Row], now: float) -> list[tuple[int, float]]:
    """The bands of the steps that the batch itself has made."""
    status, priority, due = (statement.columns.index(name) for name in ("status", "priority", "not_before"))
    return [
        (row[priority], row[due] - NOW + now if row[due] < 0 else row[due]) for row in rows if row[status] == "pending"
    ]


def _known(result: Result, ids: Sequence[int], now: float, cohorts: Mapping[int, Mapping[str, Any]]) -> Result:
    """The result with the ids, the time and the fan-ins that there are by now."""
    if isinstance(result, Settled):
        known = (_placed(one, ids, cohorts) for one in result.inserted)
        return Settled(result.landed, tuple(one for one in known if one is not None), now)
    assert isinstance(result, Created)
    return msgspec.structs.replace(result, flow_id=ids[-result.flow_id - 1], step_id=ids[-result.step_id - 1], now=now)


def _placed(one: Inserted, ids: Sequence[int], cohorts: Mapping[int, Mapping[str, Any]]) -> Inserted | None:
    """A step as it was written; None for a fan-in that was not due."""
    step, step_id = one.step, ids[-one.step_id - 1]
    if step.depth >= 0 or step.cohort_id is None:
        return Inserted(step, step_id, one.flow_id)
    cohort = cohorts[step.cohort_id]
    if not _is_full(cohort):
        return None
    depth, spawn_id, ordinal = cohort["cohort_depth"] + 1, cohort["spawn_id"], cohort["ordinal"]
    placed = msgspec.structs.replace(step, depth=depth, spawn_id=spawn_id, ordinal=ordinal)
    return Inserted(placed, step_id, one.flow_id, cohort["lease_number"])


def _told(stopped: Stopped, found: dict[str, Any]) -> Stopped:
    told = {name: value for name, value in found.items() if name in Stopped.__struct_fields__}
    return msgspec.structs.replace(stopped, **told)
