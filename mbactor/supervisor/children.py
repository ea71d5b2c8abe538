"""What a supervisor supervises: the `Child` contract, and how a specification becomes one.

A cell (one actor) and a supervisor both keep it, so a tree nests to any depth.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mbactor.kernel.cell import Cell
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.supervisor.spec import ChildSpec, Kind, Restart
from mbactor.supervisor.state import Status

if TYPE_CHECKING:
    from mbactor.kernel.node import Node
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


@dataclass(frozen=True, slots=True)
class ChildCount:
    """`active` are those that run; one that is being restarted does not."""

    specs: int
    active: int
    supervisors: int
    workers: int
