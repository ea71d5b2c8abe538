"""Several `mbactor run` of one file on one broker, as on several machines: shared, restarted in turn, killed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from mbactor import Actor, ActorSystem, MbactorError, endpoint
from tests.nats import NatsServer, nats_server
from tests.process import ROOT, Served, serving

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EXAMPLE = ROOT / "examples" / "credit_approval"
ACTORS = """
import asyncio, os
from mbactor import Actor, endpoint


class Till(Actor):
    host = "till.example"

    @endpoint
    async def pid(self) -> int:
        await asyncio.sleep(0.002)
        return os.getpid()

    async def on_stop(self, exit) -> None:
        await asyncio.sleep(0.7)

    @endpoint(concurrency=100)
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
"""
TREE = """
version: 1
name: shop
transport: ${BROKER}
supervisor:
  children:
    - actor: shop_on_many:Till
      replicas: 2
      shutdown: 5s
"""


class Till(Actor):
    """What is asked here, and served by the processes under test only."""

    host = "till.example"

    @endpoint
    async def pid(self) -> int:
        raise NotImplementedError

    @endpoint
    async def nap(self, seconds: float) -> None:
        raise NotImplementedError


ASKERS = 20
SOON = 10.0
"""Seconds within which a death is known: by the ack window, on a machine that has much to do, and not by the budget."""


class Load:
    """Asks without a pause, and counts what comes of it."""

    def __init__(self, system: ActorSystem) -> None:
        self.answers: Counter[int] = Counter()
        self.failures: list[BaseException] = []
        self.ended: Counter[int] = Counter()
        """Asks of each asker."""
        self.longest = 0.0
        """Seconds until an ask that failed did so."""
        self._system = system

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            for asker in range(ASKERS):
                tasks.start_soon(self._ask, asker)
            yield
            tasks.cancel_scope.cancel()

    async def _ask(self, asker: int) -> None:
        while True:
            began = time.monotonic()
            try:
                with anyio.fail_after(60):
                    self.answers[await self._system.ask(Till.pid)] += 1
            except (MbactorError, TimeoutError) as error:
                self.failures.append(error)
                self.longest = max(self.longest, time.monotonic() - began)
            self.ended[asker] += 1

    async def answered_by(self, process: Served) -> None:
        """Until this process has answered."""
        async with asyncio.timeout(60):
            while process.process.pid not in self.answers:
                await asyncio.sleep(0.01)

    async def all_told(self) -> None:
        """Until each asker was told what came of what it asks just now."""
        before = self.ended.copy()
        async with asyncio.timeout(60):
            while any(self.ended[asker] == before[asker] for asker in range(ASKERS)):
                await asyncio.sleep(0.01)


def test_the_example_runs_on_two_machines(tmp_path: Path) -> None:
    def machine(server: NatsServer, overlay: str) -> AbstractContextManager[Served]:
        folder = tmp_path / overlay
        folder.mkdir()
        variables = {"BROKER": server.url, "FLOWS_DB": f"sqlite:///{tmp_path}/flows.db"}
        return serving(EXAMPLE / "topology.yaml", folder, "-o", str(EXAMPLE / overlay), **variables)

    with (
        nats_server(tmp_path) as server,
        machine(server, "nodes.yaml") as first,
        machine(server, "worker.yaml") as more,
    ):
        more.until("Ctrl-C stops it")
        url = first.url
        for score in (700, 500):
            asked = {"name": "Ada", "credit_score": score, "amount": 5000}
            done = httpx.post(f"{url}/credit.example/apply", json=asked, timeout=30).json()
            assert (done["status"], done["state"]["approved"]) == ("completed", score == 700)
        for running in (more, first):
            running.signal(signal.SIGTERM)
            assert running.end() == 0


async def test_nodes_are_restarted_in_turn_without_a_failure_and_a_death_is_told_within_the_window(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop_on_many.py").write_text(ACTORS)
    file = tmp_path / "shop.yaml"
    file.write_text(TREE)
    with nats_server(tmp_path) as server, ExitStack() as all:

        def start() -> Served:
            return all.enter_context(serving(file, tmp_path, BROKER=server.url))

        # Each ask by itself, so that of those below some are with the process that is killed.
        async with ActorSystem("load", server.url, coalesce=False) as system:
            load, nodes = Load(system), [start(), start()]
            for node in nodes:
                await asyncio.to_thread(node.until, "Ctrl-C stops it")
            async with load.running():
                for old in nodes[:2]:
                    await load.answered_by(old)
                    # Its end takes a while: what comes meanwhile is not sent there to be refused.
                    old.signal(signal.SIGTERM)
                    assert await asyncio.to_thread(old.end) == 0
                    nodes.append(start())
                    await load.answered_by(nodes[-1])
            assert not load.failures, load.failures[:5]
            assert len(load.answers) == 4
            print(f"\n{load.answers.total()} answers of 4 processes that were restarted in turn, 0 failures")

            killed, left = nodes[2:]
            naps = [asyncio.ensure_future(system.ask(Till.nap, 60.0)) for _ in range(20)]
            load.answers.clear()
            async with load.running():
                await load.answered_by(killed)
                killed.signal(signal.SIGKILL)
                killed.process.wait()
                at = time.monotonic()
                done, _ = await asyncio.wait(naps, timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
                assert done, "nobody was told of the death within the window"
                noticed = time.monotonic() - at
                await load.all_told()
                assert load.answers[left.process.pid]
            for nap in naps:
                nap.cancel()
            told = [nap.exception() for nap in done]
            assert {getattr(error, "taken", None) for error in (*told, *load.failures)} == {"unknown"}
            assert len(load.failures) <= ASKERS
            assert load.longest < SOON
            print(
                f"a death told after {noticed:.2f} s; {len(load.failures)} asks failed, after {load.longest:.2f} s at most"
            )
