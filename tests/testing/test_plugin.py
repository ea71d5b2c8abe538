"""The pytest plugin: async tests out of the box, in virtual time, with a system that leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mbactor import Actor, ActorRef, ActorSystem, clock, endpoint
from mbactor.testing.loop import VirtualTimeLoop
from tests.testing.pytester import run_pytest


class Patient(Actor):
    host = "patient.example"

    def __init__(self) -> None:
        self.rested = 0.0

    @endpoint
    async def rest(self, seconds: float) -> float:
        await self.sleep(seconds)
        self.rested += seconds
        return self.rested

    @endpoint
    async def keep(self, things: list[int]) -> list[int]:
        things.append(0)
        return things


@pytest.fixture
async def patient(mbactor: ActorSystem) -> AsyncIterator[ActorRef[Patient]]:
    ref = await mbactor.spawn(Patient)
    yield ref
    await ref.stop()


@pytest.fixture
async def begun() -> float:
    """Knows nothing of mbactor, and runs on the loop of the test nevertheless."""
    await asyncio.sleep(60)
    return asyncio.get_running_loop().time()


async def test_an_async_test_runs_in_virtual_time(mbactor: ActorSystem) -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    began, wall = time.monotonic(), clock.unix()
    await asyncio.sleep(86400)
    assert clock.unix() - wall == 86400
    assert time.monotonic() - began < 60
    assert mbactor.node.plane.startswith("test")


async def test_async_fixtures_run_on_the_loop_of_their_test(patient: ActorRef[Patient], begun: float) -> None:
    assert begun == pytest.approx(60)
    assert await patient.ask(Patient.rest, seconds=19) == 19
    assert asyncio.get_running_loop().time() == pytest.approx(60 + 19, abs=0.01)


async def test_messages_travel_as_bytes(mbactor: ActorSystem, patient: ActorRef[Patient]) -> None:
    assert mbactor.node.serialize_local
    things = [1]
    assert await patient.ask(Patient.keep, things) == [1, 0]
    assert things == [1]


@pytest.mark.mbactor(serialize_local=False)
async def test_unless_the_marker_says_otherwise(mbactor: ActorSystem) -> None:
    assert not mbactor.node.serialize_local


@pytest.mark.mbactor(real_time=True)
async def test_real_time_is_there_for_those_who_ask_for_it(mbactor: ActorSystem) -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    assert abs(clock.unix() - time.time()) < 5
    began = time.monotonic()
    await asyncio.sleep(0.05)
    assert time.monotonic() - began > 0.04


class TestInAClass:
    """Methods are tests as well."""

    async def test_a_method_runs_too(self, mbactor: ActorSystem, patient: ActorRef[Patient]) -> None:
        assert await mbactor.ask(Patient.rest, seconds=1) == 1


@pytest.mark.anyio
async def test_a_test_that_anyio_runs_too_is_run_once_and_by_this_plugin(mbactor: ActorSystem) -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    await asyncio.sleep(3600)


@pytest.mark.anyio
async def test_tests_without_a_fixture_of_this_plugin_stay_with_others() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)


@pytest.mark.mbactor(seed=7)
def test_the_random_module_is_seeded_for_the_test(mbactor_loop: object) -> None:
    assert random.random() == random.Random(7).random()


async def test_the_loop_alone_is_enough(mbactor_loop: VirtualTimeLoop) -> None:
    await asyncio.sleep(5)
    assert mbactor_loop.time() == 5


# --- what pytest shows, in a process of its own ---------------------------------------------------------------------

FAILING = """
async def test_fails(mbactor):
    assert False
"""

LEAKING = """
import asyncio

async def forgotten():
    await asyncio.sleep(3600)

async def test_leaks(mbactor):
    asyncio.get_running_loop().create_task(forgotten(), name="a leak")
"""

STANDING = """
import asyncio, pytest

@pytest.fixture
async def lock():
    lock = asyncio.Lock()
    await lock.acquire()
    yield lock
    lock.release()

async def test_stands_still(mbactor, lock):
    try:
        await lock.acquire()
    finally:
        print("the test was unwound")
"""

ORDER = """
import asyncio

async def test_order(mbactor):
    order = []
    async def one(number):
        order.append(number)
    await asyncio.gather(*(one(number) for number in range(6)))
    print("order", order)
"""

SHORT = """
pytest_plugins = ["mbactor.testing.short"]

async def test_short(system, probe, recorder):
    assert recorder.find("system.stopping") == []
    assert system is not None and probe is not None
"""

WRONG_MARKER = """
import pytest

@pytest.mark.mbactor(realtime=True)
async def test_it(mbactor): ...
"""


def test_a_failure_shows_the_seed(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, FAILING, "--mbactor-seed=17")
    assert done.returncode == 1
    assert "virtual time, seed 17; again with --mbactor-seed=17" in done.stdout


def test_a_random_seed_is_shown_and_gives_the_same_order_again(tmp_path: Path) -> None:
    plain = run_pytest(tmp_path, ORDER, "-s").stdout
    assert "order [0, 1, 2, 3, 4, 5]" in plain
    first = run_pytest(tmp_path, ORDER, "-s", "--mbactor-seed=3").stdout.splitlines()[0]
    assert first == run_pytest(tmp_path, ORDER, "-s", "--mbactor-seed=3").stdout.splitlines()[0]
    assert first not in plain
    shown = run_pytest(tmp_path, FAILING, "--mbactor-seed=random").stdout
    assert "virtual time, seed 0;" not in shown
    assert "again with --mbactor-seed=" in shown


@pytest.mark.parametrize("seed", ["-1", "x", "1.5"])
def test_a_seed_that_is_no_number_is_refused(tmp_path: Path, seed: str) -> None:
    done = run_pytest(tmp_path, FAILING, f"--mbactor-seed={seed}")
    assert done.returncode == 4
    assert f"--mbactor-seed={seed}: expected a whole number >= 0, or 'random'" in done.stderr


def test_a_task_that_is_left_is_an_error_of_the_test(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, LEAKING)
    assert "1 passed, 1 error" in done.stdout
    assert "tasks are left after the test:" in done.stdout
    assert "a leak: test_it.py:5 in forgotten" in done.stdout


def test_a_test_that_cannot_end_fails_and_is_unwound_and_its_fixtures_are_closed(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, STANDING)
    assert "1 failed" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1]
    assert "Standstill: nothing can happen any more" in done.stdout
    assert "in test_stands_still -> locks.py:" in done.stdout
    assert "the test was unwound" in done.stdout


def test_short_names_are_there_for_those_who_ask(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SHORT)
    assert done.returncode == 0, done.stdout


def test_a_marker_that_says_something_unknown_is_refused(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, WRONG_MARKER)
    assert done.returncode != 0
    assert "@pytest.mark.mbactor: 'realtime' given, real_time, seed, patience, serialize_local expected" in done.stdout


def test_async_tests_that_ask_for_nothing_of_ours_are_left_alone(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "async def test_it(): ...", "-p", "no:anyio")
    assert "async def functions are not natively supported" in done.stdout


def test_the_plugin_costs_next_to_nothing_until_a_fixture_is_asked_for() -> None:
    script = (
        "import sys, pytest, asyncio; before = set(sys.modules); import mbactor.testing.plugin\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('_')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mbactor", "mbactor.testing", "mbactor.testing.plugin"]
