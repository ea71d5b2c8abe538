"""A child that simply runs costs little, and what happens to it is decided as for any other."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from time import process_time
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor import observe
from mbactor.errors import ActorStopped, InvalidSpec, MbactorError, NoSuchChild
from mbactor.kernel import Actor, ActorRef, endpoint
from mbactor.kernel.exit import NORMAL, SHUTDOWN, Exit
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.line import Line
from mbactor.supervisor.policy import booting, decide, running
from mbactor.supervisor.runner import FAIR_RUN, Runner
from mbactor.supervisor.spec import Backoff, SupervisorSpec, child
from mbactor.supervisor.state import Ended, Started, StartRequested, State, Stop, Stopped, StopRequested
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.system import ActorSystem
from mbactor.testing import Recorder, VirtualTimeLoop
from tests.supervisor import parts
from tests.supervisor.parts import Part, PromptPart, Yard, until
from tests.supervisor.test_supervisor import Events
from tests.supervisor.world import leaf

T = TypeVar("T")
BOTH = pytest.mark.parametrize("part", [Part, PromptPart])


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


async def settle() -> None:
    """Let all that is ready happen; no time passes."""
    for _ in range(30):
        await asyncio.sleep(0)


# --- the policy ---------------------------------------------------------------------------------------------


@given(
    ids=st.lists(st.sampled_from("abcd"), min_size=1, unique=True),
    strategy=st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
    now=st.floats(0, 1e6),
)
def test_the_state_of_children_that_simply_run_is_what_the_policy_makes_of_their_starts(
    ids: list[str], strategy: Any, now: float
) -> None:
    spec = SupervisorSpec(strategy=strategy, children=[leaf(id) for id in ids])
    state, _ = decide(spec, State(), StartRequested(now))
    assert state == booting(spec)
    for id in ids:
        state, _ = decide(spec, state, Started(id, now))
    assert state == running(spec, now)


@pytest.mark.parametrize("kill", [False, True])
def test_the_policy_asks_of_one_child_that_is_to_stop_no_more_than_to_stop_it(kill: bool) -> None:
    spec = SupervisorSpec(children=[leaf("a", shutdown="3s")])
    state, actions = decide(spec, running(spec, 1.0), StopRequested(2.0, kill=kill))
    assert actions == (Stop("a", 0.0 if kill else 3.0),)
    state, actions = decide(spec, state, Stopped("a", SHUTDOWN, 2.0))
    assert actions == (Ended(SHUTDOWN),)


# --- the same as with a runner from the first moment --------------------------------------------------------

IDS = st.sampled_from("ab")
OPERATIONS = st.one_of(
    st.tuples(st.just("start"), IDS, st.sampled_from(["permanent", "transient", "temporary"]), st.booleans()),
    st.tuples(st.just("crash"), IDS, st.booleans()),
    st.tuples(st.just("crash"), IDS, st.booleans()),
    st.tuples(st.just("end"), IDS),
    st.tuples(st.just("fail"), IDS, st.integers(1, 3)),
    st.tuples(st.just("terminate"), IDS),
    st.tuples(st.just("advance"), st.sampled_from([0.25, 1.0, 5.0])),
)


class Story:
    """What is to be seen of a pool while this and that happens to it."""

    def __init__(self, part: type[Part], most: int) -> None:
        self.yard = Yard(part)
        self.pool = DynamicSupervisor(max_restarts=most)
        self.seen: list[Any] = []

    async def play(self, operations: Iterable[tuple[Any, ...]]) -> list[Any]:
        events = Events()
        with observe.observing(events):
            self.yard.bound(self.pool)
            await self.pool.start()
            for operation in operations:
                await self.happens(operation)
                await settle()
                self.look()
            await self.pool.stop()
        told = [{**fields, "reason": None} for name, fields in events.seen]
        did = {id: [word for word, of in map(str.split, self.log()) if of == id] for id in "ab"}
        return [self.seen, told, did, {id: exit.kind for id, exit in self.yard.closed.items()}]

    def log(self) -> list[str]:
        return [line for line in self.yard.log if not line.startswith("stopping")]

    async def happens(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case "start", id, restart, slow:
                pace = Backoff(1, 4, jitter=0) if slow else None
                await self.calls(self.pool.start_child(leaf(id, restart=restart, backoff=pace)))
            case "crash", id, told if self.runs(id):
                self.yard.parts[id].crash(told=told)
            case "end", id if self.runs(id):
                self.yard.parts[id].end(NORMAL)
            case "fail", id, times:
                self.yard.errors[id] = [ValueError("no") for _ in range(times)]
            case "terminate", id:
                await self.calls(self.pool.terminate_child(id))
            case "advance", by:
                await asyncio.sleep(by)

    def runs(self, id: str) -> bool:
        return id in self.yard.parts and self.yard.parts[id].running

    async def calls(self, call: Awaitable[Any]) -> None:
        try:
            answer = await call
            self.seen.append(None if answer is None else answer.spec.id)
        except (MbactorError, ValueError) as error:
            self.seen.append(type(error).__name__)

    def look(self) -> None:
        rows = self.pool.which_children()
        self.seen.append(
            [(r.id, r.state, r.restarts, r.incarnation, str(r.last_exit), r.uptime, r.restart) for r in rows]
        )
        count = self.pool.count_children()
        self.seen.append((count.specs, count.active))
        assert count.specs == len(rows)


@settings(max_examples=150, deadline=None)
@given(most=st.sampled_from([0, 1, 3]), operations=st.lists(OPERATIONS, min_size=5, max_size=30))
def test_a_child_that_had_no_runner_has_the_same_budget_backoff_and_end(
    most: int, operations: list[tuple[Any, ...]]
) -> None:
    prompt = in_virtual_time(Story(PromptPart, most).play(operations))
    awaited = in_virtual_time(Story(Part, most).play(operations))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "_simply_run", lambda self: None)
        decided = in_virtual_time(Story(Part, most).play(operations))
    assert prompt == decided
    assert awaited == decided


# --- what it costs ------------------------------------------------------------------------------------------


def runners() -> int:
    gc.collect()
    return sum(isinstance(found, Runner) for found in gc.get_objects())


@BOTH
@pytest.mark.anyio
async def test_a_child_that_simply_runs_has_no_runner_and_one_to_which_something_happened_has(part: type[Part]) -> None:
    before, yard = runners(), Yard(part)
    async with parts.running(yard, DynamicSupervisor()) as pool:
        for n in range(20):
            await pool.start_child(leaf(f"a{n}"))
        assert runners() == before + 1
        yard.parts["a3"].crash()
        await until(lambda: yard.parts["a3"].running)
        assert runners() == before + 2
        assert [row.restarts for row in pool.which_children()] == [0, 0, 0, 1, *[0] * 16]


@pytest.mark.anyio
async def test_children_that_can_start_and_stop_at_once_take_no_task_and_others_have_their_turn_meanwhile() -> None:
    yard, turns = Yard(PromptPart), 0
    pool = DynamicSupervisor()

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with parts.running(yard, pool):
        watching = asyncio.create_task(other())
        tasks = asyncio.all_tasks()
        for n in range(FAIR_RUN * 10):
            await pool.start_child(leaf(f"a{n}"))
            assert asyncio.all_tasks() == tasks
        assert turns >= 9
        turns = 0
        await pool.stop()
        assert turns >= 9
        watching.cancel()
        await asyncio.wait([watching])


@pytest.mark.anyio
async def test_an_exception_that_ends_the_program_leaves_no_child_behind() -> None:
    yard = Yard(PromptPart)
    async with parts.running(yard, DynamicSupervisor()) as pool:
        yard.errors["a"] = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            await pool.start_child(leaf("a"))
        assert pool.which_children() == []
        assert yard.closed["a"].kind == "failed"


def cost(work: Callable[[int], Coroutine[Any, Any, None]], children: int) -> float:
    """Processor time, the least of three."""

    def once() -> float:
        began = process_time()
        asyncio.run(work(children))
        return process_time() - began

    return min(once() for _ in range(3))


async def come_and_go(children: int) -> None:
    pool = DynamicSupervisor()
    Yard(PromptPart).bound(pool)
    await pool.start()
    for n in range(children):
        await pool.start_child(leaf(f"a{n}"))
    await pool.stop()


async def stand_together(children: int) -> None:
    supervisor = Supervisor(children=[leaf("a", replicas=children)])
    Yard().bound(supervisor)
    await supervisor.start()
    await supervisor.stop()


@pytest.mark.parametrize(("work", "few"), [(come_and_go, 100), (stand_together, 20)])
def test_ten_times_the_children_cost_less_than_fifty_times_the_time(
    work: Callable[[int], Coroutine[Any, Any, None]], few: int
) -> None:
    least = cost(work, few)
    assert cost(work, 10 * few) < 50 * least
    assert cost(work, 100 * few) < 1000 * least


# --- real actors --------------------------------------------------------------------------------------------

asker: ContextVar[str] = ContextVar("asker", default="nobody")


class Plain(Actor):
    def __init__(self) -> None:
        self.asker = asker.get()

    @endpoint
    async def who(self) -> str:
        return f"{self.asker} {asker.get()}"

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")


class Hooked(Plain):
    async def on_start(self) -> None:
        self.deadline = anyio.current_effective_deadline()

    @endpoint
    async def until(self) -> float:
        return self.deadline


@pytest.mark.parametrize("cls", [Plain, Hooked])
async def test_a_child_knows_neither_the_context_nor_the_deadline_of_who_asked_for_it(
    mbactor: ActorSystem, cls: type[Plain]
) -> None:
    asker.set("somebody")
    with anyio.fail_after(60):
        ref = await mbactor.spawn(cls)
    assert await ref.ask(Plain.who) == "nobody nobody"
    if cls is Hooked:
        hooked: ActorRef[Any] = ref
        assert await hooked.ask(Hooked.until) == float("inf")


@pytest.mark.anyio
async def test_a_start_at_once_does_not_run_in_the_context_of_who_asked_for_it() -> None:
    seen = list[str]()

    class Curious(PromptPart):
        def start_now(self) -> bool:
            seen.append(asker.get())
            asker.set("a child")
            return super().start_now()

    async with parts.running(Yard(Curious), DynamicSupervisor()) as pool:
        asker.set("somebody")
        await pool.start_child(leaf("a"))
        assert asker.get() == "somebody"
        await pool.start_child(leaf("b"))
    assert seen == ["nobody", "nobody"]


async def test_a_spawned_actor_that_crashes_is_restarted_until_its_budget_is_spent(
    mbactor: ActorSystem, mbactor_recorder: Recorder
) -> None:
    ref, other = await mbactor.spawn(Plain), await mbactor.spawn(Plain)
    for _ in range(3):
        ref.tell(Plain.crash)
        assert await ref.ask(Plain.who) == "nobody nobody"
    ref.tell(Plain.crash)
    gave_up = await mbactor_recorder.wait_for("supervisor.gave_up")
    assert gave_up.fields["child"] == "plain"
    with pytest.raises(ActorStopped):
        await ref.ask(Plain.who)
    assert await other.ask(Plain.who) == "nobody nobody"


async def test_an_id_that_somebody_has_is_not_given_to_a_spawned_actor(mbactor: ActorSystem) -> None:
    await mbactor.spawn(child(Plain, id="plain-2"))
    assert [(await mbactor.spawn(Plain)).id for _ in range(3)] == ["plain", "plain-3", "plain-4"]


@pytest.mark.parametrize("cls", [DynamicSupervisor, Supervisor])
async def test_a_ref_stands_for_its_own_child_and_not_for_one_that_is_called_the_same(
    mbactor: ActorSystem, cls: type[Supervisor]
) -> None:
    mine, other = [await mbactor.spawn(child(cls, id=id)) for id in ("mine", "other")]
    ours, theirs = await mine.start_child(child(Plain, id="a")), await other.start_child(child(Plain, id="a"))
    with pytest.raises(NoSuchChild):
        await mine.terminate_child(theirs)
    assert await ours.ask(Plain.who) == await theirs.ask(Plain.who) == "nobody nobody"
    await mine.terminate_child(ours)
    with pytest.raises(ActorStopped):
        await ours.ask(Plain.who)


async def test_what_is_no_specification_is_refused_with_what_is_meant(mbactor: ActorSystem) -> None:
    for cls in (DynamicSupervisor, Supervisor):
        pool: Any = await mbactor.spawn(cls)
        with pytest.raises(InvalidSpec, match=r"<class .*Plain'> given, child\(Plain\) expected"):
            await pool.start_child(Plain)


async def test_arguments_beside_a_specification_are_refused_as_they_would_be_lost(mbactor: ActorSystem) -> None:
    for positional, named in (((5,), {}), ((), {"how": "crash"})):
        with pytest.raises(InvalidSpec, match="arguments were given beside a child specification"):
            await mbactor.spawn(child(Plain), *positional, **named)
    assert mbactor.tree().children == ()


class Ending(Actor):
    def __init__(self, how: str) -> None:
        self.how = how

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    async def on_stop(self, exit: Exit) -> None:
        if self.how == "hangs":
            await self.sleep("1h")
        if self.how == "raises":
            raise ValueError("reported, and stops nothing")


async def test_actors_that_hang_raise_or_restart_hold_up_nobody_else_when_all_are_stopped(
    mbactor: ActorSystem, mbactor_loop: asyncio.AbstractEventLoop, mbactor_recorder: Recorder
) -> None:
    pace = Backoff("1h", "1h")
    for n in range(100):
        for how in ("hangs", "raises", "restarts"):
            ref = await mbactor.spawn(child(Ending, id=f"{how}-{n}", args={"how": how}, shutdown="5s", backoff=pace))
            if how == "restarts":
                ref.tell(Ending.crash)
        await mbactor.spawn(Plain)
    for n in range(100):
        await mbactor_recorder.wait_for("supervisor.restarting", child=f"restarts-{n}")
    before = mbactor_loop.time()
    await mbactor.stop()
    assert mbactor_loop.time() - before < 6.5
    ended = [event.fields for event in mbactor_recorder.find("actor.stopped")]
    ends = Counter((fields["actor"].split("-")[0], fields["exit"]) for fields in ended)
    assert ends["hangs", "killed"] == ends["raises", "shutdown"] == ends["plain", "shutdown"] == 100
