"""An endpoint whose path has arguments gets them from the address it is asked at, however that comes to it."""

from __future__ import annotations

from typing import Any

import pytest

from mbactor import Actor, MbactorError, NoSuchActor, endpoint
from mbactor.errors import MethodNotAllowed
from tests.kernel.conftest import Start

pytestmark = pytest.mark.anyio


class Files(Actor):
    host = "files.example"

    @endpoint(path="/files/{owner}/size")
    async def size(self, owner: str, unit: int = 1) -> tuple[str, int]:
        return owner, unit

    @endpoint(path="/units/{unit}")
    async def unit(self, unit: int = 7) -> int:
        return unit

    @endpoint(path="/units/all")
    async def units(self) -> str:
        return "all"

    @endpoint(path="/{owner}/at/{path...}", method="GET")
    async def at_path(self, owner: str, path: str) -> list[str]:
        return [owner, path]

    @endpoint(path="/any", port=0)
    async def any_port(self) -> str:
        return "any"


@pytest.mark.parametrize("where", ["within", "from outside", "one replica"])
async def test_they_come_from_the_address_and_query_and_body_win_over_them(start: Start, where: str) -> None:
    serves, other = await start(Files), await start()
    asks = serves if where == "within" else other
    [cell] = serves.node.served["files.example"].cells
    host = f"{cell.replica}.files.example" if where == "one replica" else "files.example"

    async def answer(method: str, path: str, body: Any = None) -> Any:
        return (await asks.request(method, f"https://{host}{path}", body)).json()

    assert await answer("POST", "/files/ada/size") == ["ada", 1]
    assert await answer("POST", "/files/a%20b.c/size?unit=3") == ["a b.c", 3]
    assert await answer("POST", "/files/ada/size?owner=bob") == ["bob", 1]
    assert await answer("POST", "/files/ada/size", {"owner": "eve", "unit": 2}) == ["eve", 2]
    assert await answer("POST", "/units/12") == 12
    assert [await answer("POST", "/units/all") for _ in range(10)] == ["all"] * 10
    assert await answer("GET", "/ada/at/a/b/c") == ["ada", "a/b/c"]
    assert await answer("GET", "/ada/at/a") == ["ada", "a"]
    assert await answer("POST", ":8443/any") == "any"
    with pytest.raises(MbactorError, match="unit") as wrong:
        await answer("POST", "/units/many")
    assert wrong.value.status == 400
    for path in ("/files/ada", "/files/ada/b/size", "/units"):
        with pytest.raises(NoSuchActor):
            await answer("POST", path)


async def test_who_asks_by_the_method_has_them_in_the_body(start: Start) -> None:
    serves, other = await start(Files), await start()
    for asks in (serves, other):
        assert await asks.ask(Files.size, "ada") == ("ada", 1)
        assert await asks.ask(Files.unit) == 7
        assert await asks.ask(Files.at_path, "ada", path="x/y") == ["ada", "x/y"]


class Orders(Actor):
    host = "orders.example"

    @endpoint(path="/orders/all", method="POST")
    async def place_all(self) -> str:
        return "placed"

    @endpoint(path="/orders/{id}", method="GET")
    async def order(self, id: str) -> str:
        return id

    @endpoint(path="/{what}/{id}", method="DELETE")
    async def remove(self, what: str, id: str) -> list[str]:
        return [what, id]


@pytest.mark.parametrize("where", ["within", "from outside", "one replica"])
async def test_a_path_of_another_method_hides_no_pattern_that_takes_this_one(start: Start, where: str) -> None:
    serves, other = await start(Orders), await start()
    asks = serves if where == "within" else other
    [cell] = serves.node.served["orders.example"].cells
    host = f"{cell.replica}.orders.example" if where == "one replica" else "orders.example"
    url = f"https://{host}/orders/all"
    for _ in range(5):
        assert (await asks.request("POST", url)).json() == "placed"
        assert (await asks.request("GET", url)).json() == "all"
        assert (await asks.request("DELETE", url)).json() == ["orders", "all"]
    if where != "from outside":
        with pytest.raises(MethodNotAllowed, match="it takes POST, GET, DELETE"):
            await asks.request("PUT", url)


class MoreOrders(Actor):
    host = "orders.example"

    @endpoint(path="/orders/all", method="PUT")
    async def replace_all(self) -> str:
        return "replaced"


async def test_a_class_that_does_not_take_the_method_hides_no_other_at_its_host(start: Start) -> None:
    system = await start(Orders, MoreOrders)
    assert (await system.request("PUT", "https://orders.example/orders/all")).json() == "replaced"
    assert (await system.request("GET", "https://orders.example/orders/all")).json() == "all"
