"""Drives the pure policy in a world without effects: starts and stops are done at once, time is a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from mbactor.kernel.actor import Actor
from mbactor.kernel.exit import Exit
from mbactor.supervisor.policy import general
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec, child
from mbactor.supervisor.state import (
    Abort,
    Action,
    Adopt,
    Call,
    Delay,
    DeleteChild,
    Drop,
    Ended,
    Event,
    Exited,
    NotStarted,
    Reconfigure,
    Reply,
    RestartChild,
    RetryDue,
    Start,
    StartChild,
    Started,
    StartRequested,
    State,
    Stop,
    Stopped,
    StopRequested,
    TerminateChild,
    Undelay,
)
from mbactor.supervisor.usual import usual


class Leaf(Actor):
    """Stands for any actor."""


def leaf(id: str, **options: Any) -> ChildSpec:
    return child(Leaf, id=id, **options)


class World:
    """What surrounds a policy. `log` is what it did; `actions` all it asked for."""

    def __init__(self, *children: ChildSpec, fails: dict[str, int] | None = None, **options: Any) -> None:
        self.spec = SupervisorSpec(children=children, **options)
        self.state = State()
        self.now = 0.0
        self.fails = dict(fails or {})
        self.log: list[tuple[str, str]] = []
        self.actions: list[Action] = []
        self.timers: dict[str, float] = {}
        self.replies: dict[int, str] = {}
        self.held_back: Action | None = None
        self.hold: Callable[[Action], bool] = lambda _: False
        self._calls = 0

    def boot(self) -> World:
        self.feed(StartRequested(self.now))
        return self

    def feed(self, event: Event) -> None:
        inbox: deque[Event] = deque([event])
        while inbox:
            event = inbox.popleft()
            decided = general(self.spec, self.state, event)
            assert usual(self.spec, self.state, event) in (None, decided)  # a short way to the same
            self.state, actions = decided
            for action in actions:
                self.actions.append(action)
                if self.hold(action):
                    self.held_back = action
                elif (answer := self._do(action)) is not None:
                    inbox.append(answer)

    def release(self) -> None:
        """Carry out the action that was held back."""
        action, self.held_back, self.hold = self.held_back, None, lambda _: False
        assert action is not None
        answer = self._do(action)
        assert answer is not None
        self.feed(answer)

    def _do(self, action: Action) -> Event | None:  # noqa: C901 - one case for each action
        match action:
            case Start(id):
                self.log.append(("start", id))
                if self.fails.get(id, 0) > 0:
                    self.fails[id] -= 1
                    return NotStarted(id, ValueError("no"), self.now)
                return Started(id, self.now)
            case Stop(id):
                self.log.append(("stop", id))
                return Stopped(id, Exit("shutdown"), self.now)
            case Abort(id):
                self.log.append(("abort", id))
                return NotStarted(id, TimeoutError(), self.now)
            case Drop(id):
                self.log.append(("drop", id))
            case Adopt(spec):
                self.spec = spec
            case Delay(id, seconds):
                self.timers.pop(id, None)
                self.timers[id] = self.now + seconds
            case Undelay(id):
                self.timers.pop(id, None)
            case Reply(call, _, error):
                self.replies[call] = "ok" if error is None else type(error).__name__
            case Ended(exit):
                self.log.append(("end", exit.kind))
            case _:
                pass
        return None

    # --- what happens ---------------------------------------------------------------------------------

    def exit(self, id: str, kind: Any = "failed", *, told: bool = False, sample: float = 0.0) -> None:
        error = RuntimeError("boom") if kind == "failed" else None
        self.feed(Exited(id, Exit(kind, error, told=told), self.now, sample))

    def advance(self, by: float) -> None:
        until = self.now + by
        self.run_due(until)
        self.now = until

    def run_due(self, until: float | None = None) -> None:
        """Let the timers ring that are due: the earliest first, those of one instant as they were set."""
        until = self.now if until is None else until
        while due := [id for id, when in self.timers.items() if when <= until]:
            id = min(due, key=lambda id: self.timers[id])
            self.now = max(self.now, self.timers.pop(id))
            self.feed(RetryDue(id, self.now))

    def stop(self, *, kill: bool = False) -> None:
        self.feed(StopRequested(self.now, kill=kill))

    def call(self, make: Callable[[int], Call]) -> str:
        self._calls += 1
        number = self._calls
        self.feed(make(number))
        return self.replies.get(number, "pending")

    def add(self, spec: ChildSpec) -> str:
        return self.call(lambda n: StartChild(n, spec, self.now))

    def terminate(self, id: str) -> str:
        return self.call(lambda n: TerminateChild(n, id, self.now))

    def restart(self, id: str) -> str:
        return self.call(lambda n: RestartChild(n, id, self.now))

    def delete(self, id: str) -> str:
        return self.call(lambda n: DeleteChild(n, id, self.now))

    def reconfigure(
        self,
        *children: ChildSpec,
        child: str = "",
        stop: bool = False,
        start: bool = False,
        unless_held: bool = False,
        **own: Any,
    ) -> str:
        """Supervise these children from now on (none given: the same as before), by these fields."""
        now = {name: getattr(self.spec, name) for name in ("strategy", "max_restarts", "within", "auto_shutdown")}
        spec = SupervisorSpec(children=children or self.spec.children, **now | own)
        return self.call(lambda n: Reconfigure(n, child, self.now, spec, stop, start, unless_held))

    def renew(self, id: str) -> str:
        return self.call(lambda n: Reconfigure(n, id, self.now, stop=True, start=True))

    # --- what is to be seen ----------------------------------------------------------------------------

    def status(self, id: str) -> str:
        found = self.state.find(id)
        return "absent" if found is None else found.status

    def took(self) -> list[tuple[str, str]]:
        """What was done since the last look."""
        log, self.log = self.log, []
        return log
