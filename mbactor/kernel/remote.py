"""`Remote`: a node's half that speaks over the bus: asks to other nodes, and asks of other nodes to this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mbactor import observe
from mbactor.errors import BadRequest, CallTooDeep, MbactorError, NoSuchActor
from mbactor.kernel.answers import Answer, Answers, BusCall, Kept, inbox_of, queue_of
from mbactor.kernel.budget import BUDGET_CAP, deadline_of_ask, granted
from mbactor.kernel.client import Response
from mbactor.kernel.context import MAX_DEPTH, Call, check_not_fenced, current
from mbactor.kernel.feature import EVERY, Operation
from mbactor.kernel.multicast import ToAll
from mbactor.kernel.parts import Parts
from mbactor.kernel.routes import Route, routes_of
from mbactor.kernel.sending import failed_already
from mbactor.kernel.ways import Sent, WayOut, address_of, response_in, spent
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus, Delivery
from mbactor.transport.codec import packed
from mbactor.transport.fragments import WHOLE
from mbactor.transport.headers import passed_on, with_passed
from mbactor.transport.message import JSON, MSGPACK, Envelope, Message, messages_of
from mbactor.transport.outbox import Batch, Outbox
from mbactor.transport.peers import Group, question_of
from mbactor.transport.reassembly import Bounds
from mbactor.transport.requester import Requester
from mbactor.transport.transfers import Transfers

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.node import Node


_EMPTY: dict[str, str] = {}


class Remote:
    """Sends over the bus for one node, and receives for its actors."""

    def __init__(self, node: Node, bus: Bus, ack_window: float, bounds: Bounds, *, coalesce: bool) -> None:
        self._node = node
        self.bus = bus
        transfers = Transfers(bus, bounds)
        bus.when_cut(transfers.clear)
        self._requester = Requester(bus, node.plane, node.id, ack_window, transfers, node.locality, coalesce=coalesce)
        kept = Kept(bus)
        self._replies = Outbox(bus, gather=coalesce and not bus.tells_all, sent=_nothing, unsent=self._unsent)
        self._ways: dict[Any, WayOut] = {}
        self.parts = Parts(self, transfers, self._replies, kept)
        self._answers = Answers(bus, ack_window, self.parts.answer, self._replies, kept, bounds.body)
        self.to_all = ToAll(node, self, self._requester)

    async def open(self) -> None:
        await self.bus.connect()
        self.parts.open()
        try:
            await self._requester.open()
            self.bus.watch(subjects.watch_subject(self._node.plane, self._node.name, self._node.id))
        except BaseException:
            await self.close()
            raise

    async def flush(self) -> None:
        """Returns when all that was sent and subscribed before has reached the bus."""
        self.let_go()
        await self.bus.flush()

    def let_go(self) -> None:
        """What is gathered in this turn of the loop leaves now: what is published next comes after it."""
        self._requester.flush()
        self._replies.flush()

    async def close(self) -> None:
        self.let_go()
        await self.parts.left()
        self.to_all.close()
        self._requester.close()
        self.parts.close()
        self._answers.close()
        await self.bus.close()

    @property
    def late(self) -> int:
        """Answers from other nodes that came when nobody waited for them any more."""
        return self._requester.late

    # --- out --------------------------------------------------------------------------------------------------

    def ask(
        self,
        host: str,
        replica: str | None,
        operation: Operation[Any, ..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> asyncio.Future[Any]:
        caller, now = current.get(), self._node.time()
        try:
            if caller is not None:
                check_not_fenced(caller)
            source = self._node.name if caller is None else self.source(caller)
            way = self._ways.get((operation, host, replica, source)) or self._way(host, replica, operation, source)
            deadline = deadline_of_ask(caller, now, self._node.loop)
            budget = deadline - now - self.bus.round_trip
            if budget <= 0:
                raise spent(way.route.name)
            if len(args) == 1 and not kwargs and type(args[0]) in way.exact:
                bound = {way.only: args[0]}
            else:
                bound = way.route.bind(args, kwargs)
            try:
                body, content_type = packed(bound), MSGPACK
            except Exception:  # noqa: BLE001 - what is wrong, or goes as another content type, the long way says
                body, content_type = way.route.signature.encode(bound)
            if caller is not None or observe.tracers or content_type is not MSGPACK:
                message = Message(self.envelope("ask", budget, content_type), body)
                answer = self._requester.ask(way.line, message, deadline, way.read, now)
            else:
                answer = self._requester.ask_plainly(way.line, budget, body, deadline, way.read, way.unpack, now)
        except MbactorError as error:
            return failed_already(error)
        if caller is not None:
            caller.note(Sent(answer))
        return answer

    def _way(self, host: str, replica: str | None, operation: Operation[Any, ..., Any], source: str) -> WayOut:
        if len(self._ways) >= _WAYS:
            self._ways.clear()
        route = routes_of(operation.owner).by_name[operation.feature.name]
        line = self._requester.lines(source, address_of(operation, host, replica))
        way = self._ways[operation, host, replica, source] = WayOut(route, line)
        return way

    def tell(
        self,
        host: str,
        replica: str | None,
        operation: Operation[Any, ..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        signature = routes_of(operation.owner).by_name[operation.feature.name].signature
        address, bound = address_of(operation, host, replica), signature.bind(args, kwargs)
        body, content_type = signature.encode(bound)
        message = Message(self.envelope("tell", None, content_type), body)
        lost = self._lost(str(address), operation, bound)
        self._requester.send(self.source(current.get()), address, message, lost)
        return True

    def tell_nobody(
        self, error: NoSuchActor, operation: Operation[Any, ..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """As `tell`, to who is known not to be reached over the bus."""
        bound = routes_of(operation.owner).by_name[operation.feature.name].signature.bind(args, kwargs)
        self._lost(error.address, operation, bound)(error)
        return False

    def _lost(
        self, address: str, operation: Operation[Any, ..., Any], bound: dict[str, Any]
    ) -> Callable[[MbactorError], None]:
        """What makes a dead letter of what is told now, and gives it back to its sender."""
        caller = current.get()
        source = caller.cell if caller is not None else None
        sender = caller.route.address if caller is not None and source is not None else None

        def lost(error: MbactorError) -> None:
            letter = self._node.dead_letters.add(address, operation.feature.name, bound, sender, str(error))
            if source is not None and source.routes.returns_letters:
                source.notice("on_undelivered", letter=letter)

        return lost

    def request(
        self,
        address: Address,
        body: bytes,
        query: str,
        headers: Mapping[str, str],
        deadline: float,
        *,
        call_off: bool = False,
    ) -> asyncio.Future[Response]:
        budget = deadline - asyncio.get_running_loop().time() - self.bus.round_trip
        if budget <= 0:
            raise spent(str(address))
        envelope = self.envelope("ask", budget, JSON, query=query, headers=headers)
        sent = self._requester.request(
            self.source(current.get()), address, Message(envelope, body), deadline, response_in
        )
        if call_off:
            sent.add_done_callback(lambda done: self._requester.call_off(done) if done.cancelled() else None)
        return sent

    def ask_peers(
        self, cell: Cell, groups: list[Group], told: Callable[[list[Group]], None], over: Callable[[], None]
    ) -> None:
        """Ask all that serve a cell's host which of these groups they have room for. `told` is given what each of them
        says, `over` is called when nobody more will. Unavailable where the bus is cut off.
        """
        host = cell.cls.host or ""
        message, question = question_of(
            self._requester.new_id(), host, cell.replica, groups, told, over, self._node.time()
        )
        self._requester.post(host, message, question)

    def envelope(
        self, op: Any, budget: float | None, content_type: str, headers: Mapping[str, str] = _EMPTY, **more: Any
    ) -> Envelope:
        caller = current.get()
        check_not_fenced(caller)
        path: tuple[str, ...] = ()
        if caller is not None and op == "ask":
            steps = caller.path() if caller.outside else (*caller.path(), caller)
            path = tuple(p if isinstance(p, str) else self._step(p) for p in steps)
            if len(path) > MAX_DEPTH:
                raise CallTooDeep(f"it would be call number {len(path)} in a chain; the limit is {MAX_DEPTH}")
        return Envelope(
            op,
            self._requester.new_id(),
            budget,
            content_type=content_type,
            path=path,
            trace=observe.traceparent() or (caller.trace if caller else None),
            identity=caller.token if caller else None,
            baggage=dict(caller.baggage or {}) if caller else {},
            headers=with_passed(headers, caller.passed if caller else None),
            **more,
        )

    def _step(self, call: Call) -> str:
        return f"{self._node.id}/{call.id}:{call.route.name}"

    def source(self, caller: Call | None) -> str:
        host = caller.route.owner.host if caller is not None and not caller.outside else None
        return host or self._node.name

    # --- in -----------------------------------------------------------------------------------------------------

    def _unsent(self, batch: Batch, error: MbactorError) -> None:  # noqa: ARG002 - what an outbox tells
        self.parts.keep(batch)

    def receive(self, cell: Cell, route: Route | None, delivery: Delivery) -> None:
        try:
            messages = messages_of(delivery.data)
        except BadRequest as error:
            name = route.feature.name if route is not None else "?"
            self._node.dead_letters.add(cell.address, name, None, None, str(error))
            return
        reply, inbox = delivery.reply, ""
        if reply is not None:
            inbox = subjects.own_inbox(delivery.subject, reply)
            if not inbox:
                # A responder answers only to the verified source's own inbox.
                delivery, reply = Delivery(delivery.subject, delivery.data), None
        now = self._node.time()
        served = cell.served
        if served is not None and len(served.beside) > 1 and route is not None and route.feature.queue != EVERY:
            cell = served.taker(route.feature.name)
        if route is not None and reply is not None and not route.open:
            self._take_asks(cell, route, delivery, messages, inbox, now)
            return
        for message in messages:
            self._take_any(cell, route, delivery, message, now)

    def _take_asks(
        self, cell: Cell, route: Route, delivery: Delivery, messages: list[Message], inbox: str, now: float
    ) -> None:
        """As `take`, for nearly all there are: asks by no other call, for the method of this subscription.

        Scalars among their arguments are read at once: such a call is then run as one that was made in this process.
        """
        reply, replica, answers = delivery.reply or "", cell.replica, self._answers
        owed, signature = answers.book(), route.signature
        unpack = signature.unpack if signature.scalar and route.direct is not None else None
        gate = cell.main if route.quick and cell.main is not None and not cell.main.keyed else None
        for message in messages:
            envelope = message.envelope
            budget = envelope.budget
            if envelope.op != "ask" or envelope.fragment != WHOLE or budget is None or envelope.path or envelope.multi:
                self._take_any(cell, route, delivery, message, now)
                continue
            answer: Any = Answer(answers, reply, inbox, envelope.id, cell, replica)
            owed[answer] = now
            deadline = now + (budget if 0 < budget <= BUDGET_CAP else granted(budget, asked=True))
            given, direct, body, content_type = None, None, message.body, envelope.content_type
            if unpack is not None and content_type == MSGPACK and not envelope.query:
                try:
                    given = unpack(body)
                except Exception:  # noqa: BLE001, S110 - what is wrong, the worker says
                    pass
                else:
                    if len(given) == len(signature.exact):
                        direct, body = route.direct, b""
                    else:
                        given = None
            headers = envelope.headers
            call = BusCall(
                route, given, cell, now, None, None, deadline, answer, direct, None, envelope.trace,
                envelope.baggage or None, body=body, content_type=content_type, query=envelope.query,
                token=envelope.identity, passed=passed_on(headers) if headers else None,
            )  # fmt: skip
            if gate is not None and gate.quick:
                # As `accept`, where there is room: by no call of this process it was made, so none waits for it.
                work, queue = gate.work, gate.queue
                depth = len(work)
                if depth < queue.mark or queue.deepens(depth):
                    work.append(call)
                    if (not gate.idle or not gate.kick()) and deadline < cell.timer_at:
                        cell.watch_deadline(deadline)
                    continue
            cell.accept(call)

    def _take_any(self, cell: Cell, route: Route | None, delivery: Delivery, message: Message, now: float) -> None:
        """Whole, or a part of one, or what belongs to that."""
        envelope = message.envelope
        deadline = now + granted(envelope.budget, asked=envelope.op == "ask")
        if envelope.fragment != WHOLE or envelope.op == "ack":
            self.parts.take(cell, route, delivery, message, deadline)
        else:
            self.take(cell, route, delivery, message, deadline)

    def take(self, cell: Cell, route: Route | None, delivery: Delivery, message: Message, deadline: float) -> bool:
        """A whole message, whose reply subject has been looked at. False where it was refused."""
        envelope = message.envelope
        if envelope.op == "probe":
            self._probed(cell, delivery, envelope)
            return True
        if envelope.op == "cancel":
            self._cancel(cell, inbox_of(delivery.reply or ""), envelope.id)
            return True
        now = self._node.time()
        found = None if route is None or route.open else route
        call = BusCall.of(found, cell, message, now, deadline)
        if delivery.reply is not None and (envelope.op == "ask" or envelope.locality):
            self._promise(call, route, delivery, envelope)
        path = envelope.path
        try:
            if len(path) > MAX_DEPTH:
                raise CallTooDeep(f"call number {len(path)} in a chain; the limit is {MAX_DEPTH}")
            if envelope.op not in _REQUESTS:
                raise BadRequest(f"{envelope.op!r} is no request; expected {', '.join(_REQUESTS)}")
            if found is None:
                call.find(subjects.parse_request(delivery.subject).address)
        except MbactorError as error:
            error.taken = "no"
            call.fail(error)
            if not call.asked:
                self._node.dead_letters.add(cell.address, "?", None, None, str(error))
            return True
        if path:
            call.depth = len(path)
            call.via = tuple(self._known(step) for step in path)
        return cell.accept(call)

    def _probed(self, cell: Cell, delivery: Delivery, envelope: Envelope) -> None:
        """Who expects an answer to a request to all of this cell hears where it is not given such requests any more."""
        if not envelope.multi or delivery.reply is None or (cell.served and cell.served.takes(delivery.subject)):
            return
        answer = self.owed(cell, None, delivery, envelope)
        self._answers.give(answer, answer.error(NoSuchActor(cell.address, "it does not serve this now")))

    def _promise(self, call: Call, route: Route | None, delivery: Delivery, envelope: Envelope) -> None:
        """Who asks is owed an answer; who tells, and says from where, hears where it was taken."""
        answer: Any = self.owed(call.cell, route, delivery, envelope)
        if envelope.op == "ask":
            self._answers.owe(answer, call.arrived)
            call.future = answer
        elif envelope.op == "tell":
            self._answers.acknowledge(answer)

    def _cancel(self, cell: Cell, inbox: str, id: str) -> None:
        """Whoever asked has called it off."""
        for gate in cell.gates:
            running = (worker.call for worker in (*gate.workers, *gate.leaving))
            for call in [*gate.queue.items(), *running]:
                if call is None:
                    continue
                answer: Any = call.future
                if isinstance(answer, Answer) and (answer.inbox, answer.request) == (inbox, id):
                    self._answers.forget(answer)
                    cell.call_off(call)

    def owed(self, cell: Cell, route: Route | None, delivery: Delivery, envelope: Envelope) -> Answer:
        """What a request is answered with."""
        queue = queue_of(route, cell) if envelope.multi and route is not None else ""
        reply, at_once = delivery.reply or "", envelope.multi
        if queue and route is not None and route.feature.elsewhere and reply:
            reply = subjects.answered_by(cell.cls.host or "", reply)
        inbox, replica = inbox_of(reply), cell.replica
        return Answer(self._answers, reply, inbox, envelope.id, cell, replica, at_once=at_once, queue=queue)

    def _known(self, step: str) -> Any:
        """A step of a call path that this process made, as the running call it stands for."""
        prefix = f"{self._node.id}/"
        if step.startswith(prefix):
            number = step[len(prefix) :].partition(":")[0]
            found = self._node.running_call(int(number)) if number.isdecimal() and len(number) < _LONGEST else None
            return found or step
        return step


_WAYS = 4096
_REQUESTS = ("ask", "tell", "publish")
_LONGEST = 20
"""Digits that the number of a call does not have."""


def _nothing(*_: object) -> None:
    """Whoever asked cannot be reached, and knows."""
