"""What the Foreman tells of flows, and what it is told when one is created.

Plain values that travel as JSON or msgpack. A state in them is decoded; an error is what `errors.to_wire`
wrote, and `failure` makes an exception of it again.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mbactor import errors
from mbactor.durations import Duration, seconds
from mbactor.errors import BadRequest, DeclarationError, MbactorError
from mbactor.foreman.model.advice import notes
from mbactor.foreman.model.state import is_storable
from mbactor.foreman.model.status import FlowStatus, StepStatus, is_stopped
from mbactor.transport.address import check_host

if TYPE_CHECKING:
    Lasting = Duration | None
    Moment = dt.datetime | Duration | None
else:
    # What files may say, and what is left of them once `FlowOptions` has read them, and so what travels.
    Lasting = float | str | None
    Moment = dt.datetime | float | None

WireError = dict[str, Any] | str | None
"""An error as `errors.to_wire` writes it, or its text. `at` says where it happened: flow, step, node, task, run;
`hint` what may be done. As an exception it has both as notes.
"""


class FlowOutcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a flow stands.

        outcome = await flows.run(Credit.approval, {"credit_score": 700})
        if outcome.status == "completed":
            print(outcome.state)

    `state` is the final one, or that of the interrupted step, and empty while the flow runs.
    """

    flow_key: str
    status: FlowStatus
    state: dict[str, Any] = {}
    error: WireError = None
    """Why it failed."""
    interrupts: list[tuple[str, Any]] = []
    """(step key, payload) of each open interrupt; `resume` answers the first unless told otherwise."""
    cancel_reason: str | None = None

    @property
    def stopped(self) -> bool:
        """Over, or waiting for an answer."""
        return is_stopped(self.status)

    @property
    def failure(self) -> MbactorError | None:
        """Why it failed, as an exception."""
        return failure_of(self.error)


class FlowSummary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A flow in a list: no payloads, but its error text."""

    flow_key: str
    status: FlowStatus
    workflow: str = ""
    """The URL the flow was created with."""
    workflow_name: str = ""
    """The graph's own name."""
    thread_key: str = ""
    task: str = ""
    """The node it is at, or has failed at; empty where these are several."""
    error: str = ""
    cancel_reason: str | None = None
    priority: int = 100
    fairness_key: str = ""
    concurrency_key: str = ""
    concurrency_limit: int = 1
    queued: bool = False
    """It has been started, and waits for a place of its concurrency key."""
    places_taken: int = 0
    """Where it is queued: how many flows of its key have begun and not ended."""
    waits_for: list[str] = []
    """Where it is queued: the keys of those flows, oldest first, at most 8 of them."""
    breakpoints: list[str] = []
    """The nodes before which it pauses, with the flows that it calls."""
    subflow: bool = False
    trace_id: str = ""
    created_at: dt.datetime | None = None
    started_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None
    """When its status changed last."""
    steps: int = 0
    """Steps of its own so far, over or not; more may follow."""
    steps_done: int = 0


class FlowPage(msgspec.Struct):
    """A page of flows, newest first. An empty `next_cursor` says that it was the last."""

    flows: list[FlowSummary]
    next_cursor: str = ""
    notes: list[str] = []
    """What is not in it: shards that do not answer."""


class StepRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One step of a flow's history. `Flows.step` fills in the payloads too, `state`, `changes` and `interrupts`."""

    step_key: str
    node: str
    task: str = ""
    """The URL that was called."""
    status: StepStatus
    depth: int = 0
    attempt: int = 0
    """How often `flow.retry` has run it again."""
    runs: int = 0
    """How often its task was started: at first, by `retry`, after an answer, and after a run that was lost. It is
    counted anew once the step is made to run again (`recover`, `restart_from`, ...).
    """
    lost: int = 0
    """How many of these runs were lost: their process ended, or let the lease run out, and they ran again."""
    error: WireError = None
    cancel_reason: str | None = None
    """Why its branch was given up."""
    created_at: dt.datetime | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    answered_at: dt.datetime | None = None
    """When it had the last answer to its interrupts, and went on; not known where it was retried, or a run was lost."""
    due_at: dt.datetime | None = None
    """When a pending step may begin that is put off: it follows a sleep, has a `start_at`, or is to be tried again."""
    predecessor: str | None = None
    successor: str | None = None
    subflow: Subflow | None = None
    """The child flow that the step ran last."""
    reducers: dict[str, str] = {}
    """At a fan-in: field -> which reducer combined it, and why that one."""
    winners: dict[str, str] = {}
    """At a fan-in: field -> key of the step whose value was taken, where several branches wrote it with no reducer."""
    state: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None
    interrupts: list[Any] | None = None
    """The payloads of its interrupts, answered or not."""

    @property
    def failure(self) -> MbactorError | None:
        """Why it failed, as an exception."""
        return failure_of(self.error)

    @property
    def duration(self) -> float | None:
        """Seconds from its start to its end, where it has both."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())

    @property
    def waited_for_answer(self) -> float:
        """Seconds from its start to its last answer; what it did before it asked is among them. 0 where it had none, or
        has called a flow, whose outcome is an answer too.
        """
        if self.started_at is None or self.answered_at is None or self.subflow is not None:
            return 0.0
        return max(0.0, (self.answered_at - self.started_at).total_seconds())


class Subflow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A child flow within a history.

    Of flows more than 64 deep, and in what `Flows.step` tells, the steps are left out, and `cut` says so: the history
    of its own `flow_key` has them.
    """

    flow_key: str
    workflow: str = ""
    workflow_name: str = ""
    steps: list[StepRecord] = []
    cut: bool = False


ShardState = Literal["active", "cordoned", "drained", "removed"]


class ShardInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How one shard fares; `error` says why, where its database does not answer.

    It is "active" while it gets new flows, then "cordoned", and "drained" once no flow on it is open.
    """

    shard: int
    state: ShardState = "active"
    error: str | None = None
    latency_ms: float = 0.0
    flows: int = 0
    """Those that are open: created, running or interrupted."""
    steps: int = 0
    """Those that wait or run."""


ShardInfos = list[ShardInfo]

LARGEST = 2**63 - 1
"""The largest number that a column of integers holds."""
LONGEST_KEY = 1_000
"""Bytes of a key: an entry of an index of PostgreSQL has room for less than three times as many."""
MOST_WEIGHT = sys.float_info.max

DEFAULT_TIME_BUDGET = 20.0
"""Seconds that a run of a task may take, where neither its node nor its flow nor its Foreman says so."""


class FlowOptions(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a flow is to run; fixed for its life and inherited by what is derived from it.

        FlowOptions(priority=10, time_budget="30s", start_at="1h")

    `BadRequest` (400) names the option that cannot be.
    """

    priority: int = 100
    """Lower runs first."""
    fairness_key: str = ""
    """Flows of one priority share the workers by this key."""
    fairness_weight: float = 1.0
    time_budget: Lasting = None
    """How long a run of one task may take, where its node does not say; None: the Foreman's default. Up to 15 minutes,
    as any ask; where nobody serves it, it is offered for as long as this says."""
    delete_on_completion: bool = False
    notify_on_stop: str | None = None
    """The host whose sinks of `Foreman.on_flow_stopped` are told at each stop of the flow, not of those it calls."""
    baggage: dict[str, Any] = {}
    thread_key: str | None = None
    """A flow of the thread that this one joins."""
    idempotency_key: str | None = None
    """Creating a flow again with the same key returns the first one's."""
    start_at: Moment = None
    """An aware datetime, or a duration from now."""
    concurrency_key: str | None = None
    """At most `concurrency_limit` flows with this key have begun and not ended, over all Foremen of the database; also
    those count that sleep, wait for an answer, or for their `start_at`. The others stay `created` and are started in
    the order in which they were created, each by its own limit. What is run again after its end, or forked, queues for
    a place like a new one."""
    concurrency_limit: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.baggage, Mapping):
            self.baggage = dict(self.baggage)  # that of a `Flow`, too, is passed on as it is
        for name, kind, expected in _OPTIONS:
            value = getattr(self, name)
            if type(value) not in kind or (isinstance(value, str) and not is_storable(value)):
                raise BadRequest(f"{name}={value!r}: {expected} expected")
        self.time_budget = None if self.time_budget is None else _option_seconds("time_budget", self.time_budget)
        if isinstance(self.start_at, dt.datetime):
            if self.start_at.tzinfo is None:
                raise BadRequest(f"start_at={self.start_at.isoformat()} has no time zone; give an aware datetime")
        elif self.start_at is not None:
            self.start_at = _option_seconds("start_at", self.start_at)
        self._check_numbers()
        if self.notify_on_stop is not None:
            _check_told(self.notify_on_stop)

    def _check_numbers(self) -> None:
        if isinstance(self.time_budget, float) and self.time_budget < 0.001:
            raise BadRequest(f"time_budget={self.time_budget:g} s is too short; at least 1ms is needed")
        if self.priority < 0:
            raise BadRequest(f"priority={self.priority} is negative; 0 runs first, 100 is the default")
        if self.concurrency_limit < 1:
            raise BadRequest(f"concurrency_limit={self.concurrency_limit} lets no flow begin; at least 1 is needed")
        for name in ("priority", "concurrency_limit"):
            if getattr(self, name) > LARGEST:
                raise BadRequest(f"{name}={getattr(self, name)} is too large; at most {LARGEST} can be stored")
        for name in ("concurrency_key", "idempotency_key", "notify_on_stop"):
            # An empty one is what a program gives that lacks it, and would be the same for all flows.
            if getattr(self, name) == "":
                raise BadRequest(f"{name}='': a text expected, or None where there is none")
        for name in ("fairness_key", "concurrency_key", "idempotency_key"):
            check_length(name, getattr(self, name) or "")
        if not 0 < self.fairness_weight <= MOST_WEIGHT:
            raise BadRequest(f"fairness_weight={self.fairness_weight} must be a number greater than 0")


def check_length(name: str, key: str) -> None:
    """BadRequest for a key that is too long for an index of a database."""
    length = len(key.encode())
    if length > LONGEST_KEY:
        raise BadRequest(f"{name} is {length} bytes long; at most {LONGEST_KEY} can be stored, a hash of it say")


_OPTIONS: tuple[tuple[str, Container[Any], str], ...] = (
    ("priority", {int}, "a whole number"),
    ("fairness_key", {str}, "a text"),
    ("fairness_weight", {int, float}, "a number"),
    ("delete_on_completion", {bool}, "True or False"),
    ("concurrency_limit", {int}, "a whole number"),
    *(
        (name, {str, type(None)}, "a text")
        for name in ("notify_on_stop", "thread_key", "idempotency_key", "concurrency_key")
    ),
    ("baggage", {dict}, "an object with named fields"),
)


def _check_told(host: str) -> None:
    try:
        check_host(host, "")
    except DeclarationError:
        raise BadRequest(
            f"notify_on_stop={host!r}: the host of an actor class expected, such as 'shop.example'"
        ) from None


def failure_of(error: WireError) -> MbactorError | None:
    """The exception that a recorded error stands for."""
    match error:
        case None:
            return None
        case str():
            return MbactorError(error)
        case wire:
            failure = errors.from_wire(wire)
            for note in notes(wire):
                failure.add_note(note)
            return failure


def _option_seconds(name: str, value: Any) -> float:
    try:
        return seconds(value)
    except (ValueError, TypeError) as error:
        raise BadRequest(f"{name}: {error}") from None
