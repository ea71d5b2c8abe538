"""Whom a message is for: `ActorRef` is one actor, whichever of its incarnations runs; `At` is any replica of a host.

A ref travels: inside messages it is a text, `mbactor:<node>/<replica>/<host>/<id>`, and where it arrives a ref to the
same actor again. In the process of the actor that is the actor itself; in another it is reached through the bus, by its
host and replica.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from mbactor.errors import BadRequest, NoSuchActor, Unavailable
from mbactor.kernel.budget import deadline_of_ask
from mbactor.kernel.context import MAX_DEPTH, Call, Told, current
from mbactor.kernel.feature import Operation, Reference, feature_of
from mbactor.kernel.sending import (
    ask,
    ask_ref,
    carries,
    failed_already,
    from_thread,
    kick,
    of_caller,
    tell,
    tell_ref,
    tell_wait_ref,
    told_elsewhere,
)
from mbactor.observe import tracers
from mbactor.transport import codec
from mbactor.transport.address import parse_host

if TYPE_CHECKING:
    from collections.abc import Generator

    from mbactor.kernel.cell import Cell
    from mbactor.kernel.multicast import Replies
    from mbactor.kernel.node import Node
    from mbactor.mailbox import MailboxStatistics

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_SCHEME = "mbactor:"


class Answer(Protocol[R_co]):
    """What an ask returns: awaitable; in a thread of an actor, `result()` waits for it there."""

    def __await__(self) -> Generator[Any, Any, R_co]: ...
    def result(self) -> R_co: ...


class ActorRef(Generic[A]):
    """Reaches one actor: `await ref.ask(Counter.add, by=5)`, `ref.tell(Counter.add, 1)`.

    It survives restarts; once the actor has ended for good, asks fail with ActorStopped and tells become dead
    letters. Refs of the same actor are equal. It may be an argument or a result of a method, anywhere within a value.
    """

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    @property
    def cell(self) -> Cell:
        """The machinery of the actor. Unavailable where that is in another process."""
        return self._cell

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

    def ask(  # noqa: C901 - as said below
        self, operation: Operation[A, P, R], *args: P.args, **kwargs: P.kwargs
    ) -> Answer[R]:
        """Send and return the awaitable of the answer.

        Raises, when awaited, what the method answered with; BudgetSpent when the time budget ends first;
        MailboxFull, ActorRestarting or ActorStopped when the message was not taken. In a thread of an actor,
        `.result()` waits for the answer.
        """
        cell = self._cell
        way = cell.ways.get(operation)
        if way is None or tracers or get_ident() != way.thread:
            return ask_ref(cell, operation, args, kwargs)  # type: ignore[no-any-return]
        # What follows is what `ask` does, written out for a message that meets nothing unusual.
        if args and not way.name(args, kwargs):
            return ask(cell, operation, args, kwargs)  # type: ignore[no-any-return]
        caller, queue, now = current.get(), way.queue, way.time()
        deadline = deadline_of_ask(caller, now, way.loop)
        if deadline <= now or (caller is not None and caller.depth >= MAX_DEPTH):
            return ask(cell, operation, (), kwargs)  # type: ignore[no-any-return]
        if (type(kwargs.get(way.only)) is not way.exact or len(kwargs) != 1) and not way.fits(kwargs):
            try:
                kwargs = way.bind((), kwargs)  # type: ignore[assignment]
            except BadRequest:
                return ask(cell, operation, (), kwargs)  # type: ignore[no-any-return]
        work, gate = way.work, way.gate
        depth = len(work)
        if depth >= queue.mark and not queue.deepens(depth):
            return ask(cell, operation, (), kwargs)  # type: ignore[no-any-return]
        future = way.future()
        call = Call(way.route, kwargs, cell, now, None, None, deadline, future, way.direct)
        if caller is not None:
            of_caller(call, caller)
        work.append(call)
        if gate.parked:
            waiting = gate.parked.pop().waiting
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        elif not gate.idle or not gate.kick():
            cell.waits_in_line(gate, call)
        return future

    def tell(self, operation: Operation[A, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Send and forget. False when the mailbox refused it (it is a dead letter then)."""
        cell = self._cell
        way = cell.ways.get(operation)
        if way is None or tracers:
            return tell_ref(cell, operation, args, kwargs)
        # What follows is what `tell` does, written out for a message that meets nothing unusual; fit for any thread.
        caller = current.get()
        if caller is not None and carries(caller):
            return tell(cell, operation, args, kwargs)
        given: Any
        if args:
            given, many = args[0], len(args) + len(kwargs)
        else:
            given, many = kwargs.get(way.only), len(kwargs)
        if many == 1 and type(given) is way.exact:
            context = way.lone
        elif args and not way.name(args, kwargs):
            return tell(cell, operation, args, kwargs)
        else:
            args, context = (), way.context  # type: ignore[assignment]
            given = kwargs if way.fits(kwargs) else way.bind((), kwargs)
        gate, queue, work = way.gate, way.queue, way.work
        depth = len(work)
        if depth >= queue.mark and not queue.deepens(depth):
            return tell(cell, operation, args, kwargs)
        now = gate.turn or way.time()
        message: Any = Told(context, given, now, caller)
        work.append(message)
        if gate.idle:
            kick(gate, now)
        return True

    def tell_wait(self, operation: Operation[A, P, Any], *args: P.args, **kwargs: P.kwargs) -> Awaitable[None]:
        """As `tell`, but wait for room where the mailbox is full: `await ref.tell_wait(Counter.add, 1)`.

        Waits within the caller's time budget; BudgetSpent (the message was not taken) when that ends first,
        ActorStopped where the actor ends. To an actor of another process, and by way of a broker that restricts this
        one, it is a `tell`: where its mailbox is full, it is a dead letter there.
        """
        return tell_wait_ref(self._cell, operation, args, kwargs)  # type: ignore[no-any-return]

    async def stop(self) -> None:
        """End the actor for good: the message in hand is finished, `on_stop` runs, and it is not restarted."""
        await self._cell.end(self._cell.shutdown)

    async def kill(self) -> None:
        """End the actor for good, now: the message in hand is cancelled, `on_stop` does not run."""
        await self._cell.end(0)

    def statistics(self) -> MailboxStatistics:
        """The mailbox at this moment."""
        return self._cell.statistics()

    @property
    def url(self) -> str:
        """How the ref is written where it travels."""
        cell = self._cell
        return f"{_SCHEME}{cell.node.id}/{cell.replica}/{cell.cls.host or '-'}/{cell.id}"

    def __reduce__(self) -> Any:
        return ref_of_url, (self.url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and other._identity() == self._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"ActorRef({self._cell.cls.__name__} {self.address})"

    def _identity(self) -> Any:
        return self._cell


class RemoteRef(ActorRef[A]):
    """A ref to an actor of another process: reached through the bus, by its host and replica."""

    __slots__ = ("_host", "_id", "_node_id", "_replica")

    def __init__(self, node_id: str, replica: str, host: str | None, id: str) -> None:
        self._node_id = node_id
        self._replica = replica
        self._host = host
        self._id = id

    @property
    def cell(self) -> Cell:
        raise Unavailable(f"{self!r} is an actor of another process; it cannot be watched, named or stopped from here")

    @property
    def id(self) -> str:
        return self._id

    @property
    def host(self) -> str | None:
        return self._host

    @property
    def address(self) -> str:
        return f"{self._host}#{self._id}" if self._host and self._host != self._id else self._id

    @property
    def url(self) -> str:
        return f"{_SCHEME}{self._node_id}/{self._replica}/{self._host or '-'}/{self._id}"

    def ask(self, operation: Operation[A, P, R], *args: P.args, **kwargs: P.kwargs) -> Answer[R]:
        answer: Any
        node = _node_here()
        if get_ident() != node.thread:
            answer = from_thread(node, lambda: self.ask(operation, *args, **kwargs))
        elif self._host is None:
            answer = failed_already(self._out_of_reach())
        else:
            answer = node.remote.ask(self._host, self._replica, operation, args, kwargs)
        return answer  # type: ignore[no-any-return]

    def tell(self, operation: Operation[A, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        node = _node_here()
        if get_ident() != node.thread:
            return told_elsewhere(node, lambda: self.tell(operation, *args, **kwargs))
        if self._host is None:
            return node.remote.tell_nobody(self._out_of_reach(), operation, args, kwargs)
        return node.remote.tell(self._host, self._replica, operation, args, kwargs)

    async def tell_wait(self, operation: Operation[A, P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        if self._host is None:
            raise self._out_of_reach()
        self.tell(operation, *args, **kwargs)

    def _out_of_reach(self) -> NoSuchActor:
        return NoSuchActor(self._id, "its class has no host: it is reached in its own process only")

    async def stop(self) -> None:
        _ = self.cell

    async def kill(self) -> None:
        _ = self.cell

    def statistics(self) -> MailboxStatistics:
        return self.cell.statistics()

    def __repr__(self) -> str:
        return f"ActorRef({self.address} on node {self._node_id})"

    def _identity(self) -> Any:
        return self._replica


class At:
    """Operations sent to a host other than their class's own: `self.at("counter.two").ask(Counter.add)`.

    The host may name one replica, `id-0f3a.counter.two`, or a place, `loc-eu-west.counter.two`. BadRequest where it is
    none.
    """

    __slots__ = ("_host", "_node", "_replica")

    def __init__(self, node: Node, host: str) -> None:
        self._node = node
        self._host, self._replica = parse_host(host)

    def ask(self, operation: Operation[Any, P, R], *args: P.args, **kwargs: P.kwargs) -> Answer[R]:
        answer: Answer[R] = self._node.ask(operation, args, kwargs, self._host, self._replica)
        return answer

    def tell(self, operation: Operation[Any, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        return self._node.tell(operation, args, kwargs, self._host, self._replica)

    def ask_all(self, operation: Reference[P, R], *args: P.args, **kwargs: P.kwargs) -> Replies[R]:
        """As `Actor.ask_all`, at this host."""
        if self._replica is not None:
            raise BadRequest(
                f"ask_all at {self._replica}.{self._host}: all at a host are asked, and a part of it is named"
            )
        return self._node.ask_all(operation, args, kwargs, self._host)


class _Sent:
    """Stands in `ActorRef` under the name of an actor's method, and says how that is called: by a message.

    A `__getattr__` would say so, too, and would take a tenth of the time of each tell on Python 3.11.
    """

    __slots__ = ("_method", "_name")

    def __init__(self, method: str, name: str) -> None:
        self._method = method
        self._name = name

    def __get__(self, ref: Any, kind: type) -> Any:
        hint = f"a message is sent by ask or tell: ref.ask({self._method}, ...)"
        raise AttributeError(f"an ActorRef has no attribute {self._name!r}; {hint}", name=self._name, obj=ref)


def hint_at(owner: type) -> None:
    """Let `ref.add(5)`, where `add` is a feature of this class, be answered with how a message is sent."""
    for name, attribute in vars(owner).items():
        if feature_of(attribute) is not None and not hasattr(ActorRef, name) and name not in vars(ActorRef):
            setattr(ActorRef, name, _Sent(f"{owner.__name__}.{name}", name))


def ref_of_url(url: Any) -> ActorRef[Any]:
    """The ref that was written so. BadRequest where the text is no ref."""
    if not isinstance(url, str) or not url.startswith(_SCHEME) or url.count("/") < 3:
        raise BadRequest(f"{url!r} is no reference to an actor; expected {_SCHEME}<node>/<replica>/<host>/<id>")
    node_id, replica, host, id = url.removeprefix(_SCHEME).split("/", 3)
    from mbactor.kernel.node import nodes  # which imports this module

    for node in nodes:
        cell = node.cells.get(replica)
        if cell is not None and node.id == node_id:
            return ActorRef(cell)
    return RemoteRef(node_id, replica, None if host == "-" else host, id)


def _node_here() -> Node:
    """The node for which this code runs."""
    from mbactor.kernel.node import nodes  # which imports this module

    caller = current.get()
    if caller is not None and not caller.outside:
        return caller.cell.node
    if len(nodes) != 1:
        raise Unavailable(f"{len(nodes)} systems run in this process: a remote ref is asked from within an actor then")
    return nodes[0]


def _decoded(url: Any) -> ActorRef[Any]:
    with contextlib.suppress(BadRequest):
        return ref_of_url(url)
    raise ValueError(f"Expected a reference to an actor, got `{url!r}`")


codec.extend(ActorRef, to_plain=lambda ref: ref.url, from_plain=_decoded)
