"""What the operations of one batch share: the time, the step ids, the rows to insert, the flows that stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from mbactor.foreman.parks import parks_answered
from mbactor.foreman.store.store import Inserted, Json, NewStep, Stopped

_INSERT = """INSERT INTO mbactor_step (id, token, flow_id, node, depth, status, state, added, chain, predecessor_id,
    spawn_id, ordinal, cohort_id, priority, not_before, lease_expires, lease_number, worker, created_at, started_at,
    updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_STOP = """UPDATE mbactor_flow SET status = ?, final_state = ?, error = ?, cancel_reason = ?, updated_at = ?
    WHERE id = ? AND status IN ('created', 'running', 'interrupted')
    RETURNING caller_id, token, workflow, notify_on_stop"""

_ANSWER = """UPDATE mbactor_step SET status = 'pending', parks = ?, not_before = ?, worker = NULL, updated_at = ?
    WHERE id = ? AND status = 'running' AND lease_expires IS NULL"""


class Transaction:
    """One open transaction. Lives for the length of a batch, in the driver's thread."""

    def __init__(self, db: sqlite3.Connection, wanted_ids: int) -> None:
        self.db = db
        self.now: float = db.execute("SELECT mbactor_now()").fetchone()[0]
        self.stopped: list[Stopped] = []
        self._rows: list[tuple[object, ...]] = []
        self._next_id = self._reserve(wanted_ids)

    def _reserve(self, count: int) -> int:
        if not count:
            return 0
        query = "UPDATE mbactor_meta SET value = value + ? WHERE name = 'step_id' RETURNING value"
        (last,) = self.db.execute(query, (count,)).fetchall()[0]
        return int(last) - count + 1

    def insert(self, new: NewStep, flow_id: int, predecessor_id: int | None, status: str = "pending") -> Inserted:
        """Put a step on the list of inserts; running and leased at once where it is handed off."""
        step_id, now, lease = self._next_id, self.now, new.lease
        self._next_id += 1
        due = new.due_at if new.due_at is not None else now + new.delay
        expires, number, worker, started = None, 0, None, None
        if lease is not None:
            status, expires, number, worker, started = "running", now + lease.seconds, 1, lease.worker, now
        self._rows.append(
            (step_id, new.token, flow_id, new.node, new.depth, status, new.state, new.added, new.chain, predecessor_id,
             new.spawn_id, new.ordinal, new.cohort_id, new.priority, due, expires, number, worker, now, started, now)
        )  # fmt: skip
        return Inserted(new, step_id, flow_id)

    def flush(self) -> None:
        """Write the inserts gathered so far."""
        if self._rows:
            self.db.executemany(_INSERT, self._rows)
            self._rows = []

    def stop_flow(
        self,
        flow_id: int,
        status: str,
        final_state: Json | None = None,
        error: Json | None = None,
        reason: str | None = None,
    ) -> bool:
        """Write the flow's end. False where it had ended already: the first writer wins."""
        values = (status, final_state, error, reason, self.now, flow_id)
        rows = self.db.execute(_STOP, values).fetchall()
        if not rows:
            return False
        caller_id, token, workflow, notify = rows[0]
        self.stopped.append(Stopped(flow_id, status, token, workflow, notify, final_state))
        if caller_id is not None and status != "cancelled":
            self._answer_caller(caller_id, final_state, error)
        return True

    def _answer_caller(self, step_id: int, final_state: Json | None, error: Json | None) -> None:
        row = self.db.execute("SELECT parks FROM mbactor_step WHERE id = ?", (step_id,)).fetchone()
        if row is not None and row[0] is not None:
            parks = parks_answered(row[0], final_state, error)
            self.db.execute(_ANSWER, (parks, self.now, self.now, step_id))

    def forget(self, count: int) -> None:
        """Take back the last inserts: the outcome they belong to did not land."""
        if count:
            del self._rows[-count:]

    def bands(self) -> Iterator[int]:
        """The priorities that have pending steps, best first. One index seek each."""
        query = "SELECT min(priority) FROM mbactor_step WHERE status = 'pending'"
        (band,) = self.db.execute(query).fetchone()
        while band is not None:
            yield band
            (band,) = self.db.execute(f"{query} AND priority > ?", (band,)).fetchone()

    def best_due(self) -> int | None:
        """The best priority with a step that is due and unclaimed."""
        due = "SELECT 1 FROM mbactor_step WHERE status = 'pending' AND priority = ? AND not_before <= ? LIMIT 1"
        return next((band for band in self.bands() if self.db.execute(due, (band, self.now)).fetchone()), None)
