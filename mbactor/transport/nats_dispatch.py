"""Who gets what a NATS server sends: the subscriptions of a connection.

    dispatch = Dispatch()
    dispatch.subscriptions[1] = Subscribed(1, "a.*", receive, "", remove)
    dispatch.take(1, b"a.b", b"", b"hi", b"")       # calls receive, in the same turn

No queue lies between, and no task. Knows nothing of the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mbactor.transport.bus import Delivery, Failure, Receive, matches
from mbactor.transport.nats_refused import Asked, Refused

VIEW = b"$SYS.REQ.ACCOUNT.PING.CONNZ"
"""Where servers tell whoever asks what they know of the connections of the same account."""
_NOBODY = b"NATS/1.0 503"


class Subscribed:
    """Who receives, and what nats-py looks at when it subscribes anew and when it ends."""

    _max_msgs = 0
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, sid: int, subject: str, receive: Receive, queue: str, remove: Callable[[int], None]) -> None:
        self._id = sid
        self._subject = subject
        self._queue = queue
        self._remove = remove
        self.tokens = tuple(subject.split("."))
        self.receive = receive
        self.refused: str | None = None
        self.told = False
        """Whether it was told that it is refused."""

    def command(self) -> bytes:
        return f"SUB {self._subject} {self._queue} {self._id}\r\n".encode()

    def is_of(self, refused: Refused) -> bool:
        if refused.sid:
            return self._id == refused.sid
        return (self._subject, self._queue) == (refused.subject, refused.queue)

    def unsubscribe(self) -> None:
        self._remove(self._id)


class Dispatch:
    """The subscriptions by their numbers, and the requests that may be refused."""

    def __init__(self) -> None:
        self.subscriptions: dict[int, Subscribed] = {}
        self.leaving: dict[int, Subscribed] = {}
        """Those that have ended, until the server has read that: what is on its way is handed over still. Dropped, it
        would be lost for who waits for an answer.
        """
        self.asked = Asked()
        self.watched = b""
        """The subject of what is published to see whether it comes back; empty where that is not looked at."""
        self.watchable = True
        """Whether the server, as far as is known, lets that be published."""
        self.heard = False
        self.viewed: Callable[[bytes], None] = _nothing
        """Given what comes to the watched subject in answer to `VIEW`; no bytes where there is no answer."""
        self.viewable = True
        """Whether the server, as far as is known, lets that be asked."""

    def take(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """A message has come."""
        subscription = self.subscriptions.get(sid) or self.leaving.get(sid)
        if subscription is None:
            return
        if subject == self.watched:
            if data or headers:
                self.viewed(data)
            else:
                self.heard = True
            return
        failure: Failure | None = None
        if headers and not data and headers.startswith(_NOBODY):
            failure = "no_responders"
        try:
            to, back = subject.decode(), reply.decode() if reply else None
        except UnicodeDecodeError:
            return  # a broker carries any bytes as a subject, and none of ours
        try:
            subscription.receive(Delivery(to, data, back, failure))
        except Exception as error:  # noqa: BLE001 - whatever else was read is for others
            _raised(to, error)

    def refuse(self, found: Refused, text: str) -> bool:
        """Tell whoever is concerned that the server has refused something. False where it is known already."""
        if found.what == "subscribe":
            concerned = [one for one in self.subscriptions.values() if one.is_of(found) and one.refused is None]
            news = any(found.sid or not one.told for one in concerned)  # what it had is not what it has refused before
            for one in concerned:
                one.refused, one.told = text, True
            return news
        if found.what == "publish" and found.subject.encode() == self.watched:
            news, self.watchable = self.watchable, False
            return news
        if found.what == "publish" and found.subject.encode() == VIEW:
            self.viewable = False
            self.viewed(b"")
            return True
        reply = found.subject if found.what == "reply" else self.asked.take(found.subject)
        if reply is not None:
            self._fail(reply, text)
        return True

    def forgive(self) -> None:
        """What is not refused any more is told of again when it is."""
        for one in self.subscriptions.values():
            one.told = one.refused is not None

    def permitted(self) -> int:
        """How many subscriptions the server has not refused."""
        return sum(one.refused is None for one in self.subscriptions.values())

    def forget(self) -> None:
        """The connection is lost: nothing is on its way any more, and all will be subscribed to anew."""
        for one in self.subscriptions.values():
            one.refused = None
        self.viewable = True
        self.viewed(b"")
        self.asked.clear()
        self.leaving.clear()

    def _fail(self, reply: str, text: str) -> None:
        tokens = tuple(reply.split("."))
        told = Delivery(reply, text.encode(), None, "forbidden")
        for one in [one for one in self.subscriptions.values() if matches(one.tokens, tokens)]:
            try:
                one.receive(told)
            except Exception as error:  # noqa: BLE001 - as above
                _raised(reply, error)


def _nothing(_: bytes) -> None:
    """Nobody looks."""


def _raised(subject: str, error: Exception) -> None:
    told = {"message": f"the receiver of {subject} raised", "exception": error}
    asyncio.get_running_loop().call_exception_handler(told)
