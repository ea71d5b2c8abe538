"""Failure: what becomes of the actor, of its messages, and of who sent them; what is charged and what is not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    ActorSystem,
    Backoff,
    BadRequest,
    BudgetSpent,
    Exit,
    Ignore,
    Mailbox,
    MailboxFull,
    MbactorError,
    Supervisor,
    child,
    endpoint,
)
from mbactor.kernel.dead_letters import DeadLetter, DeadLetters
from mbactor.said import said_of, traceback_of
from mbactor.supervisor import SupervisorSpec
from mbactor.supervisor.state import StartFailed
from mbactor.testing import Recorder
from mbactor.transport import LocalBus


@pytest.fixture(
    autouse=True,
    params=[
        pytest.param("handed over", marks=pytest.mark.mbactor(serialize_local=False)),
        pytest.param("serialized", marks=pytest.mark.mbactor(serialize_local=True)),
    ],
)
def values(request: pytest.FixtureRequest) -> Any:
    """Each rule holds however values pass between actors."""
    return request.param


class SoldOut(MbactorError):
    status = 409


class Shop(Actor):
    """Fails as it is told."""

    host = "shop.example"

    def __init__(self, diary: list[Any] | None = None) -> None:
        self.diary = [] if diary is None else diary
        self.total = 0

    async def on_stop(self, exit: Exit) -> None:
        self.diary.append(f"stop {exit}")

    async def on_exit(self, ref: ActorRef[Any], exit: Exit) -> None:
        raise ValueError("in a hook")

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @endpoint
    async def sell(self, sku: str) -> None:
        raise SoldOut(f"{sku} is sold out")

    @endpoint
    async def crash(self) -> None:
        self.diary.append("crash")
        self.total += 100
        raise ValueError("boom")

    @endpoint
    async def work(self, seconds: float = 3600) -> str:
        self.diary.append("begun")
        await asyncio.sleep(seconds)
        self.diary.append("done")
        return "worked"

    @endpoint
    async def resist(self, seconds: float) -> str:
        """Goes on when it is cancelled."""
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(seconds)
        return "late"

    @endpoint
    async def observe(self, ref: ActorRef[Any]) -> None:
        self.watch(ref)

    @endpoint
    async def fail_later(self, seconds: float = 0.001) -> None:
        self.send_after(seconds, Shop.crash)

    @endpoint
    async def fail_beside(self) -> None:
        self.spawn_task(self._fail())

    async def _fail(self) -> None:
        raise ValueError("in the background")

    @endpoint
    async def end(self) -> None:
        self.stop()

    @endpoint
    async def who(self) -> str:
        return self.id

    @endpoint(concurrency=2)
    async def aside(self, seconds: float = 3600) -> str:
        await asyncio.sleep(seconds)
        return "worked"

    @endpoint(concurrency=2)
    async def resist_aside(self, seconds: float) -> str:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(seconds)
        return "late"


class Wide(Shop):
    """Handles many at once, and restarts when one of them crashes."""

    host = "wide.example"
    concurrency = 10
    on_error = "restart"


class Resuming(Shop):
    host = "resuming.example"
    on_error = "resume"


class Failing(Shop):
    host = "failing.example"
    on_error = "fail"


def now() -> float:
    return asyncio.get_running_loop().time()


async def outcome(awaited: Awaitable[Any]) -> Any:
    """The value, or the type of the error."""
    try:
        return await awaited
    except Exception as error:  # noqa: BLE001 - whatever it is
        return type(error)


def begin(awaited: Awaitable[Any]) -> asyncio.Future[Any]:
    return asyncio.ensure_future(awaited)


# --- on_error ---------------------------------------------------------------------------------------------------------


async def test_restart_begins_anew_after_its_asker_was_told(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    shop = await mbactor.spawn(Shop, diary)
    first = await shop.ask(Shop.who)
    await shop.ask(Shop.add, 5)
    with pytest.raises(ActorCrashed, match="ValueError: boom") as crashed:
        await shop.ask(Shop.crash)
    assert (crashed.value.status, crashed.value.taken) == (500, "yes")
    assert "in crash" in (crashed.value.remote_trace or "")
    assert await shop.ask(Shop.add) == 1
    assert await shop.ask(Shop.who) != first
    assert diary == ["crash", "stop failed: ValueError: boom"]


async def test_resume_goes_on_with_its_state_whether_anybody_was_told_or_not(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    shop = await mbactor.spawn(Resuming, diary)
    first = await shop.ask(Shop.who)
    for _ in range(20):
        shop.tell(Shop.crash)
        assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    assert await shop.ask(Shop.add) == 4001
    assert await shop.ask(Shop.who) == first
    assert diary == ["crash"] * 40


async def test_resume_is_the_default_of_an_actor_that_handles_many_at_once(mbactor: ActorSystem) -> None:
    class Many(Shop):
        concurrency = 2

    shop = await mbactor.spawn(Many)
    working = begin(shop.ask(Shop.work, 5))
    assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    assert await working == "worked"
    assert await shop.ask(Shop.add) == 101


async def test_a_crash_of_an_endpoint_of_its_own_concurrency_leaves_the_actor_alone(mbactor: ActorSystem) -> None:
    class Many(Shop):
        @endpoint(concurrency=2)
        async def fail(self) -> None:
            raise ValueError("boom")

    shop = await mbactor.spawn(Many)
    await shop.ask(Shop.add)
    assert await outcome(shop.ask(Many.fail)) is ActorCrashed
    assert await shop.ask(Shop.add) == 2


@pytest.mark.parametrize(("cls", "goes_on"), [(Resuming, True), (Shop, None), (Failing, None)])
async def test_of_a_crash_it_is_told_whether_the_actor_goes_on(
    mbactor: ActorSystem, mbactor_recorder: Recorder, cls: type[Shop], goes_on: bool | None
) -> None:
    shop = await mbactor.spawn(cls)
    assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    told = await mbactor_recorder.wait_for("actor.crashed", method="crash")
    assert told.fields.get("goes_on") is goes_on
    assert said_of("actor.crashed", told.fields) == (
        "method crashed, its actor goes on" if goes_on else "actor crashed"
    )


async def test_fail_is_charged_though_its_asker_was_told(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    shop = await mbactor.spawn(Failing)
    answers = [await outcome(shop.ask(Shop.crash)) for _ in range(4)]
    assert answers == [ActorCrashed] * 4
    await mbactor_recorder.wait_for("supervisor.gave_up", within="1s")
    assert await outcome(shop.ask(Shop.add)) is ActorStopped


@pytest.mark.parametrize("cls", [Resuming, Wide, Shop])
async def test_a_failing_background_task_restarts_whatever_on_error_says(
    mbactor: ActorSystem, mbactor_recorder: Recorder, cls: type[Shop]
) -> None:
    shop = await mbactor.spawn(cls)
    await shop.ask(Shop.fail_beside)
    await mbactor_recorder.wait_for("actor.started", incarnation=2)
    assert await shop.ask(Shop.add) == 1


@pytest.mark.parametrize("cls", [Shop, Wide, Failing, Resuming])
@pytest.mark.parametrize("asked", [False, True])
async def test_the_crashing_message_is_not_delivered_again(mbactor: ActorSystem, cls: type[Shop], asked: bool) -> None:
    diary: list[Any] = []
    shop = await mbactor.spawn(cls, diary)
    if asked:
        assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    else:
        shop.tell(Shop.crash)
    await asyncio.sleep(60)
    assert diary.count("crash") == 1
    assert mbactor.dead_letters.total == 0, "it was handled"


@pytest.mark.parametrize("told", [False, True])
async def test_asks_that_wait_survive_the_crash_of_one_before_them(mbactor: ActorSystem, told: bool) -> None:
    shop = await mbactor.spawn(child(Shop, backoff=Backoff("900ms", "900ms")))
    crash = begin(shop.ask(Shop.crash)) if told else shop.tell(Shop.crash)
    asked = [begin(shop.ask(Shop.add)) for _ in range(100)]
    if told:
        assert await outcome(crash) is ActorCrashed
    assert await asyncio.gather(*asked) == list(range(1, 101))


# --- an end for good --------------------------------------------------------------------------------------------------


async def by_stop(shop: ActorRef[Shop]) -> None:
    await shop.stop()


async def by_kill(shop: ActorRef[Shop]) -> None:
    await shop.kill()


async def by_itself(shop: ActorRef[Shop]) -> None:
    shop.tell(Shop.end)


async def by_crashes(shop: ActorRef[Shop]) -> None:
    for _ in range(4):
        shop.tell(Shop.crash)


@pytest.mark.parametrize(
    ("restart", "end"),
    [
        ("permanent", by_stop),
        ("permanent", by_kill),
        ("transient", by_itself),
        ("temporary", by_crashes),
        ("permanent", by_crashes),
    ],
)
async def test_asks_of_an_actor_that_ends_for_good_fail_at_once_as_stopped(
    mbactor: ActorSystem, restart: Any, end: Callable[[ActorRef[Shop]], Awaitable[None]]
) -> None:
    shop = await mbactor.spawn(child(Shop, restart=restart))
    await end(shop)
    asked = [begin(shop.ask(Shop.add)) for _ in range(10)]
    began = now()
    for one in asked:
        with pytest.raises(ActorStopped, match="has stopped") as stopped:
            await one
        assert (stopped.value.status, stopped.value.taken) == (503, "no")
    assert await outcome(shop.ask(Shop.add)) is ActorStopped
    assert now() == began


async def test_asks_of_an_actor_whose_restart_fails_fail_as_stopped(mbactor: ActorSystem) -> None:
    class Broken(Shop):
        starts = 0

        async def on_start(self) -> None:
            type(self).starts += 1
            if self.starts > 1:
                raise OSError("no disk")

    shop = await mbactor.spawn(Broken)
    shop.tell(Shop.crash)
    asked = [begin(shop.ask(Shop.add)) for _ in range(3)]
    began = now()
    assert [await outcome(one) for one in asked] == [ActorStopped] * 3
    assert now() == began
    assert Broken.starts == 4, "the crash and two failed starts were charged, the third was one too many"


async def test_asks_of_a_child_that_its_supervisor_ends_fail_as_stopped_until_it_is_started_again(
    mbactor: ActorSystem,
) -> None:
    pool: Supervisor = await mbactor.spawn(Supervisor, children=[child(Shop)])
    shop = pool.which_children()[0].ref
    working = begin(shop.ask(Shop.work, 2))
    await asyncio.sleep(0.1)
    asked = [begin(shop.ask(Shop.add)) for _ in range(3)]
    await pool.terminate_child("shop")
    assert await working == "worked"
    assert [await outcome(one) for one in asked] == [ActorStopped] * 3
    assert await outcome(shop.ask(Shop.add)) is ActorStopped
    await pool.restart_child("shop")
    assert await shop.ask(Shop.add) == 1


async def test_a_child_that_is_started_again_keeps_deadlines_as_before(mbactor: ActorSystem) -> None:
    pool: Supervisor = await mbactor.spawn(Supervisor, children=[child(Shop)])
    shop = pool.which_children()[0].ref
    working, waiting = begin(shop.ask(Shop.work, 2)), begin(shop.ask(Shop.add))
    await asyncio.sleep(0.1)
    await pool.terminate_child("shop")
    assert [await outcome(one) for one in (working, waiting)] == ["worked", ActorStopped]
    await pool.restart_child("shop")
    began = now()
    assert [await outcome(one) for one in [begin(shop.ask(Shop.work, 3600)) for _ in range(2)]] == [BudgetSpent] * 2
    assert now() - began == pytest.approx(20)


async def test_asks_that_wait_when_the_system_stops_fail_as_stopped(mbactor_loop: object) -> None:
    async with ActorSystem(watchdog=None) as system:
        shop = await system.spawn(Shop)
        working = begin(shop.ask(Shop.work, 2))
        await asyncio.sleep(0.1)
        asked = [begin(shop.ask(Shop.add)) for _ in range(3)]
    assert await working == "worked"
    assert [await outcome(one) for one in asked] == [ActorStopped] * 3


async def test_asks_of_the_actors_of_a_supervisor_that_gave_up_fail_as_stopped(mbactor_loop: object) -> None:
    inner = child(Supervisor, id="inner", restart="temporary", args={"children": [child(Shop), child(Wide)]})
    async with ActorSystem(tree=SupervisorSpec(children=[inner]), watchdog=None) as system:
        asked = [begin(system.ask(Wide.work)) for _ in range(3)]
        for _ in range(4):
            system.tell(Shop.crash)
        waiting = begin(system.ask(Shop.add))
        began = now()
        assert [await outcome(one) for one in asked] == [ActorCrashed] * 3
        assert await outcome(waiting) is ActorStopped
        assert now() - began == pytest.approx(5, abs=0.1), "what was in hand had its time to end"


# --- calls in hand --------------------------------------------------------------------------------------------------


async def test_calls_in_hand_of_a_restarting_actor_are_answered_at_once(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Wide)
    running = [begin(shop.ask(Shop.work)) for _ in range(5)] + [begin(shop.ask(Shop.aside)) for _ in range(2)]
    await asyncio.sleep(1)
    began = now()
    crash = begin(shop.ask(Shop.crash))
    for one in running:
        with pytest.raises(ActorCrashed, match=r"ended \(failed: ValueError: boom\) while it handled this") as cut:
            await one
        assert (cut.value.status, cut.value.taken) == (500, "yes")
    with pytest.raises(ActorCrashed, match="ValueError: boom"):
        await crash
    assert now() == began


async def test_calls_in_hand_are_answered_at_once_though_another_resists(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Wide)
    resisting = [begin(shop.ask(one, 0.8)) for one in (Shop.resist, Shop.resist_aside)]
    running = [begin(shop.ask(one)) for one in (Shop.work, Shop.aside)]
    await asyncio.sleep(0.1)
    began = now()
    assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    assert [await outcome(one) for one in [*running, *resisting]] == [ActorCrashed] * 4
    assert now() == began
    assert await shop.ask(Shop.add) == 1
    assert now() - began >= 0.7, "the next incarnation does not begin beside what resists"


async def test_a_tell_in_hand_of_a_restarting_actor_is_a_dead_letter(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Wide)
    shop.tell(Shop.work, 3600)
    await asyncio.sleep(1)
    assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    assert await shop.ask(Shop.add) == 1
    assert [(letter.method, "while it handled this" in letter.reason) for letter in mbactor.dead_letters] == [
        ("work", True)
    ]


@pytest.mark.parametrize("restart", ["temporary", "permanent"])
async def test_a_kill_cuts_all_that_is_in_hand_at_once_and_nothing_comes_after(
    mbactor: ActorSystem, restart: Any
) -> None:
    diary: list[Any] = []
    shop = await mbactor.spawn(child(Shop, args={"diary": diary}, restart=restart))
    resisting = begin(shop.ask(Shop.resist_aside, 0.9))
    working = begin(shop.ask(Shop.work))
    await asyncio.sleep(0.1)
    asked = [begin(shop.ask(Shop.add)) for _ in range(100)]
    began = now()
    killing = begin(shop.kill())
    assert [await outcome(one) for one in (working, resisting)] == [ActorCrashed] * 2
    assert now() == began
    await killing
    assert {await outcome(one) for one in asked} == {ActorStopped}
    assert diary == ["begun"]


# --- late replies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 30])
async def test_a_reply_of_a_dead_incarnation_is_dropped_and_counted(mbactor: ActorSystem, seconds: float) -> None:
    shop = await mbactor.spawn(Wide)
    resisting = begin(shop.ask(Shop.resist, seconds))
    await asyncio.sleep(0.1)
    assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    assert await outcome(resisting) is ActorCrashed
    assert mbactor.late_replies == 0
    assert await shop.ask(Shop.add) == 1
    await asyncio.sleep(60)
    assert mbactor.late_replies == 1
    assert mbactor.abandoned == (seconds > 1)


async def test_a_reply_to_who_does_not_wait_any_more_is_dropped_and_counted(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    asked = begin(shop.ask(Shop.work, 5))
    await asyncio.sleep(1)
    asked.cancel()
    assert await shop.ask(Shop.add) == 1
    assert mbactor.late_replies == 1


async def test_a_reply_after_its_deadline_is_dropped_and_counted(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    assert await outcome(shop.ask(Shop.resist, 30)) is BudgetSpent
    assert now() == pytest.approx(20)
    assert await shop.ask(Shop.add) == 1
    assert mbactor.late_replies == 1


async def test_a_tell_has_no_reply_that_could_be_late(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Wide)
    shop.tell(Shop.resist, 0.5)
    await asyncio.sleep(0.1)
    assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
    assert await shop.ask(Shop.add) == 1
    assert mbactor.late_replies == 0


async def test_late_replies_over_the_bus_are_dropped_and_counted(mbactor_loop: object) -> None:
    bus = LocalBus()
    async with (
        ActorSystem("one", transport=bus, watchdog=None) as one,
        ActorSystem("two", transport=bus, watchdog=None) as two,
    ):
        await one.spawn(Shop)
        cancelled = begin(two.ask(Shop.work, 5))
        await asyncio.sleep(1)
        cancelled.cancel()
        assert await two.ask(Shop.add) == 1
        assert (one.late_replies, two.late_replies) == (0, 1)
        assert await outcome(two.ask(Shop.resist, 30)) is BudgetSpent
        assert await two.ask(Shop.add) == 2
        assert one.late_replies == 1


# --- dead letters -----------------------------------------------------------------------------------------------------


async def test_dead_letters_tell_where_to_what_from_whom_and_why(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    await shop.stop()
    assert shop.tell(Shop.add, 7) is False
    [letter] = mbactor.dead_letters
    assert (letter.address, letter.method, letter.arguments) == ("shop.example#shop", "add", {"by": 7})
    assert (letter.sender, "has stopped" in letter.reason) == (None, True)
    assert letter.at.tzinfo is not None


async def test_the_last_thousand_dead_letters_are_kept_and_all_are_counted(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    await shop.stop()
    for number in range(2500):
        shop.tell(Shop.add, by=number)
    assert (len(mbactor.dead_letters), mbactor.dead_letters.total) == (1000, 2500)
    assert [(letter.arguments or {})["by"] for letter in mbactor.dead_letters] == list(range(1500, 2500))


@dataclass(slots=True)
class Note:
    text: str
    pages: int = 1


class Sheet(msgspec.Struct):
    notes: list[Note]


@pytest.mark.parametrize(
    "large",
    [
        "x" * 1000,
        bytes(1000),
        ["x" * 100] * 10,
        {"key": ["x" * 500, "y" * 500]},
        {"x" * 1000: 1},
        Note("x" * 1000),
        Sheet([Note("x" * 100)] * 10),
        SimpleNamespace(text="x" * 1000),
    ],
)
async def test_of_large_dead_letters_as_many_are_kept_as_have_room(mbactor: ActorSystem, large: Any) -> None:
    letters = DeadLetters(keep=100, most=10_000)
    behind = aiter(letters)
    first = begin(anext(behind))
    await asyncio.sleep(0.001)
    for number in range(50):
        letters.add("shop", "add", {"large": large, "number": number}, None, "full")
    kept = [(letter.arguments or {})["number"] for letter in letters]
    assert kept == list(range(50 - len(kept), 50))
    assert 7 <= len(kept) <= 10
    assert ((await first).arguments or {})["number"] == kept[0], "who falls behind holds no more"
    letters.add("shop", "add", {"large": "x" * 20_000, "number": 50}, None, "full")
    assert [(letter.arguments or {})["number"] for letter in letters] == [50], "the last one is there, however large"
    for number in range(51, 200):
        letters.add("shop", "add", {"number": number}, None, "full")
    assert len(letters) == 100
    assert letters.total == 200


async def follow(letters: DeadLetters, into: list[Any]) -> None:
    async for letter in letters:
        into.append((letter.arguments or {})["by"])
        await asyncio.sleep(0)


async def test_who_follows_dead_letters_gets_each_that_comes_until_the_system_ends(mbactor_loop: object) -> None:
    seen: tuple[list[int], list[int]] = ([], [])
    async with ActorSystem(watchdog=None) as system:
        shop = await system.spawn(Shop)
        await shop.stop()
        shop.tell(Shop.add, by=-1)
        following = [begin(follow(system.dead_letters, one)) for one in seen]
        await asyncio.sleep(0.001)
        for number in range(10):
            shop.tell(Shop.add, by=number)
            await asyncio.sleep(number % 3)
    await asyncio.wait_for(asyncio.gather(*following), 1)
    assert seen == (list(range(10)), list(range(10))), "both got all, and nothing from before"


async def test_who_follows_dead_letters_and_falls_behind_misses_the_oldest(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    await shop.stop()
    letters = aiter(mbactor.dead_letters)
    first = begin(anext(letters))
    await asyncio.sleep(0.001)
    for number in range(2500):
        shop.tell(Shop.add, by=number)
    assert (await first).arguments == {"by": 1500}
    rest = [((await anext(letters)).arguments or {})["by"] for _ in range(999)]
    assert rest == list(range(1501, 2500))
    shop.tell(Shop.add, by=0)
    assert (await anext(letters)).arguments == {"by": 0}


async def test_who_breaks_off_following_is_forgotten(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    await shop.stop()
    following = begin(follow(mbactor.dead_letters, []))
    await asyncio.sleep(0.001)
    assert len(mbactor.dead_letters._followers) == 1
    following.cancel()
    await asyncio.wait([following])
    assert not mbactor.dead_letters._followers


async def test_following_after_the_end_of_the_system_ends_at_once_and_begins_with_it_again(
    mbactor_loop: object,
) -> None:
    system = ActorSystem(watchdog=None)
    for _ in range(2):
        async with system:
            shop = await system.spawn(Shop)
            await shop.stop()
            seen: list[int] = []
            following = begin(follow(system.dead_letters, seen))
            await asyncio.sleep(0.001)
            shop.tell(Shop.add, by=1)
        await following
        assert seen == [1]
        await asyncio.wait_for(follow(system.dead_letters, seen), 1)
        assert seen == [1]


# --- on_undelivered ---------------------------------------------------------------------------------------------------


class Small(Shop):
    host = "small.example"
    mailbox = Mailbox(capacity=1)


class Latest(Shop):
    host = "latest.example"
    mailbox = Mailbox(capacity=1, overflow="drop_oldest")


class Keeping(Shop):
    """Keeps all that is told for later, which never comes."""

    host = "keeping.example"

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.stash()


class Sender(Actor):
    host = "sender.example"

    def __init__(self, returned: list[DeadLetter]) -> None:
        self.returned = returned

    async def on_undelivered(self, letter: DeadLetter) -> None:
        self.returned.append(letter)

    @endpoint
    async def tell_shop(self, shop: ActorRef[Any], by: list[int]) -> list[bool]:
        return [shop.tell(Shop.add, by=one) for one in by]

    @endpoint
    async def tell_work(self, shop: ActorRef[Any]) -> bool:
        return shop.tell(Shop.work, 3600)

    @endpoint
    async def tell_host(self) -> bool:
        return self.tell(Shop.add, by=1)

    @endpoint
    async def tell_beside(self, shop: ActorRef[Any]) -> None:
        self.spawn_task(self._tell(shop))

    async def _tell(self, shop: ActorRef[Any]) -> None:
        shop.tell(Shop.add, by=1)

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")


class Post:
    """A sender, and what came back to it."""

    def __init__(self, ref: ActorRef[Sender], returned: list[DeadLetter], system: ActorSystem) -> None:
        self.ref = ref
        self.returned = returned
        self.system = system

    def came_back(self, *by: int, why: str, method: str = "tell-shop") -> None:
        assert [(letter.arguments or {}).get("by") for letter in self.returned] == list(by)
        assert all(why in letter.reason for letter in self.returned), self.returned
        assert {letter.sender for letter in self.returned} == {f"sender.example/{method}"}
        assert list(self.system.dead_letters) == self.returned


@pytest.fixture
async def post(mbactor: ActorSystem) -> Post:
    returned: list[DeadLetter] = []
    return Post(await mbactor.spawn(Sender, returned), returned, mbactor)


async def test_a_message_that_is_refused_comes_back_to_its_sender(mbactor: ActorSystem, post: Post) -> None:
    small = await mbactor.spawn(Small)
    small.tell(Shop.work, 3600)
    await asyncio.sleep(1)
    assert await post.ref.ask(Sender.tell_shop, small, [1, 2, 3]) == [True, False, False]
    await asyncio.sleep(1)
    post.came_back(2, 3, why="is full")


async def test_a_message_that_is_dropped_comes_back_to_its_sender(mbactor: ActorSystem, post: Post) -> None:
    latest = await mbactor.spawn(Latest)
    latest.tell(Shop.work, 3600)
    await asyncio.sleep(1)
    assert await post.ref.ask(Sender.tell_shop, latest, [1, 2, 3]) == [True, True, True]
    await asyncio.sleep(1)
    post.came_back(1, 2, why="is full")


async def test_a_message_to_an_actor_that_has_ended_comes_back_to_its_sender(mbactor: ActorSystem, post: Post) -> None:
    shop = await mbactor.spawn(Shop)
    await shop.stop()
    assert await post.ref.ask(Sender.tell_shop, shop, [1]) == [False]
    await asyncio.sleep(1)
    post.came_back(1, why="has stopped")


async def test_messages_that_wait_at_an_end_come_back_to_their_sender(mbactor: ActorSystem, post: Post) -> None:
    shop = await mbactor.spawn(Shop)
    working = begin(shop.ask(Shop.work))
    await asyncio.sleep(1)
    assert await post.ref.ask(Sender.tell_shop, shop, [1, 2]) == [True, True]
    await shop.kill()
    assert await outcome(working) is ActorCrashed
    await asyncio.sleep(1)
    post.came_back(1, 2, why="has stopped")


async def test_messages_that_are_stashed_at_an_end_come_back_to_their_sender(mbactor: ActorSystem, post: Post) -> None:
    keeping = await mbactor.spawn(Keeping)
    assert await post.ref.ask(Sender.tell_shop, keeping, [1, 2]) == [True, True]
    await asyncio.sleep(1)
    await keeping.stop()
    await asyncio.sleep(1)
    post.came_back(1, 2, why="has stopped")


async def test_a_message_that_is_cut_in_hand_comes_back_to_its_sender(mbactor: ActorSystem, post: Post) -> None:
    shop = await mbactor.spawn(Shop)
    assert await post.ref.ask(Sender.tell_work, shop)
    await asyncio.sleep(1)
    await shop.kill()
    await asyncio.sleep(1)
    assert [letter.method for letter in post.returned] == ["work"]
    assert "while it handled this" in post.returned[0].reason


async def test_a_message_over_the_bus_to_nobody_comes_back_to_its_sender(mbactor: ActorSystem, post: Post) -> None:
    assert await post.ref.ask(Sender.tell_host) is True, "nobody knows yet"
    await asyncio.sleep(1)
    post.came_back(1, why="nobody serves", method="tell-host")
    assert post.returned[0].method == "add"


async def test_a_message_of_background_work_comes_back_to_its_actor(mbactor: ActorSystem, post: Post) -> None:
    shop = await mbactor.spawn(Shop)
    await shop.stop()
    await post.ref.ask(Sender.tell_beside, shop)
    await asyncio.sleep(1)
    assert [letter.arguments for letter in post.returned] == [{"by": 1}]


async def test_what_comes_back_is_handled_by_the_incarnation_that_runs(mbactor: ActorSystem, post: Post) -> None:
    shop = await mbactor.spawn(Shop)
    working = begin(shop.ask(Shop.work))
    await asyncio.sleep(1)
    await post.ref.ask(Sender.tell_shop, shop, [1])
    assert await outcome(post.ref.ask(Sender.crash)) is ActorCrashed
    await asyncio.sleep(1)
    await shop.kill()
    assert await outcome(working) is ActorCrashed
    await asyncio.sleep(1)
    post.came_back(1, why="has stopped")


async def test_what_cannot_come_back_since_its_sender_has_ended_is_a_dead_letter_only(
    mbactor: ActorSystem, post: Post
) -> None:
    keeping = await mbactor.spawn(Keeping)
    await post.ref.ask(Sender.tell_shop, keeping, [1])
    await asyncio.sleep(1)
    await post.ref.stop()
    await keeping.stop()
    await asyncio.sleep(1)
    assert post.returned == []
    assert [letter.arguments for letter in mbactor.dead_letters] == [{"by": 1}]


async def test_a_sender_that_does_not_care_is_not_bothered(mbactor: ActorSystem) -> None:
    class Careless(Actor):
        @endpoint
        async def tell_shop(self, shop: ActorRef[Shop]) -> bool:
            return shop.tell(Shop.add, by=1)

    shop, careless = await mbactor.spawn(Shop), await mbactor.spawn(Careless)
    await shop.stop()
    assert await careless.ask(Careless.tell_shop, shop) is False
    assert careless.statistics().accepted == 1
    assert [letter.sender for letter in mbactor.dead_letters] == ["Careless/tell-shop"]


# --- what is charged --------------------------------------------------------------------------------------------------


class Neighbour(Actor):
    host = "neighbour.example"

    @endpoint
    async def hello(self, number: int) -> int:
        return number


def bad_request(system: ActorSystem) -> Any:
    return system.request("POST", "https://shop.example/add", b'{"by": "x"}')


def error_answer(system: ActorSystem) -> Any:
    return system.ask(Shop.sell, sku="a-1")


def told_crash(system: ActorSystem) -> Any:
    """So many that most wait for a restart until the mailbox is full, or their time is over."""
    return system.ask(Shop.crash)


@pytest.mark.parametrize("values", ["handed over"], indirect=True)
@pytest.mark.parametrize(
    ("provoke", "errors"),
    [(bad_request, {BadRequest}), (error_answer, {SoldOut}), (told_crash, {ActorCrashed, MailboxFull, BudgetSpent})],
)
async def test_a_thousand_bad_requests_a_second_end_nobody_and_hold_up_nobody(
    mbactor_loop: object,
    mbactor_recorder: Recorder,
    provoke: Callable[[ActorSystem], Any],
    errors: set[type[MbactorError]],
) -> None:
    tree = SupervisorSpec(max_restarts=0, children=[child(Shop), child(Neighbour)])
    async with ActorSystem(tree=tree, watchdog=None) as system:
        answers: Counter[type] = Counter()
        slowest = 0.0
        for hundredth in range(1500):
            for _ in range(10):
                provoke(system).add_done_callback(lambda done: answers.update([type(done.exception())]))
            asked = now()
            assert await system.ask(Neighbour.hello, hundredth) == hundredth
            slowest = max(slowest, now() - asked)
            await asyncio.sleep(0.01)
        await asyncio.sleep(30)
        assert answers.total() == 15_000
        assert set(answers) == errors
        assert slowest < 0.001
        assert mbactor_recorder.find("supervisor.gave_up") == []
        await asyncio.sleep(2)
        assert await system.ask(Shop.add) == 1


async def untold_by_tell(shop: ActorRef[Shop]) -> None:
    shop.tell(Shop.crash)


async def untold_by_timer(shop: ActorRef[Shop]) -> None:
    await shop.ask(Shop.fail_later)


async def untold_in_the_background(shop: ActorRef[Shop]) -> None:
    await shop.ask(Shop.fail_beside)


@pytest.mark.parametrize("fail", [untold_by_tell, untold_by_timer, untold_in_the_background])
async def test_a_crash_that_nobody_was_told_of_is_charged(
    mbactor: ActorSystem, mbactor_recorder: Recorder, fail: Callable[[ActorRef[Shop]], Awaitable[None]]
) -> None:
    shop = await mbactor.spawn(Shop)
    for _ in range(3):
        await fail(shop)
        await asyncio.sleep(1)
        assert await shop.ask(Shop.add) == 1
    await fail(shop)
    await asyncio.sleep(1)
    assert len(mbactor_recorder.find("supervisor.gave_up")) == 1
    assert await outcome(shop.ask(Shop.add)) is ActorStopped


async def test_untold_crashes_that_are_far_apart_are_forgotten(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    for _ in range(20):
        shop.tell(Shop.crash)
        await asyncio.sleep(2)
    assert await shop.ask(Shop.add) == 1


async def test_a_crash_in_a_hook_is_charged(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    class Fragile(Shop):
        async def on_start(self) -> None:
            for ref in watched:
                self.watch(ref)

    watched: list[ActorRef[Any]] = []
    fragile = await mbactor.spawn(Fragile)
    assert await fragile.ask(Shop.add) == 1
    other = await mbactor.spawn(Neighbour)
    await fragile.ask(Shop.observe, other)
    await other.stop()
    watched.append(other)
    await mbactor_recorder.wait_for("supervisor.gave_up", within="1s")
    crashes = mbactor_recorder.find("actor.crashed", method="on_exit", told=False)
    assert len(crashes) == 4


async def test_a_failing_on_start_is_a_failed_start(mbactor: ActorSystem) -> None:
    class Broken(Shop):
        async def on_start(self) -> None:
            raise OSError("no disk")

    with pytest.raises(StartFailed, match="OSError: no disk"):
        await mbactor.spawn(Broken)
    tree = SupervisorSpec(children=[child(Shop), child(Broken)])
    with pytest.raises(StartFailed, match="OSError: no disk"):
        async with ActorSystem(tree=tree, watchdog=None):
            pass


async def test_a_failing_on_start_of_a_restart_is_charged(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    class Broken(Shop):
        starts = 0

        async def on_start(self) -> None:
            type(self).starts += 1
            if self.starts > 1:
                raise OSError("no disk")

    shop = await mbactor.spawn(child(Broken, backoff=Backoff("500ms", "500ms", jitter=0)))
    assert await outcome(shop.ask(Shop.crash)) is ActorCrashed, "this is not charged; the failed starts are"
    gave_up = await mbactor_recorder.wait_for("supervisor.gave_up", within="1m")
    assert "no disk" in gave_up.fields["reason"]
    assert Broken.starts == 5


async def test_ignore_in_a_restart_leaves_the_actor_ended_without_an_error(
    mbactor: ActorSystem, mbactor_recorder: Recorder
) -> None:
    class Shy(Shop):
        starts = 0

        async def on_start(self) -> None:
            type(self).starts += 1
            if self.starts > 1:
                raise Ignore

    shop = await mbactor.spawn(Shy)
    shop.tell(Shop.crash)
    waiting = begin(shop.ask(Shop.add))
    assert await outcome(waiting) is ActorStopped
    assert mbactor_recorder.find("supervisor.gave_up") == []


@pytest.mark.parametrize("error", [OSError("no disk"), GeneratorExit(), asyncio.CancelledError(), SoldOut("x")])
@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_a_failing_on_stop_is_reported_and_blocks_nothing(
    mbactor: ActorSystem, mbactor_recorder: Recorder, error: BaseException, end: str
) -> None:
    class Broken(Shop):
        async def on_stop(self, exit: Exit) -> None:
            raise error

    shop = await mbactor.spawn(Broken)
    began = now()
    if end == "stop":
        await shop.stop()
        assert await outcome(shop.ask(Shop.add)) is ActorStopped
    else:
        assert await outcome(shop.ask(Shop.crash)) is ActorCrashed
        assert await shop.ask(Shop.add) == 1
    assert now() - began < 0.1
    failed = mbactor_recorder.find("actor.stop_failed")
    assert [type(one.fields["error"]) for one in failed] == [type(error)]
    assert mbactor_recorder.find("supervisor.gave_up") == []


class Unfit(Shop):
    async def on_start(self) -> None:
        raise OSError("no disk")


class Unmade(Shop):
    def __init__(self) -> None:
        raise OSError("no disk")


class Closed(Shop):
    async def on_start(self) -> None:
        raise SoldOut("x")


@pytest.mark.parametrize("cls", [Unfit, Unmade])
async def test_a_failing_start_is_told_with_its_traceback(
    mbactor: ActorSystem, mbactor_recorder: Recorder, cls: type[Actor]
) -> None:
    with pytest.raises(StartFailed, match="OSError: no disk"):
        await mbactor.spawn(child(Supervisor, id="inner", args={"children": [child(cls, id="unfit")]}))
    failed = mbactor_recorder.find("actor.start_failed")
    assert [one.fields["actor"] for one in failed] == ["shop.example#unfit"]
    trace = traceback_of(failed[0].fields) or ""
    assert 'raise OSError("no disk")' in trace
    assert "/mbactor/kernel/" not in trace


async def test_a_supervisor_that_does_not_start_is_told_with_its_traceback(
    mbactor: ActorSystem, mbactor_recorder: Recorder
) -> None:
    class Faulty(Supervisor):
        async def on_start(self) -> None:
            raise OSError("no disk")

    with pytest.raises(StartFailed, match="OSError: no disk"):
        await mbactor.spawn(Faulty)
    assert 'raise OSError("no disk")' in (traceback_of(mbactor_recorder.find("actor.start_failed")[0].fields) or "")


async def test_a_start_that_is_refused_on_purpose_is_no_failure(
    mbactor: ActorSystem, mbactor_recorder: Recorder
) -> None:
    with pytest.raises(StartFailed):
        await mbactor.spawn(Closed)
    assert mbactor_recorder.find("actor.start_failed") == []


async def test_a_traceback_begins_where_the_actor_s_code_does(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    with pytest.raises(ActorCrashed) as crashed:
        await shop.ask(Shop.crash)
    assert "in crash" in (crashed.value.remote_trace or "")
    assert "/mbactor/kernel/" not in (crashed.value.remote_trace or "")


# --- what is no crash -------------------------------------------------------------------------------------------------


class Cancelled(Shop):
    host = "cancelled.example"

    @endpoint
    async def be_cancelled(self) -> None:
        """As if somebody had found its task and cancelled it."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(1, task.cancel)
        await asyncio.sleep(3600)

    @endpoint
    async def raise_it(self) -> None:
        raise asyncio.CancelledError

    @endpoint
    async def await_a_cancelled_task(self) -> None:
        task = asyncio.ensure_future(asyncio.sleep(3600))
        task.cancel()
        await task


async def test_a_cancellation_from_outside_is_no_crash(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    shop = await mbactor.spawn(Cancelled)
    first = await shop.ask(Shop.who)
    asked = [begin(shop.ask(Cancelled.be_cancelled)) for _ in range(5)]
    shop.tell(Cancelled.be_cancelled)
    assert [await outcome(one) for one in asked] == [ActorCrashed] * 5, "their answers do not come any more"
    assert await shop.ask(Shop.who) == first
    assert mbactor_recorder.find("actor.crashed") == []
    assert [letter.method for letter in mbactor.dead_letters] == ["be_cancelled"], "the tell is not lost silently"


async def test_an_asker_that_is_cancelled_crashes_nobody(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    shop = await mbactor.spawn(Shop)
    first = await shop.ask(Shop.who)
    for _ in range(10):
        asked = begin(shop.ask(Shop.work, 1))
        await asyncio.sleep(0.5)
        asked.cancel()
    assert await shop.ask(Shop.who) == first
    assert mbactor_recorder.find("actor.crashed") == []


@pytest.mark.parametrize("method", [Cancelled.raise_it, Cancelled.await_a_cancelled_task])
async def test_a_cancellation_that_a_method_raises_by_itself_is_a_crash(
    mbactor: ActorSystem, mbactor_recorder: Recorder, method: Any
) -> None:
    shop = await mbactor.spawn(Cancelled)
    first = await shop.ask(Shop.who)
    with pytest.raises(ActorCrashed, match="CancelledError"):
        await shop.ask(method)
    assert await shop.ask(Shop.who) != first
    for _ in range(4):
        shop.tell(method)
    await mbactor_recorder.wait_for("supervisor.gave_up", within="1s")


async def test_a_cancellation_that_on_start_raises_is_a_failed_start(mbactor: ActorSystem) -> None:
    class Broken(Shop):
        async def on_start(self) -> None:
            raise asyncio.CancelledError

    with pytest.raises(StartFailed, match="CancelledError"):
        await mbactor.spawn(Broken)


SCRIPT = """
import asyncio, sys
from mbactor import Actor, ActorSystem, endpoint, observe

class Ends(Actor):
    async def on_start(self) -> None:
        if where == "on_start":
            raise error

    async def on_stop(self, exit) -> None:
        print("on_stop", exit.kind, flush=True)
        if where == "on_stop":
            raise error

    @endpoint
    async def end(self) -> None:
        await asyncio.sleep(0.01)
        if where == "background":
            self.spawn_task(self.fail())
            await asyncio.sleep(60)
        raise error

    async def fail(self) -> None:
        raise error

class Seen:
    wants_spans = False
    def on_event(self, name, fields) -> None:
        if name in ("actor.crashed", "supervisor.restarting"):
            print(name, flush=True)

async def main() -> None:
    observe.add_observer(Seen())
    async with ActorSystem() as system:
        ref = await system.spawn(Ends)
        if where == "told":
            ref.tell(Ends.end)
            await asyncio.sleep(60)
        elif where == "on_stop":
            await ref.stop()
        await ref.ask(Ends.end)
    print("went on", flush=True)

where, error = sys.argv[1], {"KeyboardInterrupt": KeyboardInterrupt(), "SystemExit": SystemExit(7)}[sys.argv[2]]
asyncio.run(main())
"""


@pytest.mark.parametrize("values", ["handed over"], indirect=True)
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("where", ["asked", "told", "background", "on_start", "on_stop"])
def test_what_ends_a_process_is_no_crash_and_ends_it(where: str, error: str, tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text(dedent(SCRIPT))
    root = Path(__file__).parent.parent.parent
    ended = subprocess.run(
        [sys.executable, str(script), where, error],
        cwd=root,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in ({7} if error == "SystemExit" else {-2, 130}), ended.stderr
    assert "actor.crashed" not in ended.stdout
    assert "supervisor.restarting" not in ended.stdout
    assert "went on" not in ended.stdout


class Leaning(Actor):
    """Falls when what it leans on goes."""

    concurrency = 3

    def __init__(self, on: asyncio.Event) -> None:
        self.on = on

    @endpoint
    async def lean(self) -> None:
        self.spawn_task(self._stand())

    async def _stand(self) -> None:
        await self.on.wait()
        raise RuntimeError("it has gone")

    @endpoint
    async def ping(self) -> str:
        return "pong"


async def test_what_a_worker_was_woken_for_is_told_at_its_deadline_where_the_actor_falls_first(
    mbactor: ActorSystem,
) -> None:
    went = asyncio.Event()
    leaning = await mbactor.spawn(child(Leaning, args={"on": went}, backoff=Backoff("60s", "60s", jitter=0)))
    await leaning.ask(Leaning.lean)
    await asyncio.sleep(30)  # no timer of an earlier ask is left
    went.set()
    await asyncio.sleep(0)
    asked = [leaning.ask(Leaning.ping) for _ in range(3)]
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [BudgetSpent] * 3
    assert asyncio.get_running_loop().time() - began == pytest.approx(20)


# --- task groups ------------------------------------------------------------------------------------------------------


class Grouping(Actor):
    """Raises from within task groups."""

    def __init__(self) -> None:
        self.held = 0

    @endpoint
    async def raise_all(self, errors: list[str], *, nested: bool = False) -> None:
        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(self._nested(error) if nested else self._raise(error))

    async def _nested(self, error: str) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._raise, error)

    async def _raise(self, error: str) -> None:
        match error:
            case "sold out":
                raise SoldOut("the last one has gone")
            case "refused":
                raise BadRequest("no such thing")
            case "stash":
                self.held += 1
                if self.held == 1:
                    self.stash()
            case _:
                raise ValueError(error)

    @endpoint
    async def go_on(self) -> int:
        return self.unstash_all()

    @endpoint
    async def who(self) -> str:
        return self.id


@pytest.mark.parametrize("nested", [False, True])
async def test_of_answers_in_a_task_group_the_first_is_the_answer(mbactor: ActorSystem, nested: bool) -> None:
    grouping = await mbactor.spawn(Grouping)
    before = await grouping.ask(Grouping.who)
    with pytest.raises(SoldOut, match="^the last one has gone$") as raised:
        await grouping.ask(Grouping.raise_all, ["sold out", "refused"], nested=nested)
    assert raised.value.status == 409
    assert await grouping.ask(Grouping.who) == before


async def test_a_task_group_with_anything_else_is_a_crash_that_tells_what_it_holds(mbactor: ActorSystem) -> None:
    grouping = await mbactor.spawn(Grouping)
    before = await grouping.ask(Grouping.who)
    with pytest.raises(ActorCrashed) as raised:
        await grouping.ask(Grouping.raise_all, ["sold out", "boom"])
    told = "ExceptionGroup: unhandled errors in a TaskGroup: SoldOut: the last one has gone; ValueError: boom"
    assert str(raised.value) == told
    assert await grouping.ask(Grouping.who) != before


async def test_of_a_group_with_many_errors_a_few_are_told(mbactor: ActorSystem) -> None:
    grouping = await mbactor.spawn(Grouping)
    with pytest.raises(ActorCrashed, match=r": 0; ValueError: 1; .*: 4; \.\.\.$"):
        await grouping.ask(Grouping.raise_all, [str(number) for number in range(7)])


async def test_a_stash_within_a_task_group_is_one(mbactor: ActorSystem) -> None:
    grouping = await mbactor.spawn(Grouping)
    asked = begin(grouping.ask(Grouping.raise_all, ["stash"]))
    await asyncio.sleep(0.1)
    assert not asked.done()
    assert await grouping.ask(Grouping.go_on) == 1
    await asked
