"""The restart policy: all that a supervisor decides, as one pure function.

    state, actions = decide(spec, state, event)

The supervisor tells what happened, gets the actions to carry out, and tells how they went. Nothing here
reads a clock, waits or draws a random number, so every rule of the tree can be read, and tested, without
starting anything; and what the tests check is what runs.

The supervisor is at one operation at a time (its first start, a restart, an operator's call, its stop),
which is a list of starts and stops done one after another. What happens meanwhile waits in a queue, in
order, but for three things: a child that ends before it would have been stopped needs no stop any more,
a request to stop breaks off whatever is under way, and one to terminate a child breaks off its start.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from mbactor.errors import (
    AlreadyPresent,
    AlreadyStarted,
    ChildRestarting,
    ChildRunning,
)
from mbactor.kernel.exit import NORMAL, SHUTDOWN, Exit
from mbactor.supervisor import rules
from mbactor.supervisor.reconfigure import Reconfiguring
from mbactor.supervisor.siblings import Siblings
from mbactor.supervisor.spec import SupervisorSpec
from mbactor.supervisor.state import (
    Abort,
    Action,
    Answer,
    Call,
    ChildState,
    Close,
    DeleteChild,
    Event,
    Exited,
    GaveUp,
    GiveUp,
    Ignored,
    Job,
    NotStarted,
    Operation,
    Pause,
    Reconfigure,
    RestartChild,
    Restarting,
    RetryDue,
    StartChild,
    Started,
    StartFailed,
    StartRequested,
    State,
    Stop,
    Stopped,
    StopRequested,
    TerminateChild,
)
from mbactor.supervisor.usual import usual


def decide(spec: SupervisorSpec, state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """What follows from `event`: the new state, and what is to be done, in this order."""
    return usual(spec, state, event) or general(spec, state, event)


def general(spec: SupervisorSpec, state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """As `decide`, step by step whatever the event."""
    turn = _Decision(
        spec, event.now, state.children, state.phase, state.spent, state.operation, state.queue, state.kill
    )
    turn.take(event)
    turn.go_on()
    return turn.fixed(), tuple(turn.actions)


def booting(spec: SupervisorSpec) -> State:
    """The state of a supervisor whose first child is being started."""
    return decide(spec, State(), StartRequested(0.0))[0]


def running(spec: SupervisorSpec, started_at: float) -> State:
    """The state of a supervisor whose children were all started at `started_at` and of which nothing else is to be
    told: what `decide` makes of their starts. A child that simply runs needs none of it until something happens.
    """
    children = Siblings.of(ChildState(child, status="running", started_at=started_at) for child in spec.children)
    return State(children=children, phase="running")


class _Decision(Reconfiguring):
    """What each event means."""

    # --- the event ----------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        match event:
            case Exited():
                self.note_exit(event)
            case Started() | Stopped() | NotStarted() | Ignored():
                self.finish_job(event)
            case StartRequested():
                self.boot()
            case StopRequested():
                self.stop(event)
            case _ if self.phase in {"idle", "stopping", "ended"}:
                self.serve(event)
            case TerminateChild() if self.starts(event.id):
                # Its start may never end; where it fails for this, nothing is made of that.
                if not self.called_off(event.id):
                    self.break_off(event.id)
                self.queue = (*self.queue, event)
            case _:
                self.queue = (*self.queue, event)

    def starts(self, id: str) -> bool:
        """Whether it is just being started, by a restart or by an operator."""
        operation = self.operation
        return (
            operation is not None
            and operation.busy
            and operation.purpose in {"restart", "call"}
            and operation.job == Job("start", id)
        )

    def called_off(self, id: str) -> bool:
        """Whether an operator waits for its end."""
        return any(isinstance(event, TerminateChild) and event.id == id for event in self.queue)

    def answer_called_off(self, id: str) -> None:
        """It is gone, as those wanted who would else not find it any more."""
        for event in self.queue:
            if isinstance(event, TerminateChild) and event.id == id:
                self.reply(event)
        self.queue = tuple(event for event in self.queue if not (isinstance(event, TerminateChild) and event.id == id))

    def go_on(self) -> None:
        """Begin the next job, or serve what waits, until something is under way or nothing is left."""
        while True:
            operation = self.operation
            if operation is not None and operation.busy:
                return
            if operation is not None and operation.done < len(operation.jobs):
                self.begin_job(operation)
            elif operation is not None:
                self.end_operation(operation)
            elif self.queue:
                event, self.queue = self.queue[0], self.queue[1:]
                self.serve(event)
            else:
                return

    def serve(self, event: Event) -> None:
        """An event whose turn has come: nothing else is under way."""
        if self.phase != "running":
            if isinstance(event, Call):
                self.refuse(event)
            return
        match event:
            case Exited():
                child = self.find(event.id)
                # Something served before may have restarted or dropped it already.
                if child is not None and child.unjudged is event.exit:
                    self.judge(self.update(child, unjudged=None), event)
            case RetryDue():
                child = self.find(event.id)
                if child is not None and child.due is not None:
                    self.restart_group(child)
            case StartChild():
                self.start_child(event)
            case Reconfigure():
                self.reconfigure(event)
            case TerminateChild() | RestartChild() | DeleteChild():
                self.administer(event)

    # --- a child ended by itself --------------------------------------------------------------------

    def note_exit(self, event: Exited) -> None:
        child = self.find(event.id)
        if child is None or child.status not in {"running", "starting"}:
            return
        operation = self.operation
        if operation is None and not self.queue and self.phase == "running":
            self.judge(self.update(child, status="stopped", last_exit=event.exit), event)
        elif operation is not None and Job("stop", event.id) in operation.left:
            left = _without(operation.left, Job("stop", event.id))
            self.operation = replace(operation, jobs=left, done=0)
            self.is_stopped(child, event.exit)
        else:
            status = "starting" if child.status == "starting" else "stopped"
            self.update(child, status=status, unjudged=event.exit, last_exit=event.exit)
            self.queue = (*self.queue, event)

    def judge(self, child: ChildState, event: Exited) -> None:
        if rules.restarts(child.spec.restart, event.exit):
            before = rules.attempts(child, event.now)
            self.trigger(child, before, event, event.exit, charged=not event.exit.told)
            return
        self.rest(child, event.exit)
        if rules.completes(self.spec, self.children, child, event.exit):
            self.shut_down(SHUTDOWN)

    def trigger(
        self, child: ChildState, attempts: int, event: Exited | NotStarted, exit: Exit, *, charged: bool
    ) -> None:
        """`child` is to be restarted, after so many attempts before: charge the budget, and see when."""
        if charged:
            spent = rules.charge(self.spent, event.now, self.spec.within)
            self.spent = spent
            if len(spent) > self.spec.max_restarts:
                self.give_up(child, exit)
                return
        pace = rules.pace(child, charged=charged)
        due = event.now + (pace.delay(attempts, event.sample) if pace else 0.0)
        delayed = self.delayed_with(child)
        for other in delayed:
            due = due if other.due is None else max(due, other.due)
        self.actions.append(Restarting(child.id, due - event.now, child.restarts + 1, exit))
        child = self.update(child, status="restarting", attempts=attempts + 1)
        leader = self.leader(child, delayed)
        if isinstance(event, NotStarted):
            self.delay(leader, due)
        elif due <= self.now:
            self.restart_group(leader)
        else:
            self.delay(leader, due)
            self.operate("restart", self.group_stops(self.group(leader), due), due=due)

    def delayed_with(self, child: ChildState) -> list[ChildState]:
        """Those whose restart is delayed, and that this one is merged with."""
        if self.spec.strategy == "one_for_one":
            return []
        return [other for other in self.children if other.due is not None and other.id != child.id]

    def leader(self, child: ChildState, delayed: list[ChildState]) -> ChildState:
        """The first in the list of those restarted together: groups that overlap become one."""
        if not delayed:
            return child
        together = {child.id, *(other.id for other in delayed)}
        for other in delayed:
            self.undelay(other)
        return next(other for other in self.children if other.id in together)

    def restart_group(self, leader: ChildState) -> None:
        group = [child if child.due is None else self.undelay(child) for child in self.group(leader)]
        stops = self.group_stops(group)
        starts = [Job("start", child.spec.id) for child in group if not child.held and not _passes_away(child)]
        self.operate("restart", (*stops, *starts))

    def group_stops(self, group: Sequence[ChildState], due: float | None = None) -> tuple[Job, ...]:
        """Stop those that are restarted together. An end among them that was not judged yet is one stop less."""
        for child in group:
            if child.unjudged is not None:
                self.taken_down(self.update(child, unjudged=None), child.unjudged, due)
        return self.stops(group)

    def give_up(self, child: ChildState, exit: Exit) -> None:
        self.actions.append(GiveUp(child.id, exit))
        error = GaveUp(child.id, exit, self.spec.max_restarts, self.spec.within)
        self.shut_down(Exit("gave_up", error))

    # --- jobs ---------------------------------------------------------------------------------------

    def finish_job(self, answer: Answer) -> None:
        operation, child = self.operation, self.find(answer.id)
        if operation is None or not operation.busy or child is None or operation.job.id != answer.id:
            return
        self.operation = replace(operation, done=operation.done + 1, busy=False)
        match answer:
            case Stopped():
                self.is_stopped(child, answer.exit)
            case Started():
                self.is_started(child, operation, answer.now)
            case Ignored():
                self.rest(self.update(child, held=False), NORMAL)
                self.answer_call(operation)
            case NotStarted():
                self.start_failed(child, operation, answer)
        if operation.purpose == "shutdown" and operation.job.verb == "start":
            self.operate("shutdown", self.stops(self.children), exit=operation.exit)

    def is_started(self, child: ChildState, operation: Operation, now: float) -> None:
        self.update(
            child,
            # It may have ended before the news of its start came.
            status="running" if child.unjudged is None else "stopped",
            held=False,
            started_at=now,
            restarts=child.restarts + (operation.purpose == "restart"),
        )
        self.answer_call(operation)

    def start_failed(self, child: ChildState, operation: Operation, answer: NotStarted) -> None:
        exit = Exit("failed", answer.error)
        child = self.update(child, status="stopped", last_exit=exit, unjudged=None)
        match operation.purpose:
            case "boot":
                self.shut_down(Exit("failed", StartFailed(child.id, answer.error)))
            case "restart" if self.called_off(child.id):
                pass  # the operator's call is next, or comes after those that are restarted with it
            case "restart":
                for job in operation.left[1:]:
                    if (later := self.find(job.id)) is not None:
                        self.update(later, awaiting=True)
                self.operation = None
                self.trigger(child, child.attempts, answer, exit, charged=True)
            case "call":
                if isinstance(operation.call, StartChild):
                    self.drop(child, exit)
                    self.answer_called_off(child.id)
                else:
                    if isinstance(operation.call, Reconfigure):
                        # A group restart that fails by it would have the supervisor give up.
                        self.update(child, held=True, broken=True)
                    self.actions.append(Close(child.id, exit))
                self.answer_call(operation, StartFailed(child.id, answer.error))
            case "shutdown":
                pass

    def is_stopped(self, child: ChildState, exit: Exit) -> None:
        operation = self.operation
        assert operation is not None
        child = self.update(child, status="stopped", last_exit=exit)
        if operation.purpose == "call" and isinstance(operation.call, Reconfigure):
            self.adopt(operation.call)
            if not operation.call.start:
                self.answer_call(operation)
        elif operation.purpose == "call":
            self.rest(self.update(child, held=True), exit)
            self.answer_call(operation)
        elif operation.purpose == "restart":
            self.taken_down(child, exit, operation.due)

    def taken_down(self, child: ChildState, exit: Exit, due: float | None) -> None:
        """It is down for a group restart: it comes back with the group, unless it is temporary."""
        if _passes_away(child):
            self.drop(child, exit)
            return
        child = self.update(child, awaiting=True)
        if due is not None and due > self.now:
            self.actions.append(Pause(child.id, due - self.now))

    # --- the supervisor's own start and stop ----------------------------------------------------------

    def boot(self) -> None:
        if self.phase not in {"idle", "ended"}:
            return
        self.children = Siblings.of(ChildState(spec) for spec in self.spec.children)
        self.phase, self.spent, self.queue, self.kill = "boot", (), (), False
        self.operate("boot", tuple(Job("start", child.id) for child in self.children))

    def stop(self, event: StopRequested) -> None:
        if self.phase in {"idle", "ended"}:
            return
        harder = event.kill and not self.kill
        self.kill = self.kill or event.kill
        if self.phase != "stopping":
            self.shut_down(event.exit)
        operation = self.operation
        if harder and operation is not None and operation.busy:
            job = operation.job
            self.actions.append(Stop(job.id, 0.0) if job.verb == "stop" else Abort(job.id, 0.0))

    # --- operators' calls -----------------------------------------------------------------------------

    def start_child(self, event: StartChild) -> None:
        present = self.find(event.spec.id)
        if present is None:
            self.children = (*self.children, ChildState(event.spec))
            self.operate("call", (Job("start", event.spec.id),), call=event)
        elif _seems_to_run(present):
            self.reply(event, AlreadyStarted(f"child {present.id!r} runs already", id=present.id))
        else:
            self.reply(
                event,
                AlreadyPresent(
                    f"child {present.id!r} is known and {present.status}; restart_child or delete_child it",
                    id=present.id,
                ),
            )

    def administer(self, event: TerminateChild | RestartChild | DeleteChild) -> None:
        child = self.find(event.id)
        if child is None:
            self.no_such_child(event)
            return
        match event, child.status:
            case TerminateChild(), "running":
                self.operate("call", (Job("stop", child.id),), call=event)
            case TerminateChild(), _:
                self.hold(child)
                self.reply(event)
            case _ if _seems_to_run(child):
                self.reply(event, ChildRunning(f"child {child.id!r} runs; terminate it first", id=child.id))
            case _, "restarting":
                text = f"child {child.id!r} is about to be restarted; terminate it first"
                self.reply(event, ChildRestarting(text, id=child.id))
            case RestartChild(), _:
                self.operate("call", (Job("start", child.id),), call=event)
            case _:
                self.drop(child, child.last_exit or NORMAL)
                self.reply(event)

    def hold(self, child: ChildState) -> None:
        """An operator stops a child that does not run: its restart, if it was to have one, is off."""
        due = child.due
        if due is not None:
            child = self.undelay(child)
        self.rest(self.update(child, held=True, broken=False, unjudged=None), child.last_exit or NORMAL)
        self.go_on_without(due)


def _without(jobs: tuple[Job, ...], job: Job) -> tuple[Job, ...]:
    return tuple(other for other in jobs if other != job)


def _seems_to_run(child: ChildState) -> bool:
    """It runs, as far as anybody was told: a call that came before its end must not be answered out of turn."""
    return child.status == "running" or child.unjudged is not None


def _passes_away(child: ChildState) -> bool:
    """A temporary child is never started a second time."""
    return child.spec.restart == "temporary"
