"""`Flow`, the carrier: what a task sees of its flow, and how a run of the task ended.

    flow = Flow.of({"credit_score": 700})
    await Credit().verify_credit(flow)
    assert flow["credit_verified"]

It is a mutable mapping over the state. Values are copied through JSON both ways, so changing a list one
has read changes nothing until it is written back. What is written collects in `changes`; signals collect in
`signals`. `finish` closes it, and says how the run ended (`ending.py` judges that). The carrier has a wire form, so
that the task may run in another process. One owner at a time; it is not thread-safe.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any, Never, TypeVar, cast

import msgspec

from mbactor import clock
from mbactor.durations import Duration, seconds
from mbactor.errors import ParkRefused
from mbactor.foreman.model import wire
from mbactor.foreman.model.changes import changed_fields
from mbactor.foreman.model.ending import Outcome, ending
from mbactor.foreman.model.signals import (
    NOT_AWAITABLE,
    Park,
    Parked,
    ParkKind,
    ParkRecord,
    Signals,
    backoff,
    call_text,
)
from mbactor.foreman.model.state import (
    NULL,
    Fields,
    apply,
    check_name,
    decode_all,
    decode_value,
    encode_fields,
    encode_value,
    initial_state,
    is_null,
)

__all__ = ["Flow", "Outcome", "Park", "ParkRecord", "Parked", "Signals", "finish"]

T = TypeVar("T")


class Flow(MutableMapping[str, Any]):
    """The flow as its task sees it: the state, and the signals goto, retry, sleep, interrupt, subgraph.

        @task
        async def decide(self, flow: Flow, amount: int) -> None:
            if amount > 100_000:
                flow["approved"] = flow.interrupt({"question": f"approve {amount}?"})["approved"]

    A task that wants one asks for a parameter of this type. Setting a field to None deletes it. A value
    that cannot be stored (NaN, a NUL in a string, no JSON) is refused where it is set, with `InvalidState`. The unit
    test of a task makes one by `Flow.of({"amount": 5})`.
    """

    __slots__ = (
        "_attempt", "_baggage", "_calls", "_changes", "_fault", "_flow_key", "_live", "_over", "_parks", "_signals",
        "_state", "_step_created_at", "_step_key", "_unwound",
    )  # fmt: skip

    def __init__(
        self,
        state: Fields,
        changes: Fields | None = None,
        *,
        flow_key: str = "",
        step_key: str = "",
        attempt: int = 0,
        step_created_at: dt.datetime | float | None = None,
        baggage: Mapping[str, Any] | None = None,
        parks: Sequence[ParkRecord] = (),
    ) -> None:
        self._state = state
        self._changes: Fields = dict(changes or {})
        self._live = apply(state, self._changes)
        self._flow_key = flow_key
        self._step_key = step_key
        self._attempt = attempt
        self._step_created_at = step_created_at
        self._baggage = baggage if type(baggage) is MappingProxyType else MappingProxyType(dict(baggage or {}))
        self._parks = tuple(parks)
        self._signals = Signals()
        self._calls = 0
        self._fault: ParkRefused | None = None
        self._unwound = False
        self._over = False

    @classmethod
    def of(cls, state: Any = None, **options: Any) -> Flow:
        """A carrier over plain values, for the unit test of a task; options are those of `Flow`.

        flow = Flow.of({"amount": 5})
        await Credit().intake(flow)
        assert flow["amount"] == 5
        """
        return cls(initial_state(state), **options)

    # --- the state ---------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return decode_value(self._live[name])

    def __setitem__(self, name: str, value: Any) -> None:
        self._write(check_name(name), encode_value(value, f"flow[{name!r}]"))

    def __delitem__(self, name: str) -> None:
        if name not in self._live:
            raise KeyError(name)
        self._write(name, NULL)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._live))

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, name: object) -> bool:
        return name in self._live

    def __repr__(self) -> str:
        return f"Flow(fields={list(self._live)}, attempt={self._attempt})"

    def clear(self) -> None:
        """Delete every field."""
        for name in self:
            self._write(name, NULL)

    def snapshot(self) -> dict[str, Any]:
        """The state now, as plain values of the caller's own."""
        return decode_all(self._live)

    @property
    def fields(self) -> Mapping[str, msgspec.Raw]:
        """The state now, as JSON text by field: for what binds a task's parameters."""
        return self._live

    def parse(self, type: type[T]) -> T:
        """The state as a Struct, dataclass, TypedDict or attrs class; fields it does not know are ignored.

            order = flow.parse(Order)

        `InvalidState` names the first field that does not fit.
        """
        return cast("T", decode_value(msgspec.Raw(encode_fields(self._live)), type))

    def set_changes(self, value: Any, snapshot: Mapping[str, Any]) -> None:
        """Write the fields of an object that differ from a snapshot taken before.

            before = flow.snapshot()
            order = flow.parse(Order)
            order.total += 1
            flow.set_changes(order, before)

        Field by field: a field of None is deleted; what the object's type does not know stays, in nested
        objects too.
        """
        for name, item in changed_fields(value, snapshot).items():
            self[name] = item

    def _write(self, name: str, raw: msgspec.Raw) -> None:
        self._check_open(f"flow[{name!r}] was set")
        self._changes[name] = raw
        if is_null(raw):
            self._live.pop(name, None)
        else:
            self._live[name] = raw

    # --- what the run is -----------------------------------------------------------------------------

    @property
    def flow_key(self) -> str:
        """The key of the flow: who has it may read and steer the flow, so it belongs in no log."""
        return self._flow_key

    @property
    def step_key(self) -> str:
        """The idempotency key: the same over every run of this step, and no other step has it."""
        return self._step_key

    @property
    def attempt(self) -> int:
        """How often `retry` has run this step again; 0 the first time."""
        return self._attempt

    @property
    def step_created_at(self) -> dt.datetime | None:
        """When the step was first created; retries keep it. None outside a Foreman."""
        created = self._step_created_at
        return dt.datetime.fromtimestamp(created, dt.UTC) if isinstance(created, int | float) else created

    @property
    def baggage(self) -> Mapping[str, Any]:
        """What the creator of the flow sent along for all its tasks."""
        return self._baggage

    @property
    def parks(self) -> tuple[ParkRecord, ...]:
        """The parks of earlier runs of this step, in order."""
        return self._parks

    @property
    def changes(self) -> Fields:
        """All that this step has written, earlier runs included; null deletes."""
        return dict(self._changes)

    @property
    def signals(self) -> Signals:
        """What the run has asked for so far."""
        return self._signals

    # --- the signals ---------------------------------------------------------------------------------

    def goto(self, target: Any) -> None:
        """Take the goto transition to this node (a name or a task reference) when the task returns.

        The graph must have it: `add_transition_goto(this task, target)`; otherwise the step fails.
        """
        self._check_open("goto() was called")
        self._signals.goto = _name_of(target, "node_name", "goto")

    def sleep(self, duration: Duration) -> None:
        """Delay the steps that follow this one, or the retry. Does not wait, so it is not awaited."""
        self._check_open("sleep() was called")
        if isinstance(duration, dt.timedelta):
            duration = duration.total_seconds()
        if isinstance(duration, str) or not duration <= 0:
            self._signals.sleep = seconds(duration)
        return cast("None", NOT_AWAITABLE)

    def retry(
        self,
        initial_delay: Duration = 0,
        multiplier: float = 1,
        max_interval: Duration = 0,
        give_up_after: Duration = 0,
    ) -> bool:
        """Run this task again later, with the changes it has made. False when the time to give up has come.

            if not flow.retry("1s", multiplier=2, max_interval="1m", give_up_after="1h"):
                raise MbactorError("the bank does not answer", status=503)

        The nth delay is initial_delay * multiplier**n, at most max_interval (0: no bound). Giving up is
        counted from the creation of the step (0: never). Answers to earlier parks are forgotten.
        """
        self._check_open("retry() was called")
        delay = backoff(seconds(initial_delay), multiplier, seconds(max_interval), self._attempt)
        horizon = seconds(give_up_after)
        if horizon > 0 and self._elapsed() + delay >= horizon:
            return False
        self._signals.retry_delay = delay
        return True

    def interrupt(self, payload: Any = None) -> Any:
        """Wait for an answer from outside: the step parks, and runs again from its start when there is one.

            answer = flow.interrupt({"question": "approve?"})
            flow["approved"] = answer["approved"]

        The nth call of a run gets the nth answer. Changes made before it are kept. It parks by raising
        `Parked` through the task: do not catch `BaseException` around it.
        """
        return self._park("interrupt", encode_value(payload, "the payload of interrupt()"), None)

    def subgraph(self, workflow: Any, state: Any = None) -> dict[str, Any]:
        """Run another workflow as a child and return its final state; raises what the child failed with.

            verdict = flow.subgraph(Credit.approval, {"amount": flow["amount"]})

        Only what is passed goes in and only the return value comes back. Parks as `interrupt` does, and is
        counted with it. Flows may be nested 1,000 deep; a call beyond fails the step with `CallTooDeep`.
        """
        url = _name_of(workflow, "url", "subgraph")
        given = msgspec.Raw(encode_fields(initial_state(state)))
        return cast("dict[str, Any]", self._park("subgraph", given, url))

    def _park(self, kind: ParkKind, payload: msgspec.Raw, workflow: str | None) -> Any:
        called = call_text(kind, workflow)
        self._check_open(f"{called} was called")
        if self._signals.park is not None:
            self._refuse(f"{called} is the second park of one run; only one may wait at a time")
        number, self._calls = self._calls, self._calls + 1
        if number < len(self._parks):
            record = self._parks[number]
            if (record.kind, record.workflow) != (kind, workflow):
                self._refuse(
                    f"park {number + 1} of this step was {record} in an earlier run and is {called} now; "
                    "a task must make the same interrupt and subgraph calls in the same order on each run"
                )
            if record.answered:
                return _answer_of(record)
        self._signals.park = Park(kind, payload, workflow, number)
        raise Parked(f"{called} parks the step")

    def _refuse(self, reason: str) -> Never:
        # Kept, so that a task that catches it and goes on fails all the same.
        self._fault = self._fault or ParkRefused(reason)
        raise self._fault

    def _check_open(self, what: str) -> None:
        if self._over:
            raise ParkRefused(
                f"{what} after the task had returned; await everything that uses the flow before returning"
            )

    def _elapsed(self) -> float:
        created = self.step_created_at
        return 0.0 if created is None else max(0.0, (clock.utcnow() - created).total_seconds())

    # --- the wire --------------------------------------------------------------------------------------

    def to_wire(self) -> bytes:
        """The carrier as JSON, to run the task elsewhere."""
        return wire.encode(
            wire.Carrier(
                flow_key=self._flow_key,
                step_key=self._step_key,
                state=self._state,
                changes=self._changes,
                attempt=self._attempt,
                step_created_at=self.step_created_at,
                baggage=dict(self._baggage),
                parks=self._parks,
            )
        )

    @classmethod
    def from_wire(cls, data: bytes) -> Flow:
        """The carrier that `to_wire` wrote; `InvalidState` when it is none."""
        sent = wire.decode_carrier(data)
        return cls(
            sent.state,
            sent.changes,
            flow_key=sent.flow_key,
            step_key=sent.step_key,
            attempt=sent.attempt,
            step_created_at=sent.step_created_at,
            baggage=sent.baggage,
            parks=sent.parks,
        )

    def result_to_wire(self) -> bytes:
        """Changes and signals of the run, as JSON: what goes back when `finish` found no failure."""
        return wire.encode(wire.RunResult(changes=self._changes, signals=self._signals))

    def apply_result(self, data: bytes) -> None:
        """Take over what `result_to_wire` wrote where the task ran; `finish(flow, None)` judges it again."""
        result = wire.decode_result(data)
        self._changes = result.changes
        self._live = apply(self._state, self._changes)
        self._signals = result.signals
        self._unwound = result.signals.park is not None


def finish(flow: Flow, error: BaseException | None) -> Outcome:
    """How the run of a task over `flow` ended, which returned or raised `error`. Closes the carrier.

    A real error wins over every signal. A park counts only when `Parked`, or a group of nothing else, came
    out of the task. More than one of goto, retry and a park is a failure.
    """
    flow._over = True  # noqa: SLF001 - one module: the carrier's own end
    return ending(error, flow.signals, flow._fault, unwound=flow._unwound)  # noqa: SLF001


def _answer_of(record: ParkRecord) -> Any:
    failure = record.failure()
    if failure is not None:
        raise failure
    return decode_value(cast("msgspec.Raw", record.answer))


def _name_of(target: Any, attribute: str, call: str) -> str:
    name = target if isinstance(target, str) else getattr(target, attribute, None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{call}() needs a name or a reference with .{attribute}, got {target!r}")
    return name
