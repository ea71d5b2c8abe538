"""The contract of every bus. `local.py` and the broker's client pass the same suite of checks.

A bus carries bytes from a publisher to the subscribers of a subject, at most once. Tokens are separated
by dots; in a subscription `*` stands for one token and a final `>` for one or more. Of the subscribers that
share a queue, one gets each message; the order of one publisher's messages is kept for each subscriber.
A message that carries a reply subject and finds nobody is answered at once with the failure `no_responders`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from mbactor.transport.permissions import Permissions

Failure = Literal["no_responders", "refused", "lost", "forbidden"]
"""Why a request gets no answer: nobody serves the subject; whoever does cannot take it now, and it may be repeated;
whoever had it is gone, and nobody knows how far they got; or the bus does not let this publisher publish it.
"""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One message as a subscriber gets it."""

    subject: str
    data: bytes
    reply: str | None = None
    failure: Failure | None = None
    """The bus says that the request gets no answer, and why; there is no data but the bus's own words, if any."""


Receive = Callable[[Delivery], None]
"""Called on the loop for each message; must return at once and must not raise."""


class Subscription(Protocol):
    """Ends with `unsubscribe`. What is on its way to it then still arrives: who waits for an answer gets one. After the
    next `flush` nothing does.
    """

    refused: str | None
    """Why the bus does not let it receive anything; None where it does. Known after a `flush`."""

    def unsubscribe(self) -> None: ...


class Reservation(Protocol):
    """A subject whose server will be back, until it is released."""

    def release(self) -> None: ...


class Bus(Protocol):
    """Carries bytes. Used from one event loop."""

    @property
    def max_payload(self) -> int:
        """Bytes one message may have."""
        ...

    @property
    def round_trip(self) -> float:
        """Seconds that a message and its answer are on the way: so much less than its asker a receiver has."""
        ...

    @property
    def tells_all(self) -> bool:
        """Whether it tells of every request that it cannot answer: none is lost, and no process dies, in silence."""
        ...

    async def connect(self) -> None:
        """Ready to publish and subscribe when it returns."""

    def publish(self, subject: str, data: bytes, *, reply: str | None = None) -> None:
        """Hand a message to the bus; returns at once. Raises Unavailable when the bus is closed, or cut
        off from the others: nothing is kept for later. MessageTooLarge beyond `max_payload`.
        """

    def publish_alone(self, subject: str, data: bytes, reply: str | None) -> bool:
        """`publish` where it leaves at once, being hardly followed by more in this turn of the loop. False where it
        does not: nothing is done then.
        """
        ...

    def when_turn_ends(self, work: Callable[[], None]) -> None:
        """Call `work` at the end of this turn of the loop, before what was published in it leaves."""

    def subscribe(self, subject: str, receive: Receive, *, queue: str | None = None) -> Subscription:
        """Receive what is published to `subject` from now on. ValueError for a malformed subject."""
        ...

    def receivers(self, subject: str) -> int | None:
        """How many would get what is published to `subject` now; None where the bus does not know."""
        ...

    def when_cut(self, tell: Callable[[], None]) -> None:
        """Call `tell` each time the way to the others is cut: answers that were still to come are lost."""

    def when_back(self, tell: Callable[[], None]) -> None:
        """Call `tell` each time the way to the others is there again, with everything that is subscribed; and where it
        is only some of the others who have lost theirs, as far as the bus knows.
        """

    def when_permitted(self, reply: str, tell: Callable[[Permissions | None], None]) -> None:
        """Call `tell` with what may be published here, now and each time that may have changed, and with None while it
        is not known; never where nobody restricts it. `reply` is a subject of one's own to be told at. Needs a
        connected bus.
        """

    def watch(self, subject: str) -> None:
        """Make sure from now on that what is published to `subject`, one of those subscribed to here, comes back. What
        is sent for that is handed to nobody.
        """

    def unready(self) -> str | None:
        """Why it carries nothing now; None where it does, as far as is known."""
        ...

    def waiting(self) -> int:
        """Bytes that were published and have not left yet, about."""
        ...

    async def flush(self) -> None:
        """Returns when all that was published and subscribed before has reached the bus."""

    async def close(self) -> None:
        """Deliver what was accepted, then end. Idempotent."""


def check_pattern(subject: str) -> tuple[str, ...]:
    """The tokens of what is subscribed to. ValueError where it is malformed."""
    tokens = tuple(subject.split("."))
    if not all(tokens) or ">" in tokens[:-1] or " " in subject or not subject.isprintable():
        text = "expected tokens between dots, '>' only as the last, no blanks and no control characters"
        raise ValueError(f"subject {subject!r}: {text}")
    return tokens


def matches(pattern: tuple[str, ...], tokens: tuple[str, ...]) -> bool:
    """Whether what is published to a subject is for who subscribed to a pattern; both by their tokens."""
    if pattern[-1] == ">":
        return len(tokens) >= len(pattern) and matches((*pattern[:-1], "*"), tokens[: len(pattern)])
    return len(pattern) == len(tokens) and all(p in {"*", t} for p, t in zip(pattern, tokens, strict=True))
