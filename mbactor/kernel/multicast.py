"""Messages to all: events, and requests of which each who answers gives a `Reply`, as they come.

They go over the bus wherever those that get them run, so there is one way to all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from mbactor.errors import BadRequest, MbactorError, Unavailable
from mbactor.kernel.budget import deadline_of_ask
from mbactor.kernel.context import check_not_fenced, current
from mbactor.kernel.feature import Reference, host_of
from mbactor.kernel.routes import Route, routes_of
from mbactor.kernel.ways import spent, value_in
from mbactor.transport import subjects
from mbactor.transport.address import CONTROL_PORT, Address
from mbactor.transport.ask import error_in
from mbactor.transport.codec import decode, encode
from mbactor.transport.message import Message, messages_of
from mbactor.transport.multicast import Multicast
from mbactor.transport.requester import Requester
from mbactor.transport.responders import Gathering

if TYPE_CHECKING:
    from mbactor.kernel.node import Node
    from mbactor.kernel.remote import Remote
    from mbactor.transport.bus import Delivery, Subscription

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Reply(Generic[R_co]):
    """What one of those that were asked has answered: a `value`, or an `error`.

        async for reply in self.ask_all(Stock.level, sku="a-17"):
            total += reply.result()

    `source` is the replica and its host, `id-0f3a9c.stock.example`, as `at` takes it; nothing where a process died with
    the message, or has said nothing of it, and nobody knows which.
    """

    value: R_co | None
    error: MbactorError | None
    source: str

    def result(self) -> R_co:
        """The value; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None is of the type then


class Replies(Generic[R]):
    """The replies to one `ask_all`, by `async for`, once."""

    def __init__(self, route: Route, host: str) -> None:
        self.route = route
        self._host = host
        self._got: deque[Reply[R]] = deque()
        self._more: asyncio.Future[None] | None = None
        self._over = False
        self._error: MbactorError | None = None
        self.gathering: Gathering | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply[R]:
        while not self._got:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        return self._got.popleft()

    def done(self) -> bool:
        """Whether nobody more will answer."""
        return self._over

    @property
    def future(self) -> asyncio.Future[None] | None:
        """What whoever iterates waits for, where nobody but one can end that wait: it may be a deadlock."""
        made = self.gathering
        return self._more if made is not None and made.complete and len(made.silent) == 1 else None

    # --- what comes ---------------------------------------------------------------------------------------------

    def heard(self, message: Message) -> None:
        """A reply, or an error, of somebody."""
        envelope, value, error = message.envelope, None, None
        try:
            if envelope.op == "error":
                error = error_in(message)
            else:
                value = value_in(message, self.route.signature.returns)
        except BadRequest as misfit:
            error = MbactorError(f"{self.route.name} answered what does not fit its annotation: {misfit}")
        self._add(value, error, envelope.replica, envelope.host)

    def lost(self, replica: str, host: str, error: MbactorError) -> None:
        """Somebody who has the message will not answer, or has said nothing of it."""
        self._add(None, error, replica, host)

    def ended(self, error: MbactorError | None) -> None:
        """Nobody more will answer; with an error where there may have been more."""
        self._over, self._error = True, error
        self._wake()

    def _add(self, value: Any, error: MbactorError | None, replica: str, host: str) -> None:
        self._got.append(Reply(value, error, f"{replica}.{host or self._host}" if replica else ""))
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


class ToAll:
    """Sends to all for one node, and hears which nodes are going to answer."""

    def __init__(self, node: Node, remote: Remote, requester: Requester) -> None:
        self._node = node
        self._remote = remote
        self._multicast = Multicast(requester, remote.bus, node.plane)
        self._hears: Subscription | None = None
        remote.bus.when_back(self._announce_all)

    def ask_all(
        self, operation: Reference[..., Any], host: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Replies[Any]:
        """Send to all that serve an operation at a host; the replies as they come."""
        loop, caller = asyncio.get_running_loop(), current.get()
        replies: Replies[Any] = Replies(routes_of(operation.owner).by_name[operation.feature.name], host)
        try:
            check_not_fenced(caller)
            now = loop.time()
            deadline = deadline_of_ask(caller, now, loop)
            budget = deadline - now - self._remote.bus.round_trip
            if budget <= 0:
                raise spent(repr(operation))
            bound = replies.route.signature.bind(args, kwargs)
            message = self._message("ask", replies.route, bound, budget, multi=True)
            self._listen()
            address = operation.feature.address(host)
            source = self._remote.source(caller)
            told = (replies.heard, replies.lost, replies.ended)
            of_event = not operation.feature.served
            gather = self._multicast.send(source, address, message, deadline, *told, of_event=of_event)
            replies.gathering = gather.gathering
        except MbactorError as error:
            replies.ended(error)
        if caller is not None and not replies.done():
            caller.note(replies)
        return replies

    def publish(
        self, event: Reference[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], host: str | None = None
    ) -> bool:
        """Tell whoever sinks the event, at `host` where that is not its own. False where it cannot leave; it is a dead
        letter then. One that is too large for a message goes in fragments, and is a dead letter for each who cannot
        take it. MessageTooLarge above the bound.
        """
        caller, route = current.get(), routes_of(event.owner).by_name[event.feature.name]
        address = event.feature.address(host or host_of(event.owner))
        bound = route.signature.bind(args, kwargs)
        message, source, bus = (
            self._message("publish", route, bound, None),
            self._remote.source(caller),
            self._remote.bus,
        )
        sender = caller.route.address if caller is not None and not caller.outside else None

        def lost(error: MbactorError) -> None:
            self._node.dead_letters.add(str(address), event.feature.name, bound, sender, str(error))

        self._remote.let_go()
        try:
            small = len(message.body) <= min(bus.max_payload, self._node.max_body)
            data = message.to_bytes() if small else None
            if data is not None and len(data) <= bus.max_payload:
                bus.publish(subjects.request_subject(self._node.plane, source, address), data)
            else:
                self._multicast.spread(source, address, message, lost)
        except Unavailable as error:
            lost(error)
            return False
        return True

    def sinks(self, event: Reference[..., Any]) -> int | None:
        """How many get what is published now; None where the bus does not know, and 0 where it carries nothing."""
        if self._remote.bus.unready() is not None:
            return 0
        return self._remote.bus.receivers(self._subject(event.feature.address(host_of(event.owner))))

    def _subject(self, address: Address) -> str:
        return subjects.request_subject(self._node.plane, self._remote.source(current.get()), address)

    def announce(self, host: str, hosts: list[str]) -> None:
        """Tell the other nodes that one more is going to answer at these hosts: what they know is out of date."""
        body, content_type = encode(hosts)
        message = Message(self._remote.envelope("publish", None, content_type), body)
        subject = subjects.request_subject(self._node.plane, host, _NEW)
        with suppress(Unavailable):  # cut off: whatever others know, they wait in vain for nobody
            self._remote.bus.publish(subject, message.to_bytes())

    def _announce_all(self) -> None:
        """The connection was lost, and what is served here was gone for the others."""
        for host, served in self._node.served.items():
            self.announce(host, sorted(served.hosts()))

    def close(self) -> None:
        if self._hears is not None:
            self._hears.unsubscribe()
            self._hears = None

    def _message(self, op: Any, route: Route, bound: dict[str, Any], budget: float | None, **more: Any) -> Message:
        body, content_type = route.signature.encode(bound)
        return Message(self._remote.envelope(op, budget, content_type, **more), body)

    def _listen(self) -> None:
        """From the first request to all on: before, nothing is known that could be out of date."""
        if self._hears is None:
            pattern = subjects.endpoint_pattern(self._node.plane, _NEW)
            self._hears = self._remote.bus.subscribe(pattern, self._announced)

    def _announced(self, delivery: Delivery) -> None:
        with suppress(BadRequest):  # somebody else's message does not end the reading
            for message in messages_of(delivery.data):
                self._multicast.announced(decode(message.body, message.envelope.content_type, set[str]))


_NEW = Address("all", "/on-new-subs", "POST", CONTROL_PORT)
"""Where a node announces what it is going to serve."""
