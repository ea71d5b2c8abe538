"""What people read when something fails: each error says which flow, step and task, what was expected and what to do."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem, MbactorError, Supervisor, child, endpoint
from mbactor.foreman import END, Flow, FlowOptions, Flows, Foreman, Graph, task, workflow
from mbactor.foreman.model import reducers
from mbactor.foreman.model.advice import LONGEST_RUN
from mbactor.kernel.budget import BUDGET_CAP
from mbactor.testing import Recorder

pytestmark = pytest.mark.anyio
HOST = "https://odd.example:428"


class Odd(Actor):
    host = "odd.example"
    graph: Graph

    @task
    async def fine(self) -> None: ...
    @task
    async def crashes(self) -> None:
        raise ValueError("boom")

    @task
    async def answers(self) -> None:
        raise MbactorError("the bank does not answer", status=503)

    @task
    async def needs(self, amount: int) -> None: ...
    @task
    async def lists(self) -> list[int]:
        return [1]

    @task
    async def slow(self) -> None:
        await self.sleep(5)

    @task
    async def takes_an_hour(self) -> None:
        await self.sleep("1h")

    @task
    async def asks_nobody(self) -> None:
        await self.ask(Late.stays)

    @task
    async def exits(self) -> None:
        sys.exit(3)

    @task
    async def jumps(self, flow: Flow) -> None:
        flow.goto("elsewhere")

    @task
    async def swallows(self, flow: Flow) -> None:
        with contextlib.suppress(BaseException):
            flow.interrupt({})

    @task
    async def asks(self, flow: Flow) -> None:
        flow.interrupt("?")

    @task
    async def writes(self, flow: Flow, item: Any) -> None:
        flow["total"] = item

    @workflow
    def now(self) -> Graph:
        return Odd.graph

    @workflow
    def failing(self) -> Graph:
        return line(Odd.answers)


class Late(Actor):
    host = "late.example"

    @task
    async def work(self) -> None: ...
    @endpoint
    async def stays(self) -> None: ...


class Doomed(Actor):
    host = "doomed.example"

    @task
    async def dies(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @workflow
    def end(self) -> Graph:
        return line(Doomed.dies)


class Fragile(Actor):
    """Its process dies with so many questions for a graph as the file in the environment has bytes."""

    host = "fragile.example"

    @task
    async def done(self) -> dict[str, bool]:
        return {"done": True}

    @workflow
    def end(self) -> Graph:
        left = Path(os.environ["MBACTOR_TEST_LEFT"])
        if size := left.stat().st_size:
            os.truncate(left, size - 1)
            os.kill(os.getpid(), signal.SIGKILL)
        return line(Fragile.done)


class Caller(Actor):
    host = "caller.example"

    @workflow
    def calling(self) -> Graph:
        graph = Graph("Calling")
        graph.add_subgraph("call", Fragile.end)
        graph.add_transition("call", END)
        return graph


def line(*nodes: Any) -> Graph:
    graph = Graph("Odd")
    graph.add_transition_chain(*nodes, END)
    return graph


def budgeted(node: str, url: str) -> Graph:
    graph = line(node)
    graph.set_endpoint(node, url)
    graph.set_time_budget(node, "50ms")
    return graph


def each(reducer: str = "replace") -> Graph:
    graph = Graph("Odd")
    graph.add_transition_for_each(Odd.fine, Odd.writes, for_each="items")
    graph.add_transition(Odd.writes, "join")
    graph.set_endpoint("join", Odd.crashes)
    graph.set_fan_in("join")
    graph.set_reducer("total", reducer)
    graph.add_transition("join", END)
    return graph


def calling() -> Graph:
    graph = Graph("Odd")
    graph.add_subgraph("child", Odd.failing)
    graph.add_transition("child", END)
    return graph


@pytest.fixture
async def flows(mbactor: ActorSystem) -> Flows:
    await mbactor.spawn(Foreman, database="sqlite://")
    await mbactor.spawn(Odd)
    return Flows(mbactor)


RECORDED: list[tuple[str, Graph, dict[str, Any], str, str, str]] = [
    # what, graph, state, node, text, hint
    ("a crash", line(Odd.crashes), {}, "crashes", "ValueError: boom", "traceback"),
    ("an answer", line(Odd.answers), {}, "answers", "the bank does not answer", ""),
    ("no field", line(Odd.needs), {}, "needs", "Odd.needs needs the field `amount`", ""),
    ("a wrong field", line(Odd.needs), {"amount": "many"}, "needs", "the field `amount` of the state does not fit", ""),
    ("no fields", line(Odd.lists), {}, "lists", "returned list; a task returns fields", ""),
    ("an exit", line(Odd.exits), {}, "exits", "called sys.exit(3)", ""),
    ("a wild goto", line(Odd.jumps), {}, "jumps", "called goto('elsewhere')", ""),
    ("a swallowed park", line(Odd.swallows), {}, "swallows", "do not catch BaseException", ""),
    ("a slow task", budgeted("slow", f"{HOST}/slow"), {}, "slow", "ran out of its time budget", "set_time_budget('slow'"),
    ("nobody there", budgeted("away", "https://away.example:428/x"), {}, "away", "nobody serves https://away", "it was offered until"),
    ("nobody to ask", line(Odd.asks_nobody), {}, "asks_nobody", "nobody serves https://late", "the task ran and asked"),
    ("no array", each(), {"items": 7}, "fine", "fine -> writes: for_each needs an array in the field 'items'", ""),
    ("no sum", each("add"), {"items": [1, "a"]}, "join", "field 'total': reducer 'add' cannot combine number with string", "set_reducer"),
    ("a failed child", calling(), {}, "child", "the bank does not answer", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "state", "node", "text", "hint"), [row[1:] for row in RECORDED], ids=[row[0] for row in RECORDED]
)
async def test_a_failed_flow_says_where_it_failed_why_and_what_to_do(
    flows: Flows, graph: Graph, state: dict[str, Any], node: str, text: str, hint: str
) -> None:
    Odd.graph = graph
    outcome = await flows.run(Odd.now, state)
    assert outcome.status == "failed"
    assert isinstance(outcome.error, dict)
    assert text in outcome.error["error"]
    assert hint in outcome.error.get("hint", "" if not hint else "none")
    place = outcome.error["at"]
    failed = next(step for step in await flows.history(outcome.flow_key) if step.status == "failed")
    assert (place["node"], place["task"], place["run"]) == (node, failed.task, failed.runs)
    assert outcome.flow_key.startswith(place["flow"] + "-")
    assert failed.step_key.startswith(place["step"] + "-")
    assert outcome.failure is not None
    assert f"flow {place['flow']}, step {place['step']}: node {node!r}" in outcome.failure.__notes__[0]
    assert failed.step_key.rpartition("-")[2] not in str(place)


@pytest.mark.parametrize(
    ("graph", "node", "text"),
    [(line(Odd.fine, Odd.answers), "answers", "the bank does not answer"), (calling(), "child", "the bank")],
    ids=["of its own", "of a flow that it called"],
)
async def test_the_log_says_where_and_why_a_flow_failed(
    flows: Flows, mbactor_recorder: Recorder, graph: Graph, node: str, text: str
) -> None:
    Odd.graph = graph
    outcome = await flows.run(Odd.now)
    flow = outcome.flow_key.rpartition("-")[0]
    told = await mbactor_recorder.wait_for("flow.stopped", flow=flow, status="failed")
    assert told.fields["node"] == node
    assert text in told.fields["error"]


async def test_a_task_that_needs_longer_than_any_ask_is_not_told_to_take_more_budget(mbactor: ActorSystem) -> None:
    assert LONGEST_RUN == BUDGET_CAP
    await mbactor.spawn(Odd)
    await mbactor.spawn(Foreman, poll_interval="10m", lease="1h")
    Odd.graph = line(Odd.takes_an_hour)
    Odd.graph.set_time_budget(Odd.takes_an_hour, "2h")
    outcome = await Flows(mbactor).poll(await Flows(mbactor).create(Odd.now), "3h")
    assert isinstance(outcome.error, dict)
    assert outcome.error["statusCode"] == 408
    assert outcome.error["hint"].startswith("no run of a task takes longer than 15m, though it has 2h; do it in parts")


async def test_a_process_that_dies_when_it_is_asked_for_a_graph_fails_no_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    left.write_bytes(b"..")
    monkeypatch.setenv("MBACTOR_TEST_LEFT", str(left))
    async with ActorSystem() as system:
        await system.spawn(Foreman, database="sqlite://")
        await system.spawn(Caller)
        await system.spawn(Supervisor, children=[child(Fragile, process=True)], max_restarts=2)
        outcome = await Flows(system).run(Caller.calling, {}, FlowOptions(time_budget="16s"))
    assert (outcome.status, outcome.state) == ("completed", {"done": True}), outcome.error
    assert left.stat().st_size == 0


async def test_a_flow_whose_task_died_with_its_process_says_that_it_is_not_run_again_unasked() -> None:
    async with ActorSystem() as system:
        await system.spawn(Foreman, database="sqlite://")
        await system.spawn(child(Doomed, process=True))
        outcome = await Flows(system).run(Doomed.end)
    assert outcome.status == "failed"
    assert isinstance(outcome.error, dict)
    assert (outcome.error["statusCode"], outcome.error["taken"]) == (500, "unknown")
    assert "how far the task came is not known" in outcome.error.get("hint", "none")


REFUSED: list[tuple[str, Callable[[Flows, dict[str, str]], Awaitable[Any]], str]] = [
    ("resume of one that runs not", lambda f, k: f.resume(k["created"]), "is created; resume is refused: .*start it first"),
    ("resume of an ended one", lambda f, k: f.resume(k["failed"]), "is failed; resume is refused: .*recover it, or fork one"),
    ("start of a started one", lambda f, k: f.start(k["asks"]), "is interrupted; start is refused: .*resume it"),
    ("resume_break of an ended one", lambda f, k: f.resume_break(k["failed"]), "resume_break is refused: it has ended; restart it, or fork"),
    ("cancel of an ended one", lambda f, k: f.cancel(k["failed"]), "is failed; cancel is refused: it has ended"),
    ("an answer to another's step", lambda f, k: f.resume(k["asks"], 1, step_key="1-1-0123456789abcdef"), "no step with this key waits for an answer"),
    ("a key that is unknown", lambda f, k: f.wait("1-99-0123456789abcdef"), r"\(1-99-...\): it was removed, or"),
    ("a key that is none", lambda f, k: f.snapshot("1-99"), "'1-99' is no flow key; expected shard-id-token.*logs leave.*list --search 1-99"),
    ("an unknown thread", lambda f, k: f.create(Odd.now, options=FlowOptions(thread_key="1-99-0123456789abcdef")), "thread_key: no flow"),
    ("a taken name", lambda f, k: f.create(Odd.failing, options=FlowOptions(idempotency_key="n")), "belongs to a flow of .*/now.*needs another"),
    ("an unknown workflow", lambda f, k: f.create("https://odd.example:428/nope"), "nobody serves https://odd.example:428/nope"),
    ("an option of another type", lambda f, k: f.create(Odd.now, options=FlowOptions(priority="high")), "priority='high': a whole"),  # type: ignore[arg-type]
    ("True as a number", lambda f, k: f.create(Odd.now, options=FlowOptions(concurrency_limit=True)), "limit=True: a whole number"),
    ("a task as a workflow", lambda f, k: f.create(Odd.fine), "Odd.fine given, a workflow expected"),  # type: ignore[arg-type]
    ("a state that is none", lambda f, k: f.create(Odd.now, [1]), "object with named fields, got list"),
    ("a value that is none", lambda f, k: f.create(Odd.now, {"a": {"b": float("nan")}}), "state.a.b is nan.*use null or a string"),
    ("a filter that is none", lambda f, k: f.list("complete"), "did you mean 'completed'"),  # type: ignore[arg-type]
    ("a purge of all", lambda f, k: f.purge(), "give at least one of status"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "told"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_refused_operation_says_which_flow_what_was_expected_and_what_to_do(
    flows: Flows, operation: Callable[[Flows, dict[str, str]], Awaitable[Any]], told: str
) -> None:
    Odd.graph = line(Odd.asks)
    keys = {
        "asks": (await flows.run(Odd.now, options=FlowOptions(idempotency_key="n"))).flow_key,
        "failed": (await flows.run(Odd.failing)).flow_key,
        "created": await flows.create(Odd.now, start=False),
    }
    with pytest.raises(MbactorError, match=told) as refused:
        await operation(flows, keys)
    for key in keys.values():
        assert key.rpartition("-")[2] not in str(refused.value)


async def test_a_task_that_nobody_serves_is_told_of_once_while_it_is_offered(
    mbactor: ActorSystem, mbactor_recorder: Recorder
) -> None:
    await mbactor.spawn(Foreman)
    await mbactor.spawn(Odd)
    Odd.graph = line("https://late.example:428/work")
    flows = Flows(mbactor)
    key = await flows.create(Odd.now)
    await mbactor_recorder.wait_for("foreman.unserved", task="https://late.example:428/work", within="5s")
    await mbactor.spawn(Late)
    assert (await flows.wait(key)).status == "completed"
    assert len(mbactor_recorder.find("foreman.unserved")) == 1


async def test_one_that_comes_at_once_is_not_told_of(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    await mbactor.spawn(Foreman)
    await mbactor.spawn(Odd)
    Odd.graph = line("https://late.example:428/work")
    flows = Flows(mbactor)
    key = await flows.create(Odd.now)
    await anyio.sleep(0.5)
    await mbactor.spawn(Late)
    assert (await flows.wait(key)).status == "completed"
    assert mbactor_recorder.find("foreman.unserved") == []


@pytest.mark.parametrize("comes", [True, False])
async def test_a_fan_in_whose_reducer_is_not_known_here_is_left_to_others_for_as_long_as_its_task_may_take(
    mbactor: ActorSystem, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    known = {"least": lambda base, incoming: incoming if base is None else min(base, incoming)}
    monkeypatch.setattr(reducers, "_registered", {**known})
    await mbactor.spawn(Foreman)
    await mbactor.spawn(Odd)
    flows = Flows(mbactor)
    graph = each("least")
    graph.set_endpoint("join", Odd.fine)
    Odd.graph = graph
    key = await flows.create(Odd.now, {"items": [3, 1, 2]}, start=False)
    monkeypatch.setattr(reducers, "_registered", {})
    await flows.start(key)
    await anyio.sleep(8)
    (join,) = [step for step in await flows.history(key) if step.node == "join"]
    assert (join.status, join.runs) == ("pending", 0)
    if comes:
        monkeypatch.setattr(reducers, "_registered", known)
    outcome = await flows.wait(key)
    if comes:
        assert (outcome.status, outcome.state["total"]) == ("completed", 1)
    else:
        assert outcome.status == "failed"
        assert isinstance(outcome.error, dict)
        assert "does not know the reducer 'least'" in outcome.error["error"]
        assert "set_reducer" not in outcome.error["hint"]


def test_references_are_not_called_and_an_endpoint_is_no_node() -> None:
    with pytest.raises(TypeError, match=r"Odd\.now is a reference: give it as it is to Flows or to a graph, or call"):
        Odd.now()
    with pytest.raises(TypeError, match=r"Late\.stays is no task; .* decorate with @task what is an endpoint"):
        line(Late.stays)
