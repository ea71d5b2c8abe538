"""Worker processes, by force: they are killed, crash, are given up and lose their parent in the middle of a call."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mbactor import offload, processes
from mbactor.errors import ActorCrashed, DeclarationError, ProcessDied
from mbactor.testing import VirtualTimeLoop
from mbactor.testing.stage import Stage
from mbactor.threads import Threads
from tests.loops import LOOPS, Factory, run
from tests.process import alive, of_threads
from tests.process_work import Teapot, Work

PATIENCE = 60.0
ROOT = Path(__file__).parent.parent
WORK = "tests.process_work"


def hello(_: bytes, content_type: str) -> tuple[bytes, str]:
    return b"from a test module", content_type


# --- the tests' own means -------------------------------------------------------------------------------------------


def call(name: str, body: bytes = b"", **options: Any) -> Any:
    return processes.run(f"{WORK}:Work.{name}", body, "application/x", **options)


async def pid() -> int:
    return int((await call("pid"))[0])


async def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = 0 if isinstance(asyncio.get_running_loop(), VirtualTimeLoop) else 0.001  # its time may stand still
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(pause)


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    """A pool of two that the test has for itself."""
    threads = Threads(2, "test-process", keep=PATIENCE, leaving=processes._leaving)
    monkeypatch.setattr(processes, "_threads", threads)
    monkeypatch.setattr(processes, "_processes", set())
    yield threads
    threads.resize(0)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Factory:
    return LOOPS[request.param]


@contextmanager
def program(folder: Path, text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a process group of its own."""
    (folder / "program.py").write_text(textwrap.dedent(text))
    process = subprocess.Popen(
        [sys.executable, *(arguments or ("program.py",))],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# --- calls ----------------------------------------------------------------------------------------------------------


def test_a_call_runs_in_another_process_which_is_used_again(loop: Factory) -> None:
    async def work() -> list[int]:
        assert await call("echo", b"hello") == (b"hello", "application/x")
        return [await pid() for _ in range(3)]

    numbers = run(work(), loop)
    assert len(set(numbers)) == 1
    assert numbers[0] != os.getpid()


def test_a_function_of_the_library_may_stand_between(loop: Factory) -> None:
    assert run(call("echo", b"ab", by=f"{WORK}:twice"), loop) == (b"abab", "application/x")


def test_calls_run_at_the_same_time_up_to_the_size_of_the_pool(tmp_path: Path, loop: Factory) -> None:
    async def work() -> list[bytes]:
        met = await asyncio.gather(*(call("meet", f"{tmp_path}:2".encode()) for _ in range(2)))
        return [number for number, _ in met]

    assert len(set(run(work(), loop))) == 2


def test_the_pool_has_a_size_that_can_be_set(tmp_path: Path) -> None:
    processes.resize(3)

    async def work() -> set[bytes]:
        met = await asyncio.gather(*(call("meet", f"{tmp_path}:3".encode()) for _ in range(3)))
        processes.resize(1)
        used = await asyncio.gather(*(call("pid") for _ in range(6)))
        assert {number for number, _ in used} <= {number for number, _ in met}
        await until(lambda: len(processes._processes) == 1)
        return {number for number, _ in await asyncio.gather(*(call("pid") for _ in range(6)))}

    assert len(run(work())) == 1
    with pytest.raises(ValueError, match="0 processes: expected at least 1"):
        processes.resize(0)


def test_a_body_of_fifty_megabytes_passes_both_ways_and_the_loop_goes_on() -> None:
    body = os.urandom(50_000_000)

    async def work() -> int:
        going, turns = asyncio.create_task(call("echo", body)), 0
        while not going.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert (await going)[0] == body
        return turns

    assert run(work()) > 5


def test_what_a_function_prints_goes_where_the_parents_output_goes(capfd: pytest.CaptureFixture[str]) -> None:
    async def work() -> list[bytes]:
        return [(await call("speak", text))[0] for text in (b"one", b"two")]

    assert run(work()) == [b"one", b"two"]
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == [
        "printed one", "printed two", "written by C code one", "written by C code two",
    ]  # fmt: skip
    assert err.splitlines() == ["complained one", "complained two"]


# --- errors ---------------------------------------------------------------------------------------------------------


def test_an_error_crosses_with_type_status_fields_and_trace(loop: Factory) -> None:
    async def work() -> Teapot:
        with pytest.raises(Teapot, match="short and stout") as caught:
            await call("fail", b"teapot")
        return caught.value

    error = run(work(), loop)
    assert (error.status, error.size) == (418, 2**80)
    assert error.remote_trace is not None
    assert 'raise Teapot("short and stout"' in error.remote_trace
    assert "process_worker" not in error.remote_trace


@pytest.mark.parametrize(
    ("how", "told"), [(b"boom", "ValueError: boom"), (b"exit", "SystemExit: 3"), (b"interrupt", "KeyboardInterrupt")]
)
def test_any_other_exception_is_a_crash_of_the_call_and_not_of_the_process(how: bytes, told: str) -> None:
    async def work() -> None:
        before = await pid()
        with pytest.raises(ActorCrashed, match=f"^{told}$") as caught:
            await call("fail", how)
        assert not isinstance(caught.value, ProcessDied)
        assert await pid() == before

    run(work())


@pytest.mark.parametrize("target", ["no.such.module:f", f"{WORK}:Work.nothing", f"{WORK}:Nothing"])
def test_a_target_that_is_not_there_is_an_error_that_names_it(target: str) -> None:
    async def work() -> None:
        with pytest.raises(ActorCrashed, match="No module named 'no'|nothing|Nothing"):
            await processes.run(target, b"", "")

    run(work())


def test_a_class_inside_a_function_is_refused_by_name() -> None:
    class Inner: ...

    with pytest.raises(DeclarationError, match=r"Inner\.make: process=True needs a class that a worker process can"):
        processes.target_of(Inner, "make")
    assert processes.target_of(Work, "echo") == f"{WORK}:Work.echo"


# --- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "code", "killed_by", "told"),
    [
        ("kill", b"9", -9, "SIGKILL", "was killed by SIGKILL"),
        ("kill", b"6", -6, "SIGABRT", "was killed by SIGABRT"),
        ("crash", b"", -11, "SIGSEGV", "was killed by SIGSEGV"),
        ("leave", b"7", 7, None, "ended with exit code 7"),
        ("leave", b"0", 0, None, "ended with exit code 0"),
        ("leave_child", b"", -9, "SIGKILL", "was killed by SIGKILL"),
    ],
)
def test_a_process_that_dies_fails_just_its_call_with_signal_or_exit_code(
    name: str, body: bytes, code: int, killed_by: str | None, told: str, loop: Factory, tmp_path: Path
) -> None:
    async def work() -> None:
        other = asyncio.create_task(call("late", f"{tmp_path}:0.2".encode()))
        began = time.monotonic()
        with pytest.raises(ProcessDied, match=rf"Work\.{name}: the worker process \d+ {told}") as caught:
            await call(name, body)
        assert time.monotonic() - began < 10
        assert (caught.value.exit_code, caught.value.signal, caught.value.status) == (code, killed_by, 500)
        await other
        assert await call("echo", b"on") == (b"on", "application/x")
        assert offload.outstanding() == 0

    run(work(), loop)


def test_a_process_that_died_between_two_calls_is_replaced_unseen(loop: Factory) -> None:
    async def work() -> None:
        for _ in range(5):
            number = await pid()
            os.kill(number, signal.SIGKILL)
            assert await pid() != number

    run(work(), loop)


def test_a_process_that_cannot_be_started_is_an_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ProcessDied, match="the start of a worker process: the worker process .* exit code 1"):
        run(call("echo"))
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        run(call("echo"))
    monkeypatch.undo()
    assert run(call("echo", b"x"))[0] == b"x"


def test_an_idle_process_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_threads", Threads(1, "short", keep=0.05, leaving=processes._leaving))

    async def work() -> None:
        number = await pid()
        await until(lambda: not alive(number))
        assert await pid() != number

    run(work())


@pytest.mark.slow
def test_nothing_leaks_in_a_thousand_calls_with_fifty_kills() -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    async def one(n: int) -> None:
        if n % 40 == 0:
            with pytest.raises(ProcessDied):
                await call("kill", b"9")
        elif n % 40 == 20:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await call("kill", b"0")
        else:
            assert (await call("echo", str(n).encode()))[0] == str(n).encode()

    async def work() -> None:
        await asyncio.gather(*(call("echo") for _ in range(2)))
        before, others = held(), children() - pids()
        for start in range(0, 1000, 8):
            await asyncio.gather(*(one(n) for n in range(start, start + 8)))
        await until(lambda: offload.outstanding() == 0)
        await asyncio.gather(*(call("echo") for _ in range(2)))
        await until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
        assert children() - others == pids()

    run(work())


def pids() -> set[int]:
    return {process._process.pid for process in processes._processes}


def children() -> set[int]:
    return {int(one) for started in of_threads("self", "children") for one in started.split()}


# --- giving up ------------------------------------------------------------------------------------------------------


def test_cancelling_a_call_kills_its_process(loop: Factory, tmp_path: Path) -> None:
    async def work() -> None:
        going = asyncio.create_task(call("late", f"{tmp_path}:1".encode()))
        begun = tmp_path / "begun"
        await until(lambda: begun.exists() and begun.read_text())
        number = int(begun.read_text())
        going.cancel()
        await asyncio.wait([going])
        assert going.cancelled()
        await until(lambda: offload.outstanding() == 0)
        assert not alive(number)
        assert await pid() != number

    run(work(), loop)
    assert not (tmp_path / "went on").exists()


def test_a_call_cancelled_in_the_queue_kills_nothing(tmp_path: Path) -> None:
    processes.resize(1)

    async def work() -> None:
        going = asyncio.create_task(call("late", f"{tmp_path}:0.2".encode()))
        waiting = [asyncio.create_task(call("pid")) for _ in range(3)]
        await until((tmp_path / "begun").exists)
        waiting[1].cancel()
        await going
        assert (await waiting[0])[0] == (await waiting[2])[0] == (tmp_path / "begun").read_bytes()

    run(work())


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.02, 0.05, 0.1, 0.2])
def test_a_call_may_be_cancelled_while_its_process_starts(delay: float) -> None:
    async def work() -> None:
        going = asyncio.create_task(call("echo", b"x" * 1_000_000))
        await asyncio.sleep(delay)
        going.cancel()
        await asyncio.wait([going])
        assert (await call("echo", b"on"))[0] == b"on"
        await until(lambda: offload.outstanding() == 0)

    run(work())


# --- loops ----------------------------------------------------------------------------------------------------------


def test_virtual_time_stands_still_for_a_call_and_runs_free_again_after_it(tmp_path: Path) -> None:
    async def work() -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(0.01):
            await call("late", f"{tmp_path}:0.3".encode())
        assert loop.time() < 0.01
        began = time.monotonic()
        await asyncio.sleep(3600)
        return time.monotonic() - began

    assert run(work(), VirtualTimeLoop) < 60


def test_the_pool_leaves_nothing_on_the_loop_and_serves_several_runs_of_it() -> None:
    stage = Stage()
    for _ in range(3):
        assert stage.run(call("echo", b"x")) == (b"x", "application/x")
    assert stage.loop.time() == 0
    stage.close(check=True)


def test_one_pool_serves_loops_in_several_threads() -> None:
    numbers: list[int] = []

    def elsewhere() -> None:
        numbers.append(run(pid()))

    threads = [threading.Thread(target=elsewhere) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 4
    assert len(set(numbers)) <= 2


# --- where functions come from ----------------------------------------------------------------------------------------


def test_a_function_of_a_test_module_is_found() -> None:
    assert run(processes.run(f"{__name__}:hello", b"", "t")) == (b"from a test module", "t")


MODULE = """
from mbactor.errors import MbactorError

class Refused(MbactorError): ...

class Shop:
    class Inner:
        @staticmethod
        def make(body, content_type):
            if body == b"refuse":
                raise Refused("no", sku="pear")
            return body.upper(), content_type
"""


def test_a_module_that_no_path_leads_to_is_loaded_from_its_file(tmp_path: Path) -> None:
    name = "shop_off_the_path.images"
    (tmp_path / "images.py").write_text(MODULE)
    spec = importlib.util.spec_from_file_location(name, tmp_path / "images.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def work() -> None:
        target = processes.target_of(module.Shop.Inner, "make")
        assert await processes.run(target, b"x", "t") == (b"X", "t")
        with pytest.raises(module.Refused, match="no") as caught:
            await processes.run(target, b"refuse", "t")
        assert caught.value.sku == "pear"

    run(work())
    del sys.modules[name]


def test_a_path_that_is_added_later_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        before = await pid()
        (tmp_path / "added_later.py").write_text(MODULE)
        monkeypatch.syspath_prepend(tmp_path)
        assert await processes.run("added_later:Shop.Inner.make", b"x", "t") == (b"X", "t")
        assert await pid() == before

    run(work())


RUN = """
import asyncio, sys
from mbactor import processes

async def main():
    target = processes.target_of(Shop.Inner, "make")
    print(*await processes.run(target, b"x", "t"))
    try:
        await processes.run(target, b"refuse", "t")
    except Refused as error:
        print("refused", error.sku)
"""
GUARDED = MODULE + RUN + '\nif __name__ == "__main__":\n    asyncio.run(main())\n'


@pytest.mark.parametrize("arguments", [("program.py",), ("-m", "program"), ("-O", "-X", "utf8", "program.py")])
def test_functions_of_a_script_are_found(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with program(tmp_path, GUARDED, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (out, err, process.returncode) == ("b'X' t\nrefused pear\n", "", 0)


def test_a_script_that_runs_again_when_it_is_loaded_is_told_what_to_do(tmp_path: Path) -> None:
    with program(tmp_path, MODULE + RUN + "asyncio.run(main())\n") as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert 'put `if __name__ == "__main__":` before what the program does' in err


def test_functions_of_a_prompt_cannot_be_found_and_the_error_says_so(tmp_path: Path) -> None:
    with program(tmp_path, "", "-c", MODULE + RUN + "asyncio.run(main())\n") as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert "a worker process cannot load this main module; put the class into another" in err


# --- signals, and the end of the parent -----------------------------------------------------------------------------


PARENT = """
import asyncio, os, signal, sys
from mbactor import processes

async def begin(*names):
    processes.resize(len(names))  # there may be fewer processors
    calls = [asyncio.create_task(processes.run(f"tests.process_work:{name}", body, "t")) for name, body in names]
    while not all(process.ready for process in processes._processes) or len(processes._processes) < len(names):
        await asyncio.sleep(0.01)
    return calls

def tell():
    print(*(process._process.pid for process in processes._processes), flush=True)
"""


def test_ctrl_c_reaches_the_parent_only_and_the_call_at_hand_ends_well(tmp_path: Path) -> None:
    text = (
        PARENT
        + f"""
async def main():
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    first, second = await begin(("Work.echo", b"x"), ("Work.late", b"{tmp_path}:0.5"))
    await first
    while not os.path.exists("begun"):
        await asyncio.sleep(0.01)
    tell()
    await stopped.wait()
    await second
    print(*await processes.run("tests.process_work:Work.echo", b"still here", "t"))

asyncio.run(main())
"""
    )
    with program(tmp_path, text) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (out, err, process.returncode) == ("b'still here' t\n", "", 0)


def test_ctrl_c_while_processes_start_makes_no_noise(tmp_path: Path) -> None:
    text = (
        PARENT
        + """
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    print("ready", flush=True)
    for _ in range(4):
        for process in list(processes._processes):
            process.kill()
        await asyncio.gather(*(processes.run("tests.process_work:Work.echo", b"x", "t") for _ in range(2)))
    print("done", flush=True)
    os._exit(0)

asyncio.run(main())
"""
    )
    with program(tmp_path, text) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.004)
        out, err = process.communicate(timeout=PATIENCE)
    assert (out, err, process.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)", "sys.exit(4)", "pass"])
def test_no_process_outlives_its_parent(tmp_path: Path, end: str) -> None:
    text = (
        PARENT
        + f"""
async def main():
    calls = await begin(("Work.echo", b"x"), ("Work.late", b"{tmp_path}:60"), ("hold_interpreter", b""))
    await calls[0]
    tell()
    {end}

asyncio.run(main())
"""
    )
    with program(tmp_path, text) as process:
        assert process.stdout is not None
        numbers = [int(number) for number in process.stdout.readline().split()]
        assert len(numbers) == 3
        process.wait(PATIENCE)
        wait_until(lambda: not any(alive(number) for number in numbers))
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert not (tmp_path / "went on").exists()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_the_parent_has_a_pool_of_its_own_and_holds_nothing_of_the_parents() -> None:
    number = run(pid())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if run(pid()) not in {number, os.getpid()} else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(pid()) == number
