"""The parser gives the same frames wherever a stream is cut, and ends with a reason where it is none."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.transport import nats_parser
from mbactor.transport.nats_parser import MalformedStream, Parser

tokens = st.binary(min_size=1, max_size=12).map(lambda raw: bytes(33 + byte % 94 for byte in raw))
bodies = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"MSG a 1 2\r\n", b"PING\r\n"])
"""Also those that look like frames."""


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, tuple[Any, ...]]:
    subject, number, reply, data = draw(tokens), draw(st.integers(0, 10**7)), draw(tokens | st.just(b"")), draw(bodies)
    headers = draw(st.just(b"") | bodies.map(lambda raw: b"NATS/1.0" + raw + b"\r\n\r\n"))
    words = [b"HMSG" if headers else b"MSG", subject, b"%d" % number]
    words += [reply] if reply else []
    words += [b"%d" % len(headers)] if headers else []
    words += [b"%d" % (len(headers) + len(data))]
    frame = b" ".join(words) + b"\r\n" + headers + data + b"\r\n"
    return frame, (number, subject, reply, data, headers)


lines = st.sampled_from(
    [
        (b"PING\r\n", (b"PING", b"")),
        (b"PONG\r\n", (b"PONG", b"")),
        (b"+OK\r\n", (b"+OK", b"")),
        (b'INFO {"max_payload":1} \r\n', (b"INFO", b'{"max_payload":1}')),
        (
            b"-ERR 'Permissions Violation for Publish to \"Rq.Bob\"'\r\n",
            (b"-ERR", b"'Permissions Violation for Publish to \"Rq.Bob\"'"),
        ),
    ]
)


def parsed(chunks: list[bytes]) -> list[tuple[Any, ...]]:
    got: list[tuple[Any, ...]] = []

    def line(word: bytes) -> Any:
        return lambda rest: got.append((word, rest))

    words = (b"PING", b"PONG", b"+OK", b"INFO", b"-ERR")
    parser = Parser(lambda *message: got.append(message), {word: line(word) for word in words})
    for chunk in chunks:
        parser.feed(chunk)
    return got


@given(st.lists(messages() | lines, max_size=8), st.lists(st.integers(0, 800), max_size=12))
def test_a_stream_may_be_cut_anywhere(frames: list[tuple[bytes, tuple[Any, ...]]], cuts: list[int]) -> None:
    stream = b"".join(frame for frame, _ in frames)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(places)]
    assert parsed(chunks) == [meaning for _, meaning in frames]


def test_a_stream_may_come_byte_by_byte() -> None:
    stream = b"MSG a 1 r 3\r\n\r\n.\r\nPING\r\nHMSG b 2 4 5\r\n....x\r\n-ERR 'Capital'\r\n"
    assert parsed([bytes([byte]) for byte in stream]) == [
        (1, b"a", b"r", b"\r\n.", b""),
        (b"PING", b""),
        (2, b"b", b"", b"x", b"...."),
        (b"-ERR", b"'Capital'"),
    ]


def test_a_large_message_in_small_pieces_is_copied_once() -> None:
    data = bytes(4 * 1024 * 1024)
    stream = b"MSG a 1 %d\r\n%s\r\n" % (len(data), data)
    pieces = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
    assert parsed(pieces) == [(1, b"a", b"", data, b"")]  # a copy for each piece would take a minute


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"MSG a 1 2\r\nabcd", "a message of other than 2 bytes: 'MSG a 1 2'"),
        (b"MSG a 1\r\n", "no message: 'MSG a 1'"),
        (b"MSG a 1 r r 2\r\n", "no message"),
        (b"MSG a x 2\r\n", "no message"),
        (b"MSG a -1 2\r\n", "no message"),
        (b"MSG a 1 +2\r\n", "no message"),
        (b"MSG a 1 99999999999\r\n", "no message has this size"),
        (b"HMSG a 1 5 2\r\n", "no message has this size"),
        (b"HMSG\r\n", "no message"),
        (b"MSGS a 1 2\r\n", "no frame of NATS: 'MSGS a 1 2'"),
        (b"HELLO\r\n", "no frame of NATS: 'HELLO'"),
        (b"\r\n", "no frame of NATS: ''"),
        (b"INFO " + b"x" * nats_parser.LINE, "a line of more than 65536 bytes: 'INFO xxx"),
    ],
)
def test_lies_end_it_with_a_reason(stream: bytes, why: str) -> None:
    for chunks in ([stream], [stream[:4], stream[4:]]):
        with pytest.raises(MalformedStream) as caught:
            parsed(chunks)
        assert why in str(caught.value)


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_whatever_comes_is_a_frame_or_refused(chunks: list[bytes]) -> None:
    try:
        parsed(chunks)
    except MalformedStream:
        return
