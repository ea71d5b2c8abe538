"""A transaction of SQLite, as the store's statements see it (`Db`)."""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from mbactor import clock
from mbactor.foreman.store.dialect import Begun, Insert, Row, Update
from mbactor.foreman.store.operations import Operation, Settle
from mbactor.foreman.store.rows import Json
from mbactor.foreman.store.transaction import BANDS

# The counters of ids stand on the rows themselves: one written apart would be a page more to log for each batch.
_BEGUN = """SELECT max((SELECT value FROM mbactor_meta WHERE name = 'step_id'),
        (SELECT coalesce(max(id), 0) FROM mbactor_step)),
    max((SELECT value FROM mbactor_meta WHERE name = 'flow_id'), (SELECT coalesce(max(id), 0) FROM mbactor_flow)),
    EXISTS (SELECT 1 FROM mbactor_flow WHERE breakpoints IS NOT NULL)"""

# Neither the outcome nor the step after it is pending, so this is true of the bands before and after.
BEFORE_ONE = """SELECT max((SELECT value FROM mbactor_meta WHERE name = 'step_id'),
        (SELECT coalesce(max(id), 0) FROM mbactor_step)),
    EXISTS (SELECT 1 FROM mbactor_flow WHERE breakpoints IS NOT NULL),
    (SELECT priority FROM mbactor_step WHERE status = 'pending' ORDER BY priority, not_before LIMIT 1),
    (SELECT not_before FROM mbactor_step WHERE status = 'pending' ORDER BY priority, not_before LIMIT 1)"""

_BREAKPOINTS = """SELECT flow.id, root.breakpoints FROM mbactor_flow AS flow JOIN mbactor_flow AS root
    ON root.id = coalesce(flow.root_id, flow.id) WHERE flow.id IN (<ids>) AND root.breakpoints IS NOT NULL"""


class Missed(Exception):
    """Some rows were not found that one statement was to change, and nobody knows which."""


class Large(Exception):
    """It takes more than was to be expected of a small batch."""


class SqliteDb:
    """The statements of the store in SQLite. No await of these ever waits.

    Many rows are written by few statements: around each one the interpreter's lock is given away, and to have it back
    may take a turn of the event loop. Such a statement tells how many rows it found and not which: where some were not
    there it raises `Missed`, and `one_by_one` is the way.
    """

    def __init__(self, raw: sqlite3.Connection, *, one_by_one: bool = False) -> None:
        self._raw = raw
        self._one_by_one = one_by_one

    async def begin(self, batch: Sequence[Operation], steps: int, flows: int) -> Begun:
        step_id, flow_id, any_breakpoint = self._raw.execute(_BEGUN).fetchone()
        breakpoints: dict[int, Json] = {}
        if any_breakpoint:
            named = sorted({one.flow_id for one in batch if isinstance(one, Settle)})
            breakpoints = dict(await self.rows(_BREAKPOINTS, named))
        step_ids, flow_ids = range(step_id + 1, step_id + steps + 1), range(flow_id + 1, flow_id + flows + 1)
        return Begun(clock.unix(), step_ids, flow_ids, breakpoints)

    async def rows(self, query: str, *values: Any) -> list[Row]:
        return self._raw.execute(_text(query), _bound(values)).fetchall()

    async def count(self, statement: str, *values: Any) -> int:
        return self._raw.execute(_text(statement), _bound(values)).rowcount

    async def update(self, statement: Update, rows: Sequence[Row]) -> dict[int, Row]:
        if self._one_by_one or len(rows) == 1:
            return self._update_each(statement, rows)
        for size, some in _groups(rows, padded=True):
            values = [*chain(*some), *[None] * ((size - len(some)) * len(statement.values))]
            if self._raw.execute(update_text(statement, size), values).rowcount < len(some):
                raise Missed
        if not statement.returning:
            return dict.fromkeys(range(len(rows)), ())
        place = statement.values.index("id")
        ids = _bound(([row[place] for row in rows],))
        ((told,),) = self._raw.execute(_told(statement), ids).fetchall()
        found = {row[-1]: tuple(row[:-1]) for row in msgspec.json.decode(told)}
        return {index: found[row[place]] for index, row in enumerate(rows)}

    def _update_each(self, statement: Update, rows: Sequence[Row]) -> dict[int, Row]:
        text, places = update_one(statement)
        execute = self._raw.execute
        # A named value may stand in several places.
        bound = rows if places is None else [tuple(row[place] for place in places) for row in rows]
        if not statement.returning:
            return {index: () for index, row in enumerate(bound) if execute(text, row).rowcount}
        found = ((index, execute(text, row).fetchall()) for index, row in enumerate(bound))
        return {index: changed[0] for index, changed in found if changed}

    async def insert(self, statement: Insert, rows: Sequence[Row]) -> list[Row]:
        if statement.returning and (self._one_by_one or len(rows) == 1):
            text = f"{_insert(statement, 1)} RETURNING {statement.returning}"
            return [row for values in rows for row in self._raw.execute(text, values).fetchall()]
        for size, some in _groups(rows):
            inserted = self._raw.execute(_insert(statement, size), [*chain(*some)]).rowcount
            if statement.returning and inserted < len(some):
                raise Missed
        place = statement.columns.index(statement.returning) if statement.returning else None
        return [] if place is None else [(row[place],) for row in rows]


class SmallBatchDb(SqliteDb):
    """The same, of which no statement reads or changes more than the batch brings."""

    async def rows(self, query: str, *values: Any) -> list[Row]:
        if query not in {BANDS, _BREAKPOINTS}:
            raise Large
        return await super().rows(query, *values)

    async def count(self, statement: str, *values: Any) -> int:  # noqa: ARG002 - it is not run
        raise Large


LARGEST_GROUP = 128
"""Rows that one statement writes. The driver keeps what it has prepared: half a megabyte of each kind."""


def _groups(rows: Sequence[Row], *, padded: bool = False) -> Iterator[tuple[int, Sequence[Row]]]:
    """The rows in groups of as many as powers of two, so that few statements have to be prepared, each group with that
    power. `padded`: where a quarter or less is missing to one the group has fewer; a row that finds nothing costs half
    as much as one that does, and a statement of its own as much as five.
    """
    begin = 0
    while (left := len(rows) - begin) > 0:
        size = min(LARGEST_GROUP, 1 << left.bit_length() - 1)
        if padded and 2 * left >= 3 * size and size < LARGEST_GROUP:
            size *= 2
        yield size, rows[begin : begin + size]
        begin += size


_WORDS = {
    "<ids>": "SELECT value FROM json_each(?)",
    "<texts>": "SELECT value FROM json_each(?)",
    "<greatest>": "max",
    "<least>": "min",
    "<position>": "instr",
    "<lower>": "mbactor_lower",
    "<now>": "mbactor_now()",
    "<error text>": "json_extract(CAST(flow.error AS TEXT), '$.error')",
    "<skip locked>": "",
}


@functools.cache
def _text(query: str) -> str:
    for word, own in _WORDS.items():
        query = query.replace(word, own)
    return query


def _bound(values: tuple[Any, ...]) -> list[Any]:
    """The values as SQLite takes them: a list is bound as JSON."""
    return [msgspec.json.encode(one).decode() if isinstance(one, list | tuple) else one for one in values]


@functools.cache
def update_one(statement: Update) -> tuple[str, tuple[int, ...] | None]:
    """The statement for one row, and which of the row's values goes to which place (None: as they come)."""
    text = f"UPDATE {statement.table} SET {statement.set} WHERE {statement.where}"  # noqa: S608
    places = tuple(statement.values.index(name) for name in _NAMED.findall(text))
    text = _text(_NAMED.sub("?", text))
    if statement.returning:
        text += f" RETURNING {statement.returning}"
    return text, None if places == tuple(range(len(statement.values))) else places


_NAMED = re.compile(r":(\w+)")


@functools.cache
def update_text(statement: Update, rows: int) -> str:
    """The statement for so many rows, which returns nothing: see `_told`."""

    def value(found: re.Match[str]) -> str:
        return f"given.column{statement.values.index(found[1]) + 1}"

    changed, where = _NAMED.sub(value, statement.set), _NAMED.sub(value, statement.where)
    given = _rows_of(len(statement.values), rows)
    return _text(f"UPDATE {statement.table} SET {changed} FROM (VALUES {given}) AS given WHERE {where}")  # noqa: S608


@functools.cache
def _told(statement: Update) -> str:
    """What the statement returns, and the id, of many rows, as one: the lock is given away around each row, too."""
    return _text(
        f"SELECT json_group_array(json_array({statement.returning}, id)) FROM {statement.table} WHERE id IN (<ids>)"  # noqa: S608
    )


@functools.cache
def _insert(statement: Insert, rows: int) -> str:
    """The statement for so many rows, which returns nothing."""
    given = _rows_of(len(statement.columns), rows)
    text = f"INSERT INTO {statement.table} ({', '.join(statement.columns)}) VALUES {given}"  # noqa: S608
    return f"{text} ON CONFLICT DO NOTHING" if statement.once else text


def _rows_of(columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)
