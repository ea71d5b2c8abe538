"""Two nodes with a replica each: what the one cannot take the other has, until that is killed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mbactor import Actor, ActorRef, ActorSystem, Backoff, Mailbox, MbactorError, child, endpoint, observe
from mbactor.errors import ActorCrashed, NoSuchActor
from mbactor.testing import Recorder
from mbactor.transport import peers
from tests.nats import NatsServer, nats_server
from tests.process import Served, serving

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MANY = 200
PATIENCE = 60

TOPOLOGY = """
version: 1
name: good
transport: ${NATS}
supervisor:
  children:
    - {actor: "tests.supervisor.test_away_nodes:Till", args: {name: good}}
"""


class Till(Actor):
    host = "till.example"

    def __init__(self, name: str) -> None:
        self.name = name
        self.noted = 0
        self.go_on = asyncio.Event()

    @endpoint
    async def who(self) -> str:
        return self.name

    @endpoint
    async def note(self, n: int) -> None:
        self.noted += 1

    @endpoint
    async def count(self) -> int:
        return self.noted

    @endpoint
    async def hold(self) -> None:
        await self.go_on.wait()

    @endpoint
    async def fall(self) -> None:
        raise RuntimeError("fell")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
def other(server: NatsServer, tmp_path: Path) -> Iterator[Served]:
    """A process with a replica that has room."""
    (tmp_path / "good.yaml").write_text(TOPOLOGY)
    with serving(tmp_path / "good.yaml", tmp_path, NATS=server.url) as process:
        yield process


@pytest.fixture
async def system(server: NatsServer) -> AsyncIterator[ActorSystem]:
    async with ActorSystem("bad", server.url) as running:
        yield running


@pytest.fixture
async def asks(server: NatsServer) -> AsyncIterator[ActorSystem]:
    async with ActorSystem("asks", server.url) as running:
        yield running


async def unfit(system: ActorSystem, why: str) -> ActorRef[Till]:
    """A replica of this process that cannot take messages, and has left."""
    till = child(Till, args={"name": "bad"}, backoff=Backoff("60s", "60s"), mailbox=Mailbox(capacity=4), shutdown=0)
    ref: ActorRef[Till] = await system.spawn(till)
    recorder = Recorder(asyncio.get_running_loop())
    with observe.observing(recorder):
        if why == "full":
            for _ in range(8):
                ref.tell(Till.hold)
                await asyncio.sleep(0)
        else:
            with pytest.raises(ActorCrashed):
                await ref.ask(Till.fall)
        await recorder.wait_for("actor.left", within=PATIENCE)
    await system.node.remote.flush()
    return ref


async def from_good(asks: ActorSystem) -> None:
    async with asyncio.timeout(2 * PATIENCE):
        while True:
            try:
                assert await asks.ask(Till.who) == "good"
                return
            except NoSuchActor:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("why", ["full", "restarting"])
async def test_all_that_is_told_is_done_by_the_other_node_and_when_that_is_killed_nobody_is_told_it_is_unknown(
    other: Served, system: ActorSystem, asks: ActorSystem, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "WITHIN", 2 * PATIENCE)  # it is back because it is asked for
    await from_good(asks)
    ref = await unfit(system, why)
    before = len(system.dead_letters)
    for teller in (asks, system):
        for n in range(MANY):
            teller.tell(Till.note, n)
            if n % 20 == 0:
                await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        while await asks.ask(Till.count) < 2 * MANY:
            await asyncio.sleep(0.001)
    assert len(system.dead_letters) == before
    assert list(asks.dead_letters) == []

    found: Counter[str] = Counter()
    ended = asyncio.Event()

    async def keep_asking(teller: ActorSystem) -> None:
        while not ended.is_set():
            try:
                found[await teller.ask(Till.who)] += 1
            except MbactorError as error:
                found[f"{type(error).__name__} {error.status}"] += 1
            await asyncio.sleep(0.001)

    recorder = Recorder(asyncio.get_running_loop())
    async with asyncio.TaskGroup() as group:
        with observe.observing(recorder):
            for teller in (asks, system, asks):
                group.create_task(keep_asking(teller))
            other.signal(signal.SIGKILL)
            back = await recorder.wait_for("actor.back", within=PATIENCE, actor=ref.cell.address)
            assert back.fields["reason"] == "alone"
            seen = found.total()
            while found.total() < seen + 10:
                await asyncio.sleep(0.001)
            ended.set()
    assert not [what for what in found if "404" in what], found
    assert {"full": "MailboxFull 503", "restarting": "ActorRestarting 503"}[why] in found
