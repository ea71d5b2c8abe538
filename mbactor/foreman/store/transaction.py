"""What the operations of one batch share: the time, the ids, the rows to insert, the flows that stopped."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mbactor.foreman.parks import parks_answered
from mbactor.foreman.store import schema
from mbactor.foreman.store.dialect import Begun, Db, Insert, Row, Update
from mbactor.foreman.store.operations import FlowEnd, Inserted, NewStep, Stopped
from mbactor.foreman.store.rows import Json

_INSERT = Insert("mbactor_step", schema.NEW_STEP)

# One seek by the id, as `settle.FENCE` has it: PostgreSQL would walk the index of all flows that are open, dead entries
# and all, for each batch that ends one.
_STOP = Update(
    "mbactor_flow",
    """status = :status, final_state = :final_state, error = :error, cancel_reason = :cancel_reason,
    updated_at = :updated_at""",
    "id = :id AND CASE WHEN status IN ('created', 'running', 'interrupted') THEN 1 END = 1",
    ("status", "final_state", "error", "cancel_reason", "updated_at", "id"),
    returning="caller_id, token, workflow, notify_on_stop, concurrency_key",
    assumed="caller_id IS NULL AND concurrency_key IS NULL",
)

_ANSWER = """UPDATE mbactor_step SET status = 'pending', parks = ?, not_before = ?, worker = NULL, updated_at = ?
    WHERE id = ? AND status = 'running' AND lease_expires IS NULL"""

# A seek in an index for each priority, however many steps wait.
BANDS = """WITH RECURSIVE band (priority) AS (
    SELECT (SELECT min(priority) FROM mbactor_step WHERE status = 'pending')
    UNION ALL
    SELECT (SELECT min(step.priority) FROM mbactor_step AS step
        WHERE step.status = 'pending' AND step.priority > band.priority)
    FROM band WHERE band.priority IS NOT NULL)
    SELECT priority, (SELECT min(step.not_before) FROM mbactor_step AS step
        WHERE step.status = 'pending' AND step.priority = band.priority)
    FROM band WHERE priority IS NOT NULL ORDER BY priority"""


def nodes_of(breakpoints: Json | None) -> frozenset[str]:
    """The nodes that a row's `breakpoints` lists."""
    return frozenset(msgspec.json.decode(breakpoints, type=list[str])) if breakpoints is not None else frozenset()


class Transaction:
    """One open transaction. Lives for the length of a batch."""

    def __init__(self, db: Db, begun: Begun) -> None:
        self.db = db
        self.now = begun.now
        self.stopped: list[Stopped] = []
        self.given_up: dict[int, int] = {}
        """Step -> flow, of branches that were given up."""
        self.keys: set[str] = set()
        """Concurrency keys of which a flow came or went."""
        self._rows: list[Row] = []
        self._step_ids = iter(begun.step_ids)
        self._flow_ids = iter(begun.flow_ids)
        self._breakpoints = {flow_id: nodes_of(text) for flow_id, text in begun.breakpoints.items()}

    def step_id(self) -> int:
        """The next id for a step; above that of any step committed before."""
        return next(self._step_ids)

    def flow_id(self) -> int:
        """The next id for a flow."""
        return next(self._flow_ids)

    def insert(
        self,
        new: NewStep,
        flow_id: int,
        predecessor_id: int | None,
        status: str = "pending",
        *,
        step_id: int | None = None,
    ) -> Inserted:
        """Put a step on the list of inserts; running and leased at once where it is handed off.

        Before a breakpoint, and where a rate limits the task, nothing is handed off: a claim looks at these.
        """
        if new.lease is not None and (new.rate or self._is_watched(flow_id, new.node)):
            new = msgspec.structs.replace(new, lease=None)
        now, lease = self.now, new.lease
        if step_id is None:
            step_id = self.step_id()
        due = new.due_at if new.due_at is not None else now + new.delay
        expires, number, worker, started = None, 0, None, None
        room_id, room_ordinal = None, None
        if new.waits:
            status, room_id, room_ordinal = "created", new.spawn_id, new.ordinal
        elif lease is not None:
            status, expires, number, worker, started = "running", now + lease.seconds, 1, lease.worker, now
        self._rows.append(
            (step_id, new.token, flow_id, new.node, new.depth, status, new.state, new.added, new.chain, predecessor_id,
             new.spawn_id, new.ordinal, new.cohort_id, new.priority, due, expires, number, worker, now, started, now,
             new.fairness_key, new.rate, room_id, room_ordinal)
        )  # fmt: skip
        return Inserted(new, step_id, flow_id)

    def _is_watched(self, flow_id: int, node: str) -> bool:
        return bool(self._breakpoints) and node in self._breakpoints.get(flow_id, ())

    async def flush(self) -> None:
        """Write the inserts gathered so far."""
        if self._rows:
            rows, self._rows = self._rows, []
            await self.db.insert(_INSERT, rows)

    async def stop_flows(self, ends: dict[int, FlowEnd], reason: str | None = None) -> set[int]:
        """Write the end of each flow. One that had ended already stays as it is (the first writer wins) and is not
        among those returned.
        """
        if not ends:
            return set()
        order = list(ends)
        rows = [(end.status, end.final_state, end.error, reason, self.now, flow_id) for flow_id, end in ends.items()]
        found = await self.db.update(_STOP, rows)
        for index, (caller_id, token, workflow, notify, key) in sorted(found.items()):
            if key is not None:
                self.keys.add(key)
            flow_id = order[index]
            end = ends[flow_id]
            self.stopped.append(Stopped(flow_id, end.status, token, workflow, notify, end.final_state, end.error))
            if caller_id is not None and end.status != "cancelled":
                await self._answer_caller(caller_id, end.final_state, end.error)
        return {order[index] for index in found}

    async def _answer_caller(self, step_id: int, final_state: Json | None, error: Json | None) -> None:
        rows = await self.db.rows("SELECT parks FROM mbactor_step WHERE id = ?", step_id)
        if rows and rows[0][0] is not None:
            parks = parks_answered(rows[0][0], final_state, error)
            await self.db.count(_ANSWER, parks, self.now, self.now, step_id)

    async def bands(self) -> list[tuple[int, float]]:
        """The priorities that have pending steps, best first, with the time from which the first of each is due."""
        return [(priority, due) for priority, due in await self.db.rows(BANDS)]

    async def best_due(self) -> int | None:
        """The best priority with a step that is due and unclaimed."""
        return best_of(await self.bands(), self.now)


def best_of(bands: Sequence[tuple[int, float]], now: float) -> int | None:
    """The best priority of which a step is due."""
    return next((priority for priority, due in bands if due <= now), None)
