"""Whether an ask was taken, and by whom: what its asker learns of processes that die, stand still or are busy."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mbactor import ActorSystem
from mbactor.errors import ActorCrashed, BudgetSpent, InvalidSpec, MbactorError, NotAcknowledged
from mbactor.transport import messages_of
from mbactor.transport.ask import Ask
from tests.loops import LOOPS, Factory, run
from tests.nats import NatsServer, nats_server
from tests.process import pause
from tests.supervisor.taker import PLANE, Taker, taker
from tests.transport.inbox import Inbox

WINDOW = 0.4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


def asker(server: NatsServer) -> ActorSystem:
    return ActorSystem("asks", server.url, PLANE, watchdog=None, ack_window=WINDOW)


async def acknowledged(system: ActorSystem, count: int) -> str:
    """Until so many asks are; the replica that has them."""
    while True:
        waiting = system.node.remote._requester._waiting.everyone()
        holders = [one.holder for one in waiting if isinstance(one, Ask) and one.holder]
        if len(holders) == count:
            return holders[0]
        await asyncio.sleep(0.01)


async def probed(system: ActorSystem, replica: str, times: int) -> set[str]:
    """Until a replica was sent so many messages for itself; what they were."""
    probes = Inbox()
    tap = system.node.remote.bus.subscribe(f"{PLANE}.*.*.*.taker_example.{replica}.>", probes)
    got = await probes.until(times)
    tap.unsubscribe()
    return {messages_of(one.data)[0].envelope.op for one in got}


def test_a_process_that_dies_is_noticed_within_the_window_before_and_after_it_has_acknowledged(
    server: NatsServer,
) -> None:
    async def work() -> None:
        async with asker(server) as system, asyncio.timeout(60):
            with taker(server.url) as process:
                held = [asyncio.ensure_future(system.ask(Taker.slow, 60.0)) for _ in range(50)]
                replica = await acknowledged(system, 50)
                began = time.monotonic()
                assert await probed(system, replica, 4) == {"probe"}
                assert time.monotonic() - began > WINDOW, "one each half window, however many asks wait there"
                pause(process.pid)
                fresh = asyncio.ensure_future(system.ask(Taker.who))
                await system.node.remote.flush()
                process.kill()
                errors: list[Any] = await asyncio.gather(*held, fresh, return_exceptions=True)
            # By the window: it is no BudgetSpent.
            assert {(type(one), one.taken) for one in errors[:-1]} == {(ActorCrashed, "unknown")}
            assert (type(errors[-1]), errors[-1].taken) == (NotAcknowledged, "unknown")

    run(work())


def test_one_that_stands_still_is_there_and_answers_when_it_goes_on(server: NatsServer, tmp_path: Path) -> None:
    async def work() -> None:
        with taker(server.url) as process:
            async with asker(server) as system, asyncio.timeout(60):
                asked = asyncio.ensure_future(system.ask(Taker.held, str(tmp_path / "go on")))
                replica = await acknowledged(system, 1)
                pause(process.pid)
                new = asyncio.ensure_future(system.ask(Taker.who))
                with pytest.raises(NotAcknowledged, match="neither an answer nor an acknowledgement"):
                    await new
                await probed(system, replica, 4)
                assert not asked.done()
                os.kill(process.pid, signal.SIGCONT)
                (tmp_path / "go on").touch()
                assert await asked == 1
                assert await system.ask(Taker.block, after=WINDOW, seconds=3 * WINDOW) == "done"
                with pytest.raises(NotAcknowledged):
                    await system.ask(Taker.block, after=0.0, seconds=3 * WINDOW)

    run(work())


async def everyone(system: ActorSystem) -> dict[str, str]:
    """What each of those that are asked answers, or its error, by its source."""
    replies = [reply async for reply in system.ask_all(Taker.each)]
    return {reply.source: type(reply.error).__name__ if reply.error else str(reply.value) for reply in replies}


def test_one_of_many_that_stands_still_is_told_of_each_time_and_one_that_is_gone_is_not(server: NatsServer) -> None:
    async def work() -> None:
        async with asker(server) as system, asyncio.timeout(60):
            with taker(server.url, "one") as one:
                assert [reply.value async for reply in system.ask_all(Taker.who)] == ["one"]
                with taker(server.url, "two") as process:
                    while len(found := await everyone(system)) < 2:
                        pass
                    [stopped] = [source for source, name in found.items() if name == "two"]
                    pause(process.pid)
                    for _ in range(2):
                        assert await everyone(system) == found | {stopped: "NotAcknowledged"}
                    os.kill(process.pid, signal.SIGCONT)
                    while await everyone(system) != found:
                        pass
                    pause(process.pid)
                    assert await everyone(system) == found | {stopped: "NotAcknowledged"}
                assert list((await everyone(system)).values()) == ["one"], "it was killed"
                pause(one.pid)
                [reply] = [reply async for reply in system.ask_all(Taker.who)]
                assert (type(reply.error), reply.source) == (NotAcknowledged, ""), "any of its queue may have it"
                assert reply.error and reply.error.taken == "unknown"  # noqa: PT018
            assert [reply async for reply in system.ask_all(Taker.who)] == []

    run(work())


@pytest.mark.parametrize("loop", [LOOPS["asyncio"], LOOPS["uvloop"]], ids=["asyncio", "uvloop"])
def test_neither_a_deep_mailbox_nor_an_asker_that_stands_still_reads_as_nobody_there(
    server: NatsServer, loop: Factory
) -> None:
    async def work() -> None:
        with taker(server.url):
            async with asker(server) as system, asyncio.timeout(60):
                asked = [asyncio.ensure_future(system.ask(Taker.slow, 0.005)) for _ in range(200)]
                await system.node.remote.flush()
                for _ in range(2):
                    time.sleep(2 * WINDOW)  # noqa: ASYNC251 - the point of it
                    await asyncio.sleep(0)
                assert sorted(await asyncio.gather(*asked)) == list(range(1, 201))

    run(work(), loop)


def test_who_says_nothing_is_waited_for_as_long_as_the_window_says(server: NatsServer) -> None:
    async def work() -> None:
        with taker(server.url) as process:
            async with (
                ActorSystem("asks", server.url, PLANE, watchdog=None, ack_window="1h") as patient,
                ActorSystem("asks", server.url, PLANE, watchdog=None, ack_window="10ms") as hasty,
                asyncio.timeout(60),
            ):
                await patient.ask(Taker.who)
                pause(process.pid)
                with pytest.raises(BudgetSpent) as caught:
                    with anyio.fail_after(2):  # longer than the window has where nothing is set
                        await patient.ask(Taker.who)
                assert caught.value.taken == "unknown"
                with pytest.raises(NotAcknowledged):
                    with anyio.fail_after(50):
                        await hasty.ask(Taker.who)

    run(work())


@pytest.mark.parametrize("held", [False, True], ids=["not heard of", "acknowledged"])
def test_what_a_system_waits_for_as_it_stops_may_have_been_taken(server: NatsServer, *, held: bool) -> None:
    async def work() -> None:
        with taker(server.url) as process:
            async with asyncio.timeout(60):
                window = WINDOW if held else 60.0
                async with ActorSystem("asks", server.url, PLANE, watchdog=None, ack_window=window) as system:
                    await system.ask(Taker.who)
                    if not held:
                        pause(process.pid)
                    asked = asyncio.ensure_future(system.ask(Taker.slow, 60.0))
                    await system.node.remote.flush()
                    if held:
                        await acknowledged(system, 1)
                with pytest.raises(MbactorError, match="the system was stopped while it waited for this") as caught:
                    await asked
                assert (caught.value.status, caught.value.taken) == (503, "yes" if held else "unknown")

    run(work())


@pytest.mark.parametrize("window", [0, "0s"])
def test_a_window_of_nothing_is_refused(window: Any) -> None:
    with pytest.raises(InvalidSpec, match="ack_window: .* given, a duration above 0 expected"):
        ActorSystem(ack_window=window)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ack_window": -1}, "ack_window: -1 is not a duration; expected"),
        ({"ack_window": "fast"}, "ack_window: 'fast' is not a duration; expected"),
        ({"ack_window": None}, "ack_window: "),
        ({"watchdog": "x"}, "watchdog: 'x' is not a duration; expected"),
        ({"coalesce": "no"}, "coalesce: 'no' given, True or False expected"),
        ({"serialize_local": 1}, "serialize_local: 1 given, True or False expected"),
        ({"name": "a/b"}, "name: 'a/b' given, a text without slashes expected"),
        ({"transport": None}, "transport: None given, 'local', 'embedded' or nats://host:port expected"),
    ],
)
def test_a_wrong_setting_of_a_system_is_refused_by_its_name(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        ActorSystem(**setting)
