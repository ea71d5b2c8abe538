"""Carries out what the restart policy decides: one running supervisor.

A runner tells `policy.decide` what happened and does what it asks for, one start or stop at a time, each in a
task of its own; between them it has no task at all. Children report their end as data (`on_exit`); nothing
here is built on the failure propagation of a task group, which would cancel the siblings of a failed child.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from mbactor import observe
from mbactor.errors import Deadlock, Ignore, Unavailable
from mbactor.kernel.exit import KILLED, SHUTDOWN, Exit
from mbactor.supervisor.children import Budget, Build, Child, ChildRow, alike, made, respecify, row_of, stop_now
from mbactor.supervisor.policy import decide
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec
from mbactor.supervisor.state import (
    Abort,
    Action,
    Adopt,
    Answer,
    Call,
    Close,
    Delay,
    Drop,
    Ended,
    Event,
    Exited,
    GiveUp,
    Ignored,
    NotStarted,
    Pause,
    Reply,
    Restarting,
    RetryDue,
    Start,
    Started,
    StartRequested,
    State,
    Stop,
    Stopped,
    StopRequested,
    Undelay,
    Up,
)

if TYPE_CHECKING:
    from mbactor.kernel.node import Node

FAIR_RUN = 32
"""Children started or stopped without waiting before the loop serves others."""
GRACE = 1.0
"""Seconds a start that was broken off has to end before it is abandoned."""
_BROKEN_OFF = "its start was broken off"

_under_way: ContextVar[tuple[asyncio.Task[None], ...]] = ContextVar("mbactor_under_way", default=())


class Owner(Protocol):
    """What the runner needs of the supervisor it runs."""

    async def attempt(self, child: Child, id: str, *, again: bool) -> BaseException | None: ...
    def attempt_now(self, child: Child, *, again: bool) -> bool | BaseException: ...
    async def wind_up(self, exit: Exit) -> None: ...
    async def terminate_child(self, child: Any) -> None: ...


class Runner:
    """Runs the children of one supervisor."""

    def __init__(self, owner: Owner, node: Node, path: str, build: Build) -> None:
        self.path = path
        self.on_exit: Callable[[Exit], None] | None = None
        self.state = State()
        self.children: dict[str, tuple[ChildSpec, Child]] = {}
        self._owner = owner
        self._node = node
        self._build = build
        self.spec = SupervisorSpec()
        self._inbox: deque[Event] = deque()
        self._feeding = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._work: asyncio.Task[None] | None = None
        self._done_at_once = 0
        self._starting: asyncio.Task[None] | None = None
        """The last start that took a task, and the last that was broken off."""
        self._aborted: asyncio.Task[None] | None = None
        self._asked = False
        self._calls: dict[int, asyncio.Future[Exception | None]] = {}
        self._numbers = itertools.count()
        self.context = Context()
        self._up: asyncio.Future[BaseException | None] | None = None
        self._down: asyncio.Future[Exit] | None = None

    # --- as a child ---------------------------------------------------------------------------------

    async def start(
        self, spec: SupervisorSpec, *, children: Mapping[str, Child] | None = None, context: Context | None = None
    ) -> None:
        """Start all children in order; the first that fails stops those before it, and is raised.

        Children run in copies of `context` (by default that of the caller), whoever asks for their start later.
        `children` are those that were made already.
        """
        self._begin(spec, children or {}, context or copy_context())
        self.feed(StartRequested(self._node.time()))
        await self.up()

    async def up(self) -> None:
        """Until all children are started. Raises what this failed with; cancelled, it stops those that run."""
        assert self._up is not None
        try:
            error = await asyncio.shield(self._up)
        except asyncio.CancelledError:
            await self.stop(None)
            raise
        if error is not None:
            raise error

    def take_up(self, spec: SupervisorSpec, state: State, children: Mapping[str, Child], context: Context) -> None:
        """Go on from `state`, into which the children were brought by somebody else."""
        self._begin(spec, children, context)
        self.state = state
        assert self._up is not None
        if state.phase == "running":
            self._up.set_result(None)

    def _begin(self, spec: SupervisorSpec, children: Mapping[str, Child], context: Context) -> None:
        loop = asyncio.get_running_loop()
        self.spec, self.context = spec, context
        self._up, self._down = loop.create_future(), loop.create_future()
        self._asked = False
        self._keep_common()
        self.children.update((one.id, (one, children[one.id])) for one in spec.children if one.id in children)

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        """Stop all children, the last first, each within its own time; all at once when `timeout` is over."""
        down = self._down
        if down is None:
            return exit
        self.ask_to_stop(exit, kill=timeout == 0)
        if timeout and not down.done():
            await asyncio.wait([down], timeout=timeout)
        if down.done() or timeout is None:
            return await asyncio.shield(down)
        self.ask_to_stop(KILLED, kill=True)
        await asyncio.shield(down)
        return KILLED

    def ask_to_stop(self, exit: Exit, *, kill: bool = False) -> asyncio.Future[Exit]:
        """Begin the stop, or hurry it; the future of how it ends, which is not to be cancelled."""
        assert self._down is not None
        if not self._down.done():
            self._asked = True
            self.feed(StopRequested(self._node.time(), exit, kill=kill))
        return self._down

    def pause(self, seconds: float) -> None:
        for _, child in self.children.values():
            child.pause(seconds)

    def close(self, exit: Exit) -> None:
        """Close every child: nobody is going to start them."""
        for _, child in self.children.values():
            child.close(exit)

    # --- as seen from outside --------------------------------------------------------------------------

    async def call(self, make: Callable[[int, float], Call]) -> None:
        """Put an operator's call to the policy and raise what it is refused with."""
        self.check_not_within()
        if self.state.phase == "idle":
            raise Unavailable(f"supervisor {self.path} is not running")
        number = next(self._numbers)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        self.feed(make(number, self._node.time()))
        try:
            error = await answer
        finally:
            self._calls.pop(number, None)
        if error is not None:
            raise error

    def check_not_within(self) -> None:
        """Deadlock where the caller is what this is waiting for."""
        if self._work is not None and self._work in _under_way.get():
            raise Deadlock(
                f"{self.path} is asked to change its children by one of them, "
                "which it waits for (a call from on_start or on_stop)",
                instead="do it in a message, which the actor may tell itself",
            )

    def rows(self) -> list[ChildRow]:
        """The children in the order in which they start."""
        return [row_of(state, self._known(state.id)) for state in self.state.children]

    def budget(self) -> Budget:
        """The restarts that count now."""
        spec, now = self.spec, self._node.time()
        spent = sum(now - moment <= spec.within for moment in self.state.spent)
        return Budget(spec.max_restarts, spec.within, spent)

    def ref(self, id: str) -> Any:
        child = self._known(id)
        return child.ref if child is not None else None

    def exited(self, id: str, child: Child, incarnation: int, exit: Exit) -> None:
        """A child ended by itself. Nothing is made of that where it is no longer among the children, or starts again
        already: one that had ended when it was to be stopped may tell so as late as that.
        """
        known = self.children.get(id)
        if known is not None and known[1] is child and child.incarnation == incarnation:
            self.feed(Exited(id, exit, self._node.time(), random.random()))

    # --- events in, actions out ------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Tell the policy, and do what it says. Events that come of doing it are told after that."""
        self._inbox.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                try:
                    self.state, actions = decide(self.spec, self.state, event)
                except Exception as error:
                    if self.state.phase == "stopping":
                        raise
                    self._fail(event, error)
                    continue
                for action in actions:
                    self._do(action)
        finally:
            self._feeding = False

    def _fail(self, event: Event, error: Exception) -> None:
        """No decision comes of an event (a backoff of the user's own raises, say): end as a child that crashed would,
        rather than stand still for ever.
        """
        observe.emit("supervisor.failed", supervisor=self.path, error=error)
        operation = self.state.operation
        if operation is not None and operation.busy and isinstance(event, Answer):
            over = replace(operation, busy=False, done=operation.done + 1)
            self.state = replace(self.state, operation=over)
        self._inbox.appendleft(StopRequested(self._node.time(), Exit("failed", error)))

    def _do(self, action: Action) -> None:  # noqa: C901 - one line for each action
        match action:
            case Start(id, again):
                self._start(id, self._child(id), again=again)
            case Restarting():
                self._tell_of_restart(action)
            case Abort(id, timeout):
                self._abort(id, timeout)
            case Stop(id, timeout):
                self._stop(id, self._child(id), timeout)
            case Delay(id, seconds):
                self._delay(id, seconds)
            case Undelay(id):
                self._undelay(id)
            case Pause(id, seconds):
                self._child(id).pause(seconds)
            case Close(id, exit):
                self._child(id).close(exit)
            case Drop(id, exit):
                if (known := self.children.pop(id, None)) is not None:  # else nothing was made of it yet
                    known[1].close(exit)
            case Ended(exit):
                self._work = self._task(self._end(exit))
            case Adopt(spec):
                self._adopt(spec)
            case _:
                self._tell(action)

    def _tell(self, action: Action) -> None:
        match action:
            case Reply(call, _, error):
                if (answer := self._calls.get(call)) is not None and not answer.done():
                    answer.set_result(error)
            case Up() if self._up is not None:
                self._up.set_result(None)
            case GiveUp(id, exit):
                observe.emit("supervisor.gave_up", supervisor=self.path, child=id, reason=str(exit))

    def _tell_of_restart(self, action: Restarting) -> None:
        if observe.active():
            observe.emit(
                "supervisor.restarting",
                supervisor=self.path,
                child=action.id,
                delay=action.delay,
                restarts=action.restarts,
                reason=str(action.exit),
            )

    # --- effects ----------------------------------------------------------------------------------------

    def _start(self, id: str, child: Child, *, again: bool) -> None:
        """At once, where the child can do that, so that a restart costs no task; now and then others get their turn."""
        child.on_exit = partial(self.exited, id, child, child.incarnation + 1)
        if not again:
            child.terminate = partial(self._owner.terminate_child, id)
        self._done_at_once += 1
        started: bool | BaseException = False
        try:
            if self._done_at_once % FAIR_RUN:
                started = self.context.copy().run(self._owner.attempt_now, child, again=again)
        except BaseException as error:  # the program ends; whoever stops the tree then need not wait for this
            self._inbox.appendleft(answer(id, error, self._node.time()))
            raise
        if started is False:
            self._work = self._starting = self._task(self._start_child(id, child, again=again))
        else:  # before all that was told meanwhile: nothing is under way
            now = self._node.time()
            self._inbox.appendleft(Started(id, now) if started is True else answer(id, started, now))

    def _stop(self, id: str, child: Child, timeout: float | None) -> None:
        """As `_start`."""
        self._done_at_once += 1
        prompt = timeout != 0 and self._work is None and self._done_at_once % FAIR_RUN
        if prompt and stop_now(child, SHUTDOWN):
            self._inbox.appendleft(Stopped(id, SHUTDOWN, self._node.time()))
        else:
            self._work = self._task(self._stop_child(id, child, timeout, self._work))

    async def _start_child(self, id: str, child: Child, *, again: bool) -> None:
        mine, number = self._enter(), child.incarnation + 1
        error: BaseException | None
        try:
            error = await self._owner.attempt(child, id, again=again)
        except asyncio.CancelledError as cancelled:
            # Broken off by us, or raised by the child itself; else the loop is being shut down.
            if mine.cancelling() and self._aborted is not mine:
                raise
            error = Unavailable(_BROKEN_OFF) if self._aborted is mine else cancelled
        if error is None and self._work is not mine and child.incarnation == number:
            # Abandoned, and it came up all the same: nobody counts on it any more.
            await child.stop(0)
        self._report(mine, answer(id, error, self._node.time()))

    async def _stop_child(
        self, id: str, child: Child, timeout: float | None, before: asyncio.Task[None] | None
    ) -> None:
        mine = self._enter()
        try:
            exit = await child.stop(timeout)
            if before is not None and not before.done():
                await asyncio.wait([before])
        except asyncio.CancelledError:
            # The loop is being shut down around us: whoever waits for this stop would do so for ever.
            self._report(mine, Stopped(id, KILLED, self._node.time()))
            raise
        self._report(mine, Stopped(id, exit, self._node.time()))

    def _enter(self) -> asyncio.Task[None]:
        mine: asyncio.Task[None] | None = asyncio.current_task()
        assert mine is not None
        _under_way.set((*_under_way.get(), mine))
        return mine

    def _report(self, mine: asyncio.Task[None], event: Event) -> None:
        """Only the task that is under way reports: one that was overtaken or abandoned says nothing."""
        if self._work is mine:
            self._work = None
            self.feed(event)

    def _abort(self, id: str, timeout: float | None) -> None:
        work = self._starting
        if work is None or self._work is not work:
            return  # it is left behind already
        if self._aborted is not work:
            self._aborted = work
            work.cancel()
            work.add_done_callback(partial(self._broken_off, id))
        if timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout + GRACE, self._abandon, id, work)
            work.add_done_callback(lambda _: timer.cancel())

    def _broken_off(self, id: str, work: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step ends without a report of its own.
        self._report(work, NotStarted(id, Unavailable(_BROKEN_OFF), self._node.time()))

    def _abandon(self, id: str, work: asyncio.Task[None]) -> None:
        if self._work is work:
            self._node.abandoned += 1
            observe.emit("actor.abandoned", actor=id, method="on_start")
            self._work = self._task(self._leave_behind(id, self._child(id)))

    async def _leave_behind(self, id: str, child: Child) -> None:
        """What starts for ever is stopped as it is, so that it can do nothing in its successor's name."""
        mine = self._enter()
        try:
            await child.stop(0)
        finally:
            error = TimeoutError(f"{_BROKEN_OFF} and did not end")
            self._report(mine, NotStarted(id, error, self._node.time()))

    def _delay(self, id: str, seconds: float) -> None:
        self._undelay(id)
        if seconds > 0:
            self._child(id).pause(seconds)
        loop = asyncio.get_running_loop()
        self._timers[id] = loop.call_later(seconds, self._retry, id, context=self.context)

    def _retry(self, id: str) -> None:
        self._timers.pop(id, None)
        self.feed(RetryDue(id, self._node.time()))

    def _undelay(self, id: str) -> None:
        timer = self._timers.pop(id, None)
        if timer is not None:
            timer.cancel()

    async def _end(self, exit: Exit) -> None:
        try:
            await self._owner.wind_up(exit)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            self._ended(exit)  # as in `_stop_child`
            raise
        self._ended(exit)

    def _ended(self, exit: Exit) -> None:
        self._work = None
        for id in self.children.keys() - {spec.id for spec in self.spec.children}:
            self.children.pop(id)[1].close(exit)
        assert self._up is not None
        assert self._down is not None
        self._down.set_result(exit)
        if not self._up.done():
            stopped = Unavailable(f"supervisor {self.path} was stopped while it started")
            self._up.set_result(exit.error or stopped)
        elif not self._asked and self.on_exit is not None:
            self.on_exit(exit)

    # --- its children as objects ---------------------------------------------------------------------------

    def _child(self, id: str) -> Child:
        known = self.children.get(id)
        if known is None:
            state = self.state.find(id)
            assert state is not None, id
            known = self.children[id] = (state.spec, made(state.spec, self._node, self.path, self._build))
        return known[1]

    def _known(self, id: str) -> Child | None:
        return self.children[id][1] if id in self.children else None

    def _keep_common(self) -> None:
        """Of the children of the incarnation before, keep those that are still wanted just so."""
        wanted = {spec.id: spec for spec in self.spec.children}
        for id, (spec, child) in list(self.children.items()):
            one = wanted.get(id)
            if one is None or not alike(spec, one):
                child.close(SHUTDOWN)
                del self.children[id]

    def _adopt(self, spec: SupervisorSpec) -> None:
        """Specify the children as they are wanted from now on. One that is another is made anew when it starts."""
        self.spec = spec
        for one in spec.children:
            before, child = self.children.get(one.id, (one, None))
            if child is None or before is one or before == one:
                continue
            if respecify(child, before, one):
                self.children[one.id] = (one, child)
            else:
                child.close(SHUTDOWN)
                del self.children[one.id]

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not in the context of whoever happened to ask: its deadline and its call are not the children's.
        loop = asyncio.get_running_loop()
        return loop.create_task(work, name=f"supervisor {self.path}", context=self.context.copy())


def answer(id: str, error: BaseException | None, now: float) -> Event:
    """What the policy is told of a start that ended with this error, or with none."""
    if error is None:
        return Started(id, now)
    if isinstance(error, Ignore):
        return Ignored(id, now)
    return NotStarted(id, error, now, random.random())
