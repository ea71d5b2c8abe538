"""`ActorSystem.plan` and `apply`: the running tree becomes the one that is wanted, and nothing else is touched."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from mbactor import (
    Actor,
    ActorStopped,
    ActorSystem,
    Backoff,
    DynamicSupervisor,
    Ignore,
    Mailbox,
    MailboxFull,
    NoSuchChild,
    Supervisor,
    Unavailable,
    child,
    endpoint,
)
from mbactor.supervisor.operate.applying import ApplyFailed, Plan
from mbactor.supervisor.operate.by_name import parent_of
from mbactor.supervisor.operate.paths import Ambiguous, resolve
from mbactor.supervisor.operate.plan import Step, canonical
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec
from mbactor.supervisor.topology import load
from mbactor.supervisor.tree import TreeNode
from tests.supervisor.test_plan import Maker, paths

pytestmark = pytest.mark.usefixtures("mbactor_loop")


class Clerk(Actor):
    """Tells its class of its life."""

    life: ClassVar[list[str]] = []
    refuses: ClassVar[set[str]] = set()

    def __init__(self, name: str, size: int = 0) -> None:
        self.name = name
        self.size = size

    async def on_start(self) -> None:
        if self.name in self.refuses:
            raise RuntimeError("no database")
        self.life.append(f"start {self.name}")

    async def on_stop(self, exit: object) -> None:
        self.life.append(f"stop {self.name}")

    @endpoint
    async def tell_size(self) -> int:
        return self.size

    @endpoint
    async def wait(self, seconds: float) -> None:
        await self.sleep(seconds)

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("boom")

    @endpoint
    async def finish(self) -> None:
        self.stop()


class Silent(Clerk):
    async def on_start(self) -> None:
        raise Ignore


class Late(Clerk):
    async def on_start(self) -> None:
        await self.sleep("1s")
        await super().on_start()


class Hub(Actor):
    """Starts others under a supervisor that it knows by name."""

    @endpoint
    async def open(self, name: str) -> int:
        ref = await self.supervisor("sessions").start_child(clerk(name, size=7))
        size: int = await ref.ask(Clerk.tell_size)
        return size


def clerk(name: str, size: int = 0, **options: Any) -> ChildSpec:
    return child(options.pop("target", Clerk), id=name, args={"name": name, "size": size}, **options)


def nest(id: str, *children: ChildSpec, **own: Any) -> ChildSpec:
    return child(Supervisor, id=id, args={**own, "children": children})


def tree(*children: ChildSpec, **own: Any) -> SupervisorSpec:
    return SupervisorSpec(children=children, **own)


class Heard:
    """What the progress of an apply says."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def planned(self, plan: Plan) -> None:
        self.of.append(f"{len(plan.steps)} steps")

    def begun(self, step: Step) -> None:
        self.of.append(f"begun {step.path}")

    def done(self, step: Step) -> None:
        self.of.append(f"done {step.path}")


@asynccontextmanager
async def office(*children: ChildSpec, **own: Any) -> AsyncIterator[ActorSystem]:
    Clerk.refuses.clear()
    async with ActorSystem("office", tree=tree(*children, **own)) as system:
        Clerk.life.clear()
        yield system


def took() -> list[str]:
    life = list(Clerk.life)
    Clerk.life.clear()
    return life


def ref(system: ActorSystem, path: str) -> Any:
    above, id = parent_of(path, system.roots())
    assert isinstance(above, Supervisor)
    return next(row.ref for row in above.which_children() if row.id == id)


def states(system: ActorSystem) -> dict[str, str]:
    above = system.supervisor("office")
    return {row.id: row.state for row in above.which_children()}


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await asyncio.sleep(0.01)


# --- apply ------------------------------------------------------------------------------------------------------


async def test_the_tree_becomes_what_is_wanted_and_what_is_not_concerned_goes_on() -> None:
    async with office(clerk("a"), clerk("b"), clerk("c", size=1)) as system:
        kept, changed = ref(system, "b"), ref(system, "c")
        wanted = tree(clerk("n"), clerk("b", restart="transient"), clerk("c", size=2), strategy="one_for_all")
        plan = await system.apply(wanted)
        assert [(step.act, step.path) for step in plan.steps] == [
            ("change", "office"),
            ("stop", "office/a"),
            ("change", "office/b"),
            ("start", "office/n"),
            ("restart", "office/c"),
        ]
        assert took() == ["stop a", "start n", "stop c", "start c"]
        assert ref(system, "b") == kept
        assert ref(system, "c") == changed
        assert await changed.ask(Clerk.tell_size) == 2
        assert [row.id for row in system.supervisor("office").which_children()] == ["n", "b", "c"]
        assert system.plan(wanted).steps == ()
        assert system.tree().strategy == "one_for_all"


async def test_a_restart_by_other_arguments_keeps_what_waits_in_the_mailbox() -> None:
    async with office(clerk("a", size=1)) as system:
        a = ref(system, "a")
        a.tell(Clerk.wait, 1)
        later = asyncio.ensure_future(a.ask(Clerk.tell_size))
        await asyncio.sleep(0.1)
        await system.apply(tree(clerk("a", size=2)))
        assert await later == 2


async def test_another_class_is_another_actor() -> None:
    async with office(clerk("a")) as system:
        old = ref(system, "a")
        await system.apply(tree(clerk("a", target=Hub2)))
        with pytest.raises(ActorStopped):
            await old.ask(Clerk.tell_size)
        assert await ref(system, "a").ask(Clerk.tell_size) == 0


class Hub2(Clerk):
    pass


async def test_a_mailbox_takes_another_bound_at_once_and_loses_nothing() -> None:
    async with office(clerk("a", mailbox=Mailbox(2))) as system:
        a = ref(system, "a")
        a.tell(Clerk.wait, 10)
        await asyncio.sleep(0)
        asks = [asyncio.ensure_future(a.ask(Clerk.tell_size)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(MailboxFull):
            await a.ask(Clerk.tell_size)
        await system.apply(tree(clerk("a", mailbox=Mailbox(3))))
        asks.append(asyncio.ensure_future(a.ask(Clerk.tell_size)))
        await asyncio.sleep(0)
        await system.apply(tree(clerk("a", mailbox=Mailbox(1))))
        with pytest.raises(MailboxFull, match="1 messages"):
            await a.ask(Clerk.tell_size)
        assert await asyncio.gather(*asks) == [0, 0, 0]
        assert took() == []


async def test_senders_that_wait_for_room_have_it_as_soon_as_there_is_more() -> None:
    async with office(clerk("a", mailbox=Mailbox(1, overflow="wait"))) as system:
        a = ref(system, "a")
        a.tell(Clerk.wait, 10)
        await asyncio.sleep(1)
        a.tell(Clerk.tell_size)
        waiting = asyncio.ensure_future(a.tell_wait(Clerk.tell_size))
        await asyncio.sleep(1)
        assert not waiting.done()
        await system.apply(tree(clerk("a", mailbox=Mailbox(5, overflow="wait"))))
        await waiting


async def test_a_nested_supervisor_is_changed_below_and_comes_back_so_after_its_restart() -> None:
    async with office(nest("inner", clerk("x"), clerk("y"))) as system:
        wanted = tree(nest("inner", clerk("y"), clerk("z"), max_restarts=0))
        await system.apply(wanted)
        assert took() == ["stop x", "start z"]
        inner = system.supervisor("inner")
        assert (inner.max_restarts, [row.id for row in inner.which_children()]) == (0, ["y", "z"])
        await system.supervisor("office").renew_child("inner")
        assert took() == ["stop z", "stop y", "start y", "start z"]
        assert system.supervisor("inner").max_restarts == 0
        assert system.plan(wanted).steps == ()


async def test_a_branch_of_three_levels_remembers_what_was_applied_to_its_leaf() -> None:
    async with office(nest("one", nest("two", clerk("x", size=1)))) as system:
        await system.apply(tree(nest("one", nest("two", clerk("x", size=2), clerk("y")))))
        assert took() == ["stop x", "start x", "start y"]
        await system.supervisor("office").renew_child("one")
        assert took() == ["stop y", "stop x", "start x", "start y"]
        assert await ref(system, "x").ask(Clerk.tell_size) == 2


async def test_refs_survive_the_restart_of_a_branch_that_an_apply_did_not_concern() -> None:
    inner = nest("inner", clerk("x"), nest("deep", clerk("y"), clerk("z", after=["y"])))
    async with office(inner, clerk("a")) as system:
        refs = [ref(system, path) for path in ("x", "y", "z")]
        await system.apply(tree(inner, clerk("b")))
        await system.supervisor("office").renew_child("inner")
        assert [await one.ask(Clerk.tell_size) for one in refs] == [0, 0, 0]
        assert [ref(system, path) for path in ("x", "y", "z")] == refs


async def test_what_was_added_at_run_time_stays() -> None:
    async with office(clerk("a"), child(DynamicSupervisor, id="pool")) as system:
        await system.supervisor("office").start_child(clerk("late"))
        await system.supervisor("pool").start_child(clerk("session"))
        took()
        await system.apply(tree(clerk("b"), child(DynamicSupervisor, id="pool"), max_restarts=7))
        assert took() == ["stop a", "start b"]
        assert states(system) == {"b": "running", "pool": "running", "late": "running"}
        wanted = tree(clerk("late", size=5), child(DynamicSupervisor, id="pool"))
        await system.apply(wanted)
        assert await ref(system, "late").ask(Clerk.tell_size) == 5
        assert system.plan(wanted).steps == ()


async def test_a_plan_says_how_many_children_that_were_added_at_run_time_a_step_ends() -> None:
    def pool(most: int) -> ChildSpec:
        return child(DynamicSupervisor, id="pool", args={"max_children": most})

    async with office(nest("n", clerk("x"), pool(5))) as system:
        for name in ("s1", "s2"):
            await system.supervisor("pool").start_child(clerk(name))
        await system.supervisor("n").start_child(clerk("late"))
        changed = system.plan(tree(nest("n", clerk("x"), pool(9)))).steps
        assert [str(one) for one in changed[0].changes] == [
            "args.max_children 5 -> 9",
            "added at run time 2 children -> none",
        ]
        gone = system.plan(tree(clerk("y"))).steps
        assert [str(one) for one in gone[0].changes] == ["added at run time 3 children -> none"]
        untouched = system.plan(tree(nest("n", clerk("x"), pool(5), max_restarts=9))).steps
        assert [str(one) for one in untouched[0].changes] == ["max_restarts 3 -> 9"]


async def test_what_an_operator_stopped_stays_stopped_and_starts_as_it_was_applied() -> None:
    async with office(clerk("a"), clerk("b"), nest("n", clerk("x"))) as system:
        top = system.supervisor("office")
        await top.terminate_child("a")
        await top.terminate_child("n")
        took()
        await system.apply(tree(clerk("a", size=9), clerk("b"), nest("n", clerk("y"))))
        assert took() == []
        await top.restart_child("a")
        await top.restart_child("n")
        assert took() == ["start a", "start y"]
        assert await ref(system, "a").ask(Clerk.tell_size) == 9


async def test_what_an_operator_stopped_may_become_another_and_go_without_ever_having_run() -> None:
    async with office(clerk("a"), clerk("b")) as system:
        office_ = system.supervisor("office")
        for id in "ab":
            await office_.terminate_child(id)
        await system.apply(tree(clerk("a", target=Silent), clerk("b", target=Silent)))
        await system.apply(tree(clerk("b", target=Silent)))
        await office_.delete_child("b")
        assert states(system) == {}
        assert took() == ["stop a", "stop b"]


@pytest.mark.parametrize("planned_at", [0.0, 0.5])
async def test_a_child_that_an_operator_starts_meanwhile_is_restarted_as_it_is_wanted(planned_at: float) -> None:
    wanted = tree(clerk("a", size=5))
    async with office(clerk("first"), clerk("a", target=Late)) as system:
        office_ = system.supervisor("office")
        await office_.terminate_child("a")
        took()
        ref(system, "first").tell(Clerk.wait, 1.0)
        await asyncio.sleep(0)
        starting = asyncio.ensure_future(_later(0.5 - planned_at, office_.restart_child, "a"))
        plan = await _later(planned_at, system.apply, wanted)
        await starting
        assert [step.act for step in plan.steps] == ["stop", "change"]  # it is held when this is planned
        assert system.plan(wanted).steps == ()
        assert await ref(system, "a").ask(Clerk.tell_size) == 5
        assert [one for one in took() if one.endswith(" a")] == ["start a", "stop a", "start a"]


async def _later(seconds: float, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    await asyncio.sleep(seconds)
    return await call(*args)


async def test_a_temporary_child_that_has_ended_is_not_started_again() -> None:
    job = clerk("job", restart="temporary")
    async with office(job, clerk("a")) as system:
        ref(system, "job").tell(Clerk.finish)
        await until(lambda: "job" not in states(system))
        took()
        assert system.plan(tree(job, clerk("a"))).steps == ()
        await system.apply(tree(clerk("job", size=1, restart="temporary"), clerk("a")))
        assert took() == ["start job"]
        assert list(states(system)) == ["job", "a"]


async def test_a_child_in_a_long_backoff_is_started_at_once_by_its_new_arguments() -> None:
    slow = Backoff("1h", "1h")
    async with office(clerk("a", backoff=slow), max_restarts=99) as system:
        ref(system, "a").tell(Clerk.crash)
        await until(lambda: states(system)["a"] == "restarting")
        await system.apply(tree(clerk("a", size=3, backoff=slow), max_restarts=99))
        assert await ref(system, "a").ask(Clerk.tell_size) == 3


async def test_a_branch_in_a_process_of_its_own_is_restarted_as_a_whole_and_only_where_it_has_to_be() -> None:
    def node(*children: ChildSpec, **options: Any) -> ChildSpec:
        return child(Supervisor, id="node", args={"children": children}, process=True, **options)

    def pid(system: ActorSystem) -> int | None:
        (row,) = system.supervisor("office").which_children()
        assert row.process is not None
        return row.process.pid

    async with office(node(clerk("x"))) as system:
        first = pid(system)
        await system.apply(tree(node(clerk("x"), restart="transient", shutdown="9s")))
        assert pid(system) == first
        plan = await system.apply(tree(node(clerk("x"), clerk("y"), restart="transient", shutdown="9s")))
        assert [(step.act, step.path) for step in plan.steps] == [("restart branch", "office/node")]
        assert pid(system) not in {first, None}
        with pytest.raises(NoSuchChild):
            parent_of("x", system.roots())
        with pytest.raises(Unavailable, match="'node' is not running in this process; it has one of its own"):
            system.supervisor("node")


# --- what fails -----------------------------------------------------------------------------------------------


async def test_a_step_that_fails_ends_it_and_another_apply_goes_on() -> None:
    async with office(clerk("a"), clerk("b"), clerk("c")) as system:
        Clerk.refuses.add("b")
        wanted = tree(clerk("a", size=1), clerk("b", size=1), clerk("c", size=1), clerk("d"))
        with pytest.raises(
            ApplyFailed, match=r"restart office/b: child 'b' failed to start: RuntimeError: no database"
        ):
            await system.apply(wanted)
        assert took() == ["stop a", "start a", "stop b"]
        assert states(system) == {"a": "running", "b": "stopped", "c": "running"}
        assert [(step.act, step.path) for step in system.plan(wanted).steps] == [
            ("start", "office/b"),
            ("restart", "office/c"),
            ("start", "office/d"),
        ]
        Clerk.refuses.clear()
        await system.apply(wanted)
        assert took() == ["start b", "stop c", "start c", "start d"]
        assert system.plan(wanted).steps == ()


async def test_the_failure_says_what_was_done_and_what_was_not() -> None:
    async with office(clerk("a")) as system:
        Clerk.refuses.add("c")
        heard = Heard()
        with pytest.raises(ApplyFailed) as caught:
            await system.apply(
                tree(clerk("a"), clerk("b"), clerk("c"), clerk("d")),
                progress=heard,
            )
        assert [step.path for step in caught.value.done] == ["office/b"]
        assert [step.path for step in caught.value.left] == ["office/d"]
        assert caught.value.step.path == "office/c"
        assert heard.of == ["3 steps", "begun office/b", "done office/b", "begun office/c"]


async def test_a_failed_start_does_not_bring_the_tree_down_with_the_next_group_restart() -> None:
    async with office(clerk("a"), strategy="one_for_all", max_restarts=1) as system:
        Clerk.refuses.add("b")
        with pytest.raises(ApplyFailed):
            await system.apply(tree(clerk("a"), clerk("b"), strategy="one_for_all", max_restarts=1))
        took()
        ref(system, "a").tell(Clerk.crash)
        await until(lambda: "start a" in Clerk.life)
        assert states(system) == {"a": "running", "b": "stopped"}


async def test_a_nested_supervisor_that_is_faulty_fails_at_its_own_step() -> None:
    async with office(clerk("a")) as system:
        with pytest.raises(ApplyFailed, match="start office/bad: .*within: 'soon' is not a duration"):
            await system.apply(tree(clerk("a", shutdown=1), nest("bad", within="soon")))
        assert states(system)["a"] == "running"


async def test_a_child_that_asks_not_to_be_started_is_no_failure() -> None:
    async with office(clerk("a")) as system:
        wanted = tree(clerk("a"), clerk("quiet", target=Silent))
        await system.apply(wanted)
        assert states(system) == {"a": "running", "quiet": "stopped"}
        assert system.plan(wanted).steps == ()


async def test_two_applies_follow_one_another() -> None:
    async with office(clerk("a")) as system:
        first = asyncio.ensure_future(system.apply(tree(clerk("a", size=1))))
        second = asyncio.ensure_future(system.apply(tree(clerk("a", size=2))))
        await asyncio.gather(first, second)
        assert took() == ["stop a", "start a"] * 2
        assert await ref(system, "a").ask(Clerk.tell_size) == 2


async def test_one_that_is_cancelled_finishes_its_step_and_leaves_the_others() -> None:
    async with office(clerk("a", shutdown="10s"), clerk("b")) as system:
        ref(system, "a").tell(Clerk.wait, 3)
        await asyncio.sleep(0.1)
        wanted = tree(clerk("a", size=1), clerk("b", size=1))
        applying = asyncio.ensure_future(system.apply(wanted))
        await asyncio.sleep(1)
        applying.cancel()
        await asyncio.wait([applying])
        assert applying.cancelled()
        assert took() == ["stop a", "start a"]
        assert [step.path for step in system.plan(wanted).steps] == ["office/b"]


async def test_what_a_step_fails_with_after_its_apply_was_cancelled_is_no_error_of_the_loop() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with office(clerk("a", shutdown="10s")) as system:
        ref(system, "a").tell(Clerk.wait, 3)
        await asyncio.sleep(0.1)
        Clerk.refuses.add("a")
        applying = asyncio.ensure_future(system.apply(tree(clerk("a", size=1))))
        await asyncio.sleep(1)
        applying.cancel()
        await asyncio.wait([applying])
        assert applying.cancelled()
        del applying
        gc.collect()
    assert complaints == []


async def test_a_restart_that_waits_while_its_child_is_removed_finds_none() -> None:
    async with office(clerk("a", shutdown="10s"), clerk("b")) as system:
        ref(system, "a").tell(Clerk.wait, 3)
        await asyncio.sleep(0.1)
        applying = asyncio.ensure_future(system.apply(tree(clerk("b"))))
        await asyncio.sleep(0.1)
        with pytest.raises(NoSuchChild, match="no child 'a'; known: b"), anyio.fail_after(30):
            await system.supervisor("office").renew_child("a")
        await applying
        assert await ref(system, "b").ask(Clerk.tell_size) == 0


async def test_a_stop_of_the_system_wins_over_an_apply() -> None:
    async with office(clerk("a", shutdown=None)) as system:
        ref(system, "a").tell(Clerk.wait, 100)
        await asyncio.sleep(0.1)
        applying = asyncio.ensure_future(system.apply(tree(clerk("a", size=1), clerk("b"))))
        await asyncio.sleep(0.1)
        await system.stop()
        with pytest.raises(ApplyFailed, match="the supervisor is stopping"):
            await applying
        assert took() == ["stop a"]


async def test_a_system_without_a_tree_has_nothing_to_compare() -> None:
    async with ActorSystem() as system:
        with pytest.raises(Unavailable, match="no tree runs"):
            system.plan(tree())


async def test_what_only_another_start_changes_is_told(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    settings = "locality: eu-west\nack_window: 500ms\nmax_body: 5000\ncoalesce: false"
    file.write_text(f"version: 1\n{settings}\nsupervisor: {{children: []}}\n")
    async with office() as system:
        plan = system.plan(load(file, {}))
        assert isinstance(plan, Plan)
        assert list(map(str, plan.later)) == [
            "name 'office' -> 'shop'",
            "locality none -> 'eu-west'",
            "ack_window 1s -> 500ms",
            "max_body 1073741824 -> 5000",
            "coalesce True -> False",
        ]


async def test_the_restarts_that_were_charged_stay_charged() -> None:
    async with office(clerk("a"), max_restarts=2, within="1h") as system:
        ref(system, "a").tell(Clerk.crash)
        await until(lambda: system.tree().children[0].restarts == 1)
        await system.apply(tree(clerk("a"), max_restarts=1, within="1h"))
        ref(system, "a").tell(Clerk.crash)
        assert (await system.wait()).kind == "gave_up"


@pytest.mark.parametrize("seed", range(40))
async def test_any_tree_becomes_any_other_and_only_what_the_steps_name_is_touched(seed: int) -> None:
    maker = Maker(seed, processes=0)
    wanted = maker.tree()
    async with ActorSystem("top", tree=wanted) as system:
        for _ in range(4):
            before, wanted = incarnations(system.tree()), maker.other(wanted)
            plan = await system.apply(wanted)
            after = incarnations(system.tree())
            assert system.plan(wanted).steps == ()
            assert after.keys() == paths(canonical(wanted)).keys() | {"top"}
            touched = [step.path for step in plan.steps if step.act not in {"change", "move"}]
            for path in before.keys() & after.keys():
                if not any(f"{path}/".startswith(f"{one}/") for one in touched):
                    assert after[path] == before[path]
            assert [node.id for node in system.tree().children] == [one.id for one in wanted.children]


def incarnations(tree: TreeNode, above: str = "") -> dict[str, int]:
    path = f"{above}{tree.id}"
    below = [incarnations(child, f"{path}/") for child in tree.children]
    return {path: tree.incarnation} | {at: number for each in below for at, number in each.items()}


async def test_many_children_are_applied_at_once() -> None:
    async with office() as system:
        wanted = tree(*(clerk(f"c{n}") for n in range(500)))
        assert len((await system.apply(wanted)).steps) == 500
        assert system.plan(wanted).steps == ()


# --- names ------------------------------------------------------------------------------------------------------

PATHS = ["shop", "shop/orders-1", "shop/orders-2", "shop/web", "shop/web/mail", "shop/back/mail", "spawned"]


@pytest.mark.parametrize(
    ("name", "path"),
    [("web", "shop/web"), ("shop", "shop"), ("web/mail", "shop/web/mail"), ("/shop/back/mail/", "shop/back/mail")],
)
def test_a_name_is_a_path_or_enough_of_its_end(name: str, path: str) -> None:
    assert resolve(name, PATHS) == path


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("mail", Ambiguous, "'mail' may be shop/web/mail or shop/back/mail; give more of its path"),
        ("orders", NoSuchChild, "there is no 'orders'; did you mean shop/orders-1 or shop/orders-2?"),
        ("shop/orders", NoSuchChild, "there is no 'shop/orders'; did you mean shop/orders-1 or shop/orders-2?"),
        ("wbe", NoSuchChild, "there is no 'wbe'; did you mean shop/web?"),
        ("zzz", NoSuchChild, "there is no 'zzz'; there are: shop, shop/orders-1"),
        ("ail", NoSuchChild, "there is no 'ail'; did you mean shop/web/mail?"),
    ],
)
def test_a_name_that_does_not_say_who_is_meant_is_answered_with_those_it_may_be(
    name: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error) as caught:
        resolve(name, PATHS)
    assert told in str(caught.value)


async def test_a_dynamic_supervisor_of_a_file_is_reached_by_its_name() -> None:
    pool = child(DynamicSupervisor, id="sessions", args={"max_children": 2})
    async with office(nest("web", pool), clerk("a")) as system:
        session = await system.supervisor("sessions").start_child(clerk("s1", size=4))
        assert await session.ask(Clerk.tell_size) == 4
        assert system.supervisor("web/sessions") is system.supervisor("office/web/sessions")
        with pytest.raises(NoSuchChild, match=r"there is no 'session'; did you mean office/web/sessions\?"):
            system.supervisor("session")
        with pytest.raises(NoSuchChild):
            system.supervisor("a")
        await system.supervisor("web").terminate_child("sessions")
        with pytest.raises(Unavailable, match="'sessions' is not running in this process"):
            system.supervisor("sessions")


async def test_an_actor_starts_others_under_a_supervisor_it_knows_by_name() -> None:
    async with office(child(Hub, id="hub"), child(DynamicSupervisor, id="sessions")) as system:
        assert await ref(system, "hub").ask(Hub.open, "x") == 7
        assert [row.id for row in system.supervisor("sessions").which_children()] == ["x"]


async def test_the_root_has_no_supervisor_that_could_stop_it() -> None:
    async with office(clerk("a")) as system:
        assert parent_of("a", system.roots())[1] == "a"
        with pytest.raises(Exception, match="office is the root of its tree"):
            parent_of("office", system.roots())
