"""Whom a message is for: `ActorRef` is one actor, whichever of its incarnations runs; `At` is any replica of a host."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from mbactor.kernel.feature import Operation

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.node import Node
    from mbactor.mailbox import MailboxStatistics

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


class ActorRef(Generic[A]):
    """Reaches one actor: `await ref.ask(Counter.add, by=5)`, `ref.tell(Counter.add, 1)`.

    It survives restarts; once the actor has ended for good, asks fail with ActorStopped and tells become dead
    letters. Refs of the same actor are equal.
    """

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    @property
    def id(self) -> str:
        """The actor's id within its supervisor."""
        return self._cell.id

    @property
    def host(self) -> str | None:
        return self._cell.cls.host

    @property
    def address(self) -> str:
        """For people: host (or class) and id."""
        return self._cell.address

    def ask(self, operation: Operation[A, P, R], *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Send and return the awaitable of the answer.

        Raises, when awaited, what the method answered with; BudgetSpent when the time budget ends first;
        MailboxFull, ActorRestarting or ActorStopped when the message was not taken.
        """
        return self._cell.node.ask_cell(self._cell, operation, args, kwargs)

    def tell(self, operation: Operation[A, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Send and forget. False when the mailbox refused it (it is a dead letter then)."""
        return self._cell.node.tell_cell(self._cell, operation, args, kwargs)

    async def stop(self) -> None:
        """End the actor for good: the message in hand is finished, `on_stop` runs, and it is not restarted."""
        await self._cell.end(self._cell.shutdown)

    async def kill(self) -> None:
        """End the actor for good, now: the message in hand is cancelled, `on_stop` does not run."""
        await self._cell.end(0)

    def statistics(self) -> MailboxStatistics:
        """The mailbox at this moment."""
        return self._cell.statistics()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and other._cell is self._cell

    def __hash__(self) -> int:
        return hash(id(self._cell))

    def __repr__(self) -> str:
        return f"ActorRef({self._cell.cls.__name__} {self.address})"


class At:
    """Operations sent to a host other than their class's own: `self.at("counter.two").ask(Counter.add)`."""

    __slots__ = ("_host", "_node")

    def __init__(self, node: Node, host: str) -> None:
        self._node = node
        self._host = host

    def ask(self, operation: Operation[Any, P, R], *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        return self._node.ask(operation, args, kwargs, host=self._host)

    def tell(self, operation: Operation[Any, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        return self._node.tell(operation, args, kwargs, host=self._host)
