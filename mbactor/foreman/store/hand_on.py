"""What a lone flow does most: an outcome whose worker goes on with the one step after it.

    written = handed_on(batch)                  # None: the batch is not that
    (row,) = await connection.fetch(written.text, *written.values)
    committed = written.committed(row)          # None: something was not as assumed, and nothing was written

It writes what `apply_batch` would write, and locks the same in the same order. In PostgreSQL it is a function: one
statement of parts, each set up for any number of rows, costs the server a fifth more, and whoever makes it twice as
much. In SQLite, where one after the other is as good, it is two statements: the outcome's own, and `NEW`.
"""

# ruff: noqa: S608 - every statement is put together from constants of the store

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec

from mbactor.foreman.store import schema
from mbactor.foreman.store.operations import Committed, Inserted, NewStep, Operation, Settle, Settled
from mbactor.foreman.store.postgres_text import TYPES, text_of
from mbactor.foreman.store.settle import COMPLETE
from mbactor.foreman.store.transaction import BANDS

_GIVEN = ("id", "lease_number", "flow_id", "changes", "token", "node", "depth", "state", "added", "chain", "spawn_id",
          "ordinal", "cohort_id", "priority", "worker", "fairness_key")  # fmt: skip
"""Columns of the two rows: of the one that ends the id, the lease number and the changes, else of the new one."""

_MADE = {name: f"_{name}" for name in _GIVEN} | {
    "id": "_made", "status": "'running'", "predecessor_id": "_id", "lease_number": "1", "not_before": "_now",
    "lease_expires": "_now + _seconds", "created_at": "_now", "started_at": "_now", "updated_at": "_now",
    "rate": "''", "room_id": "NULL", "room_ordinal": "NULL",
}  # fmt: skip

_ENDED = {name: f"_{name}" for name in _GIVEN} | {"successor_id": "_made", "updated_at": "_now"}


def _kind(name: str) -> str:
    return TYPES[schema.TABLES["mbactor_step"][name].partition(" ")[0]]


def _outcome(text: str) -> str:
    return re.sub(r"(?<!:):(\w+)", lambda found: _ENDED[found[1]], text)


# The flow's root is locked first. Before a breakpoint steps are not handed on. The bands are looked at one by one only
# where the best of them has nothing due yet.
FUNCTION = f"""CREATE FUNCTION mbactor_hand_on({", ".join(f"_{name} {_kind(name)}" for name in _GIVEN)},
    _seconds double precision, OUT _now double precision, OUT _made bigint, OUT _best bigint)
LANGUAGE plpgsql AS $$
DECLARE
    _root bigint;
    _breakpoints bytea;
    _due double precision;
BEGIN
    SELECT coalesce(root_id, id) INTO _root FROM mbactor_flow WHERE id = _flow_id;
    SELECT breakpoints INTO _breakpoints FROM mbactor_flow WHERE id = _root FOR UPDATE;
    IF _breakpoints IS NOT NULL THEN
        RETURN;
    END IF;
    _now := extract(epoch FROM clock_timestamp());
    _made := nextval('mbactor_step_id');
    UPDATE mbactor_step SET {_outcome(COMPLETE.set)} WHERE {_outcome(COMPLETE.where)};
    IF NOT FOUND THEN
        _made := NULL;
        RETURN;
    END IF;
    INSERT INTO mbactor_step ({", ".join(schema.NEW_STEP)})
        VALUES ({", ".join(_MADE[name] for name in schema.NEW_STEP)});
    SELECT priority, not_before INTO _best, _due FROM mbactor_step WHERE status = 'pending'
        ORDER BY priority, not_before LIMIT 1;
    IF _due > _now THEN
        SELECT min(priority) INTO _best FROM ({text_of(BANDS)}) AS band (priority, due) WHERE due <= _now;
    END IF;
END $$"""

_PLACES = {name: place for place, name in enumerate((*_GIVEN, "seconds", "now", "made"))}
_VALUE = re.compile(r"\b_(\w+)")
_NEW_VALUES = ", ".join(_MADE[name] for name in schema.NEW_STEP)

# Some Pythons (3.12.0 to 3.12.3) warn of each value of a numbered placeholder, which costs more than the statement.
NEW = f"INSERT INTO mbactor_step ({', '.join(schema.NEW_STEP)}) VALUES ({_VALUE.sub('?', _NEW_VALUES)})"
"""The new step, in SQLite; `HandedOn.begun` has its values."""
_of_new = itemgetter(*(_PLACES[name] for name in _VALUE.findall(_NEW_VALUES)))

_CALL = f"SELECT _now, _made, _best FROM mbactor_hand_on({', '.join(f'${n}' for n in range(1, len(_GIVEN) + 2))})"


class HandedOn(msgspec.Struct, frozen=True, gc=False):
    """Such a batch, and the step that it makes."""

    values: tuple[Any, ...]
    flow_id: int
    new: NewStep

    @property
    def text(self) -> str:
        return _CALL

    def outcome(self, now: float, made: int) -> tuple[Any, ...]:
        """The values of `COMPLETE` where the new step has that id."""
        step_id, lease_number, _, changes, *_ = self.values
        return changes, made, now, step_id, lease_number

    def begun(self, now: float, made: int) -> tuple[Any, ...]:
        """The values of `NEW`, likewise."""
        values: tuple[Any, ...] = _of_new((*self.values, now, made))
        return values

    def committed(self, row: Sequence[Any]) -> Committed | None:
        """What the batch came to, by the row that came back."""
        now, step_id, best = row
        if step_id is None:
            return None
        return Committed([Settled(True, (Inserted(self.new, step_id, self.flow_id),), now)], (), best)


def handed_on(batch: Sequence[Operation]) -> HandedOn | None:
    """The batch, where it is one outcome with one step that its worker goes on with at once."""
    if len(batch) != 1 or not isinstance(one := batch[0], Settle) or len(one.successors) != 1:
        return None
    if one.status != "completed" or one.cohort_size or not one.state is one.error is one.parks is None:
        return None
    (new,) = one.successors
    lease = new.lease
    if lease is None or new.rate or new.waits or new.delay or new.due_at is not None:
        return None
    if one.arrival is not None or one.child is not None or one.end is not None:
        return None
    values = (
        one.step_id, one.lease_number, one.flow_id, one.changes, new.token, new.node, new.depth, new.state, new.added,
        new.chain, new.spawn_id, new.ordinal, new.cohort_id, new.priority, lease.worker, new.fairness_key,
        lease.seconds,
    )  # fmt: skip
    return HandedOn(values, one.flow_id, new)
