"""`Foreman`: the supervisor under which workflows run.

    children = [child(Foreman, args={"database": "sqlite:///flows.db", "workers": 4}), child(Credit)]

Its children are a supervisor for each shard, with worker actors that claim leased steps and a sweeper that recovers
expired leases, and the endpoints that `Flows` asks.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import anyio
import msgspec

from mbactor import observe
from mbactor.durations import Duration
from mbactor.errors import BadRequest, InvalidSpec, MbactorError, NoSuchActor
from mbactor.foreman.api import HOST, ForemanApi
from mbactor.foreman.engine import Engine
from mbactor.foreman.features import Ran, Task, Workflow, workflow_address
from mbactor.foreman.keys import Key
from mbactor.foreman.model import reducers
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.outcome import DEFAULT_TIME_BUDGET, FlowOutcome
from mbactor.foreman.model.schedule import Schedule
from mbactor.foreman.model.state import decode_all, decode_fields
from mbactor.foreman.news import Herald, News
from mbactor.foreman.roll import Kept, Roll
from mbactor.foreman.schedules import Schedules
from mbactor.foreman.shard import Shard
from mbactor.foreman.shards import Member, Shards
from mbactor.foreman.store.late import LateStore
from mbactor.foreman.store.open import check_url, is_numbered, is_same, passes_on, shown_database
from mbactor.foreman.store.operations import Stopped
from mbactor.foreman.store.store import Store
from mbactor.foreman.worker import Ears, Keeper, Scheduler
from mbactor.kernel.context import Call
from mbactor.kernel.exit import Exit
from mbactor.kernel.features.event import EventReference
from mbactor.process_worker import import_needed
from mbactor.processes import NEEDED
from mbactor.secret import Secret
from mbactor.supervisor.children import Build, build_child
from mbactor.supervisor.spec import Backoff, ChildSpec, checked_duration, child
from mbactor.supervisor.supervisor import Supervisor
from mbactor.transport.address import Address, check_host
from mbactor.transport.local import LocalBus

if TYPE_CHECKING:
    from mbactor.kernel.node import Node

Count = Annotated[int, msgspec.Meta(ge=1)]
"""How many of something: `mbactor check` refuses 0 in a file."""
UNSERVED_FOR = 1.0
"""Seconds after which it is told that nobody serves a task."""
LONGEST_LOOK = 2.0
"""Seconds that another Foreman has to say which database it has."""
MOST_UNSERVED = 1_000
"""Tasks that are remembered so: more are no tasks."""

NEEDED.append(reducers.modules)


class Foreman(Supervisor):
    """Runs durable workflows over one database, or several (`shards`).

        await system.spawn(Foreman, database="sqlite:///flows.db", workers=4)
        await Flows(system).run(Credit.approval, {"amount": 5000})

    `database`: `sqlite:///file`, `sqlite://` (memory, gone with the process), or `postgresql://user:password@host/name`,
    which any number of Foremen may share. With `shards` above 1, `%d` in it stands for the number of a shard:
    `postgresql://host/flows_%d` with 4 shards is flows_1 to flows_4. Each shard has `workers` actors, which run up to
    `slots` steps each. `default_time_budget` is what a run of a task may take where its graph says nothing, up to 15
    minutes; `lease` is how long a dead process's steps stay unclaimed; `retention_days` for how many days flows that
    have ended are kept, 0 for ever. Foremen of one database tell each other of work and of stops at once, by the bus,
    or by PostgreSQL where there is none; what is lost of that each finds within `poll_interval`. `schedules` are made,
    or changed, when it starts. With `ageing` a step's priority counts as better by one for each such time that the step
    has waited: so nothing waits for ever behind what is more urgent. `commit_each` commits every outcome on its own,
    for debugging.

    A shard whose database does not answer, at the start or later, takes nothing from the others: new flows go to those,
    lists say that it is missing, and what names a flow of it gets Unavailable (503) until it is back.
    """

    on_flow_stopped: ClassVar[EventReference[[str, FlowOutcome], None]] = ForemanApi.on_flow_stopped
    """Published when a flow that says `FlowOptions(notify_on_stop="shop.example")` stops, interrupted too, to the sinks
    of that host, `@sink(Foreman.on_flow_stopped)`. It is a hint that may be lost: what must not be missed is a task. Of
    a flow that `mbactor flows cancel` ends nobody is told: the command works on the database.
    """

    def __init__(
        self,
        database: str = "sqlite://",
        workers: Count = 4,
        slots: Count = 256,
        default_time_budget: Duration = DEFAULT_TIME_BUDGET,
        lease: Duration = 10.0,
        commit_each: bool = False,
        retention_days: float = 0,
        shards: Count = 1,
        poll_interval: Duration = 0.5,
        schedules: Sequence[Schedule] = (),
        ageing: Duration | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("workers", workers), ("slots", slots), ("shards", shards)):
            if type(value) is not int or value < 1:
                raise InvalidSpec(f"foreman: {name}: {value!r} given, a whole number >= 1 expected")
        check_url(database)
        if is_numbered(database) != (shards > 1):
            wrong = "has no %d, which stands for the number of a shard" if shards > 1 else "has %d, and one shard only"
            raise InvalidSpec(f"foreman: database: with shards: {shards} the URL {wrong}")
        self._database = database
        self._workers = workers
        self._slots = slots
        self._count = shards
        self._budget = checked_duration("foreman: default_time_budget", default_time_budget, above_0=True)
        self._lease = checked_duration("foreman: lease", lease, above_0=True)
        self._poll_interval = checked_duration("foreman: poll_interval", poll_interval, above_0=True)
        self._commit_each = commit_each
        self._retention = _checked_days(retention_days) * 86400.0
        self._schedules = tuple(schedules)
        _check_declared(self._schedules)
        self._ageing = None if ageing is None else checked_duration("foreman: ageing", ageing, above_0=True)
        self.shards = Shards()
        self._roll: Roll | None = None
        self._heralds: dict[int, Herald] = {}
        self._node: Node | None = None

    def bind(self, node: Node, path: str, *, build: Build = build_child) -> None:
        self._node = node
        super().bind(node, path, build=build)

    async def on_start(self) -> None:
        import_needed()  # in a process of its own no actor of the file has brought the reducers
        shards = self.shards = Shards()
        schedules = Schedules(shards)
        roll = self._roll = Roll(shards, self._database, self._lease / 4, self._begin, self._end)
        await roll.open(self._count)
        try:
            await self._check_others(shards.members[1].store)
        except BaseException:
            await roll.close()
            raise
        for member in shards.members.values():
            member.begun = True
        # One shard that fails over and over never spends this: its backoff is longer than a third of `within`.
        self.max_restarts = 3 * (len(shards.members) + 1)
        self.children = [
            *(self._spec(shards.members[number]) for number in sorted(shards.members)),
            child(Ears, id="ears", args={"shards": shards}),
            child(Keeper, id="keeper", args={"roll": roll}),
            child(Scheduler, id="scheduler", args={"schedules": schedules, "declared": self._schedules}),
            child(ForemanApi, id="api", args={"shards": shards, "roll": roll, "schedules": schedules}),
        ]

    async def on_stop(self, exit: Exit) -> None:  # noqa: ARG002
        for herald in self._heralds.values():
            await herald.close()
        if self._roll is not None:
            await self._roll.close()

    async def _check_others(self, first: Store | LateStore | None) -> None:
        """InvalidSpec where a Foreman runs in this system already and keeps flows elsewhere: any of them may be asked
        for any flow.
        """
        if first is None or first.identity is None:
            return
        kept: Kept | None = None
        # What does not answer is not known, and keeps nobody from starting.
        with suppress(MbactorError), anyio.move_on_after(LONGEST_LOOK):
            kept = await self._kept_by_another()
        if kept is not None and kept.identity != first.identity:
            given = shown_database(self._database)
            raise InvalidSpec(_other_database(given, kept.shown, "that runs in this system"))

    async def _kept_by_another(self) -> Kept | None:
        assert self._node is not None
        served = self._node.served.get(HOST)
        if served is None:
            kept: Kept = await self._node.ask(ForemanApi.kept, (), {})
            return kept
        # Where this is a restart, its own `api` is still served here, and what is asked there waits for this start.
        other = next((cell for cell in served.cells if cell.state == "running"), None)
        return None if other is None else await other.ref.ask(ForemanApi.kept)

    @classmethod
    def clash(cls, args: Mapping[str, Any], other: Mapping[str, Any], where: str) -> tuple[str, str] | None:
        one, two = (given.get("database", "sqlite://") for given in (args, other))
        try:
            if is_same(one, two):
                return None
            return "database", _other_database(_shown(one), _shown(two), where)
        except InvalidSpec:
            return None  # what is no URL is told when it is used

    def _spec(self, member: Member) -> ChildSpec:
        assert self._node is not None
        args = {
            "member": member, "engine_over": self._engine, "workers": self._workers, "slots": self._slots,
            "name": self._node.id,
            # Where there is a bus, others hear by that.
            "listens": passes_on(member.url) and isinstance(self._node.remote.bus, LocalBus),
        }  # fmt: skip
        return child(Shard, id=f"shard-{member.number}", args=args, backoff=Backoff("1s", "10s"))

    def _engine(self, store: Store) -> Engine:
        assert self._node is not None
        engine = Engine(
            store,
            ActorHost(self._node),
            default_time_budget=self._budget,
            lease=self._lease,
            commit_each=self._commit_each,
            retention=self._retention,
            poll_interval=self._poll_interval,
            ageing=self._ageing,
            stopped=lambda one: self._tell_stop(one, store.shard),
        )
        herald = self._heralds[store.shard] = Herald(self._publish)
        engine.news.heralds.append(herald.tell)
        return engine

    def _tell_stop(self, one: Stopped, shard: int) -> None:
        """Of a flow that names a host for that."""
        if one.notify_on_stop is not None and self._node is not None:
            self._node.background(self._told(one, shard, one.notify_on_stop), f"tell {one.notify_on_stop} of a stop")

    async def _told(self, one: Stopped, shard: int, host: str) -> None:
        assert self._node is not None
        flow_key = str(Key(shard, one.flow_id, one.token))
        with suppress(MbactorError):  # it is a hint: the flow may go on, or be gone, by now
            check_host(host, "notify_on_stop")  # that of a row comes from anywhere
            if one.status == "completed" and one.final_state is not None:
                state = decode_all(decode_fields(one.final_state))
                outcome = FlowOutcome(flow_key=flow_key, status="completed", state=state)
            else:
                outcome = await self.shards.of(flow_key).snapshot(flow_key)
            if outcome.stopped:
                self._node.remote.to_all.publish(ForemanApi.on_flow_stopped, (flow_key, outcome), {}, host)

    async def _publish(self, news: News) -> None:
        assert self._node is not None
        sinks = self._node.sinks(ForemanApi.on_news)
        # Within one process one's own ears are all that would hear.
        if sinks is None or sinks > 1:
            self._node.publish(ForemanApi.on_news, (), {"news": news})

    async def _begin(self, member: Member) -> None:
        await self.start_child(self._spec(member))
        member.begun = True

    async def _end(self, member: Member) -> None:
        await self.terminate_child(f"shard-{member.number}")
        await self.delete_child(f"shard-{member.number}")


def _shown(url: str) -> str:
    return "a secret" if isinstance(url, Secret) else shown_database(url)


def _other_database(given: str, other: str, where: str) -> str:
    return (
        f"{given} given, and the Foreman {where} has {other}; any Foreman of a system may be asked for any of its"
        " flows, so the same URL expected of all (in memory each has a database of its own), or a system for each"
    )


def _check_declared(schedules: Sequence[Schedule]) -> None:
    for name, count in Counter(one.name for one in schedules).items():
        if count > 1:
            raise InvalidSpec(
                f"foreman: schedule {name!r} is declared {count} times, and the last would replace the others"
            )
    for schedule in schedules:
        _check_one_declared(schedule)


def _check_one_declared(schedule: Schedule) -> None:
    if schedule.paused:
        raise InvalidSpec(
            f"foreman: schedule {schedule.name!r}: paused: true given, and that is kept in the database; `mbactor flows"
            " pause-schedule` or `Flows.pause_schedule` pauses it once it is there, or leave it out"
        )
    try:
        workflow_address(schedule.workflow)
    except BadRequest as error:
        raise InvalidSpec(f"foreman: schedule {schedule.name!r}: workflow: {error}") from None


def _checked_days(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e6:
        raise InvalidSpec(f"foreman: retention_days: {given!r} given, a number of days expected, 0 to keep all")
    return float(given)


class ActorHost:
    """The engine's way to tasks and graphs: they are methods of actors.

    A task that nobody serves is offered again for as long as it may take: whoever waits for its flow is told of that.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._unserved: dict[str, float] = {}
        """The tasks that nobody served when they were offered last, and since when; `inf`: it has been told."""

    async def load_graph(self, workflow: str, baggage: Mapping[str, Any]) -> Graph:  # noqa: ARG002
        handed = self._node.hand_over(workflow_address(workflow), {}, 20.0, Workflow)
        if handed is not None:
            graph: Graph = await _answer_of(handed)
            return graph
        response = await self._node.request("POST", workflow)
        return Graph.from_json(response.body)

    async def execute_task(self, task_url: str, flow: Flow, time_budget: float) -> None:
        # In one piece: a step goes on through each coroutine that is within another.
        handed = self._node.hand_over(Address.parse(task_url), {"flow": flow}, time_budget, Task)
        try:
            if handed is None:
                await self._execute_elsewhere(task_url, flow, time_budget)
            else:
                assert handed.future is not None
                ran: Ran = await handed.future
                if ran.error is not None:
                    raise ran.error
        except asyncio.CancelledError:
            if handed is not None:
                handed.call_off()
            raise
        except NoSuchActor as error:
            if error.taken == "no":
                self._miss(task_url)
            raise
        if self._unserved:
            self._unserved.pop(task_url, None)

    def _miss(self, task_url: str) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._unserved) >= MOST_UNSERVED:
            self._unserved.clear()
        # While everything starts, or a new version comes, actors are missing for a moment.
        if now - self._unserved.setdefault(task_url, now) >= UNSERVED_FOR:
            self._unserved[task_url] = math.inf
            observe.emit("foreman.unserved", task=task_url)

    async def _execute_elsewhere(self, task_url: str, flow: Flow, time_budget: float) -> None:
        with anyio.fail_after(time_budget):
            response = await self._node.request("POST", task_url, flow.to_wire(), call_off=True)
        flow.apply_result(response.body)


async def _answer_of(call: Call) -> Any:
    """What a method answers; it is cancelled with whoever waits for that."""
    assert call.future is not None
    try:
        return await call.future
    except asyncio.CancelledError:
        call.call_off()
        raise
