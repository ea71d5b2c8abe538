"""The watchdog: names what keeps the loop, and only that."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mbactor import observe
from mbactor.kernel import watchdog as module
from mbactor.kernel.stacks import calls_of, frames_of, place_of
from mbactor.kernel.watchdog import AtHand, Sample, Suspicion, Watchdog, suspect, why_late
from tests.loops import LOOPS, Factory, run

HERE = Path(__file__).name
PATIENCE = 60.0
TRIES = 10


class Told:
    """The blockages that were told."""

    wants_spans = False

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.threads: set[int] = set()

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "loop.blocked":
            self.events.append(fields)

    def on_start(self, span: observe.Span) -> None: ...
    def on_end(self, span: observe.Span) -> None: ...

    async def until(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.events) < count:
            assert time.monotonic() < deadline, self.events
            await asyncio.sleep(0.005)

    def block(self, method: str | None) -> None:
        """Keep the loop until it is told that this method does, however late the watchdog has its turn."""
        deadline, before = time.monotonic() + PATIENCE, self._count(method)
        while self._count(method) == before:
            assert time.monotonic() < deadline, self.events
            nap(0.005)

    def _count(self, method: str | None) -> int:
        return sum((one["method"], one["over"]) == (method, False) for one in self.events)


class Calls:
    """The call at hand, as a kernel would tell it."""

    def __init__(self) -> None:
        self.at_hand: AtHand | None = None
        self.count = 0

    async def call(self, method: Callable[[], Any]) -> None:
        self.count += 1
        self.at_hand = ("img.example#thumbs", method.__name__, self.count)
        try:
            method()
        finally:
            self.at_hand = None


@pytest.fixture
def told() -> Iterator[Told]:
    found = Told()
    with observe.observing(found):
        yield found


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Factory:
    return LOOPS[request.param]


def watched(
    calls: Calls, told: Told, loop: Factory, work: Callable[[], Any], limit: float | None = 0.1, count: int = 0
) -> list[Mapping[str, Any]]:
    """What is told while `work` runs and until so many events are there."""

    async def main() -> None:
        watchdog = Watchdog(lambda: calls.at_hand, limit)
        watchdog.start()
        await work()
        await told.until(count)
        watchdog.stop()

    run(main(), loop)
    return told.events


def nap(seconds: float) -> None:
    time.sleep(seconds)


def nothing_is_told(
    calls: Calls, told: Told, loop: Factory, work: Callable[[], Any], limit: float | None = 0.1
) -> bool:
    """Whether once in a few times nothing is. That a busy machine keeps the loop is told, and does not happen each
    time.
    """
    for _ in range(TRIES):
        told.events.clear()
        if not watched(calls, told, loop, work, limit):
            return True
    return False


# --- what is told -----------------------------------------------------------------------------------------------------


def test_a_method_that_blocks_is_told_while_it_does_and_when_it_is_over(
    calls: Calls, told: Told, loop: Factory
) -> None:
    began = time.monotonic()

    def make() -> None:
        told.block("make")
        nap(0.1)

    first, last = watched(calls, told, loop, lambda: calls.call(make), count=2)
    assert (first["actor"], first["method"], first["over"]) == ("img.example#thumbs", "make", False)
    assert (last["actor"], last["method"], last["over"]) == ("img.example#thumbs", "make", True)
    assert 0.1 <= first["seconds"] < last["seconds"] < time.monotonic() - began
    path, line = first["where"].rsplit(":", 1)
    assert path == __file__
    assert Path(__file__).read_text().splitlines()[int(line) - 1].strip() == "time.sleep(seconds)"
    assert last["where"] == first["where"]
    shown = [call.split(" in ")[1] for call in first["calls"].split(" -> ")]
    assert shown[-3:] == ["make", "block", "nap"]
    assert "calls" not in last


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a frame that is asked for begins no collection any more")
def test_no_garbage_is_collected_while_the_frames_of_the_loop_are_read() -> None:
    """A finalizer would let the loop go on, and the process would crash at the frame that is gone."""
    *events, seen = program(
        """
        import gc

        reading = {"_frame", "at_rest", "seen", "frames_of", "place_of", "calls_of"}
        told, caught, collections = [], set(), 0

        class Kept(Told):
            def on_event(self, name, fields):
                told.append(name)

        def deep(n):
            return deep(n - 1) if n else time.sleep(0.3)

        def collecting(phase, info):
            global collections
            if phase == "start" and threading.current_thread().name == "mbactor-watchdog":
                collections += 1
                caught.update({sys._getframe(1).f_code.co_name} & reading)

        async def main():
            watchdog.start()
            at_hand.append(("a", "deep", 1))
            gc.callbacks.append(collecting)
            gc.set_threshold(1)
            deep(50)
            while len(told) < 2:
                await asyncio.sleep(0.005)
            gc.callbacks.clear()
            found = {"caught": sorted(caught), "collected": collections > 0, "enabled": gc.isenabled()}
            print(json.dumps(found), file=sys.stderr)

        observe.add_observer(Kept())
        asyncio.run(main())
        """
    )
    assert events
    assert seen == {"caught": [], "collected": True, "enabled": True}


def test_each_blockage_is_told_once(calls: Calls, told: Told, loop: Factory) -> None:
    def make() -> None:
        told.block("make")

    def shrink() -> None:
        told.block("shrink")

    async def work() -> None:
        for method in (make, shrink, make):
            await calls.call(method)
            await asyncio.sleep(0)

    events = watched(calls, told, loop, work, count=6)
    assert [(event["method"], event["over"]) for event in events] == [
        ("make", False), ("make", True), ("shrink", False), ("shrink", True), ("make", False), ("make", True),
    ]  # fmt: skip


def test_what_blocks_outside_of_any_call_is_told_by_its_place(calls: Calls, told: Told, loop: Factory) -> None:
    async def work() -> None:
        told.block(None)

    first, _ = watched(calls, told, loop, work, count=2)
    assert (first["actor"], first["method"]) == (None, None)
    assert HERE in first["calls"]


def test_a_loop_that_never_comes_back_is_told_of_all_the_same() -> None:
    done = program(
        """
        async def main():
            watchdog.start()
            at_hand.append(("a", "stuck", 1))
            threading.Timer(0.6, lambda: os._exit(0)).start()
            threading.Event().wait()

        asyncio.run(main())
        """
    )
    assert [(event["method"], event["over"]) for event in done] == [("stuck", False)]


def test_the_end_of_the_watch_is_the_end_of_what_was_told(calls: Calls, told: Told, loop: Factory) -> None:
    def make() -> None:
        told.block("make")

    async def main() -> None:
        watchdog = Watchdog(lambda: calls.at_hand)
        watchdog.start()
        await calls.call(make)
        watchdog.stop()

    run(main(), loop)
    deadline = time.monotonic() + PATIENCE
    while len(told.events) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert [event["over"] for event in told.events] == [False, True]


def test_c_code_that_keeps_the_interpreter_is_told_although_nobody_could_look(
    calls: Calls, told: Told, loop: Factory
) -> None:
    def compute() -> None:
        began, base = time.thread_time(), 3
        size = 200_000
        while time.thread_time() - began < 0.3:  # one piece of C code that takes long enough on this machine
            began = time.thread_time()
            pow(base, size)
            size *= 2

    events = watched(calls, told, loop, lambda: calls.call(compute), count=2)
    assert [(event["method"], event["over"]) for event in events[:2]] == [("compute", False), ("compute", True)]
    assert f"{HERE}:" in events[0]["where"]
    assert sum(event["seconds"] for event in events if event["over"]) > 0.25


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is known who is to blame")
def test_c_code_that_waits_and_keeps_the_interpreter_is_told_if_it_was_seen_to_begin(
    calls: Calls, told: Told, loop: Factory
) -> None:
    def wait() -> None:
        nap(0.3)
        ctypes.PyDLL(None).usleep(500_000)
        nap(0.3)

    first, last = watched(calls, told, loop, lambda: calls.call(wait), limit=0.4, count=2)
    assert first["method"] == "wait"
    assert last["seconds"] > 0.7


# --- what is not told -------------------------------------------------------------------------------------------------


def test_many_short_calls_in_a_row_are_no_blockage(calls: Calls, told: Told, loop: Factory) -> None:
    async def work() -> None:
        for _ in range(50):
            await calls.call(lambda: nap(0.02))  # a cell runs them without going round

    assert nothing_is_told(calls, told, loop, work)


def test_many_short_tasks_in_one_round_are_no_blockage(calls: Calls, told: Told, loop: Factory) -> None:
    async def short() -> None:
        nap(0.02)

    async def work() -> None:
        await asyncio.gather(*(short() for _ in range(40)))

    assert nothing_is_told(calls, told, loop, work)


def test_a_call_that_goes_on_for_long_and_lets_others_run_is_no_blockage(
    calls: Calls, told: Told, loop: Factory
) -> None:
    async def work() -> None:
        calls.at_hand = ("a", "stream", 1)
        for _ in range(40):
            nap(0.02)
            await asyncio.sleep(0)
        calls.at_hand = None

    assert nothing_is_told(calls, told, loop, work)


def test_waiting_is_no_blockage(calls: Calls, told: Told, loop: Factory) -> None:
    async def work() -> None:
        calls.at_hand = ("a", "wait", 1)
        await asyncio.sleep(0.5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.Event().wait()
        await asyncio.to_thread(nap, 0.3)
        calls.at_hand = None

    assert nothing_is_told(calls, told, loop, work)


def test_below_the_limit_nothing_is_told_and_without_one_nothing_at_all(
    calls: Calls, told: Told, loop: Factory
) -> None:
    assert nothing_is_told(calls, told, loop, lambda: calls.call(lambda: nap(0.3)), limit=0.5)
    before = threading.active_count()
    assert watched(calls, told, loop, lambda: calls.call(lambda: nap(0.3)), limit=None) == []
    assert threading.active_count() <= before


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["asyncio.SelectorEventLoop", "uvloop.new_event_loop"])
def test_time_in_which_the_process_was_stopped_is_nobodys_fault(factory: str) -> None:
    if factory.startswith("uvloop"):
        pytest.importorskip("uvloop")

    def stop_and_go(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for _ in range(6):
            os.kill(process.pid, signal.SIGSTOP)
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.001)
            time.sleep(0.4)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.13)
        assert process.stdin is not None
        process.stdin.close()

    text = f"""
        async def main():
            watchdog.start()
            print("begun", flush=True)
            gone = asyncio.to_thread(sys.stdin.read)
            gone = asyncio.ensure_future(gone)
            while not gone.done():
                at_hand.append(("a", "short", len(at_hand)))
                time.sleep(0.02)
                await asyncio.sleep(0)
            at_hand.append(("a", "long", -1))
            time.sleep(0.3)
            at_hand.append(None)
            await asyncio.sleep(0.2)

        with asyncio.Runner(loop_factory={factory}) as runner:
            runner.run(main())
        """

    def told_of() -> list[tuple[str, bool]]:
        return [(event["method"], event["over"]) for event in program(text, stop_and_go)]

    # A busy machine may keep the loop beside that, which is told, or the watchdog; but not each time.
    assert any(told_of() == [("long", False), ("long", True)] for _ in range(TRIES))


def program(text: str, meanwhile: Callable[[subprocess.Popen[str]], None] = lambda _: None) -> list[Mapping[str, Any]]:
    """The blockages that a program told."""
    code = """
import asyncio, json, os, sys, threading, time
try:
    import uvloop
except ImportError:
    pass
from mbactor import observe
from mbactor.kernel.watchdog import Watchdog

class Told:
    def on_event(self, name, fields):
        sys.stderr.write(json.dumps(fields) + "\\n")
        sys.stderr.flush()

at_hand = [None]
watchdog = Watchdog(lambda: at_hand[-1])
observe.add_observer(Told())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        meanwhile(process)
        process.stdin = None if process.stdin is not None and process.stdin.closed else process.stdin
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return [json.loads(line) for line in errors.splitlines()]


def _merely_wake(over: threading.Event) -> None:
    while not over.wait(0.05):
        pass


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_an_idle_loop_is_never_woken_and_watching_it_costs_next_to_nothing(calls: Calls, told: Told, kind: str) -> None:
    switches: list[int] = []

    async def one(seconds: float) -> float:
        """The share of a processor that the process took. The loop's thread falls asleep once, and wakes at the end."""
        before, worked = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.process_time()
        await asyncio.sleep(seconds)
        switches.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)
        return (time.process_time() - worked) / seconds

    async def work() -> None:
        await asyncio.sleep(0.5 + module.QUIET * 0.05)
        watch = next(iter(module._watches.values()))
        answers, watched = [watch._answers], 1.0
        for _ in range(3):
            watched = min(watched, await one(1))
            answers.append(watch._answers)
        assert 0 in [after - before for before, after in pairwise(answers)]
        over = threading.Event()
        bare = threading.Thread(target=_merely_wake, args=(over,))
        bare.start()
        both = min([await one(1) for _ in range(3)])
        over.set()
        bare.join()
        assert min(switches) <= 3
        # Beside a thread that wakes as often and does nothing at all.
        assert watched < 6 * max(both - watched, 0.0005)

    watched(calls, told, LOOPS[kind], work)


def test_under_virtual_time_nothing_is_sent_to_the_loop(calls: Calls, told: Told) -> None:
    async def work() -> None:
        began = time.monotonic()
        while time.monotonic() - began < 0.4:
            await asyncio.sleep(3600)
        watch = next(iter(module._watches.values()))
        assert watch._answers == 0
        assert not watch._pinged

    assert watched(calls, told, LOOPS["virtual"], work) == []


# --- its own life -----------------------------------------------------------------------------------------------------


def watchdog_threads() -> int:
    return sum(thread.name == "mbactor-watchdog" for thread in threading.enumerate())


def wait_for_threads(count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while watchdog_threads() != count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_nodes_of_one_loop_share_a_thread_and_tell_a_blockage_once(told: Told, loop: Factory) -> None:
    wait_for_threads(0)  # that of a test before may not have seen yet that it is over
    other, own = Calls(), Calls()

    def make() -> None:
        told.block("make")

    async def main() -> None:
        watchdogs = [Watchdog(lambda: other.at_hand, "1s"), Watchdog(lambda: own.at_hand)]
        for watchdog in watchdogs:
            watchdog.start()
            watchdog.start()
        assert watchdog_threads() == 1
        await own.call(make)
        await told.until(2)
        watchdogs[1].stop()
        await own.call(lambda: nap(0.25))  # the limit that is left is a second
        await asyncio.sleep(0.1)
        assert watchdog_threads() == 1
        watchdogs[0].stop()

    run(main(), loop)
    assert [event["actor"] for event in told.events] == ["img.example#thumbs"] * 2
    wait_for_threads(0)


def test_loops_in_several_threads_are_told_apart(told: Told) -> None:
    def one(name: str) -> None:
        async def main() -> None:
            watchdog = Watchdog(lambda: ("actor", name, 1))
            watchdog.start()
            if name != "idle":
                told.block(name)
            await asyncio.sleep(0.3)
            watchdog.stop()

        run(main())

    threads = [threading.Thread(target=one, args=(name,)) for name in ("a", "b", "idle")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for_threads(0)
    assert sorted((event["method"], event["over"]) for event in told.events) == [
        ("a", False), ("a", True), ("b", False), ("b", True),
    ]  # fmt: skip


def test_it_outlives_a_pause_of_its_loop_and_ends_when_the_loop_is_closed(
    calls: Calls, told: Told, loop: Factory
) -> None:
    watchdog = Watchdog(lambda: calls.at_hand)

    async def begin() -> None:
        watchdog.start()

    def make() -> None:
        told.block("make")

    async def work() -> None:
        await calls.call(make)
        await told.until(2)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(begin())
        nap(0.3)  # the loop does not run: this blocks nothing
        assert told.events == []
        runner.run(work())
        assert watchdog_threads() == 1
    wait_for_threads(0)
    watchdog.stop()
    assert module._watches == {}


# --- decisions --------------------------------------------------------------------------------------------------------


def test_a_suspicion_lasts_as_long_as_the_loop_is_at_the_same_thing() -> None:
    began = suspect(None, Sample(1.0, turn=3, what="x"))
    assert began == Suspicion(1.0, 3, "x")
    assert suspect(began, Sample(1.1, turn=3, what="x")) == began
    assert suspect(began, Sample(1.1, turn=4, what="x")) == Suspicion(1.1, 4, "x")
    assert suspect(began, Sample(1.1, turn=3, what="y")) == Suspicion(1.1, 3, "y")


def test_time_in_which_the_process_did_not_run_is_taken_off() -> None:
    began = Suspicion(1.0, 3, "x")
    assert suspect(began, Sample(9.0, turn=3, what="x", late=7.9, why="stopped")) == Suspicion(8.9, 3, "x")
    assert suspect(began, Sample(9.0, turn=3, what="x", late=7.9, why="waited")) == began
    assert suspect(None, Sample(9.0, turn=3, what="x", late=7.9, why="stopped")) == Suspicion(9.0, 3, "x")


def test_time_in_which_the_loops_thread_kept_the_interpreter_belongs_to_what_is_at_hand() -> None:
    assert suspect(None, Sample(9.0, turn=3, what="x", late=2.0, why="kept")) == Suspicion(7.0, 3, "x")
    assert suspect(None, Sample(9.0, turn=3, what="x", late=2.0, why="waited")) == Suspicion(9.0, 3, "x")


@pytest.mark.parametrize(
    ("late", "switches", "worked", "why"),
    [
        (1.0, 200, 0.9, "kept"),
        (1.0, 200, 0.1, "waited"),
        (1.0, 2, 0.1, "stopped"),
        (1.0, 2, 0.0, "stopped"),
    ],
)
def test_why_a_look_was_late(late: float, switches: float, worked: float, why: str) -> None:
    assert why_late(late, switches, worked) == why


# --- places -----------------------------------------------------------------------------------------------------------


def called(*files: tuple[str, str]) -> list[Any]:
    """The frames of functions that call one another, in (file, module) each, innermost first."""
    frames: list[Any] = []
    inner: Any = lambda: frames.extend(frames_of(sys._getframe(1), asyncio.Runner.run.__code__)[: len(files)])  # noqa: E731
    for number, (file, name) in enumerate(reversed(files)):
        scope: dict[str, Any] = {"__name__": name, "inner": inner}
        exec(compile(f"def f{number}():\n    return inner()", file, "exec"), scope)
        inner = scope[f"f{number}"]
    inner()
    return frames


STDLIB, KERNEL = os.__file__, str(Path(module.__file__).parent / "gate.py")
INSTALLED = str(Path(pytest.__file__).parent.parent)


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ([(KERNEL, "mbactor.kernel.gate"), ("/app/shop.py", "shop")], "/app/shop.py:2"),
        ([("/app/shop.py", "shop"), ("/app/img.py", "img"), (STDLIB, "os")], "/app/img.py:2"),
        ([("/app/shop.py", "shop"), (f"{INSTALLED}/requests/api.py", "requests.api")], "/app/shop.py:2"),
        (
            [
                (f"{INSTALLED}/shop/a.py", "shop.a"),
                (f"{INSTALLED}/shop/b.py", "shop.b"),
                (f"{INSTALLED}/r/c.py", "r.c"),
            ],
            f"{INSTALLED}/shop/b.py:2",
        ),
        ([(KERNEL, "mbactor.kernel.gate"), (STDLIB, "os")], f"{STDLIB}:2"),
    ],
)
def test_the_place_is_the_innermost_line_of_the_users_own_code(files: list[tuple[str, str]], place: str) -> None:
    assert place_of(called(*files)) == place


def test_a_deep_stack_is_told_by_its_ends_and_without_the_runtime() -> None:
    files = [(KERNEL, "mbactor.kernel.gate"), *((f"/app/m{n}.py", f"m{n}") for n in range(9))]
    assert calls_of(called(*files)) == (
        "m0.py:2 in f8 -> ... -> m5.py:2 in f3 -> m6.py:2 in f2 -> m7.py:2 in f1 -> m8.py:2 in f0"
    )
    assert place_of([]) is None
