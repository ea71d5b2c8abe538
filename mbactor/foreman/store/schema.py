"""The tables of the durable workflow store, as any SQL client may read them.

* `mbactor_flow`: one row a flow (a run of a graph). `status`: created, running, interrupted, completed,
  failed, cancelled. `final_state` is there for completed flows; that of a failed or cancelled flow
  follows from its steps. One with a `delete_at` is gone for its users from now or then on, and removed after it.
* `mbactor_step`: one row a step (a run of a task). `status`: created, pending, running, interrupted,
  completed, failed, cancelled. A running step is leased: `worker` has it until `lease_expires`, and
  `lease_number` rises with each claim, so a late result of an earlier claim is told apart; that of a step that spawned
  a cohort rises once more when a branch of it is made to run again. A running step without a lease waits for the flow
  it called. A pending step is due at `not_before`. Its task was started `lease_number` - `unused_leases` times: a claim
  that was put off, and a number that only fences, is not used. Of the runs, `lost_leases` came to nothing: the worker
  ended, or let the lease run out.
* `mbactor_graph`: the frozen graphs, stored once each, by the SHA-256 of their JSON.
* `mbactor_meta`: the schema's version, the number of this shard, a random number by which the database is told from any
  other (`identity`) and, on SQLite, the highest ids that were deleted: none is given out a second time (on PostgreSQL
  two sequences see to that).
* `mbactor_shard`, in the database of shard 1 only: the shards there are. `state`: active, cordoned, removed.
* `mbactor_schedule`: what creates flows by itself; ticks up to `last_tick` are dealt with, and `flow_id` is
  the flow that it made last. Shard 1 has it.
* `mbactor_concurrency`: a row for each concurrency key, which is held while flows of the key are started. A created
  flow that is `queued` waits until fewer than its `concurrency_limit` flows of its key have begun.
* `mbactor_rate`: a row for each task with a rate; starts have been given out up to `free_from`. A step that waits for
  its own has it in `slot`.
* `mbactor_hand_on`, on PostgreSQL: a function that ends a step and begins the next one (`hand_on`).
* `mbactor_flow_view`, `mbactor_step_view`: the same rows with JSON as text and times as dates.

A step row holds what its task changed (`changes`), not what it read: its input is the nearest `state` up the
chain of `predecessor_id`, with each `changes` and each `added` on the way applied. `chain` is the distance to
that `state`. A fan-in step (`cohort_id`: the step that spawned the cohort) reads the fold of the cohort's
changes, in the order of `ordinal`, `depth`, `id`; its own `state` is filled when it ends.

Times are Unix seconds by the database's clock, JSON is UTF-8 text in binary columns. `spawn_id` is the step whose
fan-out a branch belongs to (NULL on the trunk); `cohort_size`, `cohort_arrivals`, `cohort_failures`,
`cohort_depth`, `cohort_needed` (so many branches must complete; 0: all) and `cohort_at_once` (so many may be under
way; 0: all) stand on that step. What has to wait until others make room is created: until branch `room_ordinal` of the
cohort that `room_id` spawned may begin. `cancel_reason` says why a branch was given up. `parks` lists the
interrupts of a step and the flows it called, with their answers; `payloads` has the questions of its interrupts, the
one that waits last. `caller_id` is the step that called a flow, `root_id` the flow it all began with (both NULL for a
flow that nobody called). `forked_from` is the step whose fork a flow is. `breakpoints` of a root lists
the nodes before which its tree pauses; `at_breakpoint` of a step is 1 while it waits at one, 2 once it has been let go
on.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from mbactor.errors import InvalidSpec

VERSION = 1

# Numbers of 8 bytes come first, then those of 4, then texts: in another order PostgreSQL leaves gaps between them.
_FLOW = {
    "id": "int PRIMARY KEY",
    "priority": "int NOT NULL",
    "fairness_weight": "float NOT NULL",
    "time_budget": "float NOT NULL",
    "thread_id": "int",
    "root_id": "int",
    "caller_id": "int",
    "created_at": "float NOT NULL",
    "started_at": "float",
    "delete_at": "float",
    "forked_from": "int",
    "concurrency_limit": "int",
    "delete_on_completion": "small NOT NULL",
    "queued": "small NOT NULL DEFAULT 0",
    "token": "text NOT NULL",
    "workflow": "text NOT NULL",
    "name": "text NOT NULL",
    "graph": "text NOT NULL",
    "baggage": "json",
    "fairness_key": "text NOT NULL",
    "idempotency_key": "text",
    "trace_parent": "text",
    "notify_on_stop": "text",
    "breakpoints": "json",
    "concurrency_key": "text",
    # As in a step: what its end changes comes last.
    "updated_at": "float NOT NULL",
    "status": "text NOT NULL",
    "final_state": "json",
    "error": "json",
    "cancel_reason": "text",
}

_STEP = {
    "id": "int PRIMARY KEY",
    "flow_id": "int NOT NULL",
    "predecessor_id": "int",
    "spawn_id": "int",
    "cohort_id": "int",
    "room_id": "int",
    "priority": "int NOT NULL",
    "not_before": "float NOT NULL",
    "refused_at": "float",
    "lease_expires": "float",
    "created_at": "float NOT NULL",
    "started_at": "float",
    "slot": "float",
    "depth": "small NOT NULL",
    "attempt": "small NOT NULL DEFAULT 0",
    "chain": "small NOT NULL DEFAULT 0",
    "ordinal": "small NOT NULL DEFAULT 0",
    "cohort_size": "small NOT NULL DEFAULT 0",
    "cohort_arrivals": "small NOT NULL DEFAULT 0",
    "cohort_failures": "small NOT NULL DEFAULT 0",
    "cohort_depth": "small NOT NULL DEFAULT 0",
    "cohort_needed": "small NOT NULL DEFAULT 0",
    "cohort_at_once": "small NOT NULL DEFAULT 0",
    "room_ordinal": "small",
    "lease_number": "small NOT NULL DEFAULT 0",
    "unused_leases": "small NOT NULL DEFAULT 0",
    "lost_leases": "small NOT NULL DEFAULT 0",
    "at_breakpoint": "small NOT NULL DEFAULT 0",
    "token": "text NOT NULL",
    "node": "text NOT NULL",
    "state": "json",
    "added": "json",
    "parks": "json",
    "payloads": "json",
    "error": "json",
    "worker": "text",
    "fairness_key": "text NOT NULL DEFAULT ''",
    "rate": "text NOT NULL DEFAULT ''",
    "cancel_reason": "text",
    # What the end of a step changes comes last, and next to its old version (on PostgreSQL): so little is logged.
    "successor_id": "int",
    "updated_at": "float NOT NULL",
    "status": "text NOT NULL",
    "changes": "json",
}

TABLES: dict[str, dict[str, str]] = {
    "mbactor_meta": {"name": "text PRIMARY KEY", "value": "int NOT NULL"},
    "mbactor_shard": {"shard": "int PRIMARY KEY", "state": "text NOT NULL"},
    "mbactor_graph": {"hash": "text PRIMARY KEY", "graph": "json NOT NULL"},
    "mbactor_concurrency": {"name": "text PRIMARY KEY", "held": "int NOT NULL"},
    "mbactor_rate": {"name": "text PRIMARY KEY", "free_from": "float NOT NULL"},
    "mbactor_schedule": {
        "name": "text PRIMARY KEY",
        "spec": "json NOT NULL",
        "paused": "int NOT NULL",
        "last_tick": "float NOT NULL",
        "flow_id": "int",
    },
    "mbactor_flow": _FLOW,
    "mbactor_step": _STEP,
}
"""The tables: each column's type (int of 64 bits, small of 32, float, text, json) and what SQL says beyond it."""

NEW_STEP = (
    "id", "token", "flow_id", "node", "depth", "status", "state", "added", "chain", "predecessor_id", "spawn_id",
    "ordinal", "cohort_id", "priority", "not_before", "lease_expires", "lease_number", "worker", "created_at",
    "started_at", "updated_at", "fairness_key", "rate", "room_id", "room_ordinal",
)  # fmt: skip
"""What is written of a step at its beginning."""
OUTCOME = ("changes", "successor_id", "updated_at", "id", "lease_number")
"""What is written of one that completed, and what that is fenced by."""

ROWS = {("mbactor_step", NEW_STEP): "mbactor_new_step", ("mbactor_step", OUTCOME): "mbactor_outcome"}
"""What is written most, as types of their own where rows travel as such (PostgreSQL): a row of the whole table has many
columns besides, and each of them costs on both sides.
"""

FLOW_COLUMNS = tuple(_FLOW)
STEP_COLUMNS = tuple(_STEP)

_REST = """
CREATE UNIQUE INDEX mbactor_flow_idempotency ON mbactor_flow (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX mbactor_flow_caller ON mbactor_flow (caller_id) WHERE caller_id IS NOT NULL;
CREATE INDEX mbactor_flow_root ON mbactor_flow (root_id) WHERE root_id IS NOT NULL;
CREATE INDEX mbactor_flow_thread ON mbactor_flow (thread_id) WHERE thread_id IS NOT NULL;
CREATE INDEX mbactor_flow_status ON mbactor_flow (status, created_at, id);
CREATE INDEX mbactor_flow_workflow ON mbactor_flow (workflow, created_at, id);
CREATE INDEX mbactor_flow_fairness ON mbactor_flow (fairness_key, created_at, id) WHERE fairness_key <> '';
CREATE INDEX mbactor_flow_priority ON mbactor_flow (priority, created_at, id) WHERE priority <> 100;
CREATE INDEX mbactor_flow_updated ON mbactor_flow (updated_at) WHERE updated_at > created_at;
CREATE INDEX mbactor_flow_delete ON mbactor_flow (delete_at) WHERE delete_at IS NOT NULL;
CREATE INDEX mbactor_flow_concurrency ON mbactor_flow (concurrency_key, status, created_at, id)
    WHERE concurrency_key IS NOT NULL;
CREATE INDEX mbactor_flow_queued ON mbactor_flow (concurrency_key, id) WHERE status = 'created' AND queued = 1;
CREATE INDEX mbactor_flow_breakpoints ON mbactor_flow (id) WHERE breakpoints IS NOT NULL;
CREATE INDEX mbactor_step_flow ON mbactor_step (flow_id);
CREATE INDEX mbactor_step_pending ON mbactor_step (priority, not_before, id) WHERE status = 'pending';
CREATE INDEX mbactor_step_fair ON mbactor_step (priority, fairness_key, not_before, id) WHERE status = 'pending';
CREATE INDEX mbactor_step_room ON mbactor_step (room_id, room_ordinal)
    WHERE status = 'created' AND room_id IS NOT NULL;
CREATE INDEX mbactor_step_lease ON mbactor_step (lease_expires) WHERE status = 'running';
CREATE INDEX mbactor_step_spawn ON mbactor_step (spawn_id) WHERE spawn_id IS NOT NULL;

CREATE VIEW mbactor_flow_view AS SELECT
    id, status, workflow, name, priority, fairness_key, time_budget, root_id, caller_id,
    <text>(baggage) AS baggage, <text>(final_state) AS final_state, <text>(error) AS error,
    cancel_reason, <time>(created_at) AS created_at, <time>(started_at) AS started_at,
    <time>(updated_at) AS updated_at
FROM mbactor_flow;

CREATE VIEW mbactor_step_view AS SELECT
    id, flow_id, node, depth, status, attempt, <text>(state) AS state, <text>(added) AS added,
    <text>(changes) AS changes, <text>(parks) AS parks, <text>(error) AS error,
    predecessor_id, successor_id, spawn_id, ordinal, cohort_id, cohort_size, cohort_arrivals, cohort_failures,
    cohort_needed, cohort_at_once, cancel_reason,
    worker, lease_number, unused_leases, lost_leases, <time>(lease_expires) AS lease_expires,
    <time>(not_before) AS not_before, <time>(created_at) AS created_at,
    <time>(started_at) AS started_at, <time>(updated_at) AS updated_at
FROM mbactor_step;
"""


def new_identity() -> int:
    """What tells a database from any other."""
    return secrets.randbits(62)


def check(known: Mapping[str, int], shard: int) -> None:
    """InvalidSpec where the tables, by what `mbactor_meta` holds, are not to be used as those of this shard: a newer
    version wrote them, or the keys of their flows have another one's number.
    """
    missing = [name for name in ("schema_version", "shard") if name not in known]
    if missing:
        raise InvalidSpec(
            f"the database has a table mbactor_meta without {' and '.join(missing)}: it was not restored whole, or the"
            " table is not a Foreman's"
        )
    if (version := known["schema_version"]) > VERSION:
        raise InvalidSpec(
            f"the database has schema version {version}, that of a newer mbactor; this one knows {VERSION} and below"
        )
    if (found := known["shard"]) != shard:
        raise InvalidSpec(
            f"the database is that of shard {found} and was given as that of shard {shard}; give each shard the"
            " database that it was made with"
        )


def statements(types: Mapping[str, str]) -> list[str]:
    """What makes an empty database ready, one statement each. `types` has the database's own word for each type, and
    how it writes a JSON column as `text()` and a moment as `time()`.
    """
    tables = [f"CREATE TABLE {name} ({_columns(columns, types)})" for name, columns in TABLES.items()]
    rest = re.sub(r"<(text|time)>\((\w+)\)", lambda found: types[f"{found[1]}()"].format(found[2]), _REST)
    return [*tables, *(one.strip() for one in rest.split(";\n") if one.strip())]


def row_types(types: Mapping[str, str]) -> list[str]:
    """What makes the types of `ROWS`, one statement each."""
    found = []
    for (table, names), name in ROWS.items():
        kinds = ((column, types[TABLES[table][column].partition(" ")[0]]) for column in names)
        found.append(f"CREATE TYPE {name} AS ({', '.join(f'{column} {kind}' for column, kind in kinds)})")
    return found


def _columns(columns: Mapping[str, str], types: Mapping[str, str]) -> str:
    parts = ((name, *spec.partition(" ")) for name, spec in columns.items())
    return ", ".join(f"{name} {types[kind]} {more}".strip() for name, kind, _, more in parts)
