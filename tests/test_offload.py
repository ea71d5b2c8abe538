"""Work in threads: what waits, what is given up, what comes back, and what is left when the process ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from mbactor import offload
from mbactor.threads import Job, Threads
from tests.loops import LOOPS, Factory, run

PATIENCE = 60.0


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Factory:
    return LOOPS[request.param]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Threads:
    """Two threads in place of the usual ones."""
    threads = Threads(2, "few")
    monkeypatch.setattr(offload, "_threads", threads)
    return threads


class Gate:
    """Holds threads until it is opened."""

    def __init__(self) -> None:
        self.entered: list[Any] = []
        self._open = threading.Event()

    def wait(self, what: Any = None) -> Any:
        self.entered.append(what)
        assert self._open.wait(PATIENCE)
        return what

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


async def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def test_a_function_runs_in_a_thread_with_the_callers_context(loop: Factory) -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def work() -> tuple[int, str]:
        variable.set(7)
        return await offload.run(lambda: (variable.get(), threading.current_thread().name))

    value, name = run(work(), loop)
    assert value == 7
    assert name.startswith("mbactor-")


def test_what_finds_no_thread_waits_and_runs_in_order(few: Threads, gate: Gate, loop: Factory) -> None:
    order: list[int] = []
    second = Gate()

    async def work() -> None:
        held = [asyncio.create_task(offload.run(one.wait)) for one in (gate, second)]
        await until(lambda: gate.entered and second.entered)
        waiting = [asyncio.create_task(offload.run(order.append, n)) for n in range(50)]
        await asyncio.sleep(0)
        assert order == []
        assert offload.outstanding() == 52
        second.open()
        await asyncio.gather(held[1], *waiting)
        gate.open()
        await held[0]
        assert offload.outstanding() == 0

    run(work(), loop)
    assert order == list(range(50))


def test_sixty_four_functions_run_at_once(gate: Gate) -> None:
    async def work() -> None:
        tasks = [asyncio.create_task(offload.run(gate.wait, n)) for n in range(offload.THREADS + 1)]
        await until(lambda: len(gate.entered) == offload.THREADS)
        gate.open()
        assert await asyncio.gather(*tasks) == list(range(offload.THREADS + 1))

    run(work())


def test_what_is_cancelled_in_the_queue_never_runs(few: Threads, gate: Gate, loop: Factory) -> None:
    ran: list[int] = []

    async def work() -> None:
        held = [asyncio.create_task(offload.run(gate.wait)) for _ in range(2)]
        waiting = [asyncio.create_task(offload.run(ran.append, n)) for n in range(3)]
        await until(lambda: len(gate.entered) == 2)
        waiting[1].cancel()
        await asyncio.wait([waiting[1]])
        assert offload.outstanding() == 4
        gate.open()
        await asyncio.gather(*held, waiting[0], waiting[2])
        assert offload.outstanding() == 0

    run(work(), loop)
    assert sorted(ran) == [0, 2]


def test_functions_that_nobody_waits_for_any_more_keep_no_other_from_running(
    few: Threads, gate: Gate, loop: Factory
) -> None:
    async def work() -> None:
        stuck = [asyncio.create_task(offload.run(gate.wait)) for _ in range(5)]
        for given_up, entered in ((stuck[:2], 2), (stuck[2:4], 4), (stuck[4:], 5)):
            await until(lambda entered=entered: len(gate.entered) == entered)
            for task in given_up:
                task.cancel()
            await asyncio.wait(given_up)
        assert await offload.run(lambda: "ran") == "ran"
        assert offload.outstanding() == 5  # they are still counted: virtual time waits for them
        gate.open()
        await until(lambda: offload.outstanding() == 0)
        assert await asyncio.gather(*(offload.run(lambda: 1) for _ in range(10))) == [1] * 10

    run(work(), loop)


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_whatever_the_function_raises_comes_out_where_it_is_awaited(raised: type[BaseException], loop: Factory) -> None:
    def fail() -> None:
        raise raised("told")

    async def work() -> None:
        with pytest.raises(raised, match="told") as caught:
            await offload.run(fail)
        assert [entry.name for entry in caught.traceback][-1] == "fail"
        assert offload.outstanding() == 0

    run(work(), loop)


def test_a_stop_iteration_becomes_a_runtime_error(loop: Factory) -> None:
    async def work() -> None:
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await offload.run(next, iter([]))

    run(work(), loop)


def test_begun_is_called_on_the_loop_when_there_is_a_thread(few: Threads, gate: Gate, loop: Factory) -> None:
    begun: list[int] = []

    async def work() -> None:
        tasks = [
            asyncio.create_task(offload.run_begun(lambda: begun.append(threading.get_ident()), gate.wait))
            for _ in range(3)
        ]
        await until(lambda: len(begun) == 2)
        gate.open()
        await asyncio.gather(*tasks)

    run(work(), loop)
    assert begun == [threading.get_ident()] * 3


def test_a_function_that_outlives_its_loop_disturbs_nobody(gate: Gate, capfd: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()

    def late() -> None:
        gate.wait()
        ended.set()
        raise ValueError("late")

    async def work() -> None:
        task = asyncio.create_task(offload.run(late))
        await until(lambda: gate.entered)
        task.cancel()

    run(work())
    gate.open()
    assert ended.wait(PATIENCE)
    assert offload._threads.wait_until_idle(PATIENCE)
    assert capfd.readouterr().err == ""


def test_an_idle_thread_keeps_nothing_alive() -> None:
    class Big: ...

    async def work() -> tuple[Any, Any]:
        argument = Big()
        result = await offload.run(lambda _: Big(), argument)
        return weakref.ref(argument), weakref.ref(result)

    references = run(work())
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_the_thread_that_worked_last_is_used_first_and_an_idle_one_ends() -> None:
    left = threading.Event()
    threads, names = Threads(8, "short", keep=0.05, leaving=left.set), []

    async def work() -> None:
        for _ in range(5):
            await offload.carry(threads, lambda: names.append(threading.current_thread().name))
            assert threads.wait_until_idle(PATIENCE)
        await until(left.is_set)

    run(work())
    assert names == ["short-1"] * 5


def test_more_threads_take_what_waits_and_fewer_end_when_they_are_free(gate: Gate) -> None:
    threads = Threads(1, "sized")

    async def work() -> None:
        tasks = [asyncio.create_task(offload.carry(threads, gate.wait)) for _ in range(3)]
        await until(lambda: len(gate.entered) == 1)
        threads.resize(3)
        await until(lambda: len(gate.entered) == 3)
        threads.resize(1)
        gate.open()
        await asyncio.gather(*tasks)
        await until(lambda: len([one for one in threading.enumerate() if one.name.startswith("sized-")]) == 1)

    run(work())


def test_where_no_thread_can_be_started_the_caller_is_told() -> None:
    threads = Threads(1, "none")

    async def work() -> None:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await offload.carry(threads, lambda: None)
        assert offload.outstanding() == 0

    before = threading.stack_size(1 << 46)
    try:
        run(work())
    finally:
        threading.stack_size(before)
    assert threads.wait_until_idle(0)


def test_no_job_is_lost_or_run_twice_however_they_are_given_up() -> None:
    threads = Threads(3, "many")
    ran: list[int] = []

    def job(n: int) -> int:
        ran.append(n)
        return n

    async def work() -> None:
        tasks = [asyncio.create_task(offload.carry(threads, partial(job, n))) for n in range(2000)]
        for n, task in enumerate(tasks):
            if n % 7 == 0:
                await asyncio.sleep(0)
            if n % 3 == 0:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for n, result in enumerate(results):
            assert result == n or (n % 3 == 0 and isinstance(result, asyncio.CancelledError))
        await until(lambda: offload.outstanding() == 0)

    run(work())
    assert len(ran) == len(set(ran))
    assert {n for n in range(2000) if n % 3} <= set(ran)
    assert threads.wait_until_idle(PATIENCE)
    assert threads._places == threads._left == 0


def test_giving_up_a_job_tells_how_far_it_was(gate: Gate) -> None:
    threads, results = Threads(1, "told"), []
    first, second = (Job(gate.wait, ended=lambda *came: results.append(came)) for _ in range(2))
    threads.take(first)
    threads.take(second)
    assert threads.give_up(second) == "queued"
    assert threads.give_up(first) == "running"
    assert threads.give_up(first) == "running"
    gate.open()
    assert threads.wait_until_idle(PATIENCE)
    assert threads.give_up(first) == "ended"
    assert results == [(None, None)]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_the_process_has_threads_of_its_own() -> None:
    async def work() -> int:
        return await offload.run(lambda: 5)

    run(work())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = run(work())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


# --- the end of the process -------------------------------------------------------------------------------------------


def script(text: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """What a program did, and the seconds from its line `last` to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    lines: list[str] = []
    while (line := process.stdout.readline()) and line != "last\n":
        lines.append(line)
    began = time.monotonic()
    rest, errors = process.communicate(timeout=PATIENCE)
    took = time.monotonic() - began
    return subprocess.CompletedProcess(process.args, process.returncode, "".join(lines) + rest, errors), took


def test_a_thread_that_never_ends_does_not_keep_the_process_alive() -> None:
    done, took = script("""
        import asyncio, threading
        from mbactor import offload

        async def main():
            try:
                await asyncio.wait_for(offload.run(threading.Event().wait), 0.1)
            except TimeoutError:
                print("last", flush=True)

        asyncio.run(main())
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert took < PATIENCE / 2


def test_a_function_that_is_nearly_done_when_the_process_ends_gets_done() -> None:
    done, _ = script("""
        import asyncio, time
        from mbactor import offload

        def slow():
            time.sleep(0.3)
            print("done", flush=True)

        async def main():
            try:
                await asyncio.wait_for(offload.run(slow), 0.1)
            except TimeoutError:
                print("last", flush=True)

        asyncio.run(main())
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
