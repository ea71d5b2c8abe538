"""Which queue groups others have room for: what a replica asks that cannot take its messages.

    peers = Peers(bus, plane, "orders.example", with_room)     # a process serves the host, and answers
    message, question = question_of(id, host, replica, groups, told, over, now)

Every process that serves a host listens at an address beside it, `PEERS`, and answers with those of the groups that it
has room for; where it has none it says nothing. Costs one subscription a host and process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mbactor.errors import BadRequest, MbactorError, Unavailable
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus, Delivery
from mbactor.transport.codec import decode, encode
from mbactor.transport.message import Envelope, Message, messages_of
from mbactor.transport.waiting import Waiter

PEERS = "peers"
"""Stands for the replica in the address at which all processes that serve a host are asked."""
WITHIN = 2.0
"""Seconds after which whoever has not answered has no room."""

Group = tuple[str, str]
"""A queue group: the subjects that its members subscribe to, and the name of the queue."""


class Peers:
    """Answers for the replicas of one host in one process. `with_room(asks, groups)` says which of the groups any of
    them has room for, but for the one that asks.
    """

    def __init__(self, bus: Bus, plane: str, host: str, with_room: Callable[[str, list[Group]], list[Group]]) -> None:
        self._bus = bus
        self._host = subjects.host_token(host)
        self._with_room = with_room
        self._subscription = bus.subscribe(subjects.instance_pattern(plane, host, PEERS), self._asked)

    def close(self) -> None:
        self._subscription.unsubscribe()

    def _asked(self, delivery: Delivery) -> None:
        reply = delivery.reply
        if reply is None or not subjects.own_inbox(delivery.subject, reply):
            return
        if delivery.subject.split(".", 4)[3] != self._host:
            return  # as the broker has verified, it is none of the host's
        with suppress(BadRequest, Unavailable):
            for message in messages_of(delivery.data):
                envelope = message.envelope
                groups = self._with_room(envelope.replica, decode(message.body, envelope.content_type, list[Group]))
                if groups:
                    body, content_type = encode(groups)
                    answer = Message(Envelope("reply", envelope.id, content_type=content_type), body)
                    self._bus.publish(reply, answer.to_bytes())


class Question(Waiter, eq=False):
    """Waits for those who have room. `told` is given the groups of each of them, `over` is called once, last."""

    told: Callable[[list[Group]], None]
    over: Callable[[], None] | None

    def done(self) -> bool:
        return self.over is None

    def answered(self, message: Message) -> None:
        if message.envelope.op == "reply":
            with suppress(BadRequest):
                self.told(decode(message.body, message.envelope.content_type, list[Group]))

    def failed(self, error: MbactorError) -> None:  # noqa: ARG002 - whatever it was, nobody more says so
        over, self.over = self.over, None
        if over is not None:
            over()


def question_of(
    id: str,
    host: str,
    replica: str,
    groups: list[Group],
    told: Callable[[list[Group]], None],
    over: Callable[[], None],
    now: float,
) -> tuple[Message, Question]:
    """What a replica asks the others of its host, and who waits for their answers."""
    body, content_type = encode(groups)
    message = Message(Envelope("probe", id, replica=replica, content_type=content_type), body)
    return message, Question(id, Address(host, "/", replica=PEERS), now + WITHIN, told, over)
