"""What a program of somebody else sends to an actor: whatever it is, it is answered or kept as a dead letter."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest

from mbactor import Actor, ActorSystem, endpoint
from mbactor.errors import BadRequest, BudgetSpent, CallTooDeep, MbactorError
from mbactor.kernel.budget import BUDGET_CAP, DEFAULT_BUDGET, granted
from mbactor.testing.loop import VirtualTimeLoop
from mbactor.transport import Address, LocalBus, subjects
from mbactor.transport.ask import error_in
from mbactor.transport.message import messages_of
from mbactor.transport.peers import PEERS
from mbactor.transport.reserved import RESERVED, Reserved
from tests.transport.inbox import Inbox

PLANE, SOURCE, NODE, HOST = "forged", "liar.example", "id-liar", "clerk.example"


class Clerk(Actor):
    host = HOST

    def __init__(self) -> None:
        self.calls = 0

    @endpoint
    async def count(self) -> int:
        self.calls += 1
        return self.calls


class Liar:
    """Publishes what it likes, by a subject of its own."""

    def __init__(self, bus: LocalBus) -> None:
        self.bus = bus
        self.inbox = Inbox()
        bus.subscribe(subjects.inbox_pattern(PLANE, NODE), self.inbox)

    async def say(
        self,
        data: bytes,
        subject: str = f"{PLANE}.safe.443.liar_example.clerk_example._.post.count",
        source: str = SOURCE,
    ) -> Any:
        """The result, or the error, that comes of it; nothing where nothing does. `source` has the inbox."""
        before = len(self.inbox.got)
        self.bus.publish(subject, data, reply=subjects.reply_subject(PLANE, HOST, source, NODE, "1"))
        await asyncio.sleep(0.1)
        if len(self.inbox.got) == before:
            return None
        [answer] = messages_of(self.inbox.got[-1].data)
        if answer.envelope.op == "ack":
            return "ack"
        return error_in(answer) if answer.envelope.op == "error" else msgspec.msgpack.decode(answer.body)


def envelope(**fields: Any) -> bytes:
    """As somebody writes it that has never heard of our types."""
    names = (
        "op",
        "id",
        "budget",
        "replica",
        "locality",
        "content_type",
        "status",
        "path",
        "trace",
        "identity",
        "baggage",
        "fragment",
        "query",
    )
    plain = {"op": "ask", "id": "1", "budget": 5.0, "replica": "", "locality": "",
             "content_type": "application/msgpack", "status": 200, "path": [], "trace": None, "identity": None,
             "baggage": {}, "fragment": [1, 1], "query": ""}  # fmt: skip
    return msgspec.msgpack.encode([{**plain, **fields}[name] for name in names])


def payload(head: bytes, body: bytes = b"\x80") -> bytes:
    return b"\x03\x91\x92" + head + msgspec.msgpack.encode(body)


def forged(work: Any) -> None:
    async def run() -> None:
        raised: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        bus = LocalBus()
        async with ActorSystem("serves", bus, PLANE, watchdog=None) as system:
            await system.spawn(Clerk)
            await work(system, Liar(bus))
            assert isinstance(await system.ask(Clerk.count), int)
        assert raised == []

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    ("fields", "comes"),
    [
        ({}, int),
        ({"budget": None}, int),
        ({"budget": math.inf}, int),
        ({"budget": 1e300}, int),
        ({"budget": 0}, BudgetSpent),
        ({"budget": -5.0}, BudgetSpent),
        ({"budget": math.nan}, BudgetSpent),
        ({"budget": -math.inf}, BudgetSpent),
        ({"path": ["x/1:f"] * 64}, int),
        ({"path": ["x/1:f"] * 65}, CallTooDeep),
        ({"path": ["x/1:f"] * 100_000}, CallTooDeep),
        ({"path": ["", "/", "{node}/", "{node}/²:f", "{node}/" + "9" * 6_000 + ":f"]}, int),
        ({"trace": "no\0trace" * 1_000}, int),
        ({"id": "x" * 1_000_000}, int),
        ({"baggage": {str(n): "v" * 100 for n in range(10_000)}}, int),
        ({"content_type": "text/evil"}, BadRequest),
        ({"fragment": [2**63, 2**63]}, MbactorError),
        ({"fragment": [-1, -1]}, MbactorError),
        ({"fragment": [1, 0]}, BadRequest),
        ({"fragment": [0, 0]}, type(None)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_envelope_that_lies_is_answered_within_its_time(fields: dict[str, Any], comes: type) -> None:
    async def work(system: ActorSystem, liar: Liar) -> None:
        if "path" in fields:
            fields["path"] = [step.replace("{node}", system.node.id) for step in fields["path"]]
        assert isinstance(await liar.say(payload(envelope(**fields))), comes)

    forged(work)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x03",
        b"\x03\x90",
        b"\x03\xdd\xff\xff\xff\xff",
        b"\x03" + b"\xff" * 8,
        b"\x03" + b"\0" * 8,
        payload(b"\x91" * 500_000),
        payload(b"\xc1"),
        payload(b"[]"),
        payload(envelope(op="reply")),
        payload(envelope(op="error")),
        payload(envelope(op="nonsense")),
        payload(envelope(op=7)),
        payload(envelope(id=None)),
        payload(envelope(budget="soon")),
        payload(envelope(path=[1])),
        payload(envelope(baggage=[])),
        payload(envelope(fragment=[1])),
        payload(envelope(fragment=["1", "2"])),
        payload(envelope(status=2**64 - 1)),
        payload(envelope())[:-1],
        payload(envelope()) + b"x",
    ],
    ids=lambda value: value[:16].hex() + str(len(value)),
)
def test_bytes_that_are_no_request_are_a_dead_letter_and_run_nothing(data: bytes) -> None:
    async def work(system: ActorSystem, liar: Liar) -> None:
        came = await liar.say(data)
        if came is None:
            assert system.dead_letters.total == 1
            assert await system.ask(Clerk.count) == 1
        else:
            assert isinstance(came, int | MbactorError)

    forged(work)


@pytest.mark.parametrize("tokens", ["x.liar_example", "443.%ff", "443.liar_example"])
@pytest.mark.parametrize("path", ["%ff", "nowhere", "a%2fb"])
def test_a_forged_subject_is_answered_or_a_dead_letter(tokens: str, path: str) -> None:
    async def work(system: ActorSystem, liar: Liar) -> None:
        [cell] = system.node.served[HOST].cells
        subject = f"{PLANE}.safe.{tokens}.clerk_example.{cell.replica}.post.{path}"
        assert isinstance(await liar.say(payload(envelope()), subject), MbactorError | None)

    forged(work)


def test_who_asks_in_the_name_of_another_gets_no_answer() -> None:
    """The source that the broker has verified, and the inbox of somebody else."""

    async def work(system: ActorSystem, liar: Liar) -> None:
        subject = f"{PLANE}.safe.443.other_example.clerk_example._.post.count"
        assert await liar.say(payload(envelope()), subject) is None

    forged(work)


def test_which_replicas_have_room_is_told_to_those_of_their_host_in_their_own_name() -> None:
    async def work(system: ActorSystem, liar: Liar) -> None:
        [cell] = system.node.served[HOST].cells
        assert cell.served is not None
        groups = [[*group] for group in cell.served.groups()]
        question = payload(envelope(op="probe"), msgspec.msgpack.encode(groups))

        def subject(source: str) -> str:
            return subjects.request_subject(PLANE, source, Address(HOST, "/", replica=PEERS))

        assert await liar.say(question, subject(HOST), source=HOST) == groups
        assert await liar.say(question, subject(HOST)) is None
        assert await liar.say(question, subject(SOURCE)) is None

    forged(work)


def test_that_a_place_is_kept_is_told_to_who_asks_in_its_own_name() -> None:
    async def work(_: ActorSystem, liar: Liar) -> None:
        place = Reserved(liar.bus, PLANE, lambda *_: None, "eu-west")
        place.serves(HOST, on=True)
        for replica in (RESERVED, f"{RESERVED}-loc-eu", f"{RESERVED}-loc-eu-west"):
            address = Address(HOST, "/count", replica=replica)
            inquiry = payload(envelope(op="probe"), b"")
            assert await liar.say(inquiry, subjects.request_subject(PLANE, SOURCE, address)) == "ack"
            assert await liar.say(inquiry, subjects.request_subject(PLANE, "other.example", address)) is None
        place.release()

    forged(work)


def test_time_is_granted_up_to_the_cap_and_never_for_nonsense() -> None:
    assert (granted(None, asked=True), granted(None, asked=False)) == (DEFAULT_BUDGET, math.inf)
    assert [granted(budget, asked=True) for budget in (0.5, 1e9, math.inf)] == [0.5, BUDGET_CAP, BUDGET_CAP]
    assert [granted(budget, asked=True) for budget in (0.0, -1.0, math.nan, -math.inf)] == [0.0] * 4
