"""Children in OS processes of their own that reach each other by a broker, by force."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from mbactor import ActorCrashed, ActorSystem, NoSuchActor, Unavailable, child, observe
from mbactor.errors import NotAcknowledged
from mbactor.supervisor.node.process import NodeProcess
from mbactor.supervisor.spec import Backoff
from mbactor.testing import Recorder
from tests.process import alive
from tests.supervisor.node_parts import Outer, Warm, Worker
from tests.supervisor.test_node_process import PATIENCE, answered, row, spawned, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
async def system() -> AsyncIterator[ActorSystem]:
    async with ActorSystem(transport="embedded") as running:
        yield running


def others(system: ActorSystem) -> ActorSystem:
    """A system on the same broker, as on another machine."""
    return ActorSystem("others", str(system.node.remote.bus.url))  # type: ignore[attr-defined]


def secrets_seen_by(pid: int, url: str) -> bool:
    token = url.partition("//")[2].partition("@")[0].encode()
    return any(token in Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ"))


async def test_replicas_are_on_the_broker_by_themselves_and_each_takes_its_share(system: ActorSystem) -> None:
    top = await spawned(system, child(Worker, replicas=4, process=True))
    pids = [one.process.pid or 0 for one in top.which_children() if one.process is not None]
    assert len({*pids} - {os.getpid(), 0}) == 4
    url = str(system.node.remote.bus.url)  # type: ignore[attr-defined]
    assert not any(secrets_seen_by(pid, url) for pid in pids)
    async with others(system) as elsewhere:
        for asker in (system, elsewhere):
            answers = [await asker.ask(Worker.pid) for _ in range(400)]  # those of one turn would travel together
            shares = sorted(answers.count(pid) for pid in pids)
            assert sum(shares) == 400
            assert shares[0] >= 50, shares
    ref = row(top, "worker-2").ref
    assert {await ref.ask(Worker.pid) for _ in range(3)} == {row(top, "worker-2").process.pid}  # type: ignore[union-attr]


async def test_a_host_that_is_being_restarted_is_never_unknown_and_one_that_has_ended_is(system: ActorSystem) -> None:
    pause = Backoff(initial="300ms", maximum="300ms", jitter=0)
    top = await spawned(system, child(Worker, process=True, backoff=pause), max_restarts=10)
    async with others(system) as elsewhere:
        for _ in range(2):
            pid = await elsewhere.ask(Worker.pid)
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        with anyio.fail_after(2):
                            if await elsewhere.ask(Worker.pid) != pid:
                                break
                    except (Unavailable, ActorCrashed, NotAcknowledged, TimeoutError):
                        """It is away, or was killed with the message; it is never unknown."""
        # One that serves the host elsewhere gets all that comes meanwhile: nothing is taken from it.
        await elsewhere.spawn(Worker, mark="elsewhere")
        process = row(top, "worker").process
        assert process is not None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: row(top, "worker").state == "restarting")
        third = others(system)
        async with third:
            assert {await third.ask(Worker.marked) for _ in range(20)} == {"elsewhere"}
    await answered(lambda: system.ask(Worker.pid))
    await top.terminate_child("worker")
    await top.delete_child("worker")
    with pytest.raises(NoSuchActor):
        await system.ask(Worker.pid)


@pytest.mark.parametrize("transport", ["embedded", "local"])
async def test_who_asks_at_the_place_of_one_that_is_being_restarted_is_told_that_it_will_be_back(
    transport: str,
) -> None:
    pause = Backoff(initial="1h", maximum="1h", jitter=0)
    async with ActorSystem(transport=transport, locality="eu-west") as system:
        top = await spawned(system, child(Worker, process=True, backoff=pause))
        places = [system.at(f"loc-{place}.worker.node.example") for place in ("eu", "eu-west", "us")]
        here, *_ = {await one.ask(Worker.pid) for one in places[:2]}
        os.kill(here, signal.SIGKILL)
        await until(lambda: row(top, "worker").state == "restarting")
        for one in places[:2]:
            with pytest.raises(Unavailable):
                await one.ask(Worker.pid)
        with pytest.raises(NoSuchActor):
            await places[2].ask(Worker.pid)
        await top.terminate_child("worker")
        await top.delete_child("worker")
        for one in places:
            with pytest.raises(NoSuchActor):
                await one.ask(Worker.pid)


async def test_a_node_within_a_node_keeps_its_places_too(system: ActorSystem) -> None:
    node = await system.spawn(child(Outer, process=True))
    assert isinstance(node, NodeProcess)
    assert await system.ask(Warm.is_ready)
    pid = await system.ask(Worker.pid)
    assert node.pid is not None
    os.kill(node.pid, signal.SIGKILL)
    await until(lambda: not alive(pid))
    # Whether an ask is told to come again or waits until both are back is a matter of the machine's speed; what it must
    # not be told is that nobody serves the address.
    assert await answered(lambda: system.ask(Worker.pid)) != pid


async def test_the_broker_may_die_and_no_supervisor_is_charged(system: ActorSystem) -> None:
    recorder = Recorder(asyncio.get_running_loop())
    top = await spawned(system, child(Worker, process=True), max_restarts=1)
    pid = await system.ask(Worker.pid)
    with observe.observing(recorder):
        broker = system.tree().children[0]
        assert (broker.id, broker.state, broker.incarnation) == ("broker", "running", 1)
        assert broker.pid is not None
        # Both at once: the process comes back to a broker that is not there yet.
        os.kill(pid, signal.SIGKILL)
        os.kill(broker.pid, signal.SIGKILL)
        await recorder.wait_for("broker.started", restarts=1)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert await system.ask(Worker.pid) != pid
                    break
                except (Unavailable, NoSuchActor):
                    await asyncio.sleep(0.01)
        assert len(recorder.find("supervisor.restarting")) == 1
        assert system.tree().children[0].incarnation == 2
        assert top.phase == "running"
