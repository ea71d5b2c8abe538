"""Commands to a store, drawn as small numbers and made into operations by what a `Model` says there is.

    operations = Chooser(model).batch([Command("claim", 3, 1), Command("end", 0, 0)])

So any command fits any moment, and what Hypothesis finds stays short. About one in eight names a wrong lease or token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

from mbactor.foreman.model.rewinding import RewindKind, meant
from mbactor.foreman.store.operations import (
    Arrival,
    BreakBefore,
    Cancel,
    Child,
    Claim,
    ContinueThread,
    Create,
    Delete,
    DropSchedule,
    Extend,
    FlowEnd,
    Fork,
    Lease,
    NewStep,
    Operation,
    PauseSchedule,
    Purge,
    PutSchedule,
    Reap,
    Recover,
    Release,
    Resume,
    ResumeBreak,
    Rewind,
    Settle,
    Start,
    Tick,
)
from mbactor.foreman.store.rows import FlowFilter
from tests.foreman.store_model import Model
from tests.foreman.store_model_recovery import place
from tests.foreman.store_model_rows import ENDED, Flow, Step

T = TypeVar("T")

KINDS = (
    *["end"] * 12, *["claim"] * 6, *["fan_out"] * 5, *["advance"] * 3, *["create"] * 3, *["resume"] * 3,
    *["interrupt"] * 2, *["call"] * 2, *["fail"] * 2, "fan_in", "retry", "refuse", "start", "extend", "extend",
    "release", "recover", "cancel", "delete", "purge", "reap",
    *["restart_from"] * 3, "restart", *["recover_flow"] * 2, "retry_flow", *["fork"] * 2, "continue",
    "break", "resume_break", "schedule", "tick",
)  # fmt: skip
"""As often as they are wanted."""
WORKERS = ("w0", "w1", "w2")
SHORT, LONG, SKIP = 1_000.0, 5_000.0, 1_500.0
"""A delay or a lease is short or long against the time that a test lets pass, never against the time it takes."""
RATE, STEP_OF_TIME, STALE = "2.57147/h https://rated", 100.0, 450.0
"""A start every 1,400 seconds, or a little less. With `SKIP` all moments of a test lie multiples of `STEP_OF_TIME` apart:
a start that was not made has lost its time half way between two of them, and time that passes by itself decides nothing.
"""
TENANTS = ("", "B", "a")
ON_A_FLOW = (
    "start", "resume", "cancel", "delete", "break", "resume_break", "continue", "restart", "recover_flow", "retry_flow",
)  # fmt: skip
FIRST_TICK = 4e9
"""Above every time of a clock."""
MEANT = {
    "start": ("created",), "resume": ("interrupted",), "resume_break": ("interrupted",), "continue": ("completed",),
    "break": ("created", "running", "interrupted"), "restart": (*ENDED, "interrupted"), "recover_flow": ("failed",),
    "retry_flow": ("failed",),
}  # fmt: skip
"""The flows for which a verb is meant; others are for any."""
DEEP = 5
"""Where flows do nothing but end: otherwise fan-outs breed faster than they are joined."""


class Command(NamedTuple):
    kind: str
    which: int
    how: int


class Chooser:
    """Makes operations that fit the model, each with tokens of its own."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokens = 0
        self._known: dict[int, Step] = {}
        """Every step there was: an outcome may come when its flow is gone."""
        self._named: set[int] = set()
        """The steps that have an outcome in this batch: few are to have two."""
        self._ticks = 0

    def batch(self, commands: Sequence[Command]) -> list[Operation]:
        """What can be done of the commands, all of it chosen by what there is before the batch."""
        self._named.clear()
        return [one for one in map(self._operation, commands) if one is not None]

    def _operation(self, command: Command) -> Operation | None:
        kind, which, how = command
        if kind in ON_A_FLOW:
            flow = _pick(self._fitting(kind), which)
            return None if flow is None else self._on_flow(kind, flow, how)
        if kind in {"fork", "restart_from"}:
            step = _pick(self._ended(kind, how), which)
            return None if step is None else self._from_step(kind, step, how)
        return self._on_many(kind, which, how) or self._some_outcome(kind, which, how)

    def _on_many(self, kind: str, which: int, how: int) -> Operation | None:
        match kind:
            case "create":
                return self._create(how)
            case "claim":
                return Claim(_lease(which, how), how % 7, SHORT if how % 5 == 4 else None)
            case "recover":
                return Recover(set_back=how % 3 == 0)  # which changes nothing: time only passes here
            case "reap":
                return Reap(1 + how % 3)
            case "purge":
                status = (None, "completed", "interrupted", "running")[which % 4]
                wanted = FlowFilter(status, older_than=SHORT if how % 3 else None, limit=1 + how % 2)
                return Purge(wanted, ended=how % 5 == 0)
            case "extend" | "release":
                return self._leases(kind, which, how)
            case "schedule" | "tick":
                return self._schedule(kind, which, how)
        return None

    def _some_outcome(self, kind: str, which: int, how: int) -> Operation:
        self._known |= self._model.steps
        running = [one for one in self._model.steps.values() if one.lease_expires and one.id not in self._named]
        step = _pick(list(self._known.values()) if how % 8 == 7 else running, which)
        if step is None:
            waits = any(one.status == "pending" for one in self._model.steps.values())
            return Claim(_lease(which, how), 6) if waits and how % 3 else self._create(how)
        self._named.add(step.id)
        return self._outcome(kind, step, how)

    # --- flows ---------------------------------------------------------------------------------------------

    def _create(self, how: int) -> Create:
        limited = how % 4 == 1
        lease = _lease(how, how) if how % 3 == 0 and not limited else None
        started = lease is not None or how % 5 != 0
        priority = 100 + how % 2
        entry = NewStep(
            "entry", self._token(), 1, priority, state=b'{"n":1}', delay=0.0 if lease else _delay(how), lease=lease,
            fairness_key=TENANTS[how % 3], rate=_rate(how % 8),
        )  # fmt: skip
        return Create(
            self._token(), f"url-{how % 2}", "name", "hash", b"{}", entry, started, priority=priority,
            idempotency_key=f"key-{how % 3}" if how % 7 == 0 else None, delete_on_completion=how % 6 == 0,
            concurrency_key=f"shared-{how % 3 % 2}" if limited else None, concurrency_limit=1 + how % 2,
            fairness_key=TENANTS[how % 3], fairness_weight=(1.0, 2.0, 0.5, 3.0)[how % 4],
        )  # fmt: skip

    def _fitting(self, verb: str) -> list[Flow]:
        """Two of three times a flow for which the verb is meant; in between any."""
        meant = MEANT.get(verb)
        flows = list(self._model.flows.values())
        if meant is None:
            return flows
        return [flow for flow in flows if flow.status in meant and flow.caller_id is None] or flows

    def _on_flow(self, verb: str, flow: Flow, how: int) -> Operation:
        token = "wrong" if how % 8 == 7 else flow.token
        match verb:
            case "start":
                return Start(flow.id, token)
            case "cancel":
                return Cancel(flow.id, token, f"reason {how}" if how % 2 else "")
            case "delete":
                return Delete(flow.id, token)
            case "break":
                nodes = ("entry", "inner", *(f"node-{n}" for n in range(5)))
                return BreakBefore(flow.id, token, nodes[how % len(nodes)], how % 4 != 3)
            case "resume_break":
                return self._resume_break(flow, token, how)
            case "continue":
                entry = NewStep("entry", self._token(), 1, 100, state=b'{"turn":%d}' % how)
                return ContinueThread(flow.id, flow.thread_id or flow.id, self._token(), entry)
            case "restart" | "recover_flow" | "retry_flow":
                return self._rewind(verb, flow, token, how)
        waiting = [step for step in self._model.steps.values() if step.status == "interrupted"]
        step = _pick(waiting, how) if how % 2 else None
        number = None if step is None else step.id
        return Resume(flow.id, token, b'{"answer":%d}' % how, number, None if step is None else step.token)

    def _resume_break(self, flow: Flow, token: str, how: int) -> ResumeBreak:
        tree = self._model._tree(flow.id)
        waiting = [step for step in self._model._steps_of(tree) if step.at_breakpoint == 1]
        step = _pick(waiting, how)
        given = b'{"changed":%d}' % how if how % 3 == 0 else None
        return ResumeBreak(flow.id, token, 0 if step is None else step.id, given)

    def _rewind(self, verb: str, flow: Flow, token: str, how: int) -> Rewind:
        kind = cast("RewindKind", verb.partition("_")[0])
        inputs = None
        if how % 3 == 0:
            again = meant(kind, map(place, self._model._steps_of((flow.id,))))
            inputs = dict.fromkeys(again[how % 6 // 3 :], b'{"corrected":%d}' % how)
        return Rewind(kind, flow.id, token, inputs=inputs)

    # --- steps that have ended -------------------------------------------------------------------------------

    def _ended(self, verb: str, how: int) -> list[Step]:
        """Steps that have ended, for a fork those of trees that have: mostly, and every other time of branches."""
        steps, flows = list(self._model.steps.values()), self._model.flows
        ended = [step for step in steps if step.status in (*ENDED, "interrupted")]
        if verb == "fork":
            ended = [step for step in ended if flows[flows[step.flow_id].root_id or step.flow_id].status in ENDED]
        inside = [step for step in ended if step.spawn_id is not None]
        return (inside if how % 2 else ended) or ended or steps

    def _from_step(self, kind: str, step: Step, how: int) -> Operation:
        token = "wrong" if how % 16 == 15 else step.token
        given = b'{"changed":%d}' % how if how % 3 == 0 else None
        if kind == "restart_from":
            inputs = None if given is None else {step.id: given}
            return Rewind("restart_from", step.flow_id, step_id=step.id, step_token=token, inputs=inputs)
        tree = self._model._tree(self._model.flows[step.flow_id].root_id or step.flow_id)
        size = len(self._model._steps_of(tree)) - (how % 8 == 5)
        return Fork(step.flow_id, step.id, token, size, len(tree), given)

    # --- schedules -------------------------------------------------------------------------------------------

    def _schedule(self, kind: str, which: int, how: int) -> Operation:
        name, spec = f"schedule-{which % 2}", b'{"cron":%d}' % (how % 2)
        known = self._model.schedules.get(name)
        if known is None or kind == "schedule":
            if known is not None and how % 3 == 0:
                return PauseSchedule(name, how % 2 == 0)
            return DropSchedule(name) if how % 8 == 7 else PutSchedule(name, spec)
        self._ticks += 1
        last = 0.0 if how % 8 == 7 else known.last_tick
        return Tick(name, known.spec, last, FIRST_TICK + self._ticks, self._create(how) if how % 4 else None)

    # --- to the end ------------------------------------------------------------------------------------------

    def onward(self) -> list[Operation]:
        """What brings every flow nearer to its end; nothing where all have ended."""
        model = self._model
        flows = [flow for flow in model.flows.values() if flow.status not in ENDED]
        if not flows:
            return []
        self._named.clear()
        found: list[Operation] = []
        for step in list(model.steps.values()):
            root = model.flows[model.flows[step.flow_id].root_id or step.flow_id]
            if step.status == "running" and step.lease_expires is not None:
                found.append(self._end(step, 0))
            elif step.status == "interrupted" and step.at_breakpoint == 1:
                found.append(ResumeBreak(root.id, root.token, step.id))
            elif step.status == "interrupted":
                found.append(Resume(root.id, root.token, b"{}", step.id, step.token))
        found += [Start(flow.id, flow.token) for flow in flows if flow.status == "created" and not flow.queued]
        return [*found, Recover(), Claim(Lease("w0", LONG), 1_000)]

    def failed(self) -> list[Flow]:
        """The flows that may be recovered."""
        flows = self._model.flows.values()
        return [flow for flow in flows if flow.status == "failed" and flow.root_id is None and flow.delete_at is None]

    # --- leases --------------------------------------------------------------------------------------------

    def _leases(self, kind: str, which: int, how: int) -> Operation:
        lease = _lease(which, how)
        strange = kind == "extend" and how % 5 == 0
        held = [step for step in self._model.steps.values() if strange or step.worker == lease.worker]
        some = held[how % 2 :: 2]
        if kind == "release":
            return Release(lease.worker, tuple(step.id for step in some) if how % 2 else None)
        return Extend(lease, tuple((step.id, _number(step, how + place)) for place, step in enumerate(some)))

    # --- outcomes ------------------------------------------------------------------------------------------

    def _outcome(self, kind: str, step: Step, how: int) -> Settle:
        match kind if step.depth < DEEP else "end":
            case "advance":
                return self._settle(step, how, successors=(self._new(step, how),))
            case "fan_out":
                return self._fan_out(step, how)
            case "fan_in":
                return self._settle(step, how, successors=(self._new(step, how, cohort_id=step.id),))
            case "end":
                return self._end(step, how)
            case "fail":
                return self._fail(step, how)
            case "retry":
                again = {"attempt": step.attempt + 1, "parks": None, "delay": _delay(how)}
                return self._settle(step, how, "pending", **again)
            case "refuse":
                return self._settle(step, how, "pending", delay=_delay(how), refused=True)
            case "interrupt":
                asked = [*json.loads(step.payloads or b"[]"), {"question": how}]
                parks = _waiting(step, {"kind": "interrupt"})
                return self._settle(step, how, "interrupted", parks=parks, payloads=json.dumps(asked).encode())
        parks = _waiting(step, {"kind": "subgraph", "workflow": "called"})
        entry = NewStep(
            "inner", self._token(), step.depth + 1, step.priority, state=b'{"inner":1}', fairness_key=step.fairness_key
        )
        child = Child(self._token(), "called", "called", f"hash-{how % 2}", b"{}", entry)
        return self._settle(step, how, "running", parks=parks, child=child)

    def _fan_out(self, step: Step, how: int) -> Settle:
        size = 1 + how % 3
        direct = how % 2
        at_once = 1 + how % 2 if how % 4 == 2 else size
        branches = tuple(self._new(step, how + n, spawn_id=step.id, ordinal=n, waits=n >= at_once) for n in range(size))
        # All, any, two of them, or the first error: none that the direct arrival alone would decide.
        needed = (0, 1 + direct, 0, 2, size + direct)[how % 5]
        return self._settle(
            step, how, cohort_size=size + direct, arrivals=direct, depth=step.depth, successors=branches,
            at_once=at_once if at_once < size else 0,
            needed=needed if direct < needed <= size + direct else 0,
        )  # fmt: skip

    def _end(self, step: Step, how: int) -> Settle:
        """The end of its branch, or on the trunk of its flow."""
        if step.spawn_id is not None:
            first, *around = self._fan_ins(step, how)
            spawn = self._model.steps.get(step.spawn_id)
            # Where none waits for room a graph may say so, and nearly always does.
            room = how % 2 == 0 or spawn is None or spawn.cohort_at_once > 0
            arrival = Arrival(step.spawn_id, step.depth, False, first, tuple(around), room, how % 3 > 0)
            return self._settle(step, how, arrival=arrival)
        flow = self._model.flows.get(step.flow_id)
        unwanted = flow is not None and flow.delete_on_completion
        return self._settle(step, how, end=FlowEnd("completed", b'{"final":%d}' % how, delete=unwanted))

    def _fail(self, step: Step, how: int) -> Settle:
        error = b'{"error":"no %d"}' % how
        if step.spawn_id is not None:
            # One whose graph nobody can read does not know its fan-ins.
            fan_ins = self._fan_ins(step, how) if how % 16 < 14 else ()
            arrival = Arrival(step.spawn_id, step.depth, True, next(iter(fan_ins), None), fan_ins[1:])
            return self._settle(step, how, "failed", error=error, arrival=arrival)
        return self._settle(step, how, "failed", error=error, end=FlowEnd("failed", error=error))

    def _fan_ins(self, step: Step, how: int) -> tuple[NewStep, ...]:
        """Of the cohorts that it is in, innermost first."""
        found, spawn_id = [], step.spawn_id
        while spawn_id is not None:
            found.append(self._new(step, how, state=None))
            spawn = self._known.get(spawn_id) or self._model.steps[spawn_id]
            spawn_id = spawn.spawn_id
        return tuple(found)

    def _new(self, step: Step, how: int, **fields: Any) -> NewStep:
        lease = _lease(how, how) if how % 2 else None
        given: dict[str, Any] = {
            "spawn_id": step.spawn_id, "ordinal": step.ordinal, "chain": step.chain + 1, "lease": lease,
            "fairness_key": step.fairness_key, "rate": _rate(how % 5),
        }  # fmt: skip
        if how % 5 == 0 and "state" not in fields and "cohort_id" not in fields:
            fields |= {"state": b'{"snapshot":%d}' % how, "chain": 0}
        delay = 0.0 if lease is not None else _delay(how)
        node = f"node-{how % 5}"
        return NewStep(node, self._token(), step.depth + 1, step.priority, delay=delay, **{**given, **fields})

    def _settle(self, step: Step, how: int, status: str = "completed", **fields: Any) -> Settle:
        changes = b'{"n%d":%d}' % (how % 3, how) if how % 4 else None
        # The input of a fan-in is written down when it ends.
        state = b'{"folded":%d}' % how if step.cohort_id is not None and step.state is None else None
        given = {"attempt": step.attempt, "payloads": step.payloads, "parks": step.parks, "state": state}
        return Settle(step.id, step.flow_id, _number(step, how), status, changes, **{**given, **fields})

    def _token(self) -> str:
        self._tokens += 1
        return f"{self._tokens:016x}"


def _pick(some: Sequence[T], which: int) -> T | None:
    return some[which % len(some)] if some else None


def _lease(which: int, how: int) -> Lease:
    return Lease(WORKERS[which % len(WORKERS)], (LONG, SHORT, LONG, 0.0)[how % 4])


def _rate(node: int) -> str:
    return RATE if node == 3 else ""


def _delay(how: int) -> float:
    return {2: SHORT, 5: LONG}.get(how % 9, 0.0)


def _number(step: Step, how: int) -> int:
    """Its lease number, or one that is over, or one that never was. That of a step that waits for a flow it called
    nobody has: its park has raised it.
    """
    if step.status == "running" and step.lease_expires is None:
        return step.lease_number - 1
    return step.lease_number + {6: -1, 5: 9}.get(how % 16, 0)


def _waiting(step: Step, park: dict[str, str]) -> bytes:
    return json.dumps([*json.loads(step.parks or b"[]"), park]).encode()
