"""What a NATS server refuses, from the text of its `-ERR`, and whom that concerns. Pure.

    refused('Permissions Violation for Publish to "a.b"')      # Refused("publish", "a.b")

A server does not answer a message that it refuses: its error names the subject, and nothing else of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MANY = 1024
"""Requests after which the server is asked whether it has read them."""
_REFUSED = re.compile(
    r"permissions violation for "
    r"(?:publish to (?P<publish>\".*\")"
    r"|publish with reply of (?P<reply>\".*\")"
    r"|subscription to (?P<subscribe>\".*?\")(?: using queue (?P<queue>\".*?\"))?(?: \(sid \"(?P<sid>\d+)\"\))?$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused publish to a subject, publish with a reply subject, or subscription."""

    what: Literal["publish", "reply", "subscribe"]
    subject: str
    queue: str = ""
    sid: int = 0
    """The number of a subscription that the server had, and has ended; of one that it does not take it tells none."""


def refused(text: str) -> Refused | None:
    """What is refused for want of a permission; None where the error is about something else."""
    found = _REFUSED.match(text)
    if found is None:
        return None
    if found["publish"] is not None:
        return Refused("publish", _unquoted(found["publish"]))
    if found["reply"] is not None:
        return Refused("reply", _unquoted(found["reply"]))
    queue, sid = _unquoted(found["queue"] or '""'), int(found["sid"] or 0)
    return Refused("subscribe", _unquoted(found["subscribe"]), queue, sid)


def _unquoted(text: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", text[1:-1])


class Asked:
    """The requests that the server may still refuse: those it was sent since it last said what it has read.

    A refusal is that of the latest request to its subject: one that was permitted may still wait for its answer.
    """

    def __init__(self) -> None:
        self._unread: list[tuple[str, str]] = []
        self._marked: list[tuple[str, str]] | None = None

    def add(self, subject: str, reply: str) -> bool:
        """Whether it is time to ask the server what it has read: `mark`, then `confirm` when it has answered."""
        self._unread.append((subject, reply))
        return len(self._unread) >= MANY and self._marked is None

    def mark(self) -> None:
        self._marked, self._unread = self._unread, []

    def confirm(self) -> None:
        """The server has read what was marked, and has said what it refuses of it."""
        self._marked = None

    def take(self, subject: str) -> str | None:
        """The reply subject of the latest request to a refused subject; of those that are marked, until it has
        confirmed them: it has not come to the others yet.
        """
        requests = self._unread if self._marked is None else self._marked
        for at in range(len(requests) - 1, -1, -1):
            if requests[at][0] == subject:
                return requests.pop(at)[1]
        return None

    def clear(self) -> None:
        self._unread, self._marked = [], None
