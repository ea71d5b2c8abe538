"""One decision of the restart policy under way: the state as it becomes, the actions so far, and the small steps
of which `policy` composes what each event means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mbactor.errors import NoSuchChild, Unavailable
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.supervisor import rules
from mbactor.supervisor.siblings import Siblings
from mbactor.supervisor.spec import SupervisorSpec
from mbactor.supervisor.state import (
    Abort,
    Action,
    Call,
    ChildState,
    Close,
    Delay,
    DeleteChild,
    Drop,
    Ended,
    Event,
    Job,
    Operation,
    Phase,
    Reconfigure,
    Reply,
    RestartChild,
    RetryDue,
    Start,
    StartChild,
    State,
    Stop,
    TerminateChild,
    Undelay,
    Up,
)


class Turn(Struct, eq=False):
    """A state while a decision is made of it. Local to one call of `decide`: nothing outside ever sees it change."""

    spec: SupervisorSpec
    now: float
    _children: Siblings
    phase: Phase
    spent: tuple[float, ...]
    operation: Operation | None
    queue: tuple[Event, ...]
    kill: bool
    _changed: dict[str, ChildState] = {}
    actions: list[Action] = []

    def fixed(self) -> State:
        """What it has become."""
        children = self._children.with_changed(self._changed) if self._changed else self._children
        return State(children, self.phase, self.spent, self.operation, self.queue, self.kill)

    @property
    def children(self) -> Siblings:
        """As they are now: what is done to them later does not show in it."""
        if self._changed:
            self._children = self._children.with_changed(self._changed)
            self._changed = {}
        return self._children

    @children.setter
    def children(self, children: Iterable[ChildState]) -> None:
        self._children = Siblings.of(children)
        self._changed = {}

    def find(self, id: str) -> ChildState | None:
        return self._changed.get(id) or self._children.find(id)

    # --- what is under way ----------------------------------------------------------------------------

    def operate(
        self,
        purpose: Any,
        jobs: tuple[Job, ...],
        *,
        call: Call | None = None,
        exit: Exit = SHUTDOWN,
        busy: bool = False,
        due: float | None = None,
    ) -> None:
        self.operation = Operation(purpose, jobs, busy=busy, call=call, exit=exit, due=due)

    def begin_job(self, operation: Operation) -> None:
        job = operation.job
        child = self.find(job.id)
        assert child is not None, job
        self.operation = replace(operation, busy=True)
        if job.verb == "stop":
            self.update(child, status="stopping")
            self.actions.append(Stop(job.id, self.time_to_stop(child)))
        else:
            self.begin_start(child, child.attempts, again=operation.purpose == "restart")

    def begin_start(self, child: ChildState, attempts: int, *, again: bool) -> None:
        """What is under way from now on is the start of this child."""
        self.update(child, status="starting", attempts=attempts, awaiting=False, broken=False, due=None, unjudged=None)
        self.actions.append(Start(child.spec.id, again=again))

    def break_off(self, id: str) -> None:
        """End the start that is under way, within the time that its child has to stop."""
        child = self.find(id)
        assert child is not None, id
        self.actions.append(Abort(id, self.time_to_stop(child)))

    def time_to_stop(self, child: ChildState) -> float | None:
        return 0.0 if self.kill else child.spec.shutdown

    def end_operation(self, operation: Operation) -> None:
        self.operation = None
        if operation.purpose == "boot":
            self.phase = "running"
            self.actions.append(Up())
        elif operation.purpose == "shutdown":
            self.phase = "ended"
            self.actions.append(Ended(operation.exit))

    def shut_down(self, exit: Exit) -> None:
        """Break off what is under way, then stop all that runs, the last first."""
        before = self.operation
        under_way = (before.job,) if before is not None and before.busy else ()
        if before is not None:
            self.answer_call(before, _stopping())
        for child in self.children:
            if child.due is not None:
                child = self.undelay(child)
            if child.status == "restarting":
                self.update(child, status="stopped")
        waiting = self.queue
        self.phase, self.queue = "stopping", ()
        for event in waiting:
            if isinstance(event, Call):
                self.refuse(event)
        if under_way and under_way[0].verb == "start":
            self.break_off(under_way[0].id)
            stops: tuple[Job, ...] = ()
        else:
            stops = self.stops(self.children)
        self.operate("shutdown", (*under_way, *stops), exit=exit, busy=bool(under_way))

    def stops(self, children: Iterable[ChildState]) -> tuple[Job, ...]:
        """Stop those that run, the last first."""
        running = [child for child in children if child.status == "running"]
        return tuple(Job("stop", child.id) for child in reversed(running))

    # --- children -------------------------------------------------------------------------------------

    def group(self, child: ChildState) -> tuple[ChildState, ...]:
        """Those that are restarted together with it, itself included."""
        if self.spec.strategy == "one_for_one":  # whatever the number of the others, which `rules.group` looks through
            alone = self.find(child.spec.id)
            return () if alone is None else (alone,)
        return rules.group(self.spec.strategy, self.children, child.spec.id)

    def update(self, child: ChildState, **changes: Any) -> ChildState:
        """It with these changes, in the place of what it was. One that is not there any more is not there again."""
        changed = replace(child, **changes)
        if child.spec.id in self._children.places:
            self._changed[child.spec.id] = changed
        return changed

    def rest(self, child: ChildState, exit: Exit) -> None:
        """`child` is not started again by itself."""
        if child.spec.restart == "temporary":
            self.drop(child, exit)
        else:
            self.update(child, status="stopped", awaiting=False)
            self.actions.append(Close(child.id, exit))

    def drop(self, child: ChildState, exit: Exit) -> None:
        self.children = tuple(other for other in self.children if other.id != child.id)
        self.actions.append(Drop(child.id, exit))

    def delay(self, child: ChildState, due: float) -> None:
        self.update(child, status="restarting", due=due)
        self.actions.append(Delay(child.id, max(0.0, due - self.now)))

    def undelay(self, child: ChildState) -> ChildState:
        changed = self.update(child, due=None)
        self.actions.append(Undelay(child.id))
        waiting = (e for e in self.queue if not (isinstance(e, RetryDue) and e.id == child.id))
        self.queue = tuple(waiting)
        return changed

    # --- calls ----------------------------------------------------------------------------------------

    def answer_call(self, operation: Operation, error: Exception | None = None) -> None:
        if operation.call is not None:
            self.reply(operation.call, error)

    def reply(self, call: Call, error: Exception | None = None) -> None:
        id = call.spec.id if isinstance(call, StartChild) else call.id
        self.actions.append(Reply(call.call, id, error))

    def no_such_child(self, event: TerminateChild | RestartChild | DeleteChild | Reconfigure) -> None:
        known = ", ".join(other.id for other in self.children) or "none"
        self.reply(event, NoSuchChild(f"no child {event.id!r}; known: {known}", id=event.id))

    def refuse(self, event: Call) -> None:
        self.reply(event, _stopping())


def _stopping() -> Unavailable:
    return Unavailable("the supervisor is stopping")
