"""Conservation: every accepted message is answered, run, returned to its sender, dead-lettered or still queued.

Random schedules of sends, crashes, restarts, stops and kills run on the real kernel, in virtual time. Beside it stands
an account: what each message must have come to, and what the mailbox's statistics must say of it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import anyio
from hypothesis import Phase, example, given, note, settings
from hypothesis import strategies as st

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    ActorSystem,
    Backoff,
    BudgetSpent,
    Mailbox,
    MailboxFull,
    MbactorError,
    Supervisor,
    child,
    endpoint,
)
from mbactor.errors import ActorRestarting
from mbactor.kernel.dead_letters import DeadLetter
from mbactor.kernel.worker import Stashed
from mbactor.mailbox import MailboxStatistics, Overflow
from mbactor.testing.stage import Stage

How = Literal["ask", "tell", "tell_wait", "sender"]
RESISTING = ("resist", "outlast")
"""They go on when they are cancelled: for less than the grace of a second, and for more."""
REFUSED = {MailboxFull, ActorStopped, ActorRestarting}
BUDGET, MARGIN = 20.0, 0.002


class SoldOut(MbactorError):
    status = 409


# --- the account ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Entry:
    """One message, and all that came of it."""

    number: int
    how: How
    lane: str
    act: str
    deadline: float
    accepted: bool | None = None
    """Of a tell: what its sender was told. None where it was not sent after all, or nobody was told yet."""
    future: asyncio.Future[Any] | None = field(default=None, repr=False)
    """What its sender waits for; None for a tell."""
    outcome: Any = None
    """Of an ask: the value, or the type of the error."""
    answered_at: float | None = None
    cancelled_at: float | None = None
    begun: list[float] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    ended_at: float = -1.0
    no_room: bool = False
    """The stash was full when it was to be kept for later."""
    letters: list[str] = field(default_factory=list)
    """Why it is a dead letter."""
    returned: int = 0

    @property
    def runs(self) -> list[str]:
        """How its method ended, but for those times when it was kept for later."""
        return [end for end in self.ends if end != "stashed"]

    def check(self) -> None:
        assert len(self.begun) == len(self.ends), "a method has not ended"
        assert len(self.runs) <= 1, "it ran more than once"
        assert len(self.letters) <= 1, "it is more than one dead letter"
        if self.how == "ask":
            self.check_ask()
        else:
            self.check_tell()

    def check_ask(self) -> None:
        assert not self.letters, "whoever asked is told"
        assert all(moment < self.deadline for moment in self.begun), "it began when its time was over"
        if self.cancelled_at is not None:
            assert all(moment <= self.cancelled_at for moment in self.begun), "it began when nobody waited any more"
            return
        assert self.answered_at is not None, "nobody answered"
        assert self.answered_at <= self.deadline + 1e-6, "it was told too late"
        ended = self.runs[0] if self.runs else None
        too_late = self.ended_at >= self.answered_at
        if self.outcome == self.number:
            assert ended == "finished"
        elif self.outcome is SoldOut:
            assert ended == "failed"
        elif self.outcome is ActorCrashed:
            assert ended in {"crashed", "cut"} or (ended is not None and too_late)
        elif self.outcome is BudgetSpent:
            assert self.answered_at >= self.deadline - 1e-6, "it was told too soon"
            assert ended in {None, "cut"} or too_late
        else:
            assert self.outcome in REFUSED
            assert ended is None, "it was not taken, and ran"

    def check_tell(self) -> None:
        if not self.accepted:
            assert not self.begun, "it was not taken, and ran"
            assert len(self.letters) == (self.how != "tell_wait" and self.accepted is False)
        elif self.letters:
            cut = "while it handled this" in self.letters[0]
            assert cut == bool(self.runs), "it was handled, and is a dead letter that was not cut off in hand"
        else:
            assert self.runs, "it was not handled, and is no dead letter"
            assert self.runs != ["cut"], "it was cut off in hand, and is no dead letter"


class Account:
    """Every message, and how the methods of the actor ran."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.late = 0
        self.running: defaultdict[str, list[Entry]] = defaultdict(list)
        self.started_at = 0.0

    def enter(self, how: How, lane: str, act: str, budget: float | None) -> Entry:
        margin = 0.0 if budget is None else min(MARGIN, budget / 10)
        entry = Entry(len(self.entries), how, lane, act, now() + (BUDGET if budget is None else budget) - margin)
        self.entries.append(entry)
        return entry

    def begin(self, number: int, limit: int) -> Entry:
        entry = self.entries[number]
        entry.begun.append(now())
        there = [one for one in self.running[entry.lane] if one.act not in RESISTING]
        assert len(there) < limit, f"{there} are handled while {entry} begins"
        self.running[entry.lane].append(entry)
        return entry

    def end(self, entry: Entry, how: str) -> None:
        entry.ends.append(how)
        entry.ended_at = now()
        self.running[entry.lane].remove(entry)
        if how == "finished" and entry.how == "ask" and entry.future is not None and entry.future.done():
            self.late += 1

    def check(self, late: int) -> None:
        for entry in self.entries:
            try:
                entry.check()
            except AssertionError as error:
                raise AssertionError(f"{error}: {entry}") from error
        self.check_order()
        assert late == self.late, f"{self.late} replies came too late, {late} were counted"

    def check_order(self) -> None:
        """What was never kept for later begins in the order in which it was sent, lane by lane."""
        lanes: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        for entry in self.entries:
            if entry.begun and "stashed" not in entry.ends and entry.how != "sender":
                lanes[entry.lane].append((entry.begun[0], entry.number))
        for lane, begun in lanes.items():
            moments = [moment for moment, _ in begun]
            assert moments == sorted(moments), f"lane {lane} began in another order: {begun}"

    def check_balance(self, told: MailboxStatistics, stashed: int) -> None:
        """While the actor rests, all that it ever accepted is accounted for."""
        assert (told.depth, told.waiting) == (0, 0), "it rests, and somebody waits"
        runs = sum(len(entry.runs) for entry in self.entries)
        no_room = sum(entry.no_room for entry in self.entries)
        assert told.accepted == runs + told.expired + told.dropped + stashed + no_room
        dead = sum(entry.outcome is BudgetSpent or entry.cancelled_at is not None for entry in self.entries)
        assert told.expired <= dead


# --- who plays --------------------------------------------------------------------------------------------------------


class Clerk(Actor):
    """Does as its messages say, and has it written down."""

    def __init__(self, account: Account, slow_start: float) -> None:
        self.account = account
        self.slow_start = slow_start

    async def on_start(self) -> None:
        await asyncio.sleep(self.slow_start)
        self.account.started_at = now()

    @endpoint
    async def serial(self, number: int, act: str) -> int:
        return await self.handle(number, act, self.concurrency)

    @endpoint(concurrency=2)
    async def beside(self, number: int, act: str) -> int:
        return await self.handle(number, act, 2)

    @endpoint(concurrency=3, key="key")
    async def keyed(self, number: int, act: str, key: int) -> int:
        return await self.handle(number, act, 1)

    async def handle(self, number: int, act: str, limit: int) -> int:
        entry = self.account.begin(number, limit)
        how = "cut"
        try:
            await self.act(entry)
            how = "finished"
        except Stashed:
            how = "stashed"
            raise
        except SoldOut:
            how = "failed"
            raise
        except ValueError:
            how = "crashed"
            raise
        finally:
            self.account.end(entry, how)
        return number

    async def act(self, entry: Entry) -> None:
        match entry.act:
            case "slow":
                await asyncio.sleep(0.3)
            case "slower":
                await asyncio.sleep(4)
            case "fail":
                raise SoldOut("sold out")
            case "crash":
                raise ValueError("boom")
            case "crash later":
                await asyncio.sleep(0.3)
                raise ValueError("boom")
            case "stash" if len(entry.begun) == 1:
                cell = self.ref.cell
                entry.no_room = len(cell.stashed or ()) >= cell.bound.capacity
                self.stash()
            case "unstash":
                self.unstash_all()
            case "stop":
                self.stop()
            case "resist" | "outlast":
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(0.7 if entry.act == "resist" else 2.5)


class Resuming(Clerk):
    on_error = "resume"


class Failing(Clerk):
    on_error = "fail"


class Wide(Clerk):
    """Several at once, and some of them by key."""

    concurrency = 3
    on_error = "restart"

    @endpoint(key="key")
    async def keyed(self, number: int, act: str, key: int) -> int:
        return await self.handle(number, act, 1)


class Sender(Actor):
    """Sends on, and counts what comes back."""

    def __init__(self, account: Account, clerk: ActorRef[Clerk]) -> None:
        self.account = account
        self.clerk = clerk

    async def on_undelivered(self, letter: DeadLetter) -> None:
        self.account.entries[(letter.arguments or {})["number"]].returned += 1

    @endpoint
    async def send(self, lane: str, number: int, act: str) -> None:
        operation, arguments = addressed(type_of(self.clerk), lane)
        self.account.entries[number].accepted = self.clerk.tell(operation, number=number, act=act, **arguments)


def type_of(ref: ActorRef[Any]) -> Any:
    return ref.cell.cls


def addressed(cls: Any, lane: str) -> tuple[Any, dict[str, Any]]:
    """`keyed 1` is the endpoint `keyed` with that key."""
    name, _, key = lane.partition(" ")
    return getattr(cls, name), {"key": int(key)} if key else {}


def now() -> float:
    return asyncio.get_running_loop().time()


# --- schedules --------------------------------------------------------------------------------------------------------

LANES = ["serial", "serial", "beside", "keyed 0", "keyed 1"]
ACTS = [
    "quick", "quick", "slow", "slow", "slower", "fail", "crash", "crash later", "stash", "unstash", "resist", "outlast",
]  # fmt: skip
Step = Callable[["Play"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Send:
    how: How
    lane: str
    act: str
    budget: float | None

    async def __call__(self, play: Play) -> None:
        play.send(self.how, self.lane, self.act, self.budget)


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float

    async def __call__(self, play: Play) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Some asker, or somebody who waits for room, does not wait any more."""

    which: int

    async def __call__(self, play: Play) -> None:
        play.cancel(self.which)


@dataclass(frozen=True, slots=True)
class End:
    by: Literal["stop", "kill", "itself", "terminate", "start again"]

    async def __call__(self, play: Play) -> None:
        play.end(self.by)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same through one play."""

    cls: type[Clerk]
    mailbox: Mailbox
    restart: Any
    shutdown: Any
    backoff: float | None
    slow_start: float
    nested: bool
    """Whether a supervisor of its own stands above it."""
    serialized: bool
    seed: int


class Schedule:
    """What a seed stands for: many more steps than Hypothesis would draw one by one, so that they meet each other."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.setting = self.some_setting()
        before = [self.some_step() for _ in range(self.chance.randint(5, 80))]
        for _ in range(self.chance.choice([0, 0, 0, 2, 4])):
            before.insert(self.chance.randrange(len(before)), self.some_end())
        ends = [self.some_end() for _ in range(self.chance.choice([0, 0, 1, 2, 3]))]
        self.steps = [*before, *ends, *(self.some_step() for _ in range(self.chance.randint(0, 10)))]

    def __repr__(self) -> str:
        return "\n".join(map(repr, [self.setting, *self.steps]))

    def some_setting(self) -> Setting:
        choice = self.chance.choice
        return Setting(
            choice([Clerk, Resuming, Failing, Wide]),
            Mailbox(self.chance.randint(1, 4), choice(get_args(Overflow))),
            choice(["permanent", "permanent", "transient", "temporary"]),
            choice(["brutal", 0.5, 5.0, None]),
            choice([None, 0.1, 0.8, 3.0]),
            choice([0.0, 0.0, 0.5]),
            nested=choice([False, True]),
            serialized=choice([False, True]),
            seed=self.chance.randint(0, 5),
        )

    def some_step(self) -> Step:
        choice, chance = self.chance.choice, self.chance.random()
        if chance < 0.72:
            hows: list[How] = ["ask", "ask", "tell", "tell", "tell_wait", "sender"]
            return Send(choice(hows), choice(LANES), choice(ACTS), choice([None, None, 0.05, 0.5, 3.0]))
        if chance < 0.9:
            return Wait(choice([0.0, 0.01, 0.3, 1.0, 5.0]))
        return Cancel(self.chance.randrange(50))

    def some_end(self) -> Step:
        return End(
            self.chance.choice(["stop", "kill", "itself", "terminate", "terminate", "start again", "start again"])
        )


class Play:
    """One schedule on one system."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.account = Account()
        self.system = ActorSystem(serialize_local=setting.serialized, watchdog=None)
        self.endings: list[asyncio.Future[Any]] = []
        self.ended = False
        self.pool: Supervisor | None = None
        self.clerk: ActorRef[Clerk]
        self.sender: ActorRef[Sender]

    async def run(self, steps: Sequence[Step]) -> None:
        setting = self.setting
        backoff = None if setting.backoff is None else Backoff(setting.backoff, 2 * setting.backoff)
        async with self.system:
            args = {"account": self.account, "slow_start": setting.slow_start}
            options = {"restart": setting.restart, "shutdown": setting.shutdown, "mailbox": setting.mailbox}
            self.clerk = await self.spawn(child(setting.cls, id="clerk", args=args, backoff=backoff, **options))
            self.sender = await self.system.spawn(Sender, self.account, self.clerk)
            for step in steps:
                await step(self)
            await asyncio.sleep(60)
            self.check_at_rest()
        await asyncio.sleep(60)
        assert all(one.done() for one in self.endings), "somebody waits for an end that does not come"
        # A supervisor may refuse: there is no such child any more, or it runs.
        assert all(isinstance(one.exception(), MbactorError | None) for one in self.endings)
        for letter in self.system.dead_letters:
            if "number" in (letter.arguments or {}) and letter.method != "send":
                self.account.entries[(letter.arguments or {})["number"]].letters.append(letter.reason)
        self.account.check(self.system.late_replies)

    async def spawn(self, spec: Any) -> ActorRef[Clerk]:
        if self.setting.nested:
            self.pool = await self.system.spawn(Supervisor, children=[spec])
            return self.pool.which_children()[0].ref  # type: ignore[no-any-return]
        return await self.system.spawn(spec)  # type: ignore[no-any-return]

    def check_at_rest(self) -> None:
        """A minute after the last step: nothing is under way any more."""
        sent = [entry for entry in self.account.entries if entry.future is not None]
        assert all(entry.future.done() for entry in sent if entry.future), "somebody waits beyond his time"
        undelivered = Counter((letter.arguments or {})["number"] for letter in self.system.dead_letters)
        for entry in self.account.entries:
            told = undelivered[entry.number] if entry.how == "sender" else 0
            assert entry.returned == told, f"what an actor has told in vain comes back to it: {entry}"
        cell = self.clerk.cell
        for call, _ in cell.stashed or ():
            entry = self.account.entries[call.arguments()["number"]]
            assert entry.begun[-1] >= self.account.started_at, f"it was kept by an earlier incarnation: {entry}"
        if cell.state == "running" and not self.ended:
            self.account.check_balance(self.clerk.statistics(), len(cell.stashed or ()))
        else:
            assert cell.state in {"running", "closed"}

    # --- steps ------------------------------------------------------------------------------------------------

    def send(self, how: How, lane: str, act: str, budget: float | None) -> None:
        entry = self.account.enter(how, lane, act, budget)
        if how == "sender":
            self.sender.tell(Sender.send, lane=lane, number=entry.number, act=act)
            return
        operation, more = addressed(self.setting.cls, lane)
        arguments = {"number": entry.number, "act": act, **more}
        before = self.clerk.statistics()
        if how == "tell":
            entry.accepted = self.clerk.tell(operation, **arguments)
        else:
            self.send_within(entry, budget, operation, arguments)
        self.check_door(entry, before, self.clerk.statistics())

    def send_within(self, entry: Entry, budget: float | None, operation: Any, arguments: Any) -> None:
        send: Any = self.clerk.ask if entry.how == "ask" else self.clerk.tell_wait
        with anyio.CancelScope(deadline=float("inf") if budget is None else now() + budget):  # noqa: ASYNC100 - read when it is sent
            entry.future = send(operation, **arguments)
        note = self.answered if entry.how == "ask" else self.admitted
        assert entry.future is not None
        entry.future.add_done_callback(lambda done: note(entry, done))

    def answered(self, entry: Entry, done: asyncio.Future[Any]) -> None:
        entry.answered_at = now()
        entry.outcome = (
            "cancelled" if done.cancelled() else type(done.exception()) if done.exception() else done.result()
        )

    def admitted(self, entry: Entry, done: asyncio.Future[Any]) -> None:
        entry.accepted = not done.cancelled() and done.exception() is None

    def cancel(self, which: int) -> None:
        waiting = [entry for entry in self.account.entries if entry.future is not None and not entry.future.done()]
        if waiting:
            entry = waiting[which % len(waiting)]
            entry.cancelled_at = now()
            assert entry.future is not None
            entry.future.cancel()

    def end(self, by: str) -> None:
        match by:
            case "itself":
                self.send("tell", "serial", "stop", None)
            case "stop" | "kill":
                self.ended = True
                self.endings.append(asyncio.ensure_future(self.clerk.stop() if by == "stop" else self.clerk.kill()))
            case "terminate" if self.pool is not None:
                self.ended = True
                self.endings.append(asyncio.ensure_future(self.pool.terminate_child("clerk")))
            case "start again" if self.pool is not None:
                self.ended = True
                self.endings.append(asyncio.ensure_future(self.pool.restart_child("clerk")))

    def check_door(self, entry: Entry, before: MailboxStatistics, after: MailboxStatistics) -> None:
        """What the statistics say of one message that was just sent."""
        accepted, rejected = after.accepted - before.accepted, after.rejected - before.rejected
        waiting = after.waiting - before.waiting
        assert after.depth - before.depth == accepted - (after.dropped - before.dropped)
        known = entry.future
        match entry.how:
            case "tell" if entry.accepted:
                assert (accepted, rejected, waiting) == (1, 0, 0)
            case "tell":
                assert (accepted, waiting) == (0, 0)
                assert rejected in {0, 1}
            case _ if known is not None and known.done() and known.exception() is not None:
                assert (accepted, waiting) == (0, 0)
                assert rejected == isinstance(known.exception(), MailboxFull)
            case _:
                assert accepted + waiting == 1
                assert rejected == 0


@given(st.integers(0, 2**32 - 1))
@example(24124)  # closed while an incarnation was still ending, which then let messages in again
@settings(deadline=None, max_examples=400, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_accepted_message_is_accounted_for(seed: int) -> None:
    schedule = Schedule(seed)
    note(f"schedule {seed}:\n{schedule!r}")
    stage = Stage(seed=schedule.setting.seed)
    failed = True
    try:
        stage.run(Play(schedule.setting).run(schedule.steps))
        failed = False
    finally:
        stage.close(check=not failed)
