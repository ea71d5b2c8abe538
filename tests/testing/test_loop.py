"""Virtual time: waiting costs nothing, work outside is waited for, and what cannot end says so."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from mbactor import clock, offload
from mbactor.foreman.store.open import open_store
from mbactor.testing import OutOfPatience, Standstill, VirtualTimeLoop
from mbactor.testing.loop import START

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], **options: Any) -> T:
    with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, **options)) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


def nap(seconds: float) -> str:
    """What a blocking library does."""
    time.sleep(seconds)
    return threading.current_thread().name


@pytest.fixture
def quick() -> Any:
    """The test takes seconds of real time at most, where hours pass."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("quick")
def test_years_pass_at_once_and_to_the_second() -> None:
    async def work() -> tuple[float, float]:
        await asyncio.sleep(3600)
        hour = now()
        with anyio.move_on_after(30 * 365 * 86400):
            await anyio.sleep_forever()
        return hour, now()

    hour, end = run(work())
    assert hour == 3600
    assert end == pytest.approx(3600 + 30 * 365 * 86400, abs=1e-3)


@pytest.mark.usefixtures("quick")
def test_the_wall_clock_moves_with_the_loop_and_is_real_again_afterwards() -> None:
    async def work() -> tuple[float, float]:
        before = clock.unix()
        await asyncio.sleep(86400)
        assert clock.utcnow().timestamp() == clock.unix()
        return before, clock.unix()

    assert run(work()) == (START, START + 86400)
    assert abs(clock.unix() - time.time()) < 5


def test_only_one_virtual_clock_tells_the_time() -> None:
    async def work() -> None:
        second = VirtualTimeLoop()
        with pytest.raises(RuntimeError, match="two virtual clocks at once"):
            await asyncio.to_thread(second.run_forever)
        second.close()

    run(work())


@pytest.mark.parametrize(
    "leave",
    [
        lambda: asyncio.to_thread(nap, 0.15),
        lambda: anyio.to_thread.run_sync(nap, 0.15),
        lambda: offload.run(nap, 0.15),
        lambda: asyncio.get_running_loop().run_in_executor(None, nap, 0.15),
    ],
    ids=["asyncio.to_thread", "anyio.to_thread", "offload.run", "run_in_executor"],
)
def test_time_stands_still_while_a_thread_is_at_work(leave: Callable[[], Any]) -> None:
    async def work() -> float:
        async with asyncio.timeout(0.01):
            assert await leave() != threading.main_thread().name
        return now()

    assert run(work()) < 0.01


def test_time_stands_still_for_a_thread_whose_result_nobody_awaits_any_more() -> None:
    begun, ended = threading.Event(), threading.Event()

    def late() -> None:
        begun.set()
        nap(0.1)
        ended.set()

    async def work() -> None:
        job = asyncio.ensure_future(asyncio.to_thread(late))
        while not begun.is_set():  # before that it would not run at all
            await asyncio.sleep(0)
        job.cancel()
        await asyncio.sleep(3600)
        assert ended.is_set()

    run(work())


def test_time_stands_still_while_a_worker_process_is_at_work() -> None:
    async def work() -> int:
        with ProcessPoolExecutor(1) as pool:
            async with asyncio.timeout(0.001):
                return await asyncio.get_running_loop().run_in_executor(pool, sum, [1, 2, 3])

    assert run(work()) == 6


def test_a_thread_of_ones_own_is_waited_for_when_it_is_announced() -> None:
    async def work() -> float:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.Thread(target=lambda: (nap(0.5), loop.call_soon_threadsafe(done.set)))
        thread.start()
        with offload.busy():
            async with asyncio.timeout(0.01):
                await done.wait()
        thread.join()
        return now()

    assert run(work()) == 0


def test_a_child_process_is_never_jumped_over() -> None:
    async def work() -> tuple[bytes, int | None]:
        async with asyncio.timeout(20):
            process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.2; echo done", stdout=-1)
            out, _ = await process.communicate()
            silent = await asyncio.create_subprocess_shell("sleep 0.1; exit 3")
            return out, await silent.wait()

    assert run(work()) == (b"done\n", 3)


def test_time_passes_as_outside_while_a_socket_is_open() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(await reader.readline())
        writer.close()

    async def work() -> tuple[bytes, float]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(20):
            writer.write(b"hello\n")
            answer = await reader.read()
        writer.close()
        server.close()
        await server.wait_closed()
        return answer, now()

    began = time.monotonic()
    answer, virtual = run(work())
    assert answer == b"hello\n"
    assert 0.1 <= virtual <= time.monotonic() - began


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///{}/flows.db"], ids=["memory", "file"])
def test_sqlite_is_never_jumped_over_and_its_now_moves_with_the_loop(url: str, tmp_path: Path) -> None:
    from mbactor.foreman.store.sqlite import SqliteStore, run_in_driver

    def moment(db: sqlite3.Connection) -> float:
        time.sleep(0.05)
        (told,) = db.execute("SELECT mbactor_now()").fetchone()
        return float(told)

    async def work() -> list[float]:
        moments = []
        async with asyncio.timeout(10):
            store = await open_store(url.format(tmp_path))
            assert isinstance(store, SqliteStore)
            moments.append(await run_in_driver(store._writer, moment))
            await asyncio.sleep(9.9)
            moments.append(await run_in_driver(store._writer, moment))
            await store.close()
        return moments

    assert run(work()) == pytest.approx([START, START + 9.9], abs=1e-4)


# --- what cannot end ---------------------------------------------------------------------------------------------


def test_a_standstill_is_an_error_that_tells_which_task_waits_where() -> None:
    async def inner(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def waits_for_ever() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        task = asyncio.create_task(inner(lock), name="the second")
        await task

    with pytest.raises(Standstill) as caught:
        run(waits_for_ever())
    told = str(caught.value)
    assert "nothing can happen any more at virtual time 0s" in told
    assert "the second: test_loop.py:" in told
    assert "in inner -> locks.py:" in told
    assert "in waits_for_ever" in told


def test_a_thread_that_nobody_announced_may_still_come_within_a_moment() -> None:
    async def work() -> bool:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=lambda: (nap(0.05), loop.call_soon_threadsafe(done.set))).start()
        return await done.wait()

    assert run(work())


def test_timers_that_go_on_for_ever_run_out_of_patience() -> None:
    async def poll() -> None:
        while True:
            await asyncio.sleep(0.5)

    async def work() -> None:
        polling = asyncio.create_task(poll(), name="the poll")
        await asyncio.Event().wait()
        polling.cancel()

    with pytest.raises(OutOfPatience, match=r"not done after 300ms of real time, at virtual time (.*\n)+.*the poll: "):
        run(work(), patience="300ms")


def test_who_waits_for_long_beside_what_wakes_up_often_is_told_why_it_takes_long() -> None:
    async def poll() -> None:
        while True:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(nap, 0.001)

    async def work() -> None:
        polling = asyncio.create_task(poll())
        await asyncio.sleep(1e9)
        polling.cancel()

    told = r"at virtual time [\ddhms.]+(, and 1 pieces .*)?\. Meanwhile [\ddhms.]+ of virtual time went by: .*`poll_interval`"
    with pytest.raises(OutOfPatience, match=told):
        run(work(), patience="1s")


def test_a_thread_that_does_not_come_back_runs_out_of_patience() -> None:
    release = threading.Event()

    async def work() -> None:
        async with asyncio.timeout(5):
            await asyncio.to_thread(release.wait)

    loop = VirtualTimeLoop(patience=0.2)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            with pytest.raises(OutOfPatience, match="1 pieces of work are out in threads, so time stands still"):
                runner.run(work())
        finally:
            release.set()
            loop._patience = 60.0  # for its end


def test_an_open_socket_is_named_as_the_reason_why_time_passes_as_outside() -> None:
    async def work() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        try:
            await asyncio.sleep(3600)
        finally:
            server.close()

    with pytest.raises(OutOfPatience, match="sockets, pipes or processes are open"):
        run(work(), patience=0.2)


def test_a_loop_that_polls_the_time_sees_it_pass() -> None:
    async def work() -> float:
        while now() < 0.05:
            await asyncio.sleep(0)
        return now()

    assert run(work()) == pytest.approx(0.05, abs=0.001)


# --- order ---------------------------------------------------------------------------------------------------------


async def _order(count: int = 12) -> tuple[list[int], list[int], list[str]]:
    """In which order tasks run, timers of one instant ring, and plain callbacks are called."""
    tasks, timers, calls = list[int](), list[int](), list[str]()
    loop = asyncio.get_running_loop()

    async def one(number: int) -> None:
        tasks.append(number)

    for number in range(count):
        loop.call_at(5.0, timers.append, number)
        loop.call_soon(calls.append, f"before {number}")
    await asyncio.gather(*(one(number) for number in range(count)))
    await asyncio.sleep(10)
    return tasks, timers, calls


def test_without_a_seed_everything_runs_in_the_order_in_which_it_was_set() -> None:
    tasks, timers, calls = run(_order())
    assert tasks == timers == list(range(12))
    assert calls == [f"before {number}" for number in range(12)]


def test_a_seed_shuffles_tasks_and_timers_always_alike_and_never_plain_callbacks() -> None:
    orders = [run(_order(), seed=seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    for tasks, timers, calls in orders:
        assert tasks != sorted(tasks)
        assert timers != sorted(timers)
        assert sorted(tasks) == sorted(timers) == list(range(12))
        assert calls == [f"before {number}" for number in range(12)]


def test_timers_of_different_instants_keep_their_order_under_any_seed() -> None:
    async def work() -> list[float]:
        rang: list[float] = []
        for when in (3.0, 1.0, 2.0, 0.5):
            asyncio.get_running_loop().call_later(when, rang.append, when)
        cancelled = asyncio.get_running_loop().call_later(1.5, rang.append, 1.5)
        cancelled.cancel()
        await asyncio.sleep(4)
        return rang

    for seed in range(5):
        assert run(work(), seed=seed) == [0.5, 1.0, 2.0, 3.0]


def test_a_closed_loop_refuses_timers_and_jobs() -> None:
    loop = VirtualTimeLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_in_executor(None, print)


def test_a_shuffle_loses_nothing_that_threads_put_in_meanwhile() -> None:
    sent, came, switch = 20_000, [0], sys.getswitchinterval()

    def come() -> None:
        came[0] += 1

    async def main() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            for _ in range(sent):
                loop.call_soon_threadsafe(come)

        async def go_round() -> None:
            while not over.is_set():
                await asyncio.sleep(0)

        rounds = [asyncio.create_task(go_round()) for _ in range(3)]
        await asyncio.to_thread(send)
        await asyncio.sleep(0)
        over.set()
        await asyncio.gather(*rounds)

    sys.setswitchinterval(1e-6)
    try:
        with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, 7)) as runner:
            runner.run(main())
    finally:
        sys.setswitchinterval(switch)
    assert came == [sent]
