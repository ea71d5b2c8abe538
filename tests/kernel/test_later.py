"""Messages for later: stash, timers, the receive timeout, and results that come through the mailbox."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorCrashed, ActorRef, ActorSystem, BudgetSpent, Exit, Mailbox, MailboxFull, Timer, endpoint
from mbactor.errors import DeclarationError
from mbactor.supervisor.state import StartFailed


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


def now() -> float:
    return asyncio.get_running_loop().time()


async def outcome(awaited: Awaitable[Any]) -> Any:
    """The value, or the type of the error."""
    try:
        return await awaited
    except Exception as error:  # noqa: BLE001 - whatever it is
        return type(error)


async def soon() -> None:
    """Let everything that is ready run."""
    await asyncio.sleep(0.01)


def at(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.001)


# --- stash ------------------------------------------------------------------------------------------------------------


class Door(Actor):
    """Handles what comes only while it is open."""

    mailbox = Mailbox(capacity=3)

    def __init__(self, diary: list[Any]) -> None:
        self.diary = diary
        self.is_open = False

    @endpoint
    async def enter(self, who: int) -> int:
        if not self.is_open:
            self.stash()
        self.diary.append(who)
        return who

    @endpoint
    async def enter_inline(self, who: int) -> int:
        try:
            if not self.is_open:
                self.stash()
        except Exception as error:  # noqa: BLE001 - whatever it would be
            self.diary.append(error)
        self.diary.append(who)
        return who

    @endpoint
    async def open(self) -> int:
        self.is_open = True
        return self.unstash_all()

    @endpoint
    async def look(self) -> int:
        return self.unstash_all()

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")


async def a_door(system: ActorSystem) -> tuple[ActorRef[Door], list[Any]]:
    diary: list[Any] = []
    return await system.spawn(Door, diary), diary


async def test_what_was_stashed_is_handled_in_order_and_its_askers_are_answered(mbactor: ActorSystem) -> None:
    door, diary = await a_door(mbactor)
    asked = [door.ask(Door.enter, number) for number in range(3)]
    await soon()
    assert diary == []
    assert await door.ask(Door.open) == 3
    assert [await one for one in asked] == [0, 1, 2]
    assert diary == [0, 1, 2]


async def test_what_was_stashed_comes_before_what_waits(mbactor: ActorSystem) -> None:
    door, diary = await a_door(mbactor)
    door.tell(Door.enter, 0)
    door.tell(Door.enter, 1)
    await soon()
    asked = [door.ask(Door.open), door.ask(Door.enter, 2)]
    assert await asyncio.gather(*asked) == [2, 2]
    assert diary == [0, 1, 2]


async def test_the_code_after_a_stash_does_not_run_and_no_except_catches_it(mbactor: ActorSystem) -> None:
    door, diary = await a_door(mbactor)
    asked = door.ask(Door.enter_inline, 1)
    await soon()
    assert diary == []
    await door.ask(Door.open)
    assert await asked == 1
    assert diary == [1]


async def test_a_message_may_be_stashed_again_and_keeps_its_place(mbactor: ActorSystem) -> None:
    door, diary = await a_door(mbactor)
    for number in range(3):
        door.tell(Door.enter, number)
    await soon()
    assert await door.ask(Door.look) == 3
    await soon()
    assert diary == []
    assert await door.ask(Door.open) == 3
    await soon()
    assert diary == [0, 1, 2]


async def test_as_many_are_stashed_as_the_mailbox_may_hold(mbactor: ActorSystem) -> None:
    door, diary = await a_door(mbactor)
    asked = []
    for number in range(5):
        asked.append(asyncio.ensure_future(outcome(door.ask(Door.enter, number))))
        await soon()
    assert [one.done() for one in asked] == [False, False, False, True, True]
    assert await door.ask(Door.open) == 3
    assert [await one for one in asked] == [0, 1, 2, MailboxFull, MailboxFull]
    assert diary == [0, 1, 2]


async def test_a_told_message_that_finds_the_stash_full_is_a_dead_letter(mbactor: ActorSystem) -> None:
    door, _ = await a_door(mbactor)
    for number in range(4):
        door.tell(Door.enter, number)
        await soon()
    assert [letter.arguments for letter in mbactor.dead_letters] == [{"who": 3}]


async def test_what_is_stashed_when_the_actor_restarts_is_handled_first_by_the_next_incarnation(
    mbactor: ActorSystem,
) -> None:
    diary: list[Any] = []

    class Gate(Actor):
        first = True

        @endpoint
        async def enter(self, who: int) -> int:
            if type(self).first:
                self.stash()
            diary.append((who, self.id))
            return who

        @endpoint
        async def crash(self) -> str:
            type(self).first = False
            raise ValueError("boom")

    gate = await mbactor.spawn(Gate)
    asked = [gate.ask(Gate.enter, number) for number in range(2)]
    await soon()
    gate.tell(Gate.crash)
    asked.append(gate.ask(Gate.enter, 2))
    assert await asyncio.gather(*asked) == [0, 1, 2]
    assert [who for who, _ in diary] == [0, 1, 2]
    assert len({id for _, id in diary}) == 1


async def test_a_stashed_ask_ends_at_its_deadline_and_is_not_handled_later(mbactor: ActorSystem) -> None:
    door, diary = await a_door(mbactor)
    begun = now()
    with pytest.raises(BudgetSpent), anyio.fail_after(2):
        await door.ask(Door.enter, 1)
    assert now() == pytest.approx(begun + 2, abs=0.01)
    await door.ask(Door.open)
    await soon()
    assert diary == []


async def test_what_is_stashed_when_the_actor_ends_for_good_is_refused(mbactor: ActorSystem) -> None:
    door, _ = await a_door(mbactor)
    asked = asyncio.ensure_future(outcome(door.ask(Door.enter, 1)))
    door.tell(Door.enter, 2)
    await soon()
    await door.stop()
    assert (await asked).__name__ == "ActorStopped"
    assert [letter.arguments for letter in mbactor.dead_letters] == [{"who": 2}]


class Doors(Actor):
    """Several things at once, some of them later."""

    concurrency = 3

    def __init__(self, diary: list[Any]) -> None:
        self.diary = diary
        self.is_open = False

    @endpoint(key="door")
    async def enter(self, door: str, who: int) -> int:
        if not self.is_open:
            self.stash()
        self.diary.append((door, who, "begins"))
        await asyncio.sleep(1)
        self.diary.append((door, who, "ends"))
        return who

    @endpoint(concurrency=2)
    async def pass_by(self, who: int) -> int:
        if not self.is_open:
            self.stash()
        self.diary.append(who)
        await asyncio.sleep(1)
        return who

    @endpoint(thread=True)
    def look(self, who: int) -> int:
        if not self.is_open:
            self.stash()
        return who

    @endpoint
    async def open(self) -> int:
        self.is_open = True
        return self.unstash_all()


async def test_of_what_was_stashed_each_key_keeps_its_order_and_others_pass(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    doors = await mbactor.spawn(Doors, diary)
    asked = [doors.ask(Doors.enter, "front", who) for who in range(3)]
    asked += [doors.ask(Doors.enter, "back", who) for who in range(3, 6)]
    await soon()
    begun = now()
    assert await doors.ask(Doors.open) == 6
    assert await asyncio.gather(*asked) == [0, 1, 2, 3, 4, 5]
    assert now() == pytest.approx(begun + 3, abs=0.1)
    for door, whos in (("front", (0, 1, 2)), ("back", (3, 4, 5))):
        steps = [(who, what) for at_door, who, what in diary if at_door == door]
        assert steps == [(who, what) for who in whos for what in ("begins", "ends")]


async def test_a_stashed_message_holds_no_key_and_no_place(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    doors = await mbactor.spawn(Doors, diary)
    for who in range(10):
        doors.tell(Doors.enter, "front", who)
        doors.tell(Doors.pass_by, who)
    await soon()
    assert doors.statistics().depth == 0
    assert await doors.ask(Doors.open) == 20


async def test_what_was_stashed_runs_as_many_at_once_as_its_endpoint_may(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    doors = await mbactor.spawn(Doors, diary)
    asked = [doors.ask(Doors.pass_by, who) for who in range(6)]
    await soon()
    begun = now()
    await doors.ask(Doors.open)
    assert await asyncio.gather(*asked) == list(range(6))
    assert now() == pytest.approx(begun + 3, abs=0.1)
    assert sorted(diary) == list(range(6))


async def test_a_method_in_a_thread_may_stash_its_message(mbactor: ActorSystem) -> None:
    doors = await mbactor.spawn(Doors, [])
    asked = doors.ask(Doors.look, 1)
    await asyncio.sleep(1)
    assert not asyncio.ensure_future(asked).done()
    assert await doors.ask(Doors.open) == 1
    assert await asked == 1


# --- timers -----------------------------------------------------------------------------------------------------------


class Timed(Actor):
    """Tells itself."""

    mailbox = Mailbox(capacity=2)
    timer: Timer | None = None

    def __init__(self, diary: list[Any]) -> None:
        self.diary = diary

    async def on_stop(self, exit: Exit) -> None:
        self.diary.append(("stop", exit.kind))

    async def on_receive_timeout(self) -> None:
        self.diary.append(("idle", now()))

    @endpoint
    async def ring(self, what: str = "ring") -> None:
        self.diary.append((what, now()))

    @endpoint
    async def after(self, delay: float, what: str = "ring") -> None:
        self.timer = self.send_after(delay, Timed.ring, what)

    @endpoint
    async def every(self, period: float) -> None:
        self.timer = self.send_every(period, Timed.ring)

    @endpoint
    async def cancel(self) -> bool:
        assert self.timer is not None
        was = self.timer.active
        self.timer.cancel()
        assert not self.timer.active
        return was

    @endpoint
    async def work(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @endpoint(concurrency=2)
    async def work_aside(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @endpoint
    async def ring_soon_and_crash(self) -> None:
        self.send_after(1, Timed.ring, "never")
        await asyncio.sleep(2)  # by now it waits in the mailbox
        raise ValueError("boom")

    @endpoint
    async def ring_later_and_crash(self) -> None:
        self.send_after(1, Timed.ring, "never")
        self.send_every(1, Timed.ring, "never")
        raise ValueError("boom")

    @endpoint
    async def ring_every_second_and_crash(self) -> None:
        self.send_every(1, Timed.ring, "never")
        await asyncio.sleep(3.5)
        raise ValueError("boom")

    @endpoint
    async def list_every(self, period: float) -> None:
        self.send_every(period, Timed.ring_list, ["ring"])

    @endpoint
    async def ring_list(self, what: list[str]) -> None:
        what.append("over")
        self.diary.append(what)

    @endpoint
    async def cancel_what_waits(self) -> None:
        timer = self.send_after(1, Timed.ring, "never")
        await asyncio.sleep(2)
        timer.cancel()

    @endpoint
    async def idle_after(self, duration: float | None) -> None:
        self.set_receive_timeout(duration)

    @endpoint
    async def idle_after_and_crash(self, duration: float) -> None:
        self.set_receive_timeout(duration)
        raise ValueError("boom")

    @endpoint
    async def ring_another(self) -> None:
        self.send_after(1, Door.open)  # type: ignore[arg-type,unused-ignore]

    @endpoint
    async def bad_period(self) -> None:
        self.send_every(0, Timed.ring)

    @endpoint
    async def bad_arguments(self) -> None:
        self.send_after(1, Timed.ring, when=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    @endpoint
    async def id_(self) -> str:
        return self.id


async def a_timed(system: ActorSystem) -> tuple[ActorRef[Timed], list[Any]]:
    diary: list[Any] = []
    return await system.spawn(Timed, diary), diary


async def test_send_after_tells_once_when_the_delay_is_over(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.after, 5, "five")
    await timed.ask(Timed.after, 2, "two")
    await asyncio.sleep(60)
    assert diary == [("two", at(begun + 2)), ("five", at(begun + 5))]


async def test_send_every_begins_after_one_period_and_does_not_drift(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.every, 0.1)
    await asyncio.sleep(100.05)
    assert len(diary) == 1000
    assert diary[0] == ("ring", at(begun + 0.1))
    assert diary[-1] == ("ring", at(begun + 100))


async def test_send_every_skips_while_one_waits_and_keeps_to_its_schedule(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.every, 1)
    await timed.ask(Timed.work, 5.5)
    await asyncio.sleep(2)
    assert diary == [("ring", at(begun + second)) for second in (5.5, 6, 7)]


async def test_a_cancelled_timer_does_not_fire(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    await timed.ask(Timed.after, 5)
    assert await timed.ask(Timed.cancel) is True
    await timed.ask(Timed.every, 1)
    await asyncio.sleep(2.5)
    assert await timed.ask(Timed.cancel) is True
    await asyncio.sleep(10)
    assert len(diary) == 2


async def test_a_timer_that_fired_is_not_active_and_may_be_cancelled(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    await timed.ask(Timed.after, 1)
    await asyncio.sleep(2)
    assert await timed.ask(Timed.cancel) is False
    assert len(diary) == 1


async def test_cancelling_a_timer_takes_its_message_out_of_the_mailbox(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    await timed.ask(Timed.cancel_what_waits)
    await asyncio.sleep(5)
    assert diary == []
    assert len(mbactor.dead_letters) == 0


async def test_a_timer_never_fires_into_a_later_incarnation(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    before = await timed.ask(Timed.id_)
    timed.tell(Timed.ring_later_and_crash)
    await asyncio.sleep(5)
    assert await timed.ask(Timed.id_) != before
    await asyncio.sleep(5)
    assert diary == [("stop", "failed")]


async def test_a_timer_message_that_waits_when_its_incarnation_ends_is_not_handled_by_the_next(
    mbactor: ActorSystem,
) -> None:
    timed, diary = await a_timed(mbactor)
    before = await timed.ask(Timed.id_)
    timed.tell(Timed.ring_soon_and_crash)
    await asyncio.sleep(10)
    assert await timed.ask(Timed.id_) != before
    assert diary == [("stop", "failed")]
    assert [letter.arguments for letter in mbactor.dead_letters] == [{"what": "never"}]


async def test_the_waiting_message_of_a_timer_that_repeats_is_a_dead_letter_at_the_end_of_its_incarnation(
    mbactor: ActorSystem,
) -> None:
    timed, diary = await a_timed(mbactor)
    timed.tell(Timed.ring_every_second_and_crash)
    await asyncio.sleep(10)
    assert diary == [("stop", "failed")]
    [letter] = mbactor.dead_letters
    assert (letter.method, letter.arguments) == ("ring", {"what": "never"})
    assert "earlier incarnation" in letter.reason


async def test_each_message_of_a_timer_that_repeats_has_values_of_its_own(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    await timed.ask(Timed.list_every, 1)
    await asyncio.sleep(3.5)
    assert diary == [["ring", "over"]] * 3


async def test_timers_end_with_the_actor(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    await timed.ask(Timed.every, 1)
    await timed.stop()
    await asyncio.sleep(10)
    assert diary == [("stop", "shutdown")]
    assert len(mbactor.dead_letters) == 0


async def test_an_actor_that_has_ended_is_let_go_of_whatever_timers_it_had(mbactor: ActorSystem) -> None:
    class Held(Actor):
        @endpoint
        async def begin(self) -> None:
            timers.append(self.send_after("1d", Held.begin))
            timers.append(self.send_after(0, Held.begin_nothing))
            timers.append(self.send_every("1d", Held.begin))

        @endpoint
        async def begin_nothing(self) -> None: ...

        @endpoint
        async def look(self) -> None:
            found.append(weakref.ref(self))

    found: list[weakref.ref[Actor]] = []
    timers: list[Timer] = []
    held = await mbactor.spawn(Held)
    await held.ask(Held.begin)
    await held.ask(Held.look)
    await soon()
    assert [one.active for one in timers] == [True, False, True]
    await held.stop()
    await soon()
    assert [one.active for one in timers] == [False] * 3
    gc.collect()
    assert [one() for one in found] == [None]


async def test_a_timer_that_has_fired_is_let_go_of(mbactor: ActorSystem) -> None:
    def timers() -> set[int]:
        gc.collect()
        return {id(one) for one in gc.get_objects() if isinstance(one, Timer)}

    timed, diary = await a_timed(mbactor)
    before = timers()
    for _ in range(3):
        await timed.ask(Timed.after, 0)
    await soon()
    await timed.ask(Timed.work, 0)  # what it was told last is let go of, too
    assert [what for what, _ in diary] == ["ring"] * 3
    assert len(timers() - before) <= 1, "more are there than the one that the actor keeps itself"


async def test_the_message_of_a_timer_is_as_old_as_the_time_since_it_fired(mbactor: ActorSystem) -> None:
    timed, _ = await a_timed(mbactor)
    await timed.ask(Timed.after, 1)
    working = asyncio.ensure_future(timed.ask(Timed.work, 5))
    await asyncio.sleep(4)
    (row,) = mbactor.tree().children
    assert row.mailbox is not None
    assert row.mailbox.oldest_age == at(3)
    await working


async def test_a_timer_whose_message_finds_the_mailbox_full_leaves_a_dead_letter(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    await timed.ask(Timed.after, 1, "late")
    timed.tell(Timed.work, 5)
    await soon()
    assert timed.tell(Timed.ring, "first")
    assert timed.tell(Timed.ring, "second")
    await asyncio.sleep(10)
    assert [what for what, _ in diary] == ["first", "second"]
    assert [letter.arguments for letter in mbactor.dead_letters] == [{"what": "late"}]


async def test_timers_tell_the_actor_itself_only(mbactor: ActorSystem) -> None:
    timed, _ = await a_timed(mbactor)
    with pytest.raises(DeclarationError, match="Timed has no open"):
        await timed.ask(Timed.ring_another)


@pytest.mark.parametrize("wrong", [Timed.bad_period, Timed.bad_arguments])
async def test_a_wrong_timer_is_refused_where_it_is_set(mbactor: ActorSystem, wrong: Any) -> None:
    timed, diary = await a_timed(mbactor)
    assert await outcome(timed.ask(wrong)) is not None
    await asyncio.sleep(5)
    assert all(entry == ("stop", "failed") for entry in diary)


# --- the receive timeout --------------------------------------------------------------------------------------------------


async def test_the_receive_timeout_rings_once_exactly_when_nothing_came_for_so_long(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.idle_after, 5)
    await asyncio.sleep(100)
    assert diary == [("idle", at(begun + 5))]


async def test_a_message_begins_the_receive_timeout_anew(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.idle_after, 5)
    await asyncio.sleep(4)
    await timed.ask(Timed.work, 0)
    await asyncio.sleep(4)
    await timed.ask(Timed.work, 3)
    await asyncio.sleep(100)
    assert diary == [("idle", at(begun + 16))]


async def test_after_another_message_the_receive_timeout_rings_again(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.idle_after, 5)
    await asyncio.sleep(10)
    await timed.ask(Timed.work, 0)
    await asyncio.sleep(100)
    assert diary == [("idle", at(begun + 5)), ("idle", at(begun + 15))]


async def test_the_receive_timeout_does_not_ring_while_a_message_is_in_hand(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.idle_after, 2)
    await timed.ask(Timed.work, 10)
    await asyncio.sleep(1)
    assert diary == []
    await asyncio.sleep(10)
    assert diary == [("idle", at(begun + 12))]


async def test_messages_of_an_endpoint_with_a_queue_of_its_own_count_for_the_receive_timeout(
    mbactor: ActorSystem,
) -> None:
    timed, diary = await a_timed(mbactor)
    begun = now()
    await timed.ask(Timed.idle_after, 2)
    await timed.ask(Timed.work_aside, 10)
    await asyncio.sleep(5)
    await timed.ask(Timed.work_aside, 0)
    await asyncio.sleep(100)
    assert diary == [("idle", at(begun + 12)), ("idle", at(begun + 17))]


async def test_the_hook_of_the_receive_timeout_may_set_it_again(mbactor: ActorSystem) -> None:
    diary: list[float] = []

    class Poll(Actor):
        async def on_start(self) -> None:
            self.set_receive_timeout("3s")

        async def on_receive_timeout(self) -> None:
            diary.append(now())
            self.set_receive_timeout("4s" if len(diary) < 3 else None)

    begun = now()
    await mbactor.spawn(Poll)
    await asyncio.sleep(100)
    assert diary == [at(begun + 3), at(begun + 7), at(begun + 11)]


async def test_the_receive_timeout_can_be_switched_off(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    await timed.ask(Timed.idle_after, 5)
    await timed.ask(Timed.idle_after, None)
    await asyncio.sleep(100)
    await timed.ask(Timed.work, 0)
    await asyncio.sleep(100)
    assert diary == []


async def test_the_receive_timeout_ends_with_its_incarnation(mbactor: ActorSystem) -> None:
    timed, diary = await a_timed(mbactor)
    timed.tell(Timed.idle_after_and_crash, 5)
    await asyncio.sleep(100)
    await timed.ask(Timed.work, 0)
    await asyncio.sleep(100)
    assert diary == [("stop", "failed")]


# --- results through the mailbox -------------------------------------------------------------------------------------------


class Cache(Actor):
    """Fetches beside its work."""

    mailbox = Mailbox(capacity=2)

    def __init__(self, diary: list[Any]) -> None:
        self.diary = diary

    async def _fetch(self, what: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        if what == "bad":
            raise ValueError(what)
        return what

    @endpoint
    async def work_and_crash(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ValueError("boom")

    @endpoint
    async def fetch(self, what: str, seconds: float = 1) -> None:
        self.pipe_to_self(self._fetch(what, seconds), Cache.fetched, failed=Cache.failed)

    @endpoint
    async def fetch_or_crash(self, what: str) -> None:
        self.pipe_to_self(self._fetch(what, 1), Cache.fetched)

    @endpoint
    async def fetch_answer(self, other: ActorRef[Any]) -> None:
        async def asked() -> str:
            return str(await other.ask(Cache.id_))

        self.pipe_to_self(asked(), Cache.fetched)

    @endpoint
    async def fetched(self, what: str) -> None:
        self.diary.append((what, now()))

    @endpoint
    async def failed(self, error: str) -> None:
        self.diary.append((f"failed {error}", now()))

    @endpoint
    async def work(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @endpoint
    async def id_(self) -> str:
        return self.id


async def a_cache(system: ActorSystem) -> tuple[ActorRef[Cache], list[Any]]:
    diary: list[Any] = []
    return await system.spawn(Cache, diary), diary


async def test_a_piped_result_comes_as_a_message_while_the_actor_goes_on(mbactor: ActorSystem) -> None:
    cache, diary = await a_cache(mbactor)
    begun = now()
    await cache.ask(Cache.fetch, "a")
    await cache.ask(Cache.work, 0.5)
    assert now() == at(begun + 0.5)
    await asyncio.sleep(5)
    assert diary == [("a", at(begun + 1))]


async def test_what_a_piped_ask_answers_comes_as_a_message(mbactor: ActorSystem) -> None:
    cache, diary = await a_cache(mbactor)
    other, _ = await a_cache(mbactor)
    await cache.ask(Cache.fetch_answer, other)
    await soon()
    assert [what for what, _ in diary] == [await other.ask(Cache.id_)]


async def test_a_piped_exception_is_told_as_a_text(mbactor: ActorSystem) -> None:
    cache, diary = await a_cache(mbactor)
    begun = now()
    before = await cache.ask(Cache.id_)
    await cache.ask(Cache.fetch, "bad")
    await asyncio.sleep(5)
    assert diary == [("failed ValueError: bad", at(begun + 1))]
    assert await cache.ask(Cache.id_) == before


async def test_a_piped_exception_that_nobody_takes_is_a_crash(mbactor: ActorSystem) -> None:
    cache, diary = await a_cache(mbactor)
    before = await cache.ask(Cache.id_)
    await cache.ask(Cache.fetch_or_crash, "bad")
    await asyncio.sleep(5)
    assert await cache.ask(Cache.id_) != before
    assert diary == []


async def test_a_full_mailbox_does_not_lose_a_piped_result(mbactor: ActorSystem) -> None:
    cache, diary = await a_cache(mbactor)
    begun = now()
    await cache.ask(Cache.fetch, "a")
    cache.tell(Cache.work, 5)
    await soon()
    assert cache.tell(Cache.work, 1)
    assert cache.tell(Cache.work, 1)
    assert not cache.tell(Cache.work, 1)
    await asyncio.sleep(20)
    assert diary == [("a", pytest.approx(begun + 7, abs=0.1))]


async def test_a_full_mailbox_does_not_lose_a_piped_result_however_long_it_is_full(mbactor: ActorSystem) -> None:
    cache, diary = await a_cache(mbactor)
    await cache.ask(Cache.fetch, "a")
    cache.tell(Cache.work, 3600)
    await soon()
    assert cache.tell(Cache.work, 1)
    assert cache.tell(Cache.work, 1)
    await asyncio.sleep(4000)
    assert [what for what, _ in diary] == ["a"]


@pytest.mark.parametrize("what", ["a", "bad"])
async def test_a_piped_result_that_waits_when_its_incarnation_ends_is_not_for_the_next(
    mbactor: ActorSystem, what: str
) -> None:
    cache, diary = await a_cache(mbactor)
    await cache.ask(Cache.fetch, what)
    cache.tell(Cache.work_and_crash, 5)
    await asyncio.sleep(10)
    assert diary == []
    assert [letter.method for letter in mbactor.dead_letters] == ["fetched" if what == "a" else "failed"]


async def test_piped_work_ends_with_its_incarnation(mbactor: ActorSystem) -> None:
    cache, diary = await a_cache(mbactor)
    await cache.ask(Cache.fetch, "late", 10)
    await cache.ask(Cache.fetch_or_crash, "bad")
    await asyncio.sleep(60)
    assert diary == []


# --- where there is no message ------------------------------------------------------------------------------------------


class Misplaced(Actor):
    """Stashes where it has no message in hand, or pipes what cannot be."""

    def __init__(self, in_start: bool = False) -> None:
        self.in_start = in_start

    async def on_start(self) -> None:
        if self.in_start:
            self.stash()

    @endpoint
    async def stash_beside(self) -> None:
        await self.spawn_task(self._keep())

    async def _keep(self) -> None:
        self.stash()

    @endpoint
    async def pipe(self, what: str) -> None:
        wrong: Any = 5
        match what:
            case "work":
                self.pipe_to_self(wrong, Misplaced.pipe)
            case "operation":
                self.pipe_to_self(asyncio.sleep(0, "x"), wrong)
            case _:
                self.pipe_to_self(asyncio.sleep(0, "x"), Misplaced.pipe, failed=wrong)


async def test_a_stash_without_a_message_says_so(mbactor: ActorSystem) -> None:
    said = (
        r"RuntimeError: self\.stash\(\) was called where no message is in hand: in on_start, on_stop or background work"
    )
    with pytest.raises(StartFailed, match=said):
        await mbactor.spawn(Misplaced, in_start=True)
    misplaced = await mbactor.spawn(Misplaced)
    with pytest.raises(ActorCrashed, match=said):
        await misplaced.ask(Misplaced.stash_beside)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("work", r"TypeError: pipe_to_self\(5\): an awaitable expected"),
        ("operation", "TypeError: 5 given, a reference to an endpoint expected"),
        ("failed", "TypeError: 5 given, a reference to an endpoint expected"),
    ],
)
async def test_what_cannot_be_piped_is_refused_where_it_is_given(mbactor: ActorSystem, what: str, said: str) -> None:
    misplaced = await mbactor.spawn(Misplaced)
    with pytest.raises(ActorCrashed, match=said):
        await misplaced.ask(Misplaced.pipe, what)
