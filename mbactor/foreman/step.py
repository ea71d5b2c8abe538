"""One step's life: load -> execute, and then `plan` decides and `settlement` writes. All but `execute` is pure.

A `Held` is a step in memory with the lease that makes it ours. What a completing step is followed by is inserted in the
same transaction already leased to the same worker and goes on from memory: no claim, no read.
"""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import Any

import msgspec

from mbactor.errors import ActorStopped, MbactorError, NoSuchActor, Unavailable
from mbactor.foreman.cohort import Branch, Cohort, without
from mbactor.foreman.host import Host
from mbactor.foreman.keys import Key
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.reducers import fold
from mbactor.foreman.model.state import Fields, apply, comparable, decode_fields
from mbactor.foreman.model.transition import Node
from mbactor.foreman.parks import decode_parks
from mbactor.foreman.store.operations import NewStep
from mbactor.foreman.store.rows import FlowRow, Json, Material, StepRow

UNREADABLE = (MbactorError, msgspec.MsgspecError, UnicodeError, RecursionError)
"""What reading a row of the database may raise where somebody else has written it."""


class Head:
    """What all steps of a flow share. Made once a flow and worker."""

    __slots__ = (
        "baggage",
        "correlation_id",
        "delete_on_completion",
        "fairness_key",
        "graph",
        "id",
        "key",
        "priority",
        "root_id",
        "time_budget",
        "trace_parent",
        "workflow",
    )

    def __init__(self, shard: int, row: FlowRow, graph: Graph) -> None:
        key = Key(shard, row.id, row.token)
        self.id = row.id
        self.key = str(key)
        self.correlation_id = key.correlation_id
        self.graph = graph
        self.baggage = MappingProxyType(msgspec.json.decode(row.baggage, type=dict[str, Any]) if row.baggage else {})
        self.priority = row.priority
        self.root_id = row.root_id
        self.fairness_key = row.fairness_key
        self.time_budget = row.time_budget
        self.trace_parent = row.trace_parent
        self.workflow = row.workflow
        self.delete_on_completion = bool(row.delete_on_completion)


_NONE: frozenset[int] = frozenset()


class Held:
    """A step that this worker has leased. `state` is its input; None until it has been loaded."""

    __slots__ = (
        "attempt", "before", "branch", "cancelled", "chain", "claimed_at", "cohort_id", "created_at", "depth",
        "executing", "flow_ended", "given_up", "head", "key", "lease_number", "material", "node", "ordinal", "parks",
        "payloads", "refused_for", "run", "spawn_id", "state", "step_id", "streak", "weight",
    )  # fmt: skip

    def __init__(self, head: Head, key: str, step_id: int, new: NewStep, state: Fields | None, now: float) -> None:
        self.head = head
        self.key = key
        self.step_id = step_id
        self.lease_number = 1
        self.run = 1
        """Which run of the task this is, those that were lost included."""
        self.node = new.node
        self.depth = new.depth
        self.spawn_id = new.spawn_id
        self.ordinal = new.ordinal
        self.cohort_id = new.cohort_id
        self.chain = new.chain
        self.state = state
        self.material: Material | Cohort | None = None
        """What the input is made of, once that is known."""
        self.branch: Branch | None = None
        """Where it is in a cohort that is known from memory."""
        self.weight = 0
        """Bytes of deltas since the last snapshot."""
        self.attempt = 0
        self.before: Fields = {}
        self.parks: Json | None = None
        self.payloads: Json | None = None
        self.refused_for = 0.0
        self.created_at = now
        self.streak = 0
        """How many steps in a row were handed on without a claim."""
        self.claimed_at: float | None = None
        """When the first of these was taken, by the loop's clock, as far as anybody asked."""
        self.executing: asyncio.Task[Any] | None = None
        self.cancelled = False
        self.flow_ended = False
        self.given_up = _NONE
        """Steps of its flow that were given up while it ran."""

    @classmethod
    def claimed(cls, head: Head, shard: int, row: StepRow, now: float) -> Held:
        """A step as a claim returned it."""
        new = NewStep(
            row.node, row.token, row.depth, row.priority, chain=row.chain, spawn_id=row.spawn_id, ordinal=row.ordinal,
            cohort_id=row.cohort_id if row.state is None else None,
        )  # fmt: skip
        state = None if row.state is None else decode_fields(row.state)
        held = cls(head, str(Key(shard, row.id, row.token)), row.id, new, state, row.created_at)
        held.lease_number = row.lease_number
        held.run = run_of(row)
        held.attempt = row.attempt
        held.before = decode_fields(row.changes) if row.changes is not None else {}
        held.parks = row.parks
        held.payloads = row.payloads
        held.refused_for = now - row.refused_at if row.refused_at is not None else 0.0
        return held


def run_of(row: StepRow) -> int:
    """How often the task of a step has been started."""
    return row.lease_number - row.unused_leases


def was_answered(row: StepRow) -> bool:
    """Whether the step began its last run with an answer; it was due with that then."""
    again = run_of(row) > 1 and row.attempt == 0 and row.lost_leases == 0
    return again and row.started_at is not None and row.not_before > row.started_at


# --- load ----------------------------------------------------------------------------------------------


def load(held: Held, material: Material | Cohort) -> None:
    """Fold the step's input. ReducerError where branches do not fit together."""
    if isinstance(material, Cohort):
        held.state, held.weight = material.folded(held.head.graph), material.weight
    else:
        held.state = fold_material(material, held.head.graph)
        held.weight = sum(len(delta) for delta in material.deltas)
    held.material = None


def fold_material(material: Material, graph: Graph) -> Fields:
    """The state that the rows amount to."""
    state = decode_fields(material.snapshot)
    for delta in material.deltas:
        state = apply(state, decode_fields(delta))
    if material.cohort is None:
        return state
    return fold(state, deltas_of(material, graph), graph)


def deltas_of(material: Material, graph: Graph) -> list[Fields]:
    """What a cohort wrote, in fold order, but for the fields that its branches have for themselves."""
    deltas = [decode_fields(delta) for delta in material.cohort or ()]
    before = int(material.spawn_wrote)
    return [*deltas[:before], *without(deltas[before:], graph.branch_fields_of(material.spawn))]


def carrier(held: Held) -> Flow:
    """What the task sees."""
    assert held.state is not None
    return Flow(
        held.state,
        held.before,
        flow_key=held.head.key,
        step_key=held.key,
        attempt=held.attempt,
        step_created_at=held.created_at,
        baggage=held.head.baggage,
        parks=decode_parks(held.parks),
    )


# --- execute -------------------------------------------------------------------------------------------


async def execute(host: Host, held: Held, flow: Flow) -> BaseException | None:
    """Run the task, and give back what it raised. Cancelling the caller goes through; cancelling the step
    (`held.cancelled`) ends the task and nothing else.
    """
    node = held.head.graph.node(held.node)
    held.executing = asyncio.current_task()
    try:
        if node.subgraph:
            call_workflow(node, flow)
        else:
            await host.execute_task(node.url, flow, node.time_budget or held.head.time_budget)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except asyncio.CancelledError as error:
        if not held.cancelled and _being_cancelled():
            raise
        return error
    except BaseException as error:  # the boundary: whatever a task raises is its outcome
        return error
    finally:
        held.executing = None
        if held.cancelled:
            _uncancel()
    return None


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def call_workflow(node: Node, flow: Flow) -> None:
    """The task of a subgraph node: the named fields go into the called flow, and come back from it."""
    snapshot = flow.snapshot()
    names = snapshot if node.inputs is None else node.inputs
    given = {name: snapshot[name] for name in names if name in snapshot}
    result = flow.subgraph(node.url, given)
    if node.outputs is None:
        # Where branches meet, what came back as it went in would take the place of what others wrote, or count twice.
        returned = [name for name in result if name not in given or not _same(result[name], given[name])]
    else:
        returned = [name for name in node.outputs if name in result]
    for name in returned:
        flow[name] = result[name]


def _same(one: Any, other: Any) -> bool:
    return bool(comparable(one) == comparable(other))


def was_refused(error: BaseException | None) -> bool:
    """Whether the task was certainly not taken, so that offering it again repeats nothing."""
    return isinstance(error, (NoSuchActor, Unavailable, ActorStopped)) and error.taken == "no"


def rate_of(graph: Graph, node: str) -> str:
    """What limits how often the task of a node is started, as a row has it; empty where nothing does."""
    found = graph.node(node)
    return f"{found.rate} {found.url}" if found.rate else ""


def budget_of(held: Held) -> float:
    return held.head.graph.node(held.node).time_budget or held.head.time_budget
