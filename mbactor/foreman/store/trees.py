"""A tree of flows as it stands, read as a whole within the transaction that holds its root.

tree = await tree_of(tx, flow_id)
rewound = tree.rewound([step_id])
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from mbactor.foreman.model.places import FlowPlace, StepPlace
from mbactor.foreman.model.rewinding import Rewound, rewind
from mbactor.foreman.parks import parks_reopened
from mbactor.foreman.store.rows import Json
from mbactor.foreman.store.transaction import Transaction

_FLOWS = """SELECT id, status, caller_id, token, root_id, delete_at, delete_on_completion, concurrency_key
    FROM mbactor_flow
    WHERE id = ? OR root_id = ? ORDER BY id"""

_ROOT = "SELECT coalesce(root_id, id) FROM mbactor_flow WHERE id = ?"

_PLACES = """SELECT id, flow_id, status, predecessor_id, spawn_id, ordinal, cohort_id, cohort_size, cohort_arrivals,
    cohort_failures, updated_at, cohort_needed, cancel_reason, cohort_at_once, room_id
    FROM mbactor_step WHERE flow_id IN (<ids>) ORDER BY id"""

ENDED = frozenset({"completed", "failed", "cancelled"})

CALLED_ANOTHER = "its caller was tried again since, and called another flow; take a step of that one, or the caller"


class Head(msgspec.Struct, frozen=True, gc=False):
    """A row of `_FLOWS`."""

    id: int
    status: str
    caller_id: int | None
    token: str
    root_id: int | None
    delete_at: float | None
    delete_on_completion: int
    concurrency_key: str | None


class Tree(msgspec.Struct, frozen=True):
    """A tree of flows as it stands, its root first."""

    heads: tuple[Head, ...]
    steps: dict[int, StepPlace]

    @property
    def root(self) -> Head:
        return self.heads[0]

    @property
    def gone(self) -> bool:
        """Whether its users have been told that it is not there any more."""
        return bool(self.root.delete_on_completion) and self.root.status == "completed"

    @property
    def queue(self) -> str | None:
        """The concurrency key in whose queue the tree has to wait before it goes on: it has given up its place."""
        return self.root.concurrency_key if self.root.status in ENDED else None

    def rewound(self, step_ids: Collection[int]) -> Rewound:
        flows = [FlowPlace(one.id, one.status, one.caller_id) for one in self.heads]
        found = rewind(flows, self.steps.values(), step_ids)
        return found if self.queue is None else found.as_queued()

    def above(self, flow_id: int) -> list[Head]:
        """The flow, its caller, that one's, up to the root."""
        heads = {one.id: one for one in self.heads}
        found = [heads[flow_id]]
        while (caller_id := found[-1].caller_id) is not None:
            found.append(heads[self.steps[caller_id].flow_id])
        return found


async def tree_of(tx: Transaction, flow_id: int) -> Tree | None:
    rows = await tx.db.rows(_ROOT, flow_id)
    if not rows:
        return None
    (root_id,) = rows[0]
    heads = tuple(Head(*row) for row in await tx.db.rows(_FLOWS, root_id, root_id))
    steps = [StepPlace(*row) for row in await tx.db.rows(_PLACES, [one.id for one in heads])]
    return Tree(heads, {step.id: step for step in steps})


async def has_token(tx: Transaction, step_id: int, token: str) -> bool:
    rows = await tx.db.rows("SELECT token FROM mbactor_step WHERE id = ?", step_id)
    return bool(rows) and rows[0][0] == token


async def reopened(tx: Transaction, waiting: dict[int, int]) -> dict[int, Json] | None:
    """The parks of each step that waits again for a flow it called; None where one of them knows that flow no more."""
    if not waiting:
        return {}
    rows = await tx.db.rows("SELECT id, parks FROM mbactor_step WHERE id IN (<ids>)", sorted(waiting))
    query = "SELECT caller_id, id FROM mbactor_flow WHERE caller_id IN (<ids>) ORDER BY id"
    called: dict[int, list[int]] = {}
    for caller_id, flow_id in await tx.db.rows(query, sorted(waiting)):
        called.setdefault(caller_id, []).append(flow_id)
    found: dict[int, Json] = {}
    for step_id, parks in rows:
        reopened = parks_reopened(parks, len(called[step_id]) - called[step_id].index(waiting[step_id]))
        if reopened is None:
            return None
        found[step_id] = reopened
    return found
