"""A running supervisor carries out what the policy decides, and stays responsive meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

from mbactor import observe, seams
from mbactor.errors import AlreadyStarted, Ignore, InvalidSpec, NoSuchChild, Unavailable
from mbactor.kernel.exit import Exit
from mbactor.supervisor import runner
from mbactor.supervisor.runner import FAIR_RUN
from mbactor.supervisor.spec import Backoff, child
from mbactor.supervisor.state import GaveUp, StartFailed
from mbactor.supervisor.supervisor import Supervisor
from tests.supervisor.parts import NOWHERE, Part, PromptPart, Yard, running, timers, until
from tests.supervisor.world import leaf

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True, params=[Part, PromptPart])
def usual(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule holds for children that are waited for and for those that start and stop at once."""
    monkeypatch.setattr(Yard, "usual", request.param)


class Events:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Mapping[str, Any]]] = []

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        self.seen.append((name, fields))

    def on_start(self, span: observe.Span) -> None: ...

    def on_end(self, span: observe.Span) -> None: ...


def abc(**options: Any) -> Supervisor:
    return Supervisor(children=[leaf("a"), leaf("b"), leaf("c")], **options)


async def test_children_start_in_order_and_stop_in_reverse_each_within_its_own_time() -> None:
    yard = Yard(Part)
    children = [leaf("a", shutdown="1s"), leaf("b", shutdown="brutal"), leaf("c", shutdown=None)]
    async with running(yard, Supervisor(children=children)):
        assert yard.took() == ["start a", "start b", "start c"]
    assert yard.log == ["stopping c None", "stop c", "stopping b 0.0", "stop b", "stopping a 1.0", "stop a"]


async def test_a_crashed_child_is_restarted_and_observers_are_told() -> None:
    yard, events = Yard(), Events()
    with observe.observing(events):
        async with running(yard, abc(strategy="rest_for_one")) as supervisor:
            yard.took()
            yard.parts["b"].crash()
            await until(lambda: all(row.state == "running" for row in supervisor.which_children()))
            assert yard.took() == ["stop c", "start b", "start c"]
            row = supervisor.which_children()[1]
            assert (row.id, row.incarnation, row.restarts, row.held) == ("b", 2, 1, False)
            assert row.ref is yard.parts["b"]
            assert row.last_exit is not None
            assert row.last_exit.kind == "failed"
    (event,) = [fields for name, fields in events.seen if name == "supervisor.restarting"]
    assert (event["supervisor"], event["child"], event["restarts"]) == ("top", "b", 1)


async def test_a_slow_start_does_not_block_a_stop() -> None:
    yard = Yard()
    async with running(yard, abc()) as supervisor:
        yard.slow_starts["b"] = asyncio.Event()
        yard.parts["b"].crash()
        await until(lambda: yard.log[-1] == "starting b")
        yard.took()
        assert (await supervisor.stop()).kind == "shutdown"
        assert yard.took() == ["stop c", "stop a"]


async def test_a_stop_while_the_first_start_is_under_way_fails_that_start() -> None:
    yard = Yard()
    yard.slow_starts["b"] = asyncio.Event()
    supervisor = yard.bound(abc())
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: "starting b" in yard.log)
    await supervisor.stop()
    with pytest.raises(Unavailable):
        await starting
    assert yard.took() == ["start a", "stop a"]


async def test_a_stop_while_on_start_is_under_way_starts_no_child() -> None:
    yard, gate = Yard(), asyncio.Event()

    class Own(Supervisor):
        children = (leaf("a"),)

        async def on_start(self) -> None:
            yard.log.append("start own")
            await gate.wait()

        async def on_stop(self, exit: Exit) -> None:
            yard.log.append("stop own")

    supervisor = yard.bound(Own())
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: bool(yard.log))
    await supervisor.stop()
    gate.set()
    with pytest.raises(Unavailable, match="stopped while it started"):
        await starting
    assert yard.log == ["start own", "stop own"]


async def test_a_stop_before_the_first_step_of_a_start_ends_it_too() -> None:
    yard = Yard(Part)
    supervisor = yard.bound(Supervisor(children=[leaf("a", shutdown=None)]))
    starting = asyncio.create_task(supervisor.start())
    await asyncio.sleep(0)
    await supervisor.stop()
    with pytest.raises(Unavailable):
        await starting
    assert yard.log == []


async def test_cancelling_the_first_start_stops_what_is_up() -> None:
    yard = Yard()
    yard.slow_starts["c"] = asyncio.Event()
    nested = child(Supervisor, id="n", args={"children": [leaf("c")]})
    supervisor = yard.bound(Supervisor(children=[leaf("a"), nested]))
    before = asyncio.all_tasks()
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: "starting c" in yard.log)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert yard.took() == ["start a", "stop a"]
    assert asyncio.all_tasks() == before
    assert timers() == []


async def test_a_failed_first_start_names_the_child_through_the_levels() -> None:
    yard = Yard()
    yard.errors["leaf"] = [ValueError("no disk")]
    nested = child(Supervisor, id="pipelines", args={"children": [leaf("ok"), leaf("leaf")]})
    supervisor = yard.bound(Supervisor(children=[leaf("a"), nested]))
    with pytest.raises(StartFailed) as caught:
        await supervisor.start()
    expected = "child 'pipelines' failed to start: child 'leaf' failed to start: ValueError: no disk"
    assert str(caught.value) == expected
    assert caught.value.child == "pipelines"
    assert yard.took() == ["start a", "start ok", "stop ok", "stop a"]


async def test_a_failed_start_is_tried_as_often_as_the_budget_allows_then_the_supervisor_gives_up() -> None:
    yard, events, ends = Yard(), Events(), list[Exit]()
    supervisor = yard.bound(abc(max_restarts=2))
    supervisor.on_exit = ends.append
    await supervisor.start()
    yard.took()
    yard.errors["a"] = [ValueError(str(n)) for n in range(9)]
    with observe.observing(events):
        yard.parts["a"].crash()
        await until(lambda: bool(ends))
    assert yard.log.count("starting a") == 2
    assert yard.took() == ["stop c", "stop b"]
    assert isinstance(ends[0].error, GaveUp)
    assert "more than 2 restarts within 5 s" in str(ends[0])
    assert [fields["child"] for name, fields in events.seen if name == "supervisor.gave_up"] == ["a"]
    assert (await supervisor.stop()).kind == "gave_up"
    assert len(ends) == 1


async def test_giving_up_escalates_and_nested_budgets_multiply() -> None:
    yard, ends = Yard(), list[Exit]()
    nested = child(Supervisor, id="sub", args={"max_restarts": 3, "children": [leaf("x")]})
    top = yard.bound(Supervisor(max_restarts=2, children=[leaf("a"), nested]))
    top.on_exit = ends.append
    await top.start()
    part = yard.parts["x"]
    crashes = 0
    while not ends:
        await until(lambda: part.running or bool(ends))
        if part.running:
            part.crash()
            crashes += 1
    assert crashes == (2 + 1) * (3 + 1)
    assert yard.log.count("start x") == 12
    assert yard.parts["x"] is part
    assert isinstance(ends[0].error, GaveUp)
    assert ends[0].error.child == "sub"


async def test_a_transient_supervisor_that_gave_up_is_restarted_as_after_a_failure() -> None:
    yard = Yard()
    nested = child(Supervisor, id="sub", restart="transient", args={"max_restarts": 0, "children": [leaf("x")]})
    async with running(yard, Supervisor(children=[nested])) as top:
        yard.parts["x"].crash()
        await until(lambda: top.which_children()[0].restarts == 1)
        assert yard.parts["x"].running


async def test_told_crashes_never_give_up() -> None:
    yard = Yard()
    fast = Backoff(0.0001, 0.0002)
    async with running(yard, Supervisor(max_restarts=0, children=[leaf("a", backoff=fast)])) as supervisor:
        for n in range(20):
            await until(lambda n=n: yard.parts["a"].incarnation == n + 1 and yard.parts["a"].running)  # type: ignore[misc]
            yard.parts["a"].crash(told=True)
        await until(lambda: yard.parts["a"].running)
        assert supervisor.count_children().active == 1


async def test_a_delayed_restart_pauses_the_child_and_a_stop_forgets_it() -> None:
    yard = Yard()
    async with running(yard, Supervisor(children=[leaf("a", backoff=Backoff("1h", "2h"))])) as supervisor:
        yard.parts["a"].crash()
        assert yard.log[-1] == "pause a"
        assert supervisor.which_children()[0].state == "restarting"


async def test_a_delayed_group_restart_pauses_everybody_below_too() -> None:
    yard = Yard()
    inner = child(Supervisor, id="inner", args={"children": [leaf("x")]})
    children = [leaf("a", backoff=Backoff("1h", "2h")), leaf("b"), inner]
    async with running(yard, Supervisor(strategy="one_for_all", children=children)) as supervisor:
        yard.parts["a"].crash()
        await until(lambda: yard.log[-1] == "pause b")
        assert [line for line in yard.log if line.startswith("pause")] == ["pause a", "pause x", "pause b"]
        assert [row.state for row in supervisor.which_children()] == ["restarting", "stopped", "stopped"]


async def test_a_start_that_cannot_be_broken_off_is_abandoned_and_stopped_when_it_comes_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yard, events, gate = Yard(), Events(), asyncio.Event()
    monkeypatch.setattr(runner, "GRACE", 0.01)

    class Stubborn(Part):
        async def start(self) -> None:
            yard.log.append("stubborn")
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
            await super().start()

    before = NOWHERE.abandoned
    supervisor = Supervisor(children=[leaf("a", shutdown="10ms")])
    supervisor.bind(NOWHERE, "top", build=lambda spec, _: Stubborn(spec, yard))
    starting = asyncio.create_task(supervisor.start())
    try:
        await until(lambda: yard.log == ["stubborn"])
        with observe.observing(events):
            await supervisor.stop()
        with pytest.raises(Unavailable):
            await starting
    finally:
        gate.set()
    assert [name for name, _ in events.seen] == ["actor.abandoned"]
    assert NOWHERE.abandoned == before + 1
    assert yard.log == ["stubborn", "stopping a 0", "stop a"]
    yard.log.clear()
    await until(lambda: yard.log[-1:] == ["stop a"])
    assert yard.log == ["starting a", "start a", "stopping a 0", "stop a"]


async def test_children_that_a_new_incarnation_no_longer_has_are_closed() -> None:
    yard, generation = Yard(), iter("xyz")

    class Changing(Supervisor):
        def __init__(self) -> None:
            super().__init__(max_restarts=0, children=[leaf("same"), leaf(next(generation))])

    async with running(yard, Supervisor(children=[child(Changing)])) as top:
        yard.parts["same"].crash()
        await until(lambda: "start y" in yard.log)
        assert [line for line in yard.log if line.startswith("close")] == ["close x"]
        assert yard.parts["same"].incarnation == 2
        assert top.which_children()[0].incarnation == 2


async def test_run_time_calls_by_id_and_by_ref() -> None:
    yard = Yard()
    async with running(yard, abc()) as supervisor:
        part = await supervisor.start_child(leaf("d"))
        assert part is yard.parts["d"]
        with pytest.raises(AlreadyStarted):
            await supervisor.start_child(leaf("d"))
        await supervisor.terminate_child(part)
        assert supervisor.which_children()[3].held
        assert await supervisor.restart_child("d") is part
        assert part.incarnation == 2
        await supervisor.terminate_child("d")
        await supervisor.delete_child("d")
        with pytest.raises(NoSuchChild):
            await supervisor.restart_child("d")
        with pytest.raises(NoSuchChild):
            await supervisor.terminate_child(part)
        yard.errors["e"] = [ValueError("no")]
        with pytest.raises(StartFailed):
            await supervisor.start_child(leaf("e"))
        yard.errors["f"] = [Ignore()]
        assert await supervisor.start_child(leaf("f")) is None
        with pytest.raises(InvalidSpec):
            await supervisor.start_child(leaf("g", replicas=2))
        count = supervisor.count_children()
        assert (count.specs, count.active, count.supervisors, count.workers) == (4, 3, 0, 4)


async def test_a_child_is_added_after_siblings_that_there_are() -> None:
    yard = Yard()
    async with running(yard, Supervisor(children=[leaf("a"), leaf("b", replicas=2)])) as supervisor:
        await supervisor.start_child(leaf("c", after=["a", "b", "b-2"]))
        with pytest.raises(
            InvalidSpec, match="child 'd': after: 'z' given, one of its siblings expected: a, b-1, b-2, c"
        ):
            await supervisor.start_child(leaf("d", after=["a", "z"]))
        assert yard.log[-1] == "start c"


async def test_a_caller_that_goes_away_does_not_undo_its_call() -> None:
    yard = Yard()
    async with running(yard, Supervisor()) as supervisor:
        yard.slow_starts["a"] = asyncio.Event()
        calling = asyncio.create_task(supervisor.start_child(leaf("a")))
        await until(lambda: "starting a" in yard.log)
        calling.cancel()
        yard.slow_starts["a"].set()
        await until(lambda: supervisor.count_children().active == 1)


async def test_restarting_a_supervisor_keeps_its_children_and_drops_those_added_at_run_time() -> None:
    yard = Yard()
    nested = child(Supervisor, id="sub", args={"max_restarts": 0, "children": [leaf("x"), leaf("y")]})
    async with running(yard, Supervisor(children=[nested])) as top:
        sub = top.which_children()[0].ref
        assert sub.path == "top/sub"
        await sub.start_child(leaf("late"))
        x = yard.parts["x"]
        x.crash()
        await until(lambda: top.which_children()[0].incarnation == 2 and x.running)
        assert top.which_children()[0].ref is not sub
        assert [row.ref for row in top.which_children()[0].ref.which_children()] == [x, yard.parts["y"]]
        assert "close late" in yard.log
        assert "close x" not in yard.log


async def test_a_nested_supervisor_that_overruns_its_time_kills_its_children() -> None:
    yard = Yard()
    yard.slow_stops["x"] = yard.slow_stops["y"] = asyncio.Event()
    children = [leaf("x", shutdown=None), leaf("y", shutdown=None)]
    nested = child(Supervisor, id="sub", shutdown="20ms", args={"children": children})
    top = yard.bound(Supervisor(children=[nested]))
    await top.start()
    stopping = asyncio.create_task(top.stop())
    await until(lambda: "stopping y 0.0" in yard.log)
    yard.slow_stops["y"].set()
    assert (await stopping).kind == "shutdown"
    last = top.which_children()[0].last_exit
    assert last is not None
    assert last.kind == "killed"
    assert "stopping x 0.0" in yard.log


async def test_a_child_that_changes_its_supervisor_from_its_own_start_is_told_of_the_deadlock() -> None:
    yard = Yard()
    supervisor = Supervisor()

    class Asker(Part):
        async def start(self) -> None:
            await supervisor.start_child(leaf("other"))

    supervisor.bind(NOWHERE, "top", build=lambda spec, _: Asker(spec, yard))
    await supervisor.start()
    with pytest.raises(StartFailed, match="Deadlock"):
        await supervisor.start_child(leaf("asker"))
    await supervisor.stop()


async def test_a_cancellation_that_a_start_raises_by_itself_is_a_failed_start() -> None:
    yard = Yard()
    yard.errors["a"] = [asyncio.CancelledError()]
    with pytest.raises(StartFailed, match="CancelledError"):
        await yard.bound(abc()).start()


async def test_children_may_be_made_in_on_start_and_on_stop_runs_when_they_are_down() -> None:
    yard = Yard()

    class Own(Supervisor):
        async def on_start(self) -> None:
            yard.log.append("start own")
            self.children = [leaf("a")]

        async def on_stop(self, exit: Exit) -> None:
            yard.log.append(f"stop own {exit}")
            raise ValueError("reported, and stops nothing")

    events = Events()
    with observe.observing(events):
        async with running(yard, Own()):
            pass
    assert yard.took() == ["start own", "start a", "stop a", "stop own shutdown"]
    assert [name for name, _ in events.seen] == ["actor.stop_failed"]


async def test_an_invalid_supervisor_is_refused_before_anything_starts() -> None:
    yard = Yard()

    class Twice(Supervisor):
        children = (leaf("a"), leaf("a"))

    with pytest.raises(InvalidSpec, match="Twice: children: the id 'a' is given twice"):
        await yard.bound(Twice()).start()
    assert yard.log == []


async def test_a_supervisor_outside_a_tree_says_so() -> None:
    with pytest.raises(Unavailable, match="part of no tree"):
        await Supervisor().start_child(leaf("a"))
    unstarted = Yard().bound(Supervisor())
    with pytest.raises(Unavailable, match="not running"):
        await unstarted.terminate_child("a")
    assert (await unstarted.stop()).kind == "shutdown"


async def test_a_restart_passes_the_seam() -> None:
    yard, seen = Yard(), list[str]()

    async def fault(child: str) -> None:
        seen.append(child)
        raise ValueError("injected")

    async with running(yard, abc(max_restarts=1)) as supervisor:
        with seams.armed("supervisor.restart.before", fault):
            yard.parts["a"].crash()
            await until(lambda: supervisor.count_children().active == 0)
    assert seen == ["a"]


# --- children that start and stop at once --------------------------------------------------------------------------


async def test_a_child_that_starts_at_once_is_restarted_while_its_end_is_told() -> None:
    yard = Yard(PromptPart)
    async with running(yard, Supervisor(children=[leaf("a"), leaf("b")])) as supervisor:
        yard.took()
        tasks = asyncio.all_tasks()
        yard.parts["a"].crash()
        assert yard.took() == ["start a"]
        assert asyncio.all_tasks() == tasks
        assert [(row.state, row.restarts) for row in supervisor.which_children()] == [("running", 1), ("running", 0)]


async def test_a_group_of_children_that_start_and_stop_at_once_is_restarted_while_the_end_of_one_is_told() -> None:
    yard = Yard(PromptPart)
    async with running(yard, Supervisor(strategy="one_for_all", children=[leaf("a"), leaf("b"), leaf("c")])):
        yard.took()
        yard.parts["b"].crash()
        assert yard.took() == ["stop c", "stop a", "start a", "start b", "start c"]


async def test_what_fails_to_start_at_once_is_tried_again_in_another_turn_of_the_loop() -> None:
    yard = Yard(PromptPart)
    async with running(yard, Supervisor(max_restarts=1000, children=[leaf("a")])) as supervisor:
        yard.errors["a"] = [RuntimeError() for _ in range(100)]
        yard.parts["a"].crash()
        assert yard.parts["a"].incarnation == 2
        await supervisor.terminate_child("a")  # an operator's call comes in between
        assert len(yard.errors["a"]) > 90


async def test_others_have_their_turn_while_many_children_start_and_stop_at_once() -> None:
    yard, turns = Yard(PromptPart), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(other())
    async with running(yard, Supervisor(children=[leaf(f"a{n}") for n in range(FAIR_RUN * 10)])) as supervisor:
        assert turns >= 9
        turns = 0
        await supervisor.stop()
        assert turns >= 9
    watching.cancel()


async def test_a_restart_that_a_test_holds_still_is_waited_for() -> None:
    yard, reached, go = Yard(PromptPart), asyncio.Event(), asyncio.Event()

    async def hold(child: str) -> None:
        reached.set()
        await go.wait()

    async with running(yard, Supervisor(children=[leaf("a")])):
        yard.took()
        with seams.armed("supervisor.restart.before", hold):
            yard.parts["a"].crash()
            await reached.wait()
            assert yard.took() == []
            go.set()
            await until(lambda: yard.parts["a"].running)


async def test_an_exception_that_ends_the_program_while_a_child_is_restarted_leaves_a_tree_that_can_be_stopped() -> (
    None
):
    yard = Yard(PromptPart)
    async with running(yard, Supervisor(children=[leaf("a"), leaf("b")])):
        yard.errors["a"] = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            yard.parts["a"].crash()
    assert [part.running for part in yard.parts.values()] == [False, False]


class Absurd(Backoff):
    """A backoff of the user's own, with a mistake in it."""

    def delay(self, attempt: int, sample: float) -> float:
        return super().delay(attempt, sample) / 0


@pytest.mark.parametrize("where", ["at a crash", "at a start that fails"])
async def test_a_supervisor_that_cannot_decide_ends_as_a_crashed_child_and_is_restarted(where: str) -> None:
    yard, events = Yard(), Events()
    children = [leaf("x"), leaf("y", backoff=Absurd("1s", "2s"))]
    inner = child(Supervisor, id="inner", args={"strategy": "one_for_all", "children": children})
    with observe.observing(events):
        async with running(yard, Supervisor(children=[leaf("a"), inner])) as supervisor:
            if where == "at a crash":
                yard.parts["y"].crash()
            else:
                yard.errors["y"] = [RuntimeError("no")]
                yard.parts["x"].crash()
            await until(lambda: supervisor.which_children()[1].incarnation == 2)
            await until(lambda: all(one.state == "running" for one in supervisor.which_children()))
            row = supervisor.which_children()[1]
            assert str(row.last_exit) == "failed: ZeroDivisionError: float division by zero"
            assert (row.restarts, yard.parts["x"].running, yard.parts["y"].running) == (1, True, True)
    (told,) = [fields for name, fields in events.seen if name == "supervisor.failed"]
    assert (told["supervisor"], str(told["error"])) == ("top/inner", "float division by zero")
