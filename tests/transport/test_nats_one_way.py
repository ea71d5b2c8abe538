"""One direction of a connection is cut, and nobody is told: asks end, whoever is behind it says so, and it heals."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest

from mbactor import ActorSystem
from mbactor.transport import nats_client
from mbactor.transport.nats import NatsBus
from tests.loops import run
from tests.nats import NatsServer, nats_server
from tests.proxy import Proxy, proxy
from tests.transport.test_nats import until
from tests.transport.test_nats_force import BUDGET, CLIENTS, LATE, Doubler, Load

WINDOW = 0.4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


def failed(ended: Counter[str]) -> int:
    return ended.total() - ended["answered"]


@pytest.mark.parametrize("behind", ["who asks", "who serves"])
def test_whichever_direction_is_cut_asks_end_in_time_and_it_is_unready_until_it_is_healed(
    server: NatsServer, behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_client, "PING", 0.2)
    monkeypatch.setattr(nats_client, "CONNECT", 0.5)

    async def work(between: Proxy) -> None:
        ways = [NatsBus(server.url), NatsBus(between.url, every=0.1)]
        asks, serves = reversed(ways) if behind == "who asks" else ways
        async with ActorSystem(transport=serves) as other, ActorSystem(transport=asks, ack_window=WINDOW) as system:
            cut = system if behind == "who asks" else other
            await other.spawn(Doubler)
            load = Load(system)
            clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
            for out, until_left in product((True, False), (False, True)):
                await load.answered(100)
                before = load.ended.copy()
                between.cut(out=out, back=not out)
                await until(lambda: cut.unready is not None)
                if until_left:
                    await until(lambda: "is lost; it is tried again" in (cut.unready or ""))
                why = cut.unready
                await until(lambda before=before: failed(load.ended) >= failed(before) + CLIENTS)  # type: ignore[misc]
                between.heal()
                await until(lambda: cut.unready is None)
                await load.answered(100)
                print(f"{'to' if out else 'from'} the broker: {dict(load.ended - before)}; unready: {why}")
            load.over = True
            await asyncio.wait_for(asyncio.gather(*clients), 60)
            print(f"{load.ended.total()} asks, the longest took {load.longest:.2f} s")
            known = {"answered", "NotAcknowledged", "Unavailable", "NoSuchActor", "BudgetSpent", "TimeoutError"}
            assert {*load.ended} <= known
            assert load.ended["NotAcknowledged"]
            assert load.longest < BUDGET + LATE

    with proxy(server.port) as between:
        run(work(between))
