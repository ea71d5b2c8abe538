"""Run-time calls: every reply of the table, whoever else is calling, and never kept waiting by a slow start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor import MbactorError
from mbactor.errors import Ignore, NoSuchChild, Unavailable
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.state import StartFailed
from mbactor.supervisor.supervisor import Supervisor
from mbactor.testing import VirtualTimeLoop
from tests.supervisor.naive import Kid, Model
from tests.supervisor.parts import NOWHERE, Part, Yard, running, timers, until
from tests.supervisor.world import leaf

# --- the table, on real supervisors (section 2.10) ----------------------------------------------------------------

CALLS = ("start", "terminate", "restart", "delete")
TABLE: dict[str, tuple[str, str, str, str]] = {
    # what is called on a child that is: running, stopped, restarting, unknown
    "start": ("AlreadyStarted", "AlreadyPresent", "AlreadyPresent", "ok"),
    "terminate": ("ok", "ok", "ok", "NoSuchChild"),
    "restart": ("ChildRunning", "ok", "ChildRestarting", "NoSuchChild"),
    "delete": ("ChildRunning", "ok", "ChildRestarting", "NoSuchChild"),
}
AFTER: dict[str, tuple[str, str, str, str]] = {
    "start": ("running", "stopped", "restarting", "running"),
    "terminate": ("stopped", "stopped", "stopped", "absent"),
    "restart": ("running", "running", "restarting", "absent"),
    "delete": ("running", "absent", "restarting", "absent"),
}
DYNAMIC: dict[str, tuple[str, str, str, str]] = {
    "start": ("AlreadyStarted", "ok", "AlreadyPresent", "ok"),
    "terminate": ("ok", "NoSuchChild", "ok", "NoSuchChild"),
    "restart": ("ChildRunning", "NoSuchChild", "ChildRunning", "NoSuchChild"),
    "delete": ("ChildRunning", "NoSuchChild", "ChildRunning", "NoSuchChild"),
}
AFTER_DYNAMIC: dict[str, tuple[str, str, str, str]] = {
    "start": ("running", "running", "restarting", "running"),
    "terminate": ("absent", "absent", "absent", "absent"),
    "restart": ("running", "absent", "restarting", "absent"),
    "delete": ("running", "absent", "restarting", "absent"),
}
STATES = ("running", "stopped", "restarting", "unknown")


async def said(supervisor: Supervisor, call: str, id: str) -> str:
    argument: Any = leaf(id) if call == "start" else id
    try:
        await getattr(supervisor, f"{call}_child")(argument)
    except MbactorError as error:
        return type(error).__name__
    return "ok"


def state_of(supervisor: Supervisor, id: str) -> str:
    return next((row.state for row in supervisor.which_children() if row.id == id), "absent")


async def bring(yard: Yard, supervisor: Supervisor, state: str) -> None:
    """Let the child `a` be in that state."""
    await supervisor.start_child(leaf("a", backoff=Backoff("1h", "1h")))
    if state in {"stopped", "unknown"}:
        await supervisor.terminate_child("a")
    if state == "unknown" and not isinstance(supervisor, DynamicSupervisor):
        await supervisor.delete_child("a")
    if state == "restarting":
        yard.parts["a"].crash()


@pytest.mark.anyio
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("call", CALLS)
async def test_every_reply_of_the_table(call: str, state: str, dynamic: bool) -> None:
    yard, place = Yard(), STATES.index(state)
    async with running(yard, DynamicSupervisor() if dynamic else Supervisor()) as supervisor:
        await bring(yard, supervisor, state)
        assert await said(supervisor, call, "a") == (DYNAMIC if dynamic else TABLE)[call][place]
        assert state_of(supervisor, "a") == (AFTER_DYNAMIC if dynamic else AFTER)[call][place]
        assert (state_of(supervisor, "a") == "running") is yard.parts["a"].running
        assert bool(timers()) is (state_of(supervisor, "a") == "restarting")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("call", "state", "reply", "after"),
    [
        ("start", "unknown", "StartFailed", "absent"),
        ("restart", "stopped", "StartFailed", "stopped"),
    ],
)
async def test_a_failed_start_child_forgets_and_a_failed_restart_child_keeps(
    call: str, state: str, reply: str, after: str
) -> None:
    yard = Yard()
    async with running(yard, Supervisor(max_restarts=0)) as supervisor:
        await bring(yard, supervisor, state)
        yard.errors["a"] = [ValueError("no")]
        assert await said(supervisor, call, "a") == reply
        assert state_of(supervisor, "a") == after
        yard.errors["a"] = [Ignore()]
        assert await said(supervisor, call, "a") == "ok"
        assert state_of(supervisor, "a") == "stopped"
        assert supervisor.phase == "running"


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dynamic", [False, True])
async def test_where_a_supervisor_does_not_run_a_call_says_so(call: str, dynamic: bool) -> None:
    yard = Yard()
    supervisor = yard.bound(DynamicSupervisor() if dynamic else Supervisor())
    with pytest.raises((Unavailable, NoSuchChild)):
        await getattr(supervisor, f"{call}_child")(leaf("a") if call == "start" else "a")
    await supervisor.start()
    await supervisor.stop()
    with pytest.raises((Unavailable, NoSuchChild)):
        await getattr(supervisor, f"{call}_child")(leaf("a") if call == "start" else "a")


# --- while something is slow ----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_stop_wins_over_the_next_attempt() -> None:
    yard = Yard()
    supervisor = yard.bound(Supervisor(max_restarts=1000, children=[leaf("a"), leaf("b")]))
    await supervisor.start()
    yard.errors["a"] = [ValueError("no") for _ in range(1000)]
    yard.parts["a"].crash()
    await until(lambda: yard.log.count("starting a") > 3)
    await supervisor.stop()
    assert len(yard.errors["a"]) > 900
    assert timers() == []


@pytest.mark.anyio
async def test_calls_are_served_between_the_attempts_of_a_child_that_does_not_start() -> None:
    yard = Yard()
    async with running(yard, Supervisor(max_restarts=10_000, children=[leaf("a"), leaf("b")])) as supervisor:
        yard.errors["a"] = [ValueError("no") for _ in range(10_000)]
        yard.parts["a"].crash()
        await until(lambda: yard.log.count("starting a") > 3)
        await supervisor.start_child(leaf("c"))
        await supervisor.terminate_child("b")
        await supervisor.terminate_child("a")
        assert len(yard.errors["a"]) > 9000
        tried = yard.log.count("starting a")
        await supervisor.restart_child("b")
        assert yard.log.count("starting a") == tried


@pytest.mark.anyio
async def test_a_slow_start_keeps_no_query_and_no_end_of_it_waiting() -> None:
    yard = Yard()
    children = [leaf("a"), leaf("b"), leaf("c")]
    async with running(yard, Supervisor(strategy="one_for_all", children=children)) as supervisor:
        yard.slow_starts["b"] = asyncio.Event()
        yard.parts["a"].crash()
        await until(lambda: yard.log[-1] == "starting b")
        assert [row.state for row in supervisor.which_children()] == ["running", "starting", "stopped"]
        assert supervisor.count_children().active == 1
        await supervisor.terminate_child("b")
        await until(lambda: supervisor.count_children().active == 2)
        assert [(row.state, row.held) for row in supervisor.which_children()] == [
            ("running", False),
            ("stopped", True),
            ("running", False),
        ]
        yard.slow_starts["b"].set()
        await supervisor.restart_child("b")
        assert supervisor.count_children().active == 3


@pytest.mark.anyio
async def test_a_child_may_be_terminated_while_somebody_starts_it() -> None:
    yard = Yard()
    async with running(yard, Supervisor()) as supervisor:
        yard.slow_starts["a"] = asyncio.Event()
        starting = asyncio.create_task(supervisor.start_child(leaf("a")))
        await until(lambda: "starting a" in yard.log)
        await supervisor.terminate_child("a")
        with pytest.raises(StartFailed, match="its start was broken off"):
            await starting
        assert supervisor.which_children() == []


# --- two callers at the same time -------------------------------------------------------------------------------

Sequence = list[tuple[str, str]]
SEQUENCES = st.lists(st.tuples(st.sampled_from(CALLS), st.sampled_from("ab")), min_size=1, max_size=3)
MOMENTS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=6, max_size=6)


class Slow(Part):
    """Takes its time."""

    async def start(self) -> None:
        await asyncio.sleep(1)
        await super().start()

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        if self.running:
            await asyncio.sleep(1)
        return await super().stop(timeout, exit)


async def _play(clients: tuple[Sequence, Sequence], moments: list[float]) -> tuple[list[list[str]], dict[str, str]]:
    """What each caller was answered, and what came of it."""
    yard = Yard()
    supervisor = Supervisor(children=[leaf("a")])
    supervisor.bind(NOWHERE, "top", build=lambda spec, _: Slow(spec, yard))
    await supervisor.start()
    pauses = iter(moments)

    async def client(sequence: Sequence) -> list[str]:
        answers = []
        for call, id in sequence:
            await asyncio.sleep(next(pauses))
            answers.append(await said(supervisor, call, id))
        return answers

    answers = await asyncio.gather(*map(client, clients))
    rows = {row.id: row.state for row in supervisor.which_children()}
    await supervisor.stop()
    return answers, dict(rows)


def _explained(merged: list[tuple[str, str, str]], rows: dict[str, str]) -> bool:
    """Whether these calls, one after the other, are answered so and come to that."""
    model = Model("one_for_one", 3, 5.0, [Kid("a")])
    model.boot()
    broken_off: set[str] = set()
    for call, id, answer in merged:
        if call in {"start", "restart"} and answer == "StartFailed":
            # Somebody terminated it while it started.
            model.nature.fails[id] = 1
            broken_off.add(id)
        expected = model.add(Kid(id)) if call == "start" else getattr(model, call)(id)
        # Whoever wanted its end got that, though it is forgotten; who comes later does not find it.
        gone = call == "terminate" and id in broken_off and expected == "NoSuchChild"
        if answer != expected and not (gone and answer == "ok"):
            return False
    return {kid.id: kid.state for kid in model.kids} == rows


def _merges(first: list[Any], second: list[Any]) -> Iterator[list[Any]]:
    for places in combinations(range(len(first) + len(second)), len(first)):
        one, other = iter(first), iter(second)
        yield [next(one) if n in places else next(other) for n in range(len(first) + len(second))]


@settings(max_examples=100, deadline=None)
@given(first=SEQUENCES, second=SEQUENCES, moments=MOMENTS)
def test_concurrent_calls_are_answered_as_in_some_order(
    first: Sequence, second: Sequence, moments: list[float]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        answers, rows = runner.run(_play((first, second), moments))
    histories = [
        [(*call, answer) for call, answer in zip(sequence, answered, strict=True)]
        for sequence, answered in zip((first, second), answers, strict=True)
    ]
    assert any(_explained(merged, rows) for merged in _merges(*histories)), (histories, rows)
