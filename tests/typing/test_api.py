"""The public API as type checkers see it: `assert_type` is checked by mypy and pyright, and holds at run time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, NoReturn, assert_type

import pytest

from mbactor import (
    Actor,
    ActorRef,
    ActorSystem,
    Answer,
    DeadLetter,
    Exit,
    MailboxStatistics,
    MbactorError,
    PartitionSupervisor,
    Replies,
    Reply,
    Supervisor,
    Timer,
    child,
    config,
    endpoint,
    event,
    sink,
)
from mbactor.foreman import Flow, FlowOutcome, Flows, Graph, StepRecord, task, workflow
from mbactor.foreman.features import TaskReference, WorkflowReference
from mbactor.kernel.names import Names
from mbactor.supervisor import Budget, ChildSpec, Plan, Step, SupervisorSpec

pytestmark = pytest.mark.anyio


class Counter(Actor):
    host = "typed.example"

    def __init__(self, start: int = 0) -> None:
        self.total = start

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @endpoint(method="GET")
    async def name(self) -> str:
        return "counter"

    @endpoint
    def read(self) -> int:
        return self.total

    @task
    async def step(self, flow: Flow) -> None: ...

    @task(rate="5/s")
    def double(self, number: int) -> dict[str, int]:
        return {"number": 2 * number}

    @workflow
    def flow(self) -> Graph:
        return Graph("Typed")

    async def use(self) -> None:
        assert_type(await self.ask(Counter.add, by=1), int)
        assert_type(self.tell(Counter.add, 1), bool)
        assert_type(await self.at("other.example").ask(Counter.name), str)
        self.ask(Counter.add, by="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Worker(Actor):
    """What an actor does with itself, in threads and in worker processes."""

    @endpoint(concurrency=4, key="name", requires="roles.admin", budget="5s")
    async def keyed(self, name: str) -> int:
        return len(name)

    @endpoint(thread=True)
    def in_thread(self, times: int) -> str:
        assert_type(self.ask(Counter.add, by=times), Answer[int])
        assert_type(self.ask(Counter.add, by=times).result(), int)
        return "x" * times

    @endpoint(process=True)
    @staticmethod
    def in_process(data: bytes, times: int = 1) -> int:
        return len(data) * times

    @endpoint
    async def fetched(self, what: bytes) -> None: ...

    @endpoint
    async def count_fetched(self, what: int) -> None: ...

    @endpoint
    async def failed(self, error: str) -> None: ...

    @endpoint
    async def two(self, one: bytes, other: bytes) -> None: ...

    async def fetch(self) -> bytes:
        return b""

    async def on_exit(self, ref: ActorRef[object], exit: Exit) -> None: ...

    async def on_undelivered(self, letter: DeadLetter) -> None:
        assert_type(letter.reason, str)

    async def on_receive_timeout(self) -> None: ...

    def later(self, what: bytes | None) -> bytes:
        """What comes after `stash` is never reached, so a checker knows that there is something."""
        if what is None:
            self.stash()
        return what

    async def use(self, other: ActorRef[Counter]) -> None:
        assert_type(self.unstash_all(), int)
        assert_type(self.refs, Names)
        assert_type(self.watch(other), None)
        assert_type(self.unwatch(other), None)
        assert_type(self.set_receive_timeout("5s"), None)
        assert_type(self.set_receive_timeout(None), None)

    def use_timers(self) -> None:
        assert_type(self.send_after("5s", Worker.fetched, b""), Timer)
        assert_type(self.send_every(0.5, Worker.fetched, what=b""), Timer)
        assert_type(self.send_after(1, Worker.in_thread, 5), Timer)
        assert_type(self.send_after(1, Worker.fetched, b"").active, bool)
        self.send_after(1, Worker.fetched, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.send_after(1, Worker.fetched)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        self.send_every(1, Worker.fetched, who=b"")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    def use_pipes(self) -> None:
        self.pipe_to_self(self.fetch(), Worker.fetched)
        self.pipe_to_self(self.fetch(), Worker.fetched, failed=Worker.failed)
        self.pipe_to_self(self.ask(Worker.in_process, b""), Worker.count_fetched)
        self.pipe_to_self(self.fetch(), Worker.count_fetched)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.pipe_to_self(self.fetch(), Worker.two)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.pipe_to_self(self.fetch(), Worker.fetched, failed=Worker.count_fetched)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Till(Actor):
    """What is set from outside has the type of its annotation."""

    max_items: int = config(default=10, validation="int [1,100]")
    api_key: str = config(secret=True)
    mode: Literal["fast", "safe"] = config(default="safe", description="how")
    pause: timedelta = config(default=timedelta(seconds=5))
    note: str | None = config(default=None)
    wrong: int = config(default="ten")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    async def on_config_changed(self, changed: frozenset[str]) -> None:
        assert_type(self.max_items, int)
        assert_type(self.api_key, str)
        assert_type(self.mode, Literal["fast", "safe"])
        assert_type(self.pause, timedelta)
        assert_type(self.note, str | None)
        assert_type(self.config, Mapping[str, Any])
        self.config["max_items"] = 5  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
        self.max_items = "5"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


def assert_stash(worker: Worker) -> NoReturn:
    worker.stash()


class Sub(Counter):
    host = "sub.example"


class Teller(Actor):
    """What an actor tells and asks all."""

    host = "teller.example"

    @event
    async def on_counted(self, total: int, by: str = "") -> None: ...

    @event(path="/vote")
    async def on_vote(self, total: int) -> bool:
        raise NotImplementedError

    @endpoint(manual=True, queue="every")
    async def level(self) -> int:
        return 1

    async def use(self) -> None:
        assert_type(self.ask_all(Counter.add, by=1), Replies[int])
        async for reply in self.ask_all(Teller.on_vote, total=1):
            assert_type(reply, Reply[bool])
            assert_type(reply.value, bool | None)
            assert_type(reply.error, MbactorError | None)
            assert_type(reply.result(), bool)
        assert_type(self.at("other.example").ask_all(Counter.read), Replies[int])
        assert_type(self.publish(Teller.on_counted, 1, by="x"), bool)
        assert_type(self.activate(Teller.level), None)
        self.deactivate(Votes.counted)
        self.ask_all(Counter.add, by="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.publish(Teller.on_counted, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.publish(Teller.on_counted)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        self.publish(Counter.add, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await self.ask(Teller.on_counted, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.tell(Votes.counted, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Votes(Actor):
    host = "votes.example"

    @sink(Teller.on_counted, queue="every")
    async def counted(self, total: int, by: str = "") -> None: ...

    @sink(Teller.on_counted)
    def counted_too(self, total: int, by: str = "", more: int = 0) -> None: ...

    @sink(Teller.on_vote)
    async def vote(self, total: int) -> bool:
        return total > 1


def use_sinks() -> None:
    on_counted = sink(Teller.on_counted)
    on_vote = sink(Teller.on_vote)

    async def other(self: Votes, total: str, by: str = "") -> None: ...
    async def more(self: Votes, total: int) -> None: ...
    async def wrong(self: Votes, total: int) -> str:
        return ""

    on_counted(other)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    on_counted(more)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    on_vote(wrong)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    sink(Counter.add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def use_a_tree(system: ActorSystem) -> None:
    assert_type(system.supervisor("pool"), Supervisor)
    assert_type(system.plan(SupervisorSpec()), Plan)
    assert_type(system.plan(SupervisorSpec()).steps, tuple[Step, ...])
    assert_type(await system.apply(SupervisorSpec()), Plan)
    assert_type(system.supervisor("pool").restart_budget(), Budget | None)


async def use_a_system(system: ActorSystem) -> None:
    counter = await system.spawn(Counter, start=1)
    assert_type(counter, ActorRef[Counter])
    assert_type(counter.ask(Counter.add, by=5), Answer[int])
    assert_type(await counter.ask(Counter.add), int)
    assert_type(await counter.ask(Counter.name), str)
    assert_type(await counter.ask(Counter.read), int)
    assert_type(counter.tell(Counter.add, 1), bool)
    assert_type(counter.statistics(), MailboxStatistics)
    assert_type(await system.ask(Counter.add, by=1), int)
    await system.spawn(Counter, start="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    counter.ask(Counter.add, to=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sub = await system.spawn(Sub)
    assert_type(await sub.ask(Counter.add), int)
    supervisor = await system.spawn(Supervisor, children=[child(Counter)])
    assert_type(supervisor, Supervisor)
    counters = await system.spawn(PartitionSupervisor, child(Counter), partitions=8)
    assert_type(counters, PartitionSupervisor)
    assert_type(counters.partition_id("key"), str)
    counters.partition(b"key")
    counters.partition(17)
    counters.partition(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PartitionSupervisor(Counter, partitions=8)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def use_a_worker(system: ActorSystem) -> None:
    worker = await system.spawn(Worker)
    assert_type(await worker.ask(Worker.keyed, "name"), int)
    assert_type(worker.ask(Worker.in_thread, 3), Answer[str])
    assert_type(await worker.ask(Worker.in_thread, times=3), str)
    assert_type(worker.ask(Worker.in_process, b"x", times=2), Answer[int])
    assert_type(await worker.ask(Worker.in_process, b"x"), int)
    assert_type(worker.tell(Worker.in_process, b"x"), bool)
    assert_type(await worker.tell_wait(Worker.in_thread, 3), None)
    await worker.tell_wait(Worker.in_thread, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    worker.ask(Worker.in_process, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    worker.ask(Worker.in_thread, 5, 6)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    system.refs.register("worker", worker)
    with system.acting_for({"roles": ["admin"]}):
        assert_type(await system.ask(Worker.keyed, "name"), int)


def use_a_worker_at_hand(worker: Worker) -> None:
    assert_type(worker.in_thread(3), str)
    assert_type(worker.in_process(b"x"), int)


async def use_all(system: ActorSystem, teller: Teller, votes: Votes) -> None:
    assert_type(system.ask_all(Counter.name), Replies[str])
    assert_type([reply async for reply in system.ask_all(Counter.name)], list[Reply[str]])
    assert_type(system.publish(Teller.on_counted, total=1), bool)
    assert_type(await teller.on_counted(1), None)
    assert_type(await votes.vote(total=1), bool)
    assert_type(votes.counted_too(1), None)


async def use_an_instance(counter: Counter) -> None:
    assert_type(await counter.add(1), int)


async def use_flows(system: ActorSystem) -> None:
    flows = Flows(system)
    assert_type(Counter.step, TaskReference)
    assert_type(Counter.flow, WorkflowReference)
    assert_type(await flows.create(Counter.flow, {"a": 1}), str)
    assert_type(await flows.run(Counter.flow), FlowOutcome)
    await flows.run(Counter.step)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await flows.history("key"), list[StepRecord])


async def call_tasks_as_methods(counter: Counter) -> None:
    """As a unit test does, and one task that shares another's work."""
    assert_type(await counter.step(Flow.of({})), None)
    assert_type(counter.double(number=2), dict[str, int])
    assert_type(counter.flow(), Graph)
    counter.double("2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def use_specs() -> None:
    assert_type(child(Counter, args={"start": 1}, restart="transient"), ChildSpec)


async def test_what_is_asserted_for_types_holds_at_run_time() -> None:
    counter = Counter()
    assert await counter.add(2) == 2
    assert counter.read() == 2
    use_specs()
    async with ActorSystem() as system:
        ref = await system.spawn(Counter, start=1)
        assert isinstance(ref, ActorRef)
        assert await ref.ask(Counter.add, by=5) == 6
