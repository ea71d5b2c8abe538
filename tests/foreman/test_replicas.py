"""Several Foremen of one database, in processes of their own: work and stops are handed on, a dead one is replaced."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mbactor import ActorSystem
from mbactor.foreman import Flows, Foreman
from mbactor.testing.postgres import PostgresServer
from tests.foreman.replica import Clerk, replica
from tests.nats import NatsServer, nats_server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


async def test_without_a_bus_two_processes_hand_work_and_stops_to_each_other_by_their_database(
    mbactor_postgres_server: PostgresServer,
) -> None:
    database = mbactor_postgres_server.fresh()
    settings: dict[str, Any] = {"database": database, "workers": 1, "slots": 1, "poll_interval": "1h", "lease": "1h"}
    async with replica(**settings) as other, ActorSystem() as system:
        await system.spawn(Clerk, hangs=True)
        await system.spawn(Foreman, **settings)
        flows = Flows(system)
        while (await flows.run(Clerk.noting)).state["process"] != os.getpid():
            pass  # it has only begun
        busy = await flows.create(Clerk.holding_on)
        for _ in range(5):
            outcome = await flows.run(Clerk.noting)
            assert outcome.state == {"process": other.pid}
        other.wait_for(busy)
        await flows.cancel(busy)
        assert await other.line() == "cancelled"


async def test_over_a_bus_every_operation_may_go_to_any_of_the_foremen(nats: NatsServer, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "database": f"sqlite:///{tmp_path}/flows-%d.db", "shards": 2, "workers": 1, "slots": 1, "poll_interval": "1h",
        "lease": "1h",
    }  # fmt: skip
    async with (
        replica(nats.url, **settings) as one,
        replica(nats.url, **settings) as other,
        ActorSystem("client", transport=nats.url) as system,
    ):
        flows = Flows(system)
        outcomes = await asyncio.gather(*(flows.run(Clerk.noting) for _ in range(40)))
        assert {outcome.state["process"] for outcome in outcomes} == {one.pid, other.pid}
        keys = [await flows.create(Clerk.signing) for _ in range(10)]
        assert {(await flows.wait(key)).status for key in keys} == {"interrupted"}
        for key in keys:
            one.wait_for(key)
            assert await one.line() == "interrupted"
            await flows.resume(key, "Ada")
            assert (await flows.wait(key)).state == {"signed": "Ada"}


async def test_a_task_in_another_process_parks_for_questions_and_for_a_call_and_goes_on(nats: NatsServer) -> None:
    async with (
        replica(nats.url, only_tasks=True) as other,
        ActorSystem("foreman", transport=nats.url) as system,
    ):
        await system.spawn(Foreman)
        flows = Flows(system)
        key = await flows.create(Clerk.dealing)
        for question, answer in (({"offer": 5}, 7), ({"sign": "here"}, "Ada")):
            outcome = await flows.wait(key)
            assert [payload for _, payload in outcome.interrupts] == [question]
            await flows.resume(key, answer)
        outcome = await flows.wait(key)
        assert outcome.state == {"runs": 4, "price": 7, "noted": other.pid, "signed": "Ada"}
        assert [step.node for step in await flows.history(key)] == ["deal"]


async def test_a_dead_processs_steps_are_taken_over_within_its_lease_and_a_quarter(
    mbactor_postgres_server: PostgresServer,
) -> None:
    """A lease is over at most `lease` after the death, and found by the next sweep, `lease / 4` later: 12.5 s of the
    default, for which 15 s are promised.
    """
    lease = 3.0
    settings: dict[str, Any] = {"database": mbactor_postgres_server.fresh(), "workers": 1, "lease": lease}
    async with replica(hangs=True, **settings) as other, ActorSystem() as system:
        keys = [await other.hold() for _ in range(20)]
        await system.spawn(Clerk)
        await system.spawn(Foreman, **settings)
        flows = Flows(system)
        assert {(await flows.snapshot(key)).status for key in keys} == {"running"}
        begun = time.monotonic()
        await asyncio.gather(*(flows.run(Clerk.noting) for _ in keys))
        usual = time.monotonic() - begun
        other.process.kill()
        died = time.monotonic()
        outcomes = [await flows.wait(key) for key in keys]
        # A busy machine is no fault: it takes its time for the same without a death, too.
        assert time.monotonic() - died < lease * 15 / 10 + 10 * usual + 5
        assert {outcome.state["process"] for outcome in outcomes} == {os.getpid()}
