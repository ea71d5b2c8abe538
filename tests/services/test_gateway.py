"""The gateway: what clients of HTTP may do, what they are told, and what they never reach."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from mbactor import observe
from mbactor.errors import BadRequest, InvalidSpec, MbactorError, NoSuchActor, Unavailable
from mbactor.kernel import Actor, endpoint
from mbactor.kernel.cell import Cell
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.kernel.node import Node
from mbactor.services import gateway, http_shape
from mbactor.services.gateway import Gateway
from mbactor.transport.local import LocalBus

pytestmark = pytest.mark.anyio


class H11Gateway(Gateway):
    protocol = "h11"


class Shop(Actor):
    """What is served on the public port, and what is not."""

    host = "shop.example"
    concurrency = 64

    def __init__(self) -> None:
        self.entered = 0
        self.together = asyncio.Event()
        self.reached: list[str] = []
        self.open = asyncio.Event()

    @endpoint
    async def add(self, by: int = 1) -> int:
        return by + 1

    @endpoint(method="GET")
    async def list(self) -> dict[str, int]:
        return {"apples": 3}

    @endpoint(method="POST")
    async def place(self, sku: str, quantity: int = 1) -> dict[str, Any]:
        return {"sku": sku, "quantity": quantity}

    @endpoint
    async def nothing(self) -> None:
        return None

    @endpoint
    async def meet(self) -> str:
        """Returns once two are here at the same time."""
        self.entered += 1
        if self.entered == 2:
            self.together.set()
        await self.together.wait()
        return "met"

    @endpoint
    async def wait(self) -> str:
        self.entered += 1
        await self.open.wait()
        return "waited"

    @endpoint
    async def busy(self) -> None:
        raise Unavailable("come back later", seconds=2.4)

    @endpoint
    async def teapot(self) -> None:
        raise MbactorError("short and stout", status=418, handle="here", error="not mine", statusCode=1)

    @endpoint
    async def odd(self) -> None:
        raise MbactorError("no status of HTTP", status=42)

    @endpoint
    async def unspeakable(self) -> None:
        raise MbactorError("a \ud800 in it", status=409, why=[b"\xff", object()])

    @endpoint
    async def crash(self) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/srv/shop/secret key.pem")

    @endpoint
    async def deep(self) -> bytes:
        return (await self.request("POST", "https://inner.example:444/missing")).body

    @endpoint(port=444)
    async def internal(self) -> str:
        self.reached.append("444")
        return "reached"

    @endpoint(port=417)
    async def event(self) -> str:
        self.reached.append("417")
        return "reached"

    @endpoint(port=428)
    async def task(self) -> str:
        self.reached.append("428")
        return "reached"

    @endpoint(port=888)
    async def control(self) -> str:
        self.reached.append("888")
        return "reached"

    @endpoint(port=666)
    async def trusted(self) -> str:
        self.reached.append("666")
        return "reached"


class World:
    """A node with a shop and a gateway before it."""

    def __init__(self, node: Node, shop: Cell, gate: Cell) -> None:
        self.node = node
        self.shop_cell = shop
        self.gate = gate

    @property
    def shop(self) -> Shop:
        running = self.shop_cell.current
        assert running is not None
        assert isinstance(running.actor, Shop)
        return running.actor

    @property
    def gateway(self) -> Gateway:
        running = self.gate.current
        assert running is not None
        assert isinstance(running.actor, Gateway)
        return running.actor

    async def raw(self, request: bytes) -> tuple[int, bytes]:
        """Send bytes as they are on a connection of their own; status and all that came back."""
        port = int(self.gateway.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()
            await writer.wait_closed()
        return (int(answer.split(b" ", 2)[1]) if answer else 0), answer

    async def get(self, path: bytes) -> tuple[int, bytes]:
        return await self.raw(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")


@asynccontextmanager
async def world(cls: type[Gateway] = Gateway, **settings: Any) -> AsyncIterator[World]:
    node = Node("test", LocalBus())
    await node.open()
    shop = Cell(node, Shop, id="shop")
    gate = Cell(node, cls, (), {"port": 0, **settings}, id="gateway")
    await shop.start()
    await gate.start()
    try:
        yield World(node, shop, gate)
    finally:
        for cell in (gate, shop):
            await cell.stop(5.0)
            cell.close(SHUTDOWN)
        await node.close()


@asynccontextmanager
async def client(at: World) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=at.gateway.url, timeout=60) as http:
        yield http


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


# --- asking ------------------------------------------------------------------------------------------------


async def test_a_request_is_an_ask_and_the_body_is_what_the_endpoint_returned() -> None:
    async with world() as at, client(at) as http:
        answer = await http.post("/shop.example/place", json={"sku": "pear", "quantity": 2})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"sku": "pear", "quantity": 2}


async def test_arguments_come_from_the_query_too() -> None:
    async with world() as at, client(at) as http:
        assert (await http.get("/shop.example/add", params={"by": 41})).json() == 42
        answer = await http.get("/shop.example/add", params={"by": "many"})
        assert answer.status_code == 400
        assert answer.json()["error"] == "Shop.add: Expected `int`, got `str` - in query argument `by`"


async def test_the_host_is_read_in_either_case_and_with_the_public_ports() -> None:
    async with world() as at, client(at) as http:
        for host in ("SHOP.Example", "shop.example:443", "shop.example:80", "%73hop.ex%41mple"):
            assert (await http.get(f"/{host}/add")).json() == 2, host


async def test_none_is_null() -> None:
    async with world() as at, client(at) as http:
        assert (await http.post("/shop.example/nothing")).text == "null"


async def test_requests_run_beside_each_other() -> None:
    async with world() as at, client(at) as http:
        answers = await asyncio.gather(http.post("/shop.example/meet"), http.post("/shop.example/meet"))
        assert [answer.json() for answer in answers] == ["met", "met"]


async def test_answers_have_the_date_of_now_and_are_not_kept() -> None:
    async with world() as at, client(at) as http:
        first = (await http.get("/shop.example/add")).headers
        assert first["cache-control"] == "no-store"
        async with asyncio.timeout(60):
            while (await http.get("/shop.example/add")).headers["date"] == first["date"]:
                await asyncio.sleep(0.05)
        assert at.gateway._asked == set()


async def test_head_is_get_without_a_body() -> None:
    async with world() as at, client(at) as http:
        answer = await http.head("/shop.example/list")
        assert answer.status_code == 200
        assert answer.content == b""
        assert answer.headers["content-length"] == str(len(b'{"apples":3}'))


async def test_only_the_allowed_headers_are_passed_on() -> None:
    headers = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "5.6.7.8"),
        ("accept-language", "de"),
        ("cookie", "c"),
    ]
    assert http_shape.passed_headers(headers) == {"x-forwarded-for": "1.2.3.4, 5.6.7.8", "accept-language": "de"}


# --- what is not there ----------------------------------------------------------------------------------------


async def test_what_is_not_there_is_404_in_json() -> None:
    async with world() as at, client(at) as http:
        for path in (
            "/",
            "/shop.example",
            "/shop.example/",
            "/shop.example/missing",
            "/nobody.example/add",
            "/favicon.ico",
        ):
            answer = await http.get(path)
            assert answer.status_code == 404, path
            assert answer.json() == {"error": f"nobody serves {path}", "statusCode": 404, "type": "NoSuchActor"}


async def test_who_looks_for_what_is_not_there_cannot_fill_the_log() -> None:
    seen = Seen()
    async with world() as at, client(at) as http:
        with observe.observing(seen):
            for path in ("/", "/shop.example/missing", "/nobody.example/add"):
                assert (await http.get(path)).status_code == 404
    assert [name for name, _ in seen.events if name.startswith("gateway.")] == []


@pytest.mark.parametrize("cls", [Gateway, H11Gateway])
@pytest.mark.parametrize("path", [b"/shop.example/a%0Ab", b"/%0A", b"/shop.example/%FF", b"/%E2%80%AE"])
async def test_odd_letters_are_404_in_json_too(cls: type[Gateway], path: bytes) -> None:
    async with world(cls) as at:
        status, answer = await at.get(path)
        assert status == 404
        assert b'"type":"NoSuchActor"' in answer


async def test_an_actor_that_is_missing_further_down_is_a_502_and_the_log_says_which() -> None:
    seen = Seen()
    with observe.observing(seen):
        async with world() as at, client(at) as http:
            answer = await http.post("/shop.example/deep")
    assert answer.status_code == 502
    assert answer.json()["error"] == "/shop.example/deep needs an actor that nobody serves"
    assert "inner" not in answer.text
    [told] = [fields["error"] for name, fields in seen.events if name == "gateway.unreachable"]
    assert "inner" in str(told)


INTERNAL = {"444": "internal", "417": "event", "428": "task", "888": "control", "666": "trusted"}
DISGUISES = [
    "/shop.example:{port}/{path}",
    "/SHOP.EXAMPLE:{port}/{path}",
    "/shop.example%3A{port}/{path}",
    "/shop.example%3a{port}/{path}",
    "/shop.example%253A{port}/{path}",
    "/shop.example:0{port}/{path}",
    "/shop.example:+{port}/{path}",
    "/shop.example: {port}/{path}",
    "/shop.example:%20{port}/{path}",
    "/shop.example:443:{port}/{path}",
    "/shop.example:443@shop.example:{port}/{path}",
    "/user@shop.example:{port}/{path}",
    "/user:pass@shop.example:{port}/{path}",
    "/x%40shop.example:{port}/{path}",
    "/{replica}.shop.example:{port}/{path}",
    "/{replica}.shop.example/{path}",
    "/loc-eu.shop.example:{port}/{path}",
    "/all:{port}/{path}",
    "//shop.example:{port}/{path}",
    "///shop.example:{port}/{path}",
    "/./shop.example:{port}/{path}",
    "/../shop.example:{port}/{path}",
    "/x/../shop.example:{port}/{path}",
    "/shop.example/..//shop.example:{port}/{path}",
    "/shop.example/../shop.example:{port}/{path}",
    "/shop.example/%2e%2e/shop.example:{port}/{path}",
    "/shop.example/%2E%2E%2Fshop.example:{port}/{path}",
    "/shop.example//shop.example:{port}/{path}",
    "/shop.example\\:{port}/{path}",
    "/shop.example%5C:{port}/{path}",
    "/shop.example%2F:{port}/{path}",
    "/shop.example%00:{port}/{path}",
    "/shop.example%0d%0a:{port}/{path}",
    "/shop.example%09:{port}/{path}",
    "/shop.example;x:{port}/{path}",
    "/shop.example%23:{port}/{path}",
    "/shop.example%3F:{port}/{path}",
    "/https:/shop.example:{port}/{path}",
    "/https://shop.example:{port}/{path}",
    "/https%3A%2F%2Fshop.example%3A{port}/{path}",
    "/[shop.example]:{port}/{path}",
    "/shop.example.:{port}/{path}",
    "/shop.example:{port}",
    "/shop.example:/{path}",
    "/shop.example/{path}",
    "/shop.example/:{port}/{path}",
    "/shop.example/{path}:{port}",
    "http://shop.example:{port}/{path}",
    "https://shop.example:{port}/{path}",
    "http://x/shop.example:{port}/{path}",
]


@pytest.mark.parametrize("cls", [Gateway, H11Gateway])
@pytest.mark.parametrize("disguise", DISGUISES)
async def test_no_spelling_reaches_an_internal_port(cls: type[Gateway], disguise: str) -> None:
    async with world(cls) as at:
        for port, path in INTERNAL.items():
            target = disguise.format(port=port, path=path, replica=at.shop_cell.replica)
            status, _ = await at.get(target.encode())
            # 400: what the parser of HTTP itself refuses.
            assert status in {400, 404}, target
        assert at.shop.reached == []


async def test_an_internal_port_is_answered_exactly_like_what_is_not_there() -> None:
    async with world() as at, client(at) as http:
        internal = await http.get("/shop.example:888/control")
        absent = await http.get("/shop.example:443/contro1")
        expected = internal.text.replace(":888/control", ":443/contro1")
        assert absent.text == expected
        kept = {"content-type", "content-length", "cache-control", "allow", "x-content-type-options"}
        assert {k: v for k, v in absent.headers.items() if k in kept} == {
            k: v for k, v in internal.headers.items() if k in kept
        }


def test_what_passes_the_wall_is_always_the_public_port_of_a_host() -> None:
    """Every byte in every place of an address gives either 404 or an address on port 443."""
    for byte in range(256):
        for target in (
            b"/shop%sexample/x",
            b"/shop.example%s888/x",
            b"/shop.example/%sx",
            b"/shop.example/x%s",
            b"%s/x",
        ):
            for spelling in (bytes([byte]), b"%%%02x" % byte):
                try:
                    found = http_shape.target_of("GET", target % spelling, b"").address
                except MbactorError as error:
                    assert error.status == 404  # noqa: PT017 - either outcome is right
                else:
                    assert found.port == 443
                    assert found.replica is None
                    assert "/" not in found.host
                    assert ":" not in found.host


def test_a_path_has_no_empty_or_dotted_segments_and_no_odd_characters_in_any_spelling() -> None:
    """An endpoint may take the rest of a path as an argument, and make a file's name of it."""
    for path in (
        b"/.",
        b"/..",
        b"/a/..",
        b"/../a",
        b"/a/%2e%2E/b",
        b"/%2e",
        b"//a",
        b"/a//b",
        b"//",
        b"/a//",
        b"/a//b/c/d",
    ):
        with pytest.raises(NoSuchActor):
            http_shape.target_of("GET", b"/shop.example" + path, b"")
    for path in (
        b"/a b",
        b'/a"b',
        b"/a\\b",
        b"/a\x00b",
        b"/a\xffb",
        b"/a%zzb",
        b"/a%2",
        b"/<a>",
        b"/{a}",
        b"/a|b",
        b"/a^b",
    ):
        with pytest.raises(NoSuchActor):
            http_shape.target_of("GET", b"/shop.example" + path, b"")
    for path in (b"/", b"/a/", b"/.a", b"/a..b", b"/...", b"/a/b/c"):
        assert http_shape.target_of("GET", b"/shop.example" + path, b"").address.path == path.decode()


async def test_a_smuggled_second_request_is_a_request_like_any_other() -> None:
    async with world() as at:
        one = b"GET /shop.example/add HTTP/1.1\r\nhost: x\r\n\r\n"
        two = b"GET /shop.example:444/internal HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        _, answers = await at.raw(one + two)
        assert answers.count(b"HTTP/1.1 200") == 1
        assert answers.count(b"HTTP/1.1 404") == 1
        assert at.shop.reached == []


# --- errors -------------------------------------------------------------------------------------------------


async def test_a_wrong_method_is_405_and_says_which_are_right() -> None:
    async with world() as at, client(at) as http:
        answer = await http.post("/shop.example/list")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"
        assert answer.json()["type"] == "MethodNotAllowed"
        assert (await http.get("/shop.example/place")).headers["allow"] == "POST"


@pytest.mark.parametrize("cls", [Gateway, H11Gateway])
async def test_a_method_that_is_none_runs_nothing(cls: type[Gateway]) -> None:
    async with world(cls) as at:
        status, _ = await at.raw(b"JUMP /shop.example/wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert status in {400, 501}
        assert at.shop.entered == 0


async def test_a_body_that_does_not_fit_is_400_with_the_path_of_the_field() -> None:
    async with world() as at, client(at) as http:
        wrong = await http.post("/shop.example/place", json={"sku": "pear", "quantity": "two"})
        assert wrong.status_code == 400
        assert wrong.json() == {
            "error": "Shop.place: Expected `int`, got `str` - at `$.quantity`",
            "statusCode": 400,
            "type": "BadRequest",
        }
        missing = await http.post("/shop.example/place", json={})
        assert "`$.sku`" in missing.json()["error"]
        assert (await http.post("/shop.example/place", content=b"{")).status_code == 400
        assert (await http.post("/shop.example/place", content=b"\xff\xfe")).status_code == 400


async def test_an_error_answer_keeps_its_status_and_fields_and_no_field_can_replace_them() -> None:
    async with world() as at, client(at) as http:
        answer = await http.post("/shop.example/teapot")
        assert answer.status_code == 418
        assert answer.json() == {
            "error": "short and stout",
            "statusCode": 418,
            "type": "MbactorError",
            "handle": "here",
        }


async def test_a_status_that_http_does_not_know_is_500() -> None:
    async with world() as at, client(at) as http:
        answer = await http.post("/shop.example/odd")
        assert answer.status_code == answer.json()["statusCode"] == 500


def test_an_error_has_a_status_that_is_one_and_is_none_of_success() -> None:
    def told(error: MbactorError, *, show_trace: bool = False) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        answer = http_shape.error_response(error, b"/shop.example/x", show_trace=show_trace)
        return answer.status, msgspec.json.decode(answer.body), answer.headers

    statuses = {given: told(MbactorError("x", status=given))[0] for given in (200, 399, 400, 599, 600, 1000)}
    assert statuses == {200: 500, 399: 500, 400: 400, 599: 599, 600: 500, 1000: 500}
    # Paths of files are those of our own failures; what a client did wrong is told as it is.
    for status, shown in ((499, "/srv/shop/key.pem"), (500, "<file>"), (501, "<file>")):
        _, document, _ = told(
            MbactorError("cannot read /srv/shop/key.pem", status=status, file="/srv/shop/key.pem", at=3)
        )
        assert (document["file"], document["error"], document["at"]) == (shown, f"cannot read {shown}", 3)
    for seconds, header in ((None, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (float("inf"), "1"), ("soon", "1")):
        assert told(Unavailable("later", seconds=seconds))[2] == {"retry-after": header}
    assert told(MbactorError("later", status=503, seconds=7))[2] == {"retry-after": "1"}
    for allowed, listed in ((["GET"], "GET, HEAD"), (["GET", "HEAD"], "GET, HEAD"), (["POST"], "POST"), ([], "")):
        assert told(MbactorError("no", status=405, allowed=allowed))[2] == {"allow": listed}
    # Where it was raised: here, or where it was asked.
    assert "in told" not in str(told(MbactorError("x", status=404))[1])
    with pytest.raises(BadRequest) as here:
        raise BadRequest("wrong")
    assert "test_gateway.py" in told(here.value, show_trace=True)[1]["trace"]
    far = MbactorError.restore("wrong", 400, {}, remote_trace="raised far away")
    assert told(far, show_trace=True)[1]["trace"] == "raised far away"


def test_only_a_valid_traceparent_is_continued() -> None:
    valid = f"00-{'a' * 32}-{'b' * 16}-01"
    assert [http_shape.trace_of(given) for given in (valid, f"00-{'x' * 32}-{'b' * 16}-01", "", None)] == [
        valid,
        *[None] * 3,
    ]


async def test_an_error_that_no_json_can_hold_is_answered_all_the_same() -> None:
    async with world() as at, client(at) as http:
        answer = await http.post("/shop.example/unspeakable")
        assert answer.status_code == 409
        assert answer.json()["error"] == "a \\ud800 in it"


async def test_a_crash_is_told_without_its_traceback_and_without_file_paths() -> None:
    async with world() as at, client(at) as http:
        answer = await http.post("/shop.example/crash")
        assert answer.status_code == 500
        document = answer.json()
        assert document["type"] == "ActorCrashed"
        assert document["error"] == "FileNotFoundError: [Errno 2] No such file or directory: <file>"
        assert "trace" not in document


async def test_show_traces_tells_the_remote_traceback() -> None:
    async with world(show_traces=True) as at, client(at) as http:
        trace = (await http.post("/shop.example/crash")).json()["trace"]
        assert "in crash" in trace
        assert "FileNotFoundError" in trace


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /etc/shop/key.pem now", "cannot read <file> now"),
        ("'/srv/my shop/key' is gone", "<file> is gone"),
        ('File "C:\\shop\\key.pem"', "File <file>"),
        ("at C:\\shop\\key.pem", "at <file>"),
        ("see https://shop.example/orders/1", "see https://shop.example/orders/1"),
        ("shop.example/place and/or 1/2", "shop.example/place and/or 1/2"),
    ],
)
async def test_file_paths_are_left_out_and_addresses_kept(text: str, expected: str) -> None:
    assert http_shape.without_files(text) == expected


class Faulty(Gateway):
    """Has a mistake of its own."""

    async def _ask(self, *_: Any, **__: Any) -> Any:
        raise KeyError("secret")


async def test_a_mistake_of_the_gateway_is_500_in_json_and_an_event() -> None:
    seen = Seen()
    with observe.observing(seen):
        async with world(Faulty) as at, client(at) as http:
            answer = await http.get("/shop.example/add")
            assert answer.status_code == 500
            assert "secret" not in answer.text
            assert answer.json()["statusCode"] == 500
    assert [fields["method"] for name, fields in seen.events if name == "actor.crashed"] == ["request"]


async def test_503_says_when_to_come_back() -> None:
    async with world() as at, client(at) as http:
        answer = await http.post("/shop.example/busy")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "3"


# --- limits -------------------------------------------------------------------------------------------------


async def test_a_body_beyond_the_limit_is_413_by_its_length_and_while_it_streams() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with world(body_limit=1000) as at, client(at) as http:
        declared = await http.post("/shop.example/place", content=b"x" * 1001)
        streamed = await http.post("/shop.example/place", content=chunks())
        for answer in (declared, streamed):
            assert answer.status_code == 413
            assert answer.json()["type"] == "BodyTooLarge"
            assert answer.json()["limit"] == 1000
        assert (await http.get("/shop.example/add")).json() == 2


async def test_a_declared_length_beyond_the_limit_is_refused_before_the_body_is_sent() -> None:
    async with world(body_limit=1000) as at:
        head = b"POST /shop.example/place HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\nconnection: close\r\n\r\n"
        assert (await at.raw(head))[0] == 413


async def test_an_address_that_is_too_long_is_414() -> None:
    async with world() as at, client(at) as http:
        assert (await http.get("/shop.example/" + "x" * 1100)).status_code == 414
        assert (await http.get("/shop.example/add?by=" + "1" * 17_000)).status_code == 414


async def test_request_timeout_shortens_the_time_budget() -> None:
    async with world() as at, client(at) as http:
        for value in ("0.05", "50ms"):
            answer = await http.post("/shop.example/wait", headers={"Request-Timeout": value})
            assert answer.status_code == 408
            assert answer.json()["type"] == "BudgetSpent"
        at.shop.open.set()
        assert (await http.post("/shop.example/wait", headers={"Request-Timeout": "1h"})).json() == "waited"


async def test_a_body_that_does_not_come_within_the_time_budget_is_408() -> None:
    async with world() as at:
        head = b"POST /shop.example/add HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nrequest-timeout: 50ms\r\n"
        assert (await at.raw(head + b"connection: close\r\n\r\n{"))[0] == 408


async def test_a_body_has_a_time_of_its_own_where_the_client_asks_for_no_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "BODY_TIME", 0.05)
    async with world() as at:
        head = b"POST /shop.example/place HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n"
        for more in (b"", b"request-timeout: 10m\r\n"):
            status, answer = await at.raw(head + more + b"\r\n{")
            assert (status, b"the body did not arrive within 50ms" in answer) == (408, True)


async def test_a_request_timeout_that_is_none_is_400() -> None:
    async with world() as at, client(at) as http:
        for value in ("soon", "-1", "0", "nan", "inf", "5 parsecs", "1e9", ""):
            answer = await http.get("/shop.example/add", headers={"Request-Timeout": value})
            assert answer.status_code == 400, value
            assert "Request-Timeout" in answer.json()["error"]


def test_a_request_timeout_is_never_more_than_fifteen_minutes() -> None:
    assert http_shape.budget_of("2h") == 900
    assert http_shape.budget_of(" 1.5 ") == 1.5
    assert http_shape.budget_of(None) is None
    with pytest.raises(BadRequest):
        http_shape.budget_of("٣")


# --- traces -------------------------------------------------------------------------------------------------


class Seen:
    """Keeps the spans that ended."""

    def __init__(self) -> None:
        self.spans: list[observe.Span] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def on_event(self, name: str, fields: Any) -> None:
        self.events.append((name, dict(fields)))

    def on_start(self, span: observe.Span) -> None: ...

    def on_end(self, span: observe.Span) -> None:
        self.spans.append(span)


async def test_a_traceparent_is_continued_and_each_request_without_one_begins_a_trace() -> None:
    trace, caller = "a" * 32, "b" * 16
    seen = Seen()
    async with world() as at, client(at) as http:
        with observe.observing(seen):
            await http.get("/shop.example/add", headers={"traceparent": f"00-{trace}-{caller}-01"})
            await http.get("/shop.example/add")
            await http.get("/shop.example/add", headers={"traceparent": f"00-{'x' * 32}-{caller}-01"})
    inner, outer, *rest = seen.spans
    assert (outer.kind, outer.name, outer.trace_id, outer.parent_id) == ("http", "GET /shop.example", trace, caller)
    assert (inner.kind, inner.trace_id, inner.parent_id) == ("inbound", trace, outer.span_id)
    assert outer.fields == {"method": "GET", "path": "/shop.example/add", "host": "shop.example", "status": 200}
    assert len({span.trace_id for span in seen.spans}) == 3
    assert [span.parent_id for span in rest if span.kind == "http"] == [None, None]


async def test_the_span_of_a_refused_request_knows_its_error() -> None:
    seen = Seen()
    async with world() as at, client(at) as http:
        with observe.observing(seen):
            await http.get("/nobody.example/add")
            await http.get("/")
    assert [(span.name, getattr(span.error, "status", None)) for span in seen.spans] == [
        ("GET /nobody.example", 404),
        ("request", 404),
    ]


# --- start, stop, clients that leave -----------------------------------------------------------------------------


async def test_it_says_where_it_serves() -> None:
    seen = Seen()
    with observe.observing(seen):
        async with world() as at:
            assert ("gateway.serving", {"url": at.gateway.url}) in seen.events
            assert at.gateway.url.startswith("http://127.0.0.1:")


async def _start(**settings: Any) -> Gateway:
    cell = Cell(Node("test", LocalBus()), Gateway, (), settings, id="gateway")
    await cell.start()
    assert cell.current is not None
    await cell.stop(1.0)
    raise AssertionError("it started")


async def test_a_busy_port_is_a_failed_start_that_says_so() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MbactorError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use; .*port"):
            await _start(port=port)


async def test_an_address_that_cannot_be_had_is_a_failed_start_that_says_so() -> None:
    for bind in ("203.0.113.7", "no.such.host.invalid", "", "300.1.1.1", "::ffff:203.0.113.7", f"{'a' * 64}.example"):
        with pytest.raises(MbactorError, match=r"cannot listen on .*:0: (?!None).+; .+"):
            await _start(port=0, bind=bind)


def test_it_serves_on_the_port_8080_of_this_machine_and_tells_no_traces_where_nothing_is_said() -> None:
    found = Gateway()
    assert (found.port, found.bind, found.body_limit, found.show_traces) == (8080, "127.0.0.1", 4 * 1024 * 1024, False)


async def test_a_port_that_is_none_is_refused() -> None:
    for port in (-1, 65536):
        with pytest.raises(InvalidSpec, match="gateway port"):
            Gateway(port=port)
    with pytest.raises(InvalidSpec, match="gateway body_limit -1: expected a number of bytes, 0 or more"):
        Gateway(body_limit=-1)


async def test_a_stop_lets_running_requests_end_and_takes_no_more() -> None:
    async with world() as at, client(at) as http:
        running = asyncio.create_task(http.post("/shop.example/wait"))
        await until(lambda: at.shop.entered == 1)
        url = httpx.URL(at.gateway.url)
        stopping = asyncio.create_task(at.gate.stop(5.0))
        await until(lambda: _refused(url))
        assert not stopping.done()
        at.shop.open.set()
        assert (await running).json() == "waited"
        assert (await stopping).kind == "shutdown"


async def test_a_request_that_outlasts_the_stop_is_answered_504() -> None:
    async with world() as at, client(at) as http:
        at.gate.shutdown = 0.6
        running = asyncio.create_task(http.post("/shop.example/wait"))
        await until(lambda: at.shop.entered == 1)
        ended = await at.gate.stop(0.6)
        assert ended.kind == "shutdown"
        assert (await running).status_code == 504
        at.shop.open.set()


@pytest.mark.parametrize("exit", [Exit("failed"), SHUTDOWN])
async def test_nothing_is_left_after_the_end(exit: Exit) -> None:
    before = asyncio.all_tasks()
    async with world() as at, client(at) as http:
        await http.get("/shop.example/add")
        url = httpx.URL(at.gateway.url)
        await at.gate.stop(0 if exit.kind == "failed" else 5.0, exit)  # 0 kills: on_stop does not run
        await until(lambda: _refused(url))
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("timeout", [0.0, None])  # 0 kills: on_stop does not run
async def test_a_client_that_keeps_its_connection_is_hung_up_on_and_not_waited_for(timeout: float | None) -> None:
    async with world() as at:
        at.gate.shutdown = timeout
        port = int(at.gateway.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /shop.example/add HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            await at.gate.stop(timeout)
            while True:
                try:
                    if not await reader.read(1 << 16):
                        break
                except ConnectionResetError:
                    break
        writer.close()


async def test_running_requests_have_most_of_the_time_to_stop_and_little_after_a_crash() -> None:
    async with world() as at:
        gateway = at.gateway
        told: dict[float | None, list[float | None]] = {}
        for shutdown in (5.0, 0.6, None):
            at.gate.shutdown = shutdown
            told[shutdown] = [gateway._patience(SHUTDOWN), gateway._patience(Exit("failed"))]
        assert told == {5.0: [4.5, 0.25], 0.6: [0.3, 0.25], None: [None, 0.25]}


def _refused(url: httpx.URL) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((url.host, url.port or 80)) != 0


async def test_a_new_incarnation_serves_the_same_port_again() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with world(port=port) as at:
        async with client(at) as http:
            await http.get("/shop.example/add")
        await at.gate.stop(5.0)
        await at.gate.start()
        async with client(at) as http:
            assert (await http.get("/shop.example/add")).json() == 2


async def test_a_client_that_leaves_disturbs_nobody() -> None:
    async with world() as at, client(at) as http:
        port = int(at.gateway.url.rpartition(":")[2])
        for sent in (
            b"POST /shop.example/wait HTTP/1.1\r\nhost: x\r\n\r\n",
            b"POST /shop.example/place HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
            b"POST /shop.ex",
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            await writer.drain()
            writer.transport.abort()
        await until(lambda: at.shop.entered == 1)
        at.shop.open.set()
        assert (await http.get("/shop.example/add")).json() == 2
        assert at.gate.incarnation == 1
