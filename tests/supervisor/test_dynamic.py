"""Children of a dynamic supervisor come and go, each for itself, whether or not they can start and stop at once."""

from __future__ import annotations

import asyncio
from collections import Counter

import anyio
import pytest

from mbactor import observe
from mbactor.errors import (
    AlreadyPresent,
    AlreadyStarted,
    ChildRunning,
    Deadlock,
    Ignore,
    InvalidSpec,
    NoSuchChild,
    Unavailable,
)
from mbactor.kernel.exit import KILLED, NORMAL, SHUTDOWN, Exit
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.runner import FAIR_RUN
from mbactor.supervisor.spec import Backoff, child
from mbactor.supervisor.state import StartFailed
from mbactor.supervisor.supervisor import Supervisor
from tests.supervisor.parts import Part, PromptPart, Yard, running, timers, until
from tests.supervisor.test_supervisor import Events
from tests.supervisor.world import leaf

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("part", [Part, PromptPart])]


async def test_one_child_that_spends_its_budget_is_forgotten_and_the_others_go_on(part: type[Part]) -> None:
    yard, events = Yard(part), Events()
    with observe.observing(events):
        async with running(yard, DynamicSupervisor(max_restarts=1)) as pool:
            assert isinstance(pool, DynamicSupervisor)
            a = await pool.start_child(leaf("a"))
            await pool.start_child(leaf("b"))
            a.crash()
            await until(lambda: a.running)
            yard.parts["b"].crash()
            await until(lambda: yard.parts["b"].running)
            a.crash()
            await until(lambda: len(pool.which_children()) == 1)
            assert [row.id for row in pool.which_children()] == ["b"]
            assert yard.log[-1] == "close a"
            assert yard.parts["b"].running
    assert [fields["child"] for name, fields in events.seen if name == "supervisor.gave_up"] == ["a"]


@pytest.mark.parametrize("restart", ["transient", "temporary"])
async def test_a_child_that_ended_for_good_is_forgotten(part: type[Part], restart: str) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        a = await pool.start_child(leaf("a", restart=restart))
        a.end(NORMAL)
        await until(lambda: pool.count_children().specs == 0)
        assert "close a" in yard.log
        assert await pool.start_child(leaf("a")) is not a


async def test_children_are_stopped_at_the_same_time(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        for id in "abc":
            await pool.start_child(leaf(id))
            yard.slow_stops[id] = asyncio.Event()
        yard.log.clear()
        stopping = asyncio.create_task(pool.stop())
        await until(lambda: len(yard.log) == 3)
        assert sorted(yard.log) == ["stopping a 5.0", "stopping b 5.0", "stopping c 5.0"]
        for event in yard.slow_stops.values():
            event.set()
        await stopping
        assert sorted(yard.log[-3:]) == ["close a", "close b", "close c"]
        with pytest.raises(Unavailable):
            await pool.start_child(leaf("d"))


async def test_run_time_calls_of_a_dynamic_supervisor(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor(max_children=2)) as pool:
        a = await pool.start_child(leaf("a"))
        with pytest.raises(AlreadyStarted):
            await pool.start_child(leaf("a"))
        b = await pool.start_child(leaf("b", backoff=Backoff("1h", "1h")))
        b.crash()
        with pytest.raises(AlreadyPresent):
            await pool.start_child(leaf("b"))
        with pytest.raises(Unavailable, match="max_children is 2"):
            await pool.start_child(leaf("c"))
        for refused in (pool.restart_child, pool.delete_child):
            with pytest.raises(ChildRunning):
                await refused("a")
            with pytest.raises(NoSuchChild):
                await refused("z")
        await pool.terminate_child("b")
        await pool.terminate_child(a)
        with pytest.raises(NoSuchChild):
            await pool.terminate_child(a)
        assert pool.count_children().specs == 0
        assert timers() == []


async def test_a_child_that_does_not_start_is_forgotten(part: type[Part]) -> None:
    yard = Yard(part)
    yard.errors["a"] = [ValueError("no"), Ignore()]
    async with running(yard, DynamicSupervisor()) as pool:
        with pytest.raises(StartFailed, match="child 'a' failed to start: ValueError: no"):
            await pool.start_child(leaf("a"))
        assert await pool.start_child(leaf("a")) is None
        assert pool.which_children() == []
        yard.slow_starts["a"] = asyncio.Event()
        calling = asyncio.create_task(pool.start_child(leaf("a")))
        await until(lambda: yard.log[-1] == "starting a")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert pool.which_children() == []


async def test_told_crashes_of_a_child_never_spend_its_budget(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor(max_restarts=0)) as pool:
        a = await pool.start_child(leaf("a", backoff=Backoff("1ms", "1ms")))
        for _ in range(5):
            a.crash(told=True)
            await until(lambda: a.running)


async def test_under_a_supervisor_its_children_vanish_when_it_is_restarted(part: type[Part]) -> None:
    yard = Yard(part)
    top = Supervisor(strategy="one_for_all", children=[leaf("a"), child(DynamicSupervisor, id="pool")])
    async with running(yard, top):
        pool = top.which_children()[1].ref
        await pool.start_child(leaf("x"))
        yard.parts["a"].crash()
        await until(lambda: top.which_children()[1].incarnation == 2)
        await until(lambda: top.count_children().active == 2)
        assert top.which_children()[1].ref.which_children() == []
        assert "close x" in yard.log


async def test_the_last_started_is_asked_to_stop_first(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        for id in "abcde":
            await pool.start_child(leaf(id))
        yard.slow_stops["b"] = yard.slow_stops["d"] = asyncio.Event()
        yard.took()
        stopping = asyncio.create_task(pool.stop())
        await until(lambda: [row.id for row in pool.which_children()] == ["b", "d"])
        assert yard.took() == ["stop e", "stop c", "stop a"]
        assert [row.state for row in pool.which_children()] == ["stopping", "stopping"]
        yard.slow_stops["b"].set()
        assert await stopping == SHUTDOWN


async def test_children_that_hang_or_restart_hold_up_none_of_ten_thousand(part: type[Part]) -> None:
    many = 10_000 if part is PromptPart else 500
    yard, pool = Yard(part), DynamicSupervisor(max_children=many)
    async with running(yard, pool):
        for n in range(many):
            shutdown = "brutal" if n % 10 == 1 else "20ms"
            await pool.start_child(leaf(f"a{n}", shutdown=shutdown, backoff=Backoff("1h", "1h")))
        with pytest.raises(Unavailable, match=f"has {many} children, and max_children is {many}"):
            await pool.start_child(leaf("b"))
        for n in range(0, many, 50):
            yard.slow_stops[f"a{n}"] = asyncio.Event()
            yard.parts[f"a{n + 25}"].crash()
        assert pool.count_children().active == many - many // 50
        with anyio.fail_after(60):
            assert await pool.stop() == SHUTDOWN
        assert pool.which_children() == []
        assert not any(one.running for one in yard.parts.values())
        ends = Counter(exit.kind for exit in yard.closed.values())
        assert ends == {"killed": many // 10, "failed": many // 50, "shutdown": many - many // 10 - many // 50}


async def test_all_that_still_stop_are_killed_when_the_time_of_the_whole_is_over(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        for id in "abc":
            await pool.start_child(leaf(id, shutdown=None))
        yard.slow_stops["a"] = yard.slow_stops["b"] = asyncio.Event()
        stopping = asyncio.create_task(pool.stop(0.01))
        await until(lambda: "stopping a 0.0" in yard.log and "stopping b 0.0" in yard.log)
        yard.slow_stops["a"].set()
        assert await stopping == KILLED
        assert [yard.closed[id].kind for id in "abc"] == ["killed", "killed", "shutdown"]
        await pool.start()
        await pool.start_child(leaf("a"))
        assert await pool.stop(0) == KILLED
        assert yard.closed["a"].kind == "killed"


async def test_a_stop_that_is_cancelled_or_asked_for_twice_stops_all_the_same(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        for n in range(FAIR_RUN * 3):
            await pool.start_child(leaf(f"a{n}"))
        yard.slow_stops["a90"] = asyncio.Event()
        first = asyncio.create_task(pool.stop())
        await until(lambda: "stop a70" in yard.log)
        first.cancel()
        await asyncio.wait([first])
        second, third = asyncio.create_task(pool.stop()), asyncio.create_task(pool.stop())
        await until(lambda: pool.count_children().specs == 1)
        await asyncio.sleep(0)
        assert not second.done()
        assert not third.done()
        yard.slow_stops["a90"].set()
        assert await second == await third == SHUTDOWN
        assert pool.which_children() == []


async def test_a_stop_breaks_off_starts_that_are_under_way(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        yard.slow_starts["a"] = asyncio.Event()
        calling = asyncio.create_task(pool.start_child(leaf("a")))
        await until(lambda: "starting a" in yard.log)
        assert [row.state for row in pool.which_children()] == ["starting"]
        with pytest.raises(AlreadyPresent):
            await pool.start_child(leaf("a"))
        await pool.stop()
        with pytest.raises(Unavailable, match="stopped while it started"):
            await calling
        assert pool.which_children() == []


@pytest.mark.parametrize("ending", [False, True])
async def test_wherever_a_start_is_cancelled_it_leaves_nothing_behind(part: type[Part], ending: bool) -> None:
    """Before its first step, while it gives way to others, while it waits for the id, or for the start itself."""
    steps = 0
    while await _cancelled_after(steps, part, ending=ending):
        steps += 1
    assert steps > 6


async def _cancelled_after(steps: int, part: type[Part], *, ending: bool) -> bool:
    """Cancel a start after so many rounds of the loop. False where it had returned before."""
    yard, pool = Yard(part), DynamicSupervisor()
    async with running(yard, pool):
        yard.slow_starts["a"] = yard.slow_stops["a"] = gate = asyncio.Event()
        before = [asyncio.create_task(_end_slowly(yard, pool, gate))] if ending else []
        await until(lambda: not ending or "stopping a 5.0" in yard.log)
        for n in range(FAIR_RUN - 1 - ending):
            await pool.start_child(leaf(f"b{n}"))
        calling = asyncio.create_task(pool.start_child(leaf("a")))
        for step in range(steps):
            if step == 4:
                gate.set()
            await asyncio.sleep(0)
        calling.cancel()
        gate.set()
        await asyncio.wait([calling, *before])
        assert pool.knows("a") is not calling.cancelled()
        assert ("a" in yard.parts and yard.parts["a"].running) is not calling.cancelled()
        assert await pool.start_child(leaf("c")) is yard.parts["c"]
        return calling.cancelled()


async def _end_slowly(yard: Yard, pool: DynamicSupervisor, gate: asyncio.Event) -> None:
    gate.set()
    await pool.start_child(leaf("a"))
    gate.clear()
    await pool.terminate_child("a")


async def test_a_child_may_not_have_itself_terminated_by_what_waits_for_it(part: type[Part]) -> None:
    yard, said = Yard(), list[str]()
    pool = DynamicSupervisor()

    class Selfish(part):  # type: ignore[misc, valid-type]
        async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
            for call in (pool.terminate_child("a"), pool.start_child(leaf("a"))):
                with pytest.raises(Deadlock, match="by one of them"):
                    await call
                said.append("deadlock")
            return await super().stop(timeout, exit)  # type: ignore[no-any-return]

        def stop_now(self, exit: Exit) -> bool:
            return False

    yard.part = Selfish
    async with running(yard, pool):
        await pool.start_child(leaf("a"))
        await pool.terminate_child("a")
    assert said == ["deadlock", "deadlock"]


async def test_a_temporary_child_that_asked_not_to_be_started_is_forgotten_too(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor(max_children=1)) as pool:
        for restart in ("temporary", "transient", "permanent"):
            yard.errors["a"] = [Ignore()]
            assert await pool.start_child(leaf("a", restart=restart)) is None
            assert pool.count_children().specs == 0
        assert await pool.start_child(leaf("a")) is yard.parts["a"]


async def test_a_cancellation_that_a_start_raises_by_itself_is_a_failed_start(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        yard.errors["a"] = [asyncio.CancelledError()]
        with pytest.raises(StartFailed, match="CancelledError"):
            await pool.start_child(leaf("a"))
        assert pool.which_children() == []


async def test_outside_a_tree_it_says_so(part: type[Part]) -> None:
    with pytest.raises(Unavailable, match="part of no tree"):
        await DynamicSupervisor().start_child(leaf("a"))
    with pytest.raises(Unavailable, match="part of no tree"):
        await DynamicSupervisor().terminate_child("a")
    with pytest.raises(Unavailable, match="is not running"):
        await Yard(part).bound(DynamicSupervisor()).start_child(leaf("a"))


async def test_it_takes_no_children_of_its_own(part: type[Part]) -> None:
    class Wrong(DynamicSupervisor):
        children = (leaf("a"),)

    with pytest.raises(InvalidSpec, match="Wrong: children: 1 given, none expected"):
        await Yard(part).bound(Wrong()).start()


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("strategy", "rest_for_one", "Wrong: strategy: 'rest_for_one' given, 'one_for_one' expected"),
        ("auto_shutdown", "any_significant", "Wrong: auto_shutdown: 'any_significant' given, 'never' expected"),
        ("max_children", "5", "Wrong: max_children: '5' given, a whole number >= 0 or None expected"),
        ("max_children", -1, "Wrong: max_children: -1 given"),
    ],
)
async def test_what_would_have_no_effect_on_it_is_refused(
    part: type[Part], field: str, value: object, text: str
) -> None:
    wrong = type("Wrong", (DynamicSupervisor,), {field: value})
    with pytest.raises(InvalidSpec, match=text):
        await Yard(part).bound(wrong()).start()


async def test_what_would_have_no_effect_on_its_child_is_refused(part: type[Part]) -> None:
    async with running(Yard(part), DynamicSupervisor()) as pool:
        await pool.start_child(leaf("a"))
        with pytest.raises(InvalidSpec, match="child 'b': significant: True given, False expected here"):
            await pool.start_child(leaf("b", restart="transient", significant=True))
        with pytest.raises(InvalidSpec, match=r"child 'b': after: \['a'\] given, none expected here"):
            await pool.start_child(leaf("b", after=["a"]))


async def test_a_child_that_ignores_its_restart_is_forgotten(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        for restart in ("permanent", "transient"):
            a = await pool.start_child(leaf("a", restart=restart))
            yard.errors["a"] = [Ignore()]
            a.crash()
            await until(lambda: pool.count_children().specs == 0)
        assert await pool.start_child(leaf("a")) is yard.parts["a"]


async def test_a_temporary_supervisor_that_gave_up_is_forgotten(part: type[Part]) -> None:
    yard = Yard(part)
    async with running(yard, DynamicSupervisor()) as pool:
        inner = child(Supervisor, id="sub", restart="temporary", args={"max_restarts": 0, "children": [leaf("x")]})
        await pool.start_child(inner)
        yard.parts["x"].crash()
        await until(lambda: pool.count_children().specs == 0)
        await pool.start_child(inner)
