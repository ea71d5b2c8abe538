"""Mailboxes as their users meet them: what passes what, what a full one does, and what becomes of each message."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    ActorSystem,
    Backoff,
    BudgetSpent,
    Exit,
    Mailbox,
    MailboxFull,
    NoSuchActor,
    child,
    endpoint,
)
from mbactor.cli.main import main as command
from mbactor.errors import ActorRestarting
from mbactor.mailbox import MailboxStatistics, Overflow
from mbactor.supervisor.topology import load, schema

ALL: list[Overflow] = ["reject", "wait", "drop_oldest", "drop_newest"]


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


class Clerk(Actor):
    """Writes down what it does."""

    def __init__(self, diary: list[Any] | None = None) -> None:
        self.diary = [] if diary is None else diary

    async def on_stop(self, exit: Exit) -> None:
        self.diary.append(f"stop {exit.kind}")

    async def on_exit(self, ref: ActorRef[Any], exit: Exit) -> None:
        self.diary.append(f"exit {exit.kind}")

    @endpoint
    async def note(self, what: int) -> int:
        self.diary.append(what)
        return what

    @endpoint
    async def work(self, seconds: float) -> str:
        self.diary.append("begun")
        await asyncio.sleep(seconds)
        self.diary.append("done")
        return "worked"

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def observe(self, ref: ActorRef[Any]) -> None:
        self.watch(ref)

    @endpoint
    async def note_soon(self, what: int) -> None:
        timer = self.send_after(0, Clerk.note, what)
        await asyncio.sleep(1)
        timer.cancel()
        await asyncio.sleep(1)


async def a_clerk(system: ActorSystem, **options: Any) -> tuple[ActorRef[Clerk], list[Any]]:
    diary: list[Any] = []
    return await system.spawn(child(Clerk, args={"diary": diary}, **options)), diary


async def busy(ref: ActorRef[Any], seconds: float = 3600) -> None:
    """Let it have a message in hand that takes its time."""
    assert ref.tell(Clerk.work, seconds)
    await asyncio.sleep(0.01)
    assert ref.statistics().depth == 0


def within(seconds: float, send: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> asyncio.Future[Any]:
    """Send with a time budget; what is returned may be waited for without one."""
    sent: Any = None
    with anyio.CancelScope(deadline=anyio.current_time() + seconds):  # noqa: ASYNC100 - read when it is sent
        sent = asyncio.ensure_future(send(*arguments, **named))
    return sent  # type: ignore[no-any-return]  # noqa: RET504 - the scope might swallow an exception


async def outcome(awaited: Awaitable[Any]) -> Any:
    """The value, or the type of the error."""
    try:
        return await awaited
    except Exception as error:  # noqa: BLE001 - whatever it is
        return type(error)


def now() -> float:
    return asyncio.get_running_loop().time()


def told(system: ActorSystem) -> list[Any]:
    """What the dead letters were told, in order."""
    return [next(iter((letter.arguments or {}).values()), None) for letter in system.dead_letters]


# --- lanes ----------------------------------------------------------------------------------------------------------


async def test_the_notice_of_a_watched_actor_passes_a_hundred_messages(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor)
    other, _ = await a_clerk(mbactor, id="other")
    await clerk.ask(Clerk.observe, other)
    await busy(clerk, 5)
    for number in range(100):
        clerk.tell(Clerk.note, number)
    await other.stop()
    assert await clerk.ask(Clerk.note, 100) == 100
    assert diary == ["begun", "done", "exit shutdown", *range(101)]


async def test_a_stop_passes_everything_but_the_message_in_hand(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor)
    other, _ = await a_clerk(mbactor, id="other")
    await clerk.ask(Clerk.observe, other)
    in_hand = asyncio.ensure_future(clerk.ask(Clerk.work, 3))
    await asyncio.sleep(0.01)
    for number in range(50):
        clerk.tell(Clerk.note, number)
    asked = [asyncio.ensure_future(clerk.ask(Clerk.note, number)) for number in range(50, 100)]
    await other.stop()
    began = now()
    await clerk.stop()
    assert now() - began == pytest.approx(3, abs=0.1), "the message in hand was finished"
    assert await in_hand == "worked"
    assert diary == ["begun", "done", "stop shutdown"], "neither the notice nor a message came after it"
    assert {await outcome(one) for one in asked} == {ActorStopped}
    assert [number for number in told(mbactor) if isinstance(number, int)] == list(range(50))


async def test_a_kill_passes_everything_and_cuts_the_message_in_hand(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor)
    other, _ = await a_clerk(mbactor, id="other")
    await clerk.ask(Clerk.observe, other)
    in_hand = asyncio.ensure_future(clerk.ask(Clerk.work, 3600))
    await asyncio.sleep(0.01)
    asked = [asyncio.ensure_future(clerk.ask(Clerk.note, number)) for number in range(100)]
    await other.stop()
    began = now()
    await clerk.kill()
    assert now() == began
    with pytest.raises(ActorCrashed) as cut:
        await in_hand
    assert (cut.value.status, cut.value.taken) == (500, "yes")
    assert {await outcome(one) for one in asked} == {ActorStopped}
    assert diary == ["begun"], "neither the notice, nor a message, nor on_stop"


async def test_a_kill_passes_a_stop_that_waits_for_the_message_in_hand(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor, shutdown=None)
    await busy(clerk)
    stopping = asyncio.ensure_future(clerk.stop())
    await asyncio.sleep(600)
    assert not stopping.done()
    began = now()
    await clerk.kill()
    await stopping
    assert now() == began
    assert diary == ["begun"]


async def test_a_stop_does_not_outlast_its_time_and_is_a_kill_then(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor, shutdown="2s")
    await busy(clerk)
    began = now()
    await clerk.stop()
    assert now() - began == pytest.approx(2)
    assert diary == ["begun"]


async def test_a_stop_does_not_extend_the_deadline_of_the_message_in_hand(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor, shutdown=None)
    in_hand = within(3, clerk.ask, Clerk.work, 3600)
    await asyncio.sleep(1)
    began = now()
    stopping = asyncio.ensure_future(clerk.stop())
    await expires(in_hand, began + 2)
    await stopping
    assert now() == pytest.approx(began + 2, abs=0.003)
    assert diary == ["begun", "stop shutdown"]


class Sweeping(Clerk):
    async def on_stop(self, exit: Exit) -> None:
        self.diary.append("sweeping")
        await asyncio.sleep(3600)
        self.diary.append("swept")


async def test_a_kill_cuts_an_on_stop(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    sweeping = await mbactor.spawn(child(Sweeping, args={"diary": diary}, shutdown=None))
    stopping = asyncio.ensure_future(sweeping.stop())
    await asyncio.sleep(60)
    assert diary == ["sweeping"]
    began = now()
    await sweeping.kill()
    await stopping
    assert (now(), diary) == (began, ["sweeping"])


# --- a full mailbox -------------------------------------------------------------------------------------------------


class Rejects(Clerk):
    mailbox = Mailbox(capacity=2)


class Waits(Clerk):
    mailbox = Mailbox(capacity=2, overflow="wait")


class DropsOldest(Clerk):
    mailbox = Mailbox(capacity=2, overflow="drop_oldest")


class DropsNewest(Clerk):
    mailbox = Mailbox(capacity=2, overflow="drop_newest")


OF_CLASS: dict[Overflow, type[Clerk]] = {
    "reject": Rejects, "wait": Waits, "drop_oldest": DropsOldest, "drop_newest": DropsNewest,
}  # fmt: skip
Full = tuple[ActorRef[Clerk], list[Any]]


@pytest.fixture(params=["of the class", "of the child"])
def declared(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def a_small_clerk(system: ActorSystem, overflow: Overflow, declared: str = "of the class") -> Full:
    """One with room for two messages, and one in hand for ten minutes."""
    diary: list[Any] = []
    if declared == "of the class":
        spec = child(OF_CLASS[overflow], args={"diary": diary})
    else:
        other = next(cls for policy, cls in OF_CLASS.items() if policy != overflow)
        spec = child(other, args={"diary": diary}, mailbox=Mailbox(2, overflow))
    clerk: ActorRef[Clerk] = await system.spawn(spec)
    await busy(clerk, 600)
    return clerk, diary


def counted(ref: ActorRef[Any]) -> dict[str, Any]:
    """What the statistics tell, without what is nothing."""
    statistics: MailboxStatistics = ref.statistics()
    every = {name: getattr(statistics, name) for name in MailboxStatistics.__dataclass_fields__}
    return {name: value for name, value in every.items() if value}


@pytest.mark.parametrize("overflow", ["reject", "drop_newest"])
async def test_reject_and_drop_newest_refuse_whoever_comes_too_late(
    mbactor: ActorSystem, overflow: Overflow, declared: str
) -> None:
    clerk, diary = await a_small_clerk(mbactor, overflow, declared)
    first = asyncio.ensure_future(clerk.ask(Clerk.note, 1))
    assert clerk.tell(Clerk.note, 2) is True
    assert clerk.tell(Clerk.note, 3) is False
    began = now()
    with pytest.raises(MailboxFull, match=r"is full \(2 messages\)") as full:
        await clerk.ask(Clerk.note, 4)
    assert (now(), full.value.status, full.value.taken) == (began, 503, "no")
    assert counted(clerk) == {"depth": 2, "highest": 2, "accepted": 3, "rejected": 2}
    assert [(letter.arguments, "full" in letter.reason) for letter in mbactor.dead_letters] == [({"what": 3}, True)]
    await clerk.kill()
    assert await outcome(first) is ActorStopped
    assert diary == ["begun"]


async def test_drop_oldest_makes_room_by_what_waits_longest(mbactor: ActorSystem, declared: str) -> None:
    clerk, diary = await a_small_clerk(mbactor, "drop_oldest", declared)
    first = asyncio.ensure_future(clerk.ask(Clerk.note, 1))
    await asyncio.sleep(1)
    for number in (2, 3, 4, 5):
        assert clerk.tell(Clerk.note, number) is True
    began = now()
    with pytest.raises(MailboxFull) as full:
        await first
    assert (now(), full.value.taken) == (began, "no")
    assert told(mbactor) == [2, 3]
    assert counted(clerk) == {"depth": 2, "highest": 2, "accepted": 6, "dropped": 3}
    await asyncio.sleep(600)
    assert diary == ["begun", "done", 4, 5]


async def test_drop_oldest_of_a_flood_of_tells_keeps_the_last(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    clerk = await mbactor.spawn(DropsOldest, diary)
    assert all(clerk.tell(Clerk.note, what=number) for number in range(100))
    await asyncio.sleep(1)
    assert diary == [98, 99]
    assert told(mbactor) == list(range(98))
    assert counted(clerk) == {"highest": 2, "accepted": 100, "dropped": 98}


async def test_wait_lets_askers_wait_in_line_and_refuses_who_tells(mbactor: ActorSystem, declared: str) -> None:
    clerk, diary = await a_small_clerk(mbactor, "wait", declared)
    asked = [within(800, clerk.ask, Clerk.note, number) for number in range(6)]
    await asyncio.sleep(60)
    assert clerk.tell(Clerk.note, 6) is False
    expected = {"depth": 2, "highest": 2, "accepted": 3, "rejected": 1, "oldest_age": 60.0, "waiting": 4}
    assert counted(clerk) == expected
    assert await asyncio.gather(*asked) == list(range(6))
    assert diary == ["begun", "done", *range(6)]
    assert told(mbactor) == [6]
    assert counted(clerk) == {"highest": 2, "accepted": 7, "rejected": 1}


async def test_who_comes_later_does_not_pass_who_waits_in_line(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    clerk = await mbactor.spawn(Waits, diary)
    asked = [asyncio.ensure_future(clerk.ask(Clerk.work, 1)) for _ in range(5)]
    came: dict[int, bool] = {}
    for tenth in range(100):
        came[tenth] = clerk.tell(Clerk.note, tenth)
        await asyncio.sleep(0.1)
    assert await asyncio.gather(*asked) == ["worked"] * 5
    assert diary[:6] == ["begun", "done"] * 3
    assert not any(taken for tenth, taken in came.items() if 0 < tenth < 20), "whoever waited in line came first"
    assert [entry for entry in diary if isinstance(entry, int)] == [tenth for tenth, taken in came.items() if taken]


async def test_the_line_moves_on_when_a_message_is_taken_back(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    clerk = await mbactor.spawn(child(Clerk, args={"diary": diary}, mailbox=Mailbox(1, "wait")))
    clerk.tell(Clerk.note_soon, 1)
    await asyncio.sleep(0.5)
    waiting = asyncio.ensure_future(clerk.ask(Clerk.note, 2))
    await asyncio.sleep(0.1)
    assert clerk.statistics().waiting == 1
    await asyncio.sleep(1)
    assert (clerk.statistics().waiting, clerk.statistics().depth) == (0, 1)
    assert await waiting == 2
    assert diary == [2]


@pytest.fixture
def topology(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Writes a file with one actor of this module's own."""
    (tmp_path / "clerks_for_test.py").write_text(
        dedent("""
        import asyncio
        from mbactor import Actor, endpoint

        class Clerk(Actor):
            host = "clerk.example"

            @endpoint
            async def work(self, seconds: float) -> str:
                await asyncio.sleep(seconds)
                return "worked"
        """)
    )
    before = list(sys.path)

    def write(mailbox: str) -> Path:
        file = tmp_path / "tree.yaml"
        file.write_text(
            "version: 1\nsupervisor:\n  children:\n    - actor: clerks_for_test:Clerk\n"
            f"      id: clerk\n      mailbox: {mailbox}\n"
        )
        return file

    yield write
    sys.path[:] = before
    sys.modules.pop("clerks_for_test", None)


@pytest.mark.parametrize("overflow", ALL)
async def test_a_topology_file_says_what_a_full_mailbox_does(
    mbactor_loop: object, topology: Callable[[str], Path], overflow: Overflow
) -> None:
    tree = load(topology(f"{{capacity: 2, overflow: {overflow}}}"), {}).supervisor
    assert tree.children[0].mailbox == Mailbox(2, overflow)
    import clerks_for_test  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    work: Any = clerks_for_test.Clerk.work
    async with ActorSystem(tree=tree, watchdog=None) as system:
        asked = [asyncio.ensure_future(system.ask(work, 1)) for _ in range(5)]
        answers = [await outcome(one) for one in asked]
    refused = {"reject": [0, 0, 1, 1, 1], "drop_newest": [0, 0, 1, 1, 1], "drop_oldest": [1, 1, 1, 0, 0], "wait": []}
    expected = [MailboxFull if one else "worked" for one in refused[overflow]] or ["worked"] * 5
    assert answers == expected


def test_check_and_the_schema_take_every_overflow(topology: Callable[[str], Path], values: str) -> None:
    from click.testing import CliRunner

    for overflow in ALL:
        result = CliRunner().invoke(command, ["check", str(topology(f"{{capacity: 2, overflow: {overflow}}}"))])
        assert (result.exit_code, "ok" in result.output) == (0, True), result.output
    result = CliRunner().invoke(command, ["check", str(topology("{capacity: 2, overflow: block}"))])
    assert result.exit_code == 2
    assert "mailbox.overflow: 'block' given, one of reject, wait, drop_oldest, drop_newest expected" in result.output
    of_schema = schema()["$defs"]["mailbox"]["properties"]["overflow"]["anyOf"][0]
    assert of_schema == {"enum": ALL}


# --- tell_wait ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["reject", "wait", "drop_newest"])
async def test_tell_wait_ends_when_the_message_has_room(mbactor: ActorSystem, overflow: Overflow) -> None:
    clerk, diary = await a_small_clerk(mbactor, overflow)
    sent = [within(800, clerk.tell_wait, Clerk.note, number) for number in range(4)]
    await asyncio.sleep(60)
    assert [one.done() for one in sent] == [True, True, False, False]
    assert counted(clerk) == {"depth": 2, "highest": 2, "accepted": 3, "oldest_age": 60.0, "waiting": 2}
    await asyncio.gather(*sent)
    await asyncio.sleep(0.001)
    assert diary == ["begun", "done", *range(4)]
    assert counted(clerk) == {"highest": 2, "accepted": 5}


async def test_tell_wait_does_not_wait_where_the_oldest_makes_room(mbactor: ActorSystem) -> None:
    clerk, _ = await a_small_clerk(mbactor, "drop_oldest")
    for number in range(4):
        await clerk.tell_wait(Clerk.note, number)
    assert told(mbactor) == [0, 1]
    assert counted(clerk) == {"depth": 2, "highest": 2, "accepted": 5, "dropped": 2}


async def test_asks_and_tells_that_wait_have_one_line(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "wait")
    sent = [within(800, clerk.tell_wait if n % 2 else clerk.ask, Clerk.note, n) for n in range(8)]
    await asyncio.gather(*sent)
    await asyncio.sleep(1)
    assert diary == ["begun", "done", *range(8)]


async def test_tell_wait_waits_no_longer_than_its_budget_and_is_not_taken(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "reject")
    for number in range(2):
        clerk.tell(Clerk.note, number)
    began = now()
    late = within(5, clerk.tell_wait, Clerk.note, 2)
    with pytest.raises(BudgetSpent, match="stayed full") as spent:
        await late
    assert now() - began == pytest.approx(5, abs=0.01)
    assert (spent.value.status, spent.value.taken) == (408, "no")
    assert counted(clerk) == {"depth": 2, "highest": 2, "accepted": 3, "oldest_age": pytest.approx(5, abs=0.01)}
    await asyncio.sleep(600)
    assert diary == ["begun", "done", 0, 1]
    assert told(mbactor) == []


class Shut(Clerk):
    """Has a method that it does not serve."""

    mailbox = Mailbox(1)

    @endpoint(manual=True)
    async def closed(self) -> None:
        raise AssertionError("it is not active")


async def test_tell_wait_to_a_method_that_is_not_served_is_refused_though_the_mailbox_is_full(
    mbactor: ActorSystem,
) -> None:
    shut = await mbactor.spawn(Shut)
    await busy(shut, 60)
    assert shut.tell(Clerk.note, 1)
    with pytest.raises(NoSuchActor, match="it is not active now"):
        await shut.tell_wait(Shut.closed)
    assert shut.statistics().waiting == 0


async def test_tell_wait_outside_of_any_scope_waits_for_twenty_seconds(mbactor: ActorSystem) -> None:
    clerk, _ = await a_small_clerk(mbactor, "reject")
    for number in range(2):
        clerk.tell(Clerk.note, number)
    began = now()
    assert await outcome(clerk.tell_wait(Clerk.note, 2)) is BudgetSpent
    assert now() - began == pytest.approx(20)


class Forwarding(Clerk):
    @endpoint
    async def forward(self, to: ActorRef[Any], what: int) -> None:
        await to.tell_wait(Clerk.note, what)


async def test_tell_wait_within_a_method_waits_no_longer_than_its_message_may(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "reject")
    forwarding = await mbactor.spawn(Forwarding)
    await within(3, forwarding.ask, Forwarding.forward, clerk, 1)
    await within(3, forwarding.ask, Forwarding.forward, clerk, 2)
    await expires(within(3, forwarding.ask, Forwarding.forward, clerk, 3), now() + 3)
    forwarding.tell(Forwarding.forward, clerk, 4)
    await asyncio.sleep(600)
    assert diary == ["begun", "done", 1, 2], "a message that was told has twenty seconds for it"
    assert clerk.statistics().waiting == 0


async def test_tell_wait_that_is_cancelled_is_not_sent(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "reject")
    sent = [within(800, clerk.tell_wait, Clerk.note, number) for number in range(5)]
    await asyncio.sleep(1)
    sent[2].cancel()
    sent[4].cancel()
    await asyncio.sleep(1)
    assert counted(clerk)["waiting"] == 1
    await sent[3]
    await asyncio.sleep(1)
    assert diary == ["begun", "done", 0, 1, 3]


async def test_tell_wait_that_is_cancelled_in_the_moment_there_is_room_is_not_sent(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "reject")
    for number in range(2):
        clerk.tell(Clerk.note, number)
    waiting: Any = within(800, clerk.tell_wait, Clerk.note, 2)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1)
    # The message in hand ends at that instant too, and its worker goes on before the cancellation is told.
    loop.call_at(600, waiting.cancel)
    await asyncio.sleep(700)
    assert waiting.cancelled()
    assert diary == ["begun", "done", 0, 1]


async def test_tell_wait_to_an_actor_that_ends_says_so(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "reject")
    sent = [within(800, clerk.tell_wait, Clerk.note, number) for number in range(4)]
    await asyncio.sleep(1)
    await clerk.kill()
    assert [await outcome(one) for one in sent] == [None, None, ActorStopped, ActorStopped]
    assert await outcome(clerk.tell_wait(Clerk.note, 9)) is ActorStopped
    assert told(mbactor) == [600.0, 0, 1], "what was in hand and what had been accepted; the others know"
    assert diary == ["begun"]


async def test_tell_wait_goes_on_waiting_while_the_actor_restarts(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    backoff = Backoff(initial="0.5s", maximum="0.5s", jitter=0)
    clerk = await mbactor.spawn(child(Waits, args={"diary": diary}, backoff=backoff))
    clerk.tell(Clerk.crash)
    for number in range(1, 2):
        clerk.tell(Clerk.note, number)
    sent = [asyncio.ensure_future(clerk.tell_wait(Clerk.note, number)) for number in range(2, 5)]
    await asyncio.sleep(0.3)
    assert clerk.statistics().waiting == 2
    await asyncio.gather(*sent)
    await asyncio.sleep(0.001)
    assert [entry for entry in diary if isinstance(entry, int)] == [1, 2, 3, 4]


async def test_tell_wait_is_not_held_up_by_a_notice(mbactor: ActorSystem) -> None:
    """Only messages take room: what an actor is told of the end of others does not."""
    diary: list[Any] = []
    clerk = await mbactor.spawn(child(Clerk, args={"diary": diary}, mailbox=Mailbox(1)))
    other, _ = await a_clerk(mbactor, id="other")
    await clerk.ask(Clerk.observe, other)
    await busy(clerk, 5)
    await other.stop()
    began = now()
    await clerk.tell_wait(Clerk.note, 1)
    assert now() == began
    await asyncio.sleep(5)
    assert diary == ["begun", "done", "exit shutdown", 1]


# --- asks that expire -----------------------------------------------------------------------------------------------


async def expires(asked: Awaitable[Any], at: float) -> None:
    with pytest.raises(BudgetSpent) as spent:
        await asked
    assert spent.value.status == 408
    assert now() == pytest.approx(at, abs=0.003), "it was told at its own deadline"


async def test_an_ask_that_expires_at_the_head_never_reaches_the_method(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor)
    await busy(clerk, 10)
    await expires(within(3, clerk.ask, Clerk.note, 1), now() + 3)
    assert await clerk.ask(Clerk.note, 2) == 2
    assert diary == ["begun", "done", 2]
    assert clerk.statistics().expired == 1


async def test_asks_that_expire_in_a_long_queue_are_told_each_at_its_own_deadline(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor)
    await busy(clerk, 60)
    began = now()
    patient = within(3600, clerk.ask, Clerk.note, 0)
    asked = {n: within(n - 0.5, clerk.ask, Clerk.note, n) for n in range(200, 0, -1)}
    for n in range(1, 61):
        await expires(asked[n], began + n - 0.5)
    assert await patient == 0
    assert [await asked[n] for n in range(200, 60, -1)] == list(range(200, 60, -1))
    assert diary == ["begun", "done", 0, *range(200, 60, -1)]
    assert clerk.statistics().expired == 60


async def test_an_ask_that_expires_in_the_line_is_told_at_its_deadline(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "wait")
    patient = [within(800, clerk.ask, Clerk.note, number) for number in range(3)]
    await expires(within(3, clerk.ask, Clerk.note, 3), now() + 3)
    await asyncio.gather(*patient)
    assert await clerk.ask(Clerk.note, 4) == 4
    assert diary == ["begun", "done", 0, 1, 2, 4]
    assert clerk.statistics().expired == 1


async def test_who_waited_for_room_in_vain_is_forgotten(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "wait")
    patient = [within(800, clerk.ask, Clerk.note, number) for number in range(3)]
    vain = [within(3, clerk.ask, Clerk.note, number) for number in range(10, 15)]
    gone = [within(5, clerk.ask, Clerk.note, number) for number in range(20, 25)]
    sent = within(800, clerk.tell_wait, Clerk.note, 3)
    await asyncio.sleep(1)
    assert counted(clerk)["waiting"] == 12
    for one in gone:
        one.cancel()
    assert [await outcome(one) for one in vain] == [BudgetSpent] * 5
    await asyncio.sleep(3)
    assert counted(clerk)["waiting"] == 2
    await asyncio.gather(*patient, sent)
    await asyncio.sleep(1)
    assert diary == ["begun", "done", 0, 1, 2, 3]
    assert counted(clerk) == {"highest": 2, "accepted": 1 + 4 + 10, "expired": 10}


async def test_of_thousands_that_wait_for_room_each_is_told_soon_after_its_deadline(mbactor: ActorSystem) -> None:
    """All who wait are looked at for that: where each had a look of its own, it took all of the loop's time."""
    clerk, _ = await a_small_clerk(mbactor, "wait")
    late: list[float] = []

    async def wait(asked: asyncio.Future[Any], deadline: float) -> None:
        assert await outcome(asked) is BudgetSpent
        late.append(now() - deadline)

    async with asyncio.TaskGroup() as group:
        for number in range(3000):
            group.create_task(wait(within(30, clerk.ask, Clerk.note, number), now() + 30))
            await asyncio.sleep(0.001)
    assert len(late) == 3000
    assert -0.01 < min(late) <= max(late) < 0.05
    assert clerk.statistics().waiting == 0


async def test_an_ask_that_made_its_room_expires_at_its_deadline(mbactor: ActorSystem) -> None:
    clerk, diary = await a_small_clerk(mbactor, "drop_oldest")
    for number in range(2):
        clerk.tell(Clerk.note, number)
    await expires(within(3, clerk.ask, Clerk.note, 2), now() + 3)
    await asyncio.sleep(600)
    assert diary == ["begun", "done", 1]
    assert clerk.statistics().expired == 1


class Patient(Clerk):
    """Keeps notes for later until it is opened."""

    is_open = False

    @endpoint
    async def note(self, what: int) -> int:
        if not self.is_open:
            self.diary.append(f"stash {what}")
            self.stash()
        return await super().note(what)

    @endpoint
    async def open(self) -> int:
        self.is_open = True
        return self.unstash_all()


async def test_an_ask_that_expires_in_the_stash_does_not_begin_again(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    patient = await mbactor.spawn(Patient, diary)
    asked = [within(60, patient.ask, Patient.note, 1), within(3, patient.ask, Patient.note, 2)]
    await expires(asked[1], now() + 3)
    assert await patient.ask(Patient.open) == 2
    assert await asked[0] == 1
    assert await patient.ask(Patient.note, 3) == 3
    assert diary == ["stash 1", "stash 2", 1, 3]
    assert patient.statistics().expired == 1


@pytest.mark.parametrize("pause", ["800ms", "1h"])
async def test_an_ask_that_expires_while_the_actor_restarts_is_told_at_its_deadline(
    mbactor: ActorSystem, pause: str
) -> None:
    clerk, diary = await a_clerk(mbactor, backoff=Backoff(initial=pause, maximum=pause, jitter=0))
    await busy(clerk, 0.5)
    clerk.tell(Clerk.crash)
    began = now()
    asked = {seconds: within(seconds, clerk.ask, Clerk.note, 1) for seconds in (0.3, 0.7, 0.9)}
    for seconds, one in asked.items():
        await expires(one, began + seconds)
    assert await outcome(clerk.ask(Clerk.note, 2)) in {2, ActorRestarting}
    assert 1 not in diary


class SlowStart(Clerk):
    """Takes its time to begin."""

    async def on_start(self) -> None:
        await asyncio.sleep(self.takes)
        self.diary.append("started")

    takes = 2.0

    @endpoint
    async def fail_soon(self) -> None:
        self.spawn_task(self._fail())

    async def _fail(self) -> None:
        await asyncio.sleep(1)
        raise ValueError("in the background")

    @endpoint
    async def stop_soon(self) -> None:
        self.send_after(1, SlowStart.end)

    @endpoint
    async def end(self) -> None:
        self.stop()

    @endpoint(concurrency=2)
    async def beside(self) -> None: ...


class SlowerStart(SlowStart):
    takes = 60.0


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("ends", [SlowStart.fail_soon, SlowStart.stop_soon])
async def test_an_ask_that_comes_in_the_moment_of_an_end_expires_at_its_deadline(
    mbactor: ActorSystem, turns: int, ends: Any
) -> None:
    """It may wake a worker that goes without having looked at it."""
    clerk = await mbactor.spawn(SlowerStart)
    clerk.tell(SlowStart.beside)
    clerk.tell(ends)
    await asyncio.sleep(0)
    began = now()
    await asyncio.sleep(1)
    for _ in range(turns):
        await asyncio.sleep(0)
    answer = await outcome(clerk.ask(Clerk.note, 1))
    assert answer == 1 or now() == pytest.approx(began + 21)


# --- kept across a restart ------------------------------------------------------------------------------------------


async def test_messages_are_kept_across_a_restart_in_their_order(mbactor: ActorSystem) -> None:
    clerk, diary = await a_clerk(mbactor, backoff=Backoff(initial="1s", maximum="1s", jitter=0))
    clerk.tell(Clerk.note, 0)
    clerk.tell(Clerk.crash)
    for number in range(1, 51):
        clerk.tell(Clerk.note, number)
    asked = [asyncio.ensure_future(clerk.ask(Clerk.note, number)) for number in range(51, 101)]
    await asyncio.sleep(0.5)
    assert counted(clerk) == {"depth": 100, "highest": 102, "accepted": 102, "oldest_age": 0.5}
    for number in range(101, 151):
        assert clerk.tell(Clerk.note, number)
    assert await asyncio.gather(*asked) == list(range(51, 101))
    assert await clerk.ask(Clerk.note, 151) == 151
    assert diary == [0, "stop failed", *range(1, 152)]


async def test_a_stash_is_handled_first_by_the_next_incarnation(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    patient = await mbactor.spawn(Patient, diary)
    asked = [asyncio.ensure_future(patient.ask(Patient.note, number)) for number in (1, 2)]
    await asyncio.sleep(0.001)
    patient.tell(Patient.crash)
    patient.tell(Patient.note, 3)
    assert await patient.ask(Patient.open) == 3
    assert await asyncio.gather(*asked) == [1, 2]
    await asyncio.sleep(0.001)
    stashed = ["stash 1", "stash 2"]
    assert diary == [*stashed, "stop failed", *stashed, "stash 3", 1, 2, 3]


async def test_a_restart_of_more_than_a_second_refuses_until_it_begins_and_takes_while_it_starts(
    mbactor: ActorSystem,
) -> None:
    diary: list[Any] = []
    backoff = Backoff(initial="10s", maximum="10s", jitter=0)
    clerk = await mbactor.spawn(child(SlowStart, args={"diary": diary}, backoff=backoff))
    clerk.tell(Clerk.crash)
    kept = [within(60, clerk.ask, Clerk.note, 1)]
    await asyncio.sleep(5)
    with pytest.raises(ActorRestarting) as restarting:
        await clerk.ask(Clerk.note, 2)
    assert (restarting.value.status, restarting.value.taken) == (503, "no")
    assert clerk.tell(Clerk.note, 3) is False
    assert [("restarts in" in letter.reason) for letter in mbactor.dead_letters] == [True]
    await asyncio.sleep(6)
    kept.append(asyncio.ensure_future(clerk.ask(Clerk.note, 4)))
    assert clerk.tell(Clerk.note, 5) is True, "it is starting: it takes messages again"
    assert await asyncio.gather(*kept) == [1, 4]
    await asyncio.sleep(0.001)
    assert diary == ["started", "stop failed", "started", 1, 4, 5]


class Crowded(Actor):
    """Notes its own mailbox while it is at each of many messages."""

    mailbox = Mailbox(capacity=5000)
    on_error = "resume"

    def __init__(self, own: list[ActorRef[Any]], seen: list[tuple[int, int]]) -> None:
        self.own, self.seen = own, seen

    @endpoint
    async def look(self, number: int) -> None:
        statistics = self.own[0].statistics()
        self.seen.append((statistics.accepted, statistics.depth))
        if number % 100 == 99:
            await asyncio.sleep(0)
        if number % 500 == 499:
            raise RuntimeError("one in five hundred")


async def a_crowded(mbactor: ActorSystem) -> tuple[ActorRef[Crowded], list[tuple[int, int]]]:
    own: list[ActorRef[Any]] = []
    seen: list[tuple[int, int]] = []
    own.append(await mbactor.spawn(Crowded, own, seen))
    return own[0], seen


async def test_what_was_accepted_is_counted_exactly_at_each_message(mbactor: ActorSystem) -> None:
    crowded, seen = await a_crowded(mbactor)
    for number in range(2000):
        crowded.tell(Crowded.look, number)
    assert crowded.statistics().accepted == 2000
    await crowded.ask(Crowded.look, 0)
    assert seen == [*((2001, 2000 - number) for number in range(2000)), (2001, 0)]


async def test_a_long_queue_of_quick_messages_leaves_the_loop_to_others(mbactor: ActorSystem) -> None:
    crowded, seen = await a_crowded(mbactor)
    for _ in range(4000):
        crowded.tell(Crowded.look, 0)
    turns = [0]
    while turns[-1] < 4000:
        await asyncio.sleep(0)
        turns.append(len(seen))
    assert max(after - before for before, after in pairwise(turns)) <= 512
