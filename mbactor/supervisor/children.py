"""What a supervisor supervises: the `Child` contract, and how a specification becomes one.

A cell (one actor) and a supervisor both keep it, so a tree nests to any depth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from mbactor.kernel.cell import Cell
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.supervisor.spec import ChildSpec, Kind, Restart
from mbactor.supervisor.state import ChildState, Status

if TYPE_CHECKING:
    from mbactor.kernel.node import Node
    from mbactor.supervisor.node.process import NodeProcess
    from mbactor.supervisor.supervisor import Supervisor


class Child(Protocol):
    """Something that runs, incarnation after incarnation. `close` may be followed by another `start`."""

    on_exit: Callable[[Exit], None] | None
    """Called on the loop, once, when the running incarnation ended by itself; never for `stop()`."""
    terminate: Callable[[], Awaitable[None]] | None
    """Set by the supervisor: what ends the child for good, on somebody's request."""
    incarnation: int

    @property
    def ref(self) -> Any: ...

    async def start(self) -> None:
        """Start a new incarnation. What it raises, `Ignore` included, means that nothing was left running."""

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        """Stop it: None waits for ever, 0 kills. Returns how it really ended; never raises."""
        ...

    def pause(self, seconds: float) -> None:
        """Its next start is that far away."""

    def close(self, exit: Exit) -> None:
        """No further start is planned: whoever waits for it is answered now."""


class PromptChild(Child, Protocol):
    """A child that may be able to start and stop without waiting: then neither takes a task."""

    def start_now(self) -> bool:
        """Start at once, or leave all as it is and return False: then `start` is awaited.

        It raises what `start` raises and never calls `on_exit`. The task is that of whoever asks.
        """
        ...

    def stop_now(self, exit: Exit) -> bool:
        """Stop at once, for ever so little time given, or leave all as it is and return False. Never raises."""
        ...


def stop_now(child: Child, exit: Exit) -> bool:
    """Stop a child that can do so at once."""
    stop: Callable[[Exit], bool] | None = getattr(child, "stop_now", None)
    return stop is not None and stop(exit)


Build = Callable[[ChildSpec, "Node"], Child]


def build_child(spec: ChildSpec, node: Node) -> Child:
    """The child that `spec` describes, not started yet."""
    if spec.kind == "supervisor":
        return SupervisorChild(spec, node, spec.id, build_child)
    return Cell(
        node,
        spec.target,
        spec.positional,
        spec.args,
        id=spec.id,
        mailbox=spec.mailbox,
        config=spec.config,
        shutdown=spec.shutdown,
    )


def made(spec: ChildSpec, node: Node, path: str, build: Build) -> Child:
    """The child of the supervisor at `path` that `spec` describes; `build` makes its actors."""
    if spec.process:
        from mbactor.supervisor.node.process import NodeProcess  # which costs what nobody needs who has none

        return NodeProcess(spec, node, f"{path}/{spec.id}")
    if spec.kind == "supervisor":
        return SupervisorChild(spec, node, f"{path}/{spec.id}", build)
    return build(spec, node)


def respecify(child: Child, before: ChildSpec, spec: ChildSpec) -> bool:
    """Let a child be specified otherwise; arguments show at its next start, and refs to it stay as they are. False
    where it cannot be the same child.
    """
    if (before.target, before.process) != (spec.target, spec.process):
        return False
    match child:
        case Cell():
            child.respecify(spec.positional, spec.args, spec.config, spec.shutdown)
            if before.mailbox != spec.mailbox:
                child.rebound(spec.mailbox)
        case SupervisorChild():
            child.spec = spec
        case _:
            if not alike(before, replace(spec, **{name: getattr(before, name) for name in _OF_THE_SUPERVISOR})):
                return False
            elsewhere: Any = child
            elsewhere.spec = spec
    return True


def alike(one: ChildSpec, other: ChildSpec) -> bool:
    """Whether two specifications are of the same child, in whatever form they are written."""
    from mbactor.supervisor.operate.plan import canonical_child  # which imports this module

    return one == other or canonical_child(one) == canonical_child(other)


_OF_THE_SUPERVISOR = ("restart", "shutdown", "backoff", "significant", "after")
"""Fields that a child itself knows nothing of."""


class SupervisorChild:
    """A supervisor under a supervisor: each incarnation is a new instance of its class.

    The children that the new instance has in common with the one before stay the same objects, so refs to
    actors survive the restart of any supervisor above them.
    """

    def __init__(self, spec: ChildSpec, node: Node, path: str, build: Build) -> None:
        self.spec = spec
        self.path = path
        self.on_exit: Callable[[Exit], None] | None = None
        self.terminate: Callable[[], Awaitable[None]] | None = None
        self.incarnation = 0
        self._node = node
        self._build = build
        self._current: Supervisor | None = None

    @property
    def ref(self) -> Supervisor | None:
        """The running instance."""
        return self._current

    async def start(self) -> None:
        before = self._current
        self.incarnation += 1
        supervisor: Supervisor = self.spec.target(*self.spec.positional, **self.spec.args)
        supervisor.bind(self._node, self.path, build=self._build)
        supervisor.incarnation = self.incarnation - 1
        supervisor.on_exit = self._exited
        if before is not None:
            supervisor.take_over(before)
        self._current = supervisor
        await supervisor.start()

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        return exit if self._current is None else await self._current.stop(timeout, exit)

    def pause(self, seconds: float) -> None:
        if self._current is not None:
            self._current.pause(seconds)

    def close(self, exit: Exit) -> None:
        if self._current is not None:
            self._current.close(exit)

    def _exited(self, exit: Exit) -> None:
        if self.on_exit is not None:
            self.on_exit(exit)


@dataclass(frozen=True, slots=True)
class Budget:
    """The restarts that count at this moment: `spent` of them fell within the last `within` seconds, and one more than
    `max_restarts` has the supervisor give up.

        supervisor.restart_budget().left
    """

    max_restarts: int
    within: float
    spent: int

    @property
    def left(self) -> int:
        """How many more it bears now."""
        return max(0, self.max_restarts - self.spent)


@dataclass(frozen=True, slots=True)
class ChildRow:
    """One child as `which_children` shows it."""

    id: str
    ref: Any
    """An `ActorRef`, the running nested supervisor, or None where it never ran."""
    state: Status
    kind: Kind
    restart: Restart
    incarnation: int
    restarts: int
    last_exit: Exit | None
    held: bool
    uptime: float | None
    """Seconds since this incarnation started, where it runs."""
    restarts_in: float | None = None
    """Seconds until it is started again, where it waits out its backoff."""
    budget: Budget | None = None
    """Of a child of a dynamic supervisor: its own restart budget."""
    process: NodeProcess | None = None
    """The process of its own that it runs in."""


def row_of(state: ChildState, child: Child | None, budget: Budget | None = None) -> ChildRow:
    """What is to be seen of a child: what its supervisor remembers, and the child where it was ever made."""
    spec = state.spec
    return ChildRow(
        id=spec.id,
        ref=child.ref if child is not None else None,
        state=state.status,
        kind=spec.kind,
        restart=spec.restart,
        incarnation=child.incarnation if child is not None else 0,
        restarts=state.restarts,
        last_exit=state.last_exit,
        held=state.held,
        uptime=asyncio.get_running_loop().time() - state.started_at if state.status == "running" else None,
        restarts_in=None if state.due is None else max(0.0, state.due - asyncio.get_running_loop().time()),
        budget=budget,
        process=cast("NodeProcess", child) if spec.process and child is not None else None,
    )


@dataclass(frozen=True, slots=True)
class ChildCount:
    """`active` are those that run; one that is being restarted does not."""

    specs: int
    active: int
    supervisors: int
    workers: int
