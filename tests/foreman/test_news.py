"""What Foremen of one database tell each other: by LISTEN and NOTIFY here, with a poll of an hour that finds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.news import MOST_TOLD, Exchange, Herald, News, both, exchange
from mbactor.foreman.store.operations import Claim, Committed, Operation, Stopped
from mbactor.foreman.store.store import StoreTrouble
from mbactor.seams import armed
from mbactor.testing.postgres import PostgresServer
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio

HOUR = 3600.0


def one(task: str) -> Graph:
    graph = Graph(task)
    graph.add_transition(task, END)
    return graph


@asynccontextmanager
async def told(url: str, **options: Any) -> AsyncIterator[World]:
    """A world that hears of the others, and whose poll finds nothing in the time of a test."""
    async with a_world(url, poll_interval=HOUR, lease=HOUR, **options) as world:
        engine = world.engine
        listening = asyncio.create_task(exchange(engine.store, engine.news, engine.heard, engine.missed))
        await until(lambda: bool(engine.news.heralds))
        try:
            yield world
        finally:
            listening.cancel()
            await asyncio.wait([listening])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def soon(result: Awaitable[Any]) -> Any:
    async with asyncio.timeout(60):
        return await result


# --- who hears what ------------------------------------------------------------------------------------------


async def test_work_that_nobody_here_is_free_for_is_taken_by_another_and_its_end_is_told(url: str) -> None:
    async with told(url, workers=0) as here, told(url) as there:
        for world in (here, there):
            await world.graph(one("task"), task=ok)
        for _ in range(5):
            assert (await soon(here.run("task"))).status == "completed"
        assert (here.host.ran, there.host.ran) == ([], ["task"] * 5)


async def test_those_who_wait_elsewhere_hear_of_every_stop(url: str) -> None:
    async with told(url) as here, told(url, workers=0) as there:
        await here.graph(one("ask"), ask=lambda flow: flow.__setitem__("answer", flow.interrupt("why?")))
        key = await here.engine.create("ask")
        assert (await soon(there.engine.wait(key))).status == "interrupted"
        await here.engine.resume(key, "so")
        assert (await soon(there.engine.wait(key))).state == {"answer": "so"}


@pytest.mark.parametrize("many", [False, True])
async def test_a_flow_that_stopped_elsewhere_before_anybody_waited_here_is_read(url: str, many: bool) -> None:
    async with told(url, workers=0) as here, told(url) as there:
        for world in (here, there):
            await world.graph(one("task"), task=ok)
        key = await here.engine.create("task")
        await soon(there.engine.wait(key))
        if many:
            here.engine.heard(News("another", 1, many=True))
        await until(lambda: not here.engine._fresh)
        assert (await soon(here.engine.wait(key))).status == "completed"


async def test_tasks_that_run_elsewhere_end_when_their_flow_is_cancelled(url: str) -> None:
    ended = asyncio.Event()

    async def long(_: Flow) -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            ended.set()

    async with told(url, workers=0) as here, told(url) as there:
        for world in (here, there):
            await world.graph(one("long"), long=long)
        key = await here.engine.create("long")
        await until(lambda: there.host.ran == ["long"])
        await here.engine.cancel(key)
        await soon(ended.wait())


async def test_a_connection_that_breaks_is_replaced_and_what_was_missed_is_found(
    url: str, mbactor_postgres_server: PostgresServer
) -> None:
    async with told(url, workers=0) as here, told(url) as there:
        for world in (here, there):
            await world.graph(one("task"), task=ok)
        lines = [world.engine.news.heralds[0] for world in (here, there)]
        await asyncio.to_thread(mbactor_postgres_server.disconnect)
        # Whether this one is told or missed, it is done.
        assert (await soon(here.run("task"))).status == "completed"
        await until(lambda: all(world.engine.news.heralds for world in (here, there)))
        assert not {*lines} & {world.engine.news.heralds[0] for world in (here, there)}
        assert (await soon(here.run("task"))).status == "completed"


async def test_news_that_comes_while_a_claim_is_being_written_is_not_lost(url: str) -> None:
    held, go_on = asyncio.Event(), asyncio.Event()

    async def hold(operations: Sequence[Operation]) -> None:
        if any(isinstance(one, Claim) for one in operations) and not held.is_set():
            held.set()
            await go_on.wait()

    async with a_world(url, workers=0) as here, a_world(url, workers=0, poll_interval=HOUR) as there:
        for world in (here, there):
            await world.graph(one("task"), task=ok)
        with armed("foreman.write.after", hold):
            there.work(slots=1)
            await soon(held.wait())
            # The claim has found nothing, and its worker does not know that yet.
            key = await here.engine.create("task")
            there.engine.heard(News("another", 1, due=True))
            go_on.set()
            assert (await soon(here.engine.wait(key))).status == "completed"


async def test_where_nothing_is_heard_the_poll_alone_is_enough(url: str) -> None:
    async with a_world(url, workers=0, poll_interval=0.02) as here, a_world(url, poll_interval=0.02) as there:
        for world in (here, there):
            await world.graph(one("task"), task=ok)
            world.engine.news.heralds.append(lambda _: None)
        assert (await soon(here.run("task"))).status == "completed"


async def test_what_is_no_news_is_not_heard(url: str) -> None:
    heard: list[News] = []
    async with a_world(url) as world:
        listening = asyncio.create_task(
            exchange(world.store, world.engine.news, heard.append, lambda: None), name="listening"
        )
        await until(lambda: bool(world.engine.news.heralds))
        async with world.store.listening(lambda _: None) as line:
            for text in ("", "hello", '{"engine":1}', '["e",1,true,[],false,[]]'):
                await line.notify(text)
            await until(lambda: len(heard) == 2)
        assert heard == [world.engine.news.anything(), News("e", 1, due=True)]
        listening.cancel()


async def test_sqlite_passes_nothing_on() -> None:
    async with a_world() as world:
        with pytest.raises(StoreTrouble, match="passes nothing on"):
            world.store.listening(lambda _: None)


# --- what is told ---------------------------------------------------------------------------------------------


def stopped(*flow_ids: int, status: str = "completed") -> tuple[Stopped, ...]:
    return tuple(Stopped(flow_id, status) for flow_id in flow_ids)


@pytest.mark.parametrize(
    ("committed", "free", "news"),
    [
        (Committed([], (), None), False, None),
        (Committed([], (), 100), True, None),
        (Committed([], (), 100), False, News("me", 1, due=True)),
        # 1: created and waited for here; 2: created here; 3: waited for here; 4: neither.
        (Committed([], stopped(1), None), True, None),
        (Committed([], stopped(4, 1, 3, 2), None), True, News("me", 1, stopped=(2, 3, 4))),
        (Committed([], stopped(4, status="cancelled"), None), True, News("me", 1, stopped=(4,), cancelled=(4,))),
    ],
)
def test_only_what_another_could_want_is_told(committed: Committed, free: bool, news: News | None) -> None:
    said: list[News] = []
    desk = Exchange("me", 1)
    desk.heralds.append(said.append)
    desk.landed(committed, free=free, own={1, 2}, waited={1, 3})
    assert said == ([] if news is None else [news])


IDS = st.lists(st.integers(0, 2**63 - 1), max_size=400).map(tuple)
NEWS = st.builds(News, st.just("e" * 8), st.just(10**6), st.booleans(), IDS, st.booleans(), IDS)


@settings(max_examples=50)
@given(NEWS, NEWS)
def test_news_that_comes_together_says_all_that_each_did_and_fits_into_a_message(some: News, more: News) -> None:
    news = both(some, more)
    assert news == both(more, some)
    assert news.due == (some.due or more.due)
    assert news.many or {*some.stopped, *more.stopped} == {*news.stopped}
    assert len(news.stopped) <= MOST_TOLD
    assert len(msgspec.json.encode(news)) < 8000


async def test_a_herald_says_the_first_at_once_and_what_comes_meanwhile_together() -> None:
    said: list[News] = []

    async def send(news: News) -> None:
        said.append(news)

    herald = Herald(send)
    herald.tell(News("me", 1, stopped=(1,)))
    await until(lambda: len(said) == 1)
    for number in range(2, 50):
        herald.tell(News("me", 1, stopped=(number,)))
    await until(lambda: len(said) == 2)
    assert said[1].stopped == tuple(range(2, 50))
    await herald.close()


async def test_a_herald_that_cannot_send_goes_on_with_the_next() -> None:
    said: list[News] = []

    async def send(news: News) -> None:
        if not said:
            said.append(news)
            raise StoreTrouble("broken")
        said.append(news)

    herald = Herald(send)
    herald.tell(News("me", 1, due=True))
    await until(lambda: len(said) == 1)
    await asyncio.sleep(0)
    herald.tell(News("me", 1, due=True))
    await until(lambda: len(said) == 2)
    await herald.close()
