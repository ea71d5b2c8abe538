"""What cannot be asked, or served, is refused alike within a process and over a bus, and harms nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mbactor import Actor, ActorSystem, MbactorError, NoSuchActor, StartFailed, endpoint, event
from mbactor.errors import AddressTooLong, BadRequest, DeclarationError
from mbactor.transport import Address, Delivery, Envelope, Message, messages_of, subjects
from mbactor.transport.ask import error_in
from mbactor.transport.message import JSON
from tests.kernel.conftest import Start
from tests.transport.inbox import Inbox

pytestmark = pytest.mark.anyio


class Shelf(Actor):
    host = "shelf.example"

    @endpoint
    async def size(self, of: int = 1) -> int:
        return of

    @endpoint(path="/at/{place...}")
    async def at_place(self, place: str) -> int:
        return len(place)

    @endpoint(path="/any", port=0)
    async def any_port(self) -> str:
        return "any"

    @endpoint(path="/any/{rest...}", port=0)
    async def any_port_below(self, rest: str) -> str:
        return f"any {rest}"

    @endpoint(path="/any/open", port=666)
    async def open(self) -> str:
        return "open"


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


@pytest.fixture(params=["within", "from outside"])
async def asks(request: pytest.FixtureRequest, start: Start) -> ActorSystem:
    """A system that reaches the shelf: its own, or another's."""
    serves, other = await start(Shelf), await start()
    return serves if request.param == "within" else other


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"url": "https://[shelf/size"}, "has no valid host"),
        ({"url": "https://shelf.example:0/any"}, "has no valid port: 0 stands for any"),
        ({"url": "https://shelf.example/at/\ud800"}, r"url: 'https://shelf.example/at/\\ud800' given, and it cannot"),
        ({"url": "https://shelf.example/size?of=\ud800"}, "url: .* cannot travel"),
        ({"url": None}, "url: None given, a text expected"),
        ({"method": "ANY"}, "'ANY' is no valid method"),
        ({"method": 5}, "method: 5 given, a text expected"),
        ({"query": {"of": 2}}, "query: {'of': 2} given, a text expected"),
        ({"headers": {"x-forwarded-for": 7}}, "header 'x-forwarded-for': 7 given, a text expected"),
        ({"headers": {"accept-language": None}}, "header 'accept-language': None given, a text expected"),
        ({"headers": {"accept-language": "\ud800"}}, "header 'accept-language': .* cannot travel"),
        ({"headers": {7: "x"}}, "header: 7 given, a text expected"),
        ({"headers": "x"}, "cannot be sent: dictionary"),
        ({"body": object()}, "cannot be sent: Encoding objects of type object"),
        ({"body": nested(5000)}, "cannot be sent: maximum recursion depth"),
    ],
)
async def test_a_request_that_is_none_says_so_and_was_not_taken(
    asks: ActorSystem, given: dict[str, Any], why: str
) -> None:
    request: dict[str, Any] = {"method": "POST", "url": "https://shelf.example/size", **given}
    with pytest.raises(BadRequest, match=why) as refused:
        await asks.node.request(**request)
    assert refused.value.taken == "no"


async def test_what_is_wrong_with_one_request_is_no_matter_of_those_of_the_same_turn(asks: ActorSystem) -> None:
    url = "https://shelf.example/size"
    wrong: Any = {"x-forwarded-for": 7}
    asked = [asks.request("POST", url, None, headers) for headers in (None, wrong, {"x-forwarded-for": "7"})]
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(second, BadRequest)
    assert [answer.json() for answer in (first, third) if not isinstance(answer, BaseException)] == [1, 1]


async def test_an_address_too_long_for_a_subject_is_too_long_wherever_it_is(asks: ActorSystem) -> None:
    before = len(subjects.request_subject(asks.node.plane, asks.name, Address("shelf.example", "/at/")))
    longest = 1024 - before + 1  # an empty segment is `_`
    assert (await asks.request("POST", f"https://shelf.example/at/{'x' * longest}")).json() == longest
    for more in ("x" * (longest + 1), "\u00e4" * (longest // 6 + 1)):
        with pytest.raises(AddressTooLong, match="the limit is 1024") as refused:
            await asks.request("POST", f"https://shelf.example/at/{more}")
        assert (refused.value.status, refused.value.taken) == (414, "no")


async def test_any_port_is_any_but_the_trusted_one(asks: ActorSystem) -> None:
    async def answer(port: int, path: str) -> Any:
        return (await asks.request("POST", f"https://shelf.example:{port}{path}")).json()

    assert [await answer(port, "/any") for port in (1, 80, 443, 888, 65535)] == ["any"] * 5
    assert [await answer(443, "/any/open"), await answer(666, "/any/open")] == ["any open", "open"]
    for path in ("/any", "/any/other"):
        with pytest.raises(NoSuchActor):
            await answer(666, path)


async def test_a_host_does_not_tell_upper_from_lower_case_and_what_is_none_is_refused(asks: ActorSystem) -> None:
    assert await asks.at("Shelf.EXAMPLE").ask(Shelf.size) == 1
    for host in ("", "shelf example", "shelf.>", "*", "shelf_example", None):
        with pytest.raises(BadRequest, match="is no host") as refused:
            asks.at(host)  # type: ignore[arg-type]
        assert refused.value.taken == "no"


async def test_what_the_broker_keeps_from_the_trusted_port_is_not_to_be_had_by_another_spelling(start: Start) -> None:
    """It knows subjects by their tokens: what may be published as `safe` reaches nothing at port 666."""
    system, other = await start(Shelf), await start()
    [cell] = system.node.served["shelf.example"].cells
    bus, plane, inbox = other.node.remote.bus, system.node.plane, Inbox()
    bus.subscribe(subjects.inbox_pattern(plane, "id-liar"), inbox)
    await bus.flush()
    ask = Message(Envelope("ask", "1", 5.0, content_type=JSON), b"{}").to_bytes()
    reply = subjects.reply_subject(plane, "shelf.example", "liar.example", "id-liar", "1")

    async def answer(trust: str, port: str, replica: str, method: str, path: str) -> Any:
        before = len(inbox.got)
        subject = f"{plane}.{trust}.{port}.liar_example.shelf_example.{replica}.{method}.{path}"
        bus.publish(subject, ask, reply=reply)
        found: Delivery = (await inbox.until(before + 1))[-1]
        [message] = messages_of(found.data)
        if message.envelope.op == "error":
            assert error_in(message).taken == "no"
        return message.envelope.op, message.envelope.status

    assert await answer("danger", "666", cell.replica, "post", "any.open") == ("reply", 200)
    assert await answer("safe", "443", "_", "post", "any.open") == ("reply", 200)
    for replica in (cell.replica, "_"):
        assert await answer("safe", "666", replica, "post", "any.open") == ("error", 400)
        assert await answer("safe", "6_66", replica, "post", "any.open") == ("error", 400)
        assert await answer("safe", "0443", replica, "post", "any.open") == ("error", 400)
        assert await answer("safe", "443", replica, "POST", "any.open") == ("error", 400)
        assert await answer("safe", "443", replica, "post", "any.%6fpen") == ("error", 400)


class TooLong(Actor):
    host = "shelf.example"

    @endpoint
    async def size(self, of: int = 1) -> int:
        return -of

    @endpoint(path="/" + "x" * 1024)
    async def too_long(self) -> None: ...


class Nearly(Actor):
    """Its path fits, and does not once a place stands in the subject."""

    host = "shelf.example"

    @endpoint(path="/" + "x" * 960)
    async def nearly(self) -> None: ...


@pytest.mark.parametrize(("cls", "locality"), [(TooLong, ""), (Nearly, "eu-" + "w" * 60)])
async def test_nothing_is_left_of_an_actor_whose_address_cannot_be_served(
    start: Start, cls: type[Actor], locality: str
) -> None:
    serves, other = await start(locality=locality), await start()
    with pytest.raises(StartFailed, match=r"AddressTooLong: https://.* characters; the limit is 1024"):
        await serves.spawn(cls)
    await serves.node.remote.flush()
    for asks in (serves, other):
        for address in ("size", "x" * 960):
            with pytest.raises(NoSuchActor):
                await asks.request("POST", f"https://shelf.example/{address}")
    await serves.spawn(Shelf)
    await serves.node.remote.flush()
    assert [await asks.ask(Shelf.size) for asks in (serves, other) for _ in range(8)] == [1] * 16


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"port": -1}, "port -1: a whole number from 1 to 65535 expected, or 0 for any"),
        ({"port": 65536}, "port 65536: a whole number"),
        ({"port": "443"}, "port '443': a whole number"),
        ({"port": True}, "port True: a whole number"),
        ({"method": 5}, "method 5: expected ANY or one of"),
        ({"path": 5}, "path 5: expected a path that begins with '/'"),
        ({"path": "place"}, "path 'place': expected a path that begins with '/'"),
        ({"path": "/place?x"}, r"path '/place\?x': there is '\?' in it"),
        ({"path": "/{id...}/x"}, r"path '/{id...}/x': '{id...}' is all that follows; expected at the end"),
    ],
)
def test_what_nobody_could_ask_is_refused_where_it_is_declared(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(DeclarationError, match=f"method: {why}"):

        class Wrong(Actor):
            @endpoint(**settings)  # type: ignore[untyped-decorator]
            async def method(self) -> None: ...

    if "method" not in settings:
        with pytest.raises(DeclarationError, match=f"told: {why}"):

            class WrongToo(Actor):
                @event(**settings)
                async def told(self) -> None: ...


async def test_an_argument_of_a_path_that_is_no_parameter_is_refused(mbactor: ActorSystem) -> None:
    class Wrong(Actor):
        host = "wrong.example"

        @endpoint(path="/{it}/of/{order}")
        async def item(self, order: str, id: str = "") -> None: ...

    with pytest.raises(
        MbactorError, match=r"Wrong.item: path '/{it}/of/{order}': 'it' is no parameter of it; it has o"
    ):
        await mbactor.spawn(Wrong)
