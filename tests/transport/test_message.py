"""The envelope: what it says survives, old bytes stay readable, other bytes are refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import ActorCrashed, BadRequest, MailboxFull, MbactorError, from_wire, to_wire
from mbactor.transport.codec import decode, encode, travel
from mbactor.transport.message import (
    JSON,
    MANY,
    Envelope,
    Message,
    ask_part,
    message_of,
    messages_of,
    payload_of,
    reply_part,
)

envelopes = st.builds(
    Envelope,
    op=st.sampled_from(["ask", "tell", "reply"]),
    id=st.text(),
    budget=st.none() | st.floats(0, 1e6),
    path=st.lists(st.text(), max_size=3).map(tuple),
    baggage=st.dictionaries(st.text(), st.text(), max_size=2),
    status=st.integers(100, 599),
)


@given(st.lists(st.builds(Message, envelopes, st.binary()), min_size=1, max_size=4))
def test_messages_survive_their_bytes(messages: list[Message]) -> None:
    assert messages_of(payload_of([message.part() for message in messages])) == messages
    assert [message_of(message.part()) for message in messages] == messages
    assert messages_of(messages[0].to_bytes()) == messages[:1]


@given(st.text(), st.text(), st.text(), st.binary())
def test_a_reply_of_nothing_but_its_replica_reads_as_its_whole_envelope(
    id: str, replica: str, locality: str, body: bytes
) -> None:
    message = Message(Envelope("reply", id, replica=replica, locality=locality), body)
    part = reply_part(id, replica, locality, body)
    assert messages_of(payload_of([part])) == [message]
    assert len(part) < len(message.part())


@given(st.text(), st.floats(0, 1e6), st.binary())
def test_an_ask_of_nothing_but_a_budget_reads_as_its_whole_envelope(id: str, budget: float, body: bytes) -> None:
    assert messages_of(payload_of([ask_part(id, budget, body)])) == [Message(Envelope("ask", id, budget), body)]


def test_golden_bytes() -> None:
    one = Message(Envelope("ask", "1", budget=2.5), b"body")
    two = Message(Envelope("reply", "1", replica="id-x", queue="q", locality="eu", multi=True, host="h"), b"")
    first = (
        "92dc0011a361736ba131cb4004000000000000a0a0b36170706c69636174696f6e2f6d73677061636bccc890c0c080920101a080a0c2a0"
        "c404626f6479"
    )
    second = (
        "92dc0011a57265706c79a131c0a469642d78a26575b36170706c69636174696f6e2f6d73677061636bccc890c0c080920101a080a171c3"
        "a168c400"
    )
    assert one.to_bytes().hex() == "03" + "dd00000001" + first
    assert payload_of([one.part(), two.part()]).hex() == "03" + "dd00000002" + first + second


def test_an_envelope_of_an_older_version_and_one_of_a_later_are_read() -> None:
    later = [*msgspec.to_builtins(Envelope("ask", "2")), "more", {"of": "it"}]
    data = b"\x03" + msgspec.msgpack.encode([[["ask", "1", None], b"x"], [later, b"y", "and more"]])
    assert messages_of(data) == [Message(Envelope("ask", "1"), b"x"), Message(Envelope("ask", "2"), b"y")]


@given(st.binary() | st.binary().map(lambda rest: b"\x03" + rest))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        messages_of(data)


def test_an_envelope_that_is_no_text_or_too_deep_is_refused() -> None:
    deep = b"\xdc\x00\x12" + msgspec.msgpack.encode("ask") + msgspec.msgpack.encode("1") + b"\x91" * 100_000
    golden = msgspec.msgpack.encode(Envelope("ask", "1"))
    deeper = b"\xdc\x00\x12" + golden[3:] + b"\x91" * 100_000  # in a field of a later version
    for envelope in (b"\x92\xa3ask\xa2\xff\xfe", b"\x94\xa3ask\xa11\xc0\xa1\xff", deep, deeper):
        with pytest.raises(BadRequest, match="no message of mbactor"):
            messages_of(b"\x03\x91\x92" + envelope + b"\xc4\x00")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "a payload of version none: expected version 03"),
        (b"\x01abc", "a payload of version 01: expected version 03"),
        (b"\x03", "no message of mbactor: Input data was truncated"),
        (b"\x03\x90", "a payload without a message: expected one at least"),
        (b"\x03\xdd\xff\xff\xff\xff", "no message of mbactor: Input data was truncated"),
        (b"\x03\x91\x92\x92\xa3ask\xa11\xc4\x02x", "no message of mbactor: Input data was truncated"),
        (b"\x03\x91\x92\x00\xc4\x00", "no message of mbactor: Expected `array`, got `int`"),
    ],
)
def test_what_is_refused_says_why(data: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        messages_of(data)


def test_a_payload_of_more_messages_than_a_loop_takes_at_once_is_refused() -> None:
    parts = [ask_part(str(number), 1.0, b"") for number in range(MANY + 1)]
    assert [one.envelope.id for one in messages_of(payload_of(parts[:-1]))] == [str(number) for number in range(MANY)]
    with pytest.raises(BadRequest, match="a payload of 1025 messages: expected 1024 at most"):
        messages_of(payload_of(parts))


@given(st.integers())
def test_integers_of_any_size_travel(value: int) -> None:
    assert travel({"n": [value]}, dict[str, list[int]]) == {"n": [value]}
    body, content_type = encode(value)
    assert (content_type == JSON) == (not -(2**63) <= value < 2**64)
    assert decode(body, content_type, int) == value


def test_a_wrong_field_is_named_by_its_path() -> None:
    with pytest.raises(BadRequest, match=r"Expected `int`, got `str` - at `\$\[...\]`"):
        decode(b'{"a": "x"}', JSON, dict[str, int])


class Sold(MbactorError):
    status = 410

    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is sold", sku=sku)


def test_an_error_crosses_with_type_status_fields_and_trace() -> None:
    try:
        raise Sold("a-1")
    except Sold as error:
        crossed = from_wire(to_wire(error))
    assert isinstance(crossed, Sold)
    assert (crossed.status, crossed.sku, str(crossed)) == (410, "a-1", "a-1 is sold")
    assert "raise Sold" in (crossed.remote_trace or "")


def test_an_error_with_a_constructor_of_its_own_crosses() -> None:
    crossed = from_wire(to_wire(MailboxFull("orders", 10)))
    assert isinstance(crossed, MailboxFull)
    assert crossed.capacity == 10
    assert crossed.taken == "no"


def test_an_exception_that_is_no_answer_crosses_as_a_crash() -> None:
    crossed = from_wire(to_wire(ValueError("boom")))
    assert type(crossed) is ActorCrashed
    assert str(crossed) == "ValueError: boom"


def test_an_unknown_error_type_keeps_status_and_fields() -> None:
    crossed = from_wire({"type": "elsewhere:Gone", "error": "gone", "statusCode": 410, "fields": {"sku": 1}})
    assert type(crossed) is MbactorError
    assert (crossed.status, crossed.sku) == (410, 1)


def test_nothing_is_put_into_what_envelopes_share() -> None:
    with pytest.raises(TypeError, match="expected a mapping of its own"):
        Envelope("ask", "1").baggage["tenant"] = "a"
    assert not messages_of(Message(Envelope("ask", "1"), b"").to_bytes())[0].envelope.baggage
