r"""The protocol of a NATS server, taken apart in one pass. Pure.

    parser = Parser(message, {b"PING": ping})
    parser.feed(b"PING\r\nMSG a.b 1 2\r\nh")      # calls ping(b"")
    parser.feed(b"i\r\n")                          # calls message(1, b"a.b", b"", b"hi", b"")

A frame may be cut at any byte; what is there of it is kept until the rest comes, and is copied once. A line of `LINE`
bytes without an end, a message above `MESSAGE`, and whatever is no frame raise MalformedStream: nothing that follows in
the stream can be told apart any more, so the connection has to end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

LINE = 64 * 1024
"""Bytes a line may have. That of INFO names all servers of a cluster."""
MESSAGE = 256 * 1024 * 1024
"""Bytes a message may have, with its headers. A server's own limit is lower."""
KEPT = 4096
"""Numbers that are read once: those of subscriptions and sizes come again with every message."""

Take = Callable[[int, bytes, bytes, bytes, bytes], None]
"""Called with the number of the subscription, the subject, the reply subject, the data and the headers."""
_END = b"\r\n"
_MESSAGES = (b"MSG", b"HMSG")


class MalformedStream(Exception):
    """What came is not what a NATS server sends."""


class Parser:
    """Calls `message` for each message; for each other line what `lines` has under its first word, with the rest."""

    def __init__(self, message: Take, lines: Mapping[bytes, Callable[[bytes], None]]) -> None:
        self._message = message
        self._lines = lines
        self._kept: list[bytes] = []
        self._size = 0
        self._needed = 0
        """Bytes without which there is no whole frame in what is kept."""

    def feed(self, data: bytes) -> None:  # noqa: C901 - in one piece: each call more is paid for by every message
        """Take what was read. MalformedStream where it is no frame; nothing more may be fed then."""
        if self._kept:
            self._kept.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return
            data = b"".join(self._kept)
            self._kept.clear()
        at, there, message, known = 0, len(data), self._message, _numbers.get
        while at < there:
            line_end = data.find(_END, at, at + LINE + 2)
            if line_end < 0:
                if there - at > LINE:
                    raise MalformedStream(f"a line of more than {LINE} bytes: {_shown(data[at:])}")
                self._needed = there - at + 1
                break
            line = data[at:line_end]
            parts = line.split(b" ")
            word = parts[0]
            if word not in _MESSAGES:
                self._line(line)
                at = line_end + 2
                continue
            try:
                headers = 0 if word == b"MSG" else _number(parts.pop(-2))
                if len(parts) == 5:
                    _, subject, sid, reply, digits = parts
                else:
                    _, subject, sid, digits = parts
                    reply = b""
                number, size = known(sid), known(digits)
                if number is None or size is None:
                    number, size = _number(sid), _number(digits)
            except (ValueError, IndexError):
                raise MalformedStream(f"no message: {_shown(line)}") from None
            if not headers <= size <= MESSAGE:
                raise MalformedStream(f"no message has this size: {_shown(line)}")
            start = line_end + 2
            end = start + size
            after = end + 2
            if there < after:
                self._needed = after - at
                break
            if data.find(_END, end, after) != end:
                raise MalformedStream(f"a message of other than {size} bytes: {_shown(line)}")
            at = after
            if headers:
                message(number, subject, reply, data[start + headers : end], data[start : start + headers])
            else:
                message(number, subject, reply, data[start:end], b"")
        if at < there:
            self._kept.append(data[at:] if at else data)
            self._size = there - at

    def _line(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        take = self._lines.get(word)
        if take is None:
            raise MalformedStream(f"no frame of NATS: {_shown(line)}")
        take(rest.strip())


_numbers: dict[bytes, int] = {}
"""Each number that was read, from its digits: to look one up takes a fifth of the time that `int` does."""


def _number(digits: bytes) -> int:
    """ValueError where it is none."""
    if not digits.isdigit():
        raise ValueError(digits)
    number = int(digits)
    if len(_numbers) < KEPT:
        _numbers[digits] = number
    return number


def _shown(what: bytes) -> str:
    return repr(what[:80])[1:]
