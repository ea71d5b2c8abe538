"""The tables of the durable workflow store, as any SQL client may read them.

* `mbactor_flow`: one row a flow (a run of a graph). `status`: created, running, interrupted, completed,
  failed, cancelled. `final_state` is there for completed flows; that of a failed or cancelled flow
  follows from its steps.
* `mbactor_step`: one row a step (a run of a task). `status`: created, pending, running, interrupted,
  completed, failed, cancelled. A running step is leased: `worker` has it until `lease_expires`, and
  `lease_number` rises with each claim, so a late result of an earlier claim is told apart; a running step without
  a lease waits for the flow it called. A pending step is due at `not_before`.
* `mbactor_graph`: the frozen graphs, stored once each, by the SHA-256 of their JSON.
* `mbactor_meta`: the schema's version and the counter of step ids.
* `mbactor_flow_view`, `mbactor_step_view`: the same rows with JSON as text and times as dates.

A step row holds what its task changed (`changes`), not what it read: its input is the nearest `state` up the
chain of `predecessor_id`, with each `changes` and each `added` on the way applied. `chain` is the distance to
that `state`. A fan-in step (`cohort_id`: the step that spawned the cohort) reads the fold of the cohort's
changes, in the order of `ordinal`, `depth`, `id`; its own `state` is filled when it ends.

Times are Unix seconds by the database's clock, JSON is UTF-8 text in BLOB columns. `spawn_id` is the step whose
fan-out a branch belongs to (NULL on the trunk); `cohort_size`, `cohort_arrivals`, `cohort_failures` and
`cohort_depth` stand on that step. `parks` lists the interrupts of a step and the flows it called, with their
answers; `payloads` has the questions of its interrupts, the one that waits last. `caller_id` is the step that called a
flow, `root_id` the flow it all began with (both NULL for a flow that nobody called).
"""

from __future__ import annotations

VERSION = 1

FLOW_COLUMNS = (
    "id", "token", "status", "workflow", "name", "graph", "baggage", "priority", "fairness_key", "fairness_weight",
    "time_budget", "thread_id", "root_id", "caller_id", "idempotency_key", "trace_parent",
    "delete_on_completion", "notify_on_stop", "final_state", "error", "cancel_reason", "created_at", "started_at",
    "updated_at",
)  # fmt: skip

STEP_COLUMNS = (
    "id", "token", "flow_id", "node", "depth", "status", "attempt", "state", "added", "changes", "chain",
    "predecessor_id", "successor_id", "spawn_id", "ordinal", "cohort_id", "cohort_size", "cohort_arrivals",
    "cohort_failures", "cohort_depth", "parks", "payloads", "error", "priority", "not_before", "refused_at",
    "lease_expires", "lease_number", "worker", "created_at", "started_at", "updated_at",
)  # fmt: skip

SQLITE = """
CREATE TABLE mbactor_meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE mbactor_graph (
    hash TEXT PRIMARY KEY,
    graph BLOB NOT NULL
);

CREATE TABLE mbactor_flow (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL,
    status TEXT NOT NULL,
    workflow TEXT NOT NULL,
    name TEXT NOT NULL,
    graph TEXT NOT NULL,
    baggage BLOB,
    priority INTEGER NOT NULL,
    fairness_key TEXT NOT NULL,
    fairness_weight REAL NOT NULL,
    time_budget REAL NOT NULL,
    thread_id INTEGER,
    root_id INTEGER,
    caller_id INTEGER,
    idempotency_key TEXT,
    trace_parent TEXT,
    delete_on_completion INTEGER NOT NULL,
    notify_on_stop TEXT,
    final_state BLOB,
    error BLOB,
    cancel_reason TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    updated_at REAL NOT NULL
);
CREATE UNIQUE INDEX mbactor_flow_idempotency ON mbactor_flow (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX mbactor_flow_caller ON mbactor_flow (caller_id) WHERE caller_id IS NOT NULL;
CREATE INDEX mbactor_flow_root ON mbactor_flow (root_id) WHERE root_id IS NOT NULL;
CREATE INDEX mbactor_flow_thread ON mbactor_flow (thread_id) WHERE thread_id IS NOT NULL;

CREATE TABLE mbactor_step (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    flow_id INTEGER NOT NULL,
    node TEXT NOT NULL,
    depth INTEGER NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    state BLOB,
    added BLOB,
    changes BLOB,
    chain INTEGER NOT NULL DEFAULT 0,
    predecessor_id INTEGER,
    successor_id INTEGER,
    spawn_id INTEGER,
    ordinal INTEGER NOT NULL DEFAULT 0,
    cohort_id INTEGER,
    cohort_size INTEGER NOT NULL DEFAULT 0,
    cohort_arrivals INTEGER NOT NULL DEFAULT 0,
    cohort_failures INTEGER NOT NULL DEFAULT 0,
    cohort_depth INTEGER NOT NULL DEFAULT 0,
    parks BLOB,
    payloads BLOB,
    error BLOB,
    priority INTEGER NOT NULL,
    not_before REAL NOT NULL,
    refused_at REAL,
    lease_expires REAL,
    lease_number INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    updated_at REAL NOT NULL
);
CREATE INDEX mbactor_step_flow ON mbactor_step (flow_id);
CREATE INDEX mbactor_step_pending ON mbactor_step (priority, not_before, id) WHERE status = 'pending';
CREATE INDEX mbactor_step_lease ON mbactor_step (lease_expires) WHERE status = 'running';
CREATE INDEX mbactor_step_spawn ON mbactor_step (spawn_id) WHERE spawn_id IS NOT NULL;

CREATE VIEW mbactor_flow_view AS SELECT
    id, status, workflow, name, priority, fairness_key, time_budget, root_id, caller_id,
    CAST(baggage AS TEXT) AS baggage, CAST(final_state AS TEXT) AS final_state, CAST(error AS TEXT) AS error,
    cancel_reason, datetime(created_at, 'unixepoch') AS created_at, datetime(started_at, 'unixepoch') AS started_at,
    datetime(updated_at, 'unixepoch') AS updated_at
FROM mbactor_flow;

CREATE VIEW mbactor_step_view AS SELECT
    id, flow_id, node, depth, status, attempt, CAST(state AS TEXT) AS state, CAST(added AS TEXT) AS added,
    CAST(changes AS TEXT) AS changes, CAST(parks AS TEXT) AS parks, CAST(error AS TEXT) AS error,
    predecessor_id, successor_id, spawn_id, ordinal, cohort_id, cohort_size, cohort_arrivals, cohort_failures,
    worker, lease_number, datetime(lease_expires, 'unixepoch') AS lease_expires,
    datetime(not_before, 'unixepoch') AS not_before, datetime(created_at, 'unixepoch') AS created_at,
    datetime(started_at, 'unixepoch') AS started_at, datetime(updated_at, 'unixepoch') AS updated_at
FROM mbactor_step;

INSERT INTO mbactor_meta (name, value) VALUES ('schema_version', 1), ('step_id', 0);
"""
