"""What `Flows` is given reaches the Foreman, each argument of each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem, MbactorError
from mbactor.foreman import END, Flow, FlowOptions, Flows, Foreman, Graph, task, workflow

YEARLY = "0 0 1 1 *"


class Work(Actor):
    host = "work.example"

    @task
    async def asks(self, flow: Flow) -> None:
        flow["answer"] = flow.interrupt("how many?")

    @task
    async def works(self, flow: Flow, fail: bool = False) -> None:
        if fail:
            raise MbactorError("as it was told")
        flow.update(flow.baggage)

    @task
    async def spreads(self, flow: Flow) -> None: ...

    @task
    async def meets(self, flow: Flow) -> None: ...

    @workflow
    def asking(self) -> Graph:
        graph = Graph("Asking")
        graph.add_transition_for_each(Work.spreads, Work.asks, for_each="items")
        graph.add_transition_chain(Work.asks, Work.meets, END)
        graph.set_fan_in(Work.meets)
        return graph

    @workflow
    def working(self) -> Graph:
        graph = Graph("Working")
        graph.add_transition(Work.works, END)
        return graph

    @workflow
    def calling(self) -> Graph:
        graph = Graph("Calling")
        graph.add_subgraph("call", Work.working)
        graph.add_transition("call", END)
        return graph


@pytest.fixture
async def flows(mbactor: ActorSystem) -> Flows:
    await mbactor.spawn(Foreman)
    await mbactor.spawn(Work)
    return Flows(mbactor)


@pytest.mark.parametrize(
    "filters",
    [
        {"status": "failed"}, {"workflow": Work.working}, {"thread": "old"}, {"task": Work.works},
        {"fairness_key": "team-7"}, {"concurrency_key": "customer-7"}, {"priority": 7}, {"older_than": "50s"},
        {"search": "TOLD"},
    ],
    ids=lambda filters: next(iter(filters)),
)  # fmt: skip
async def test_each_filter_keeps_others_out_of_a_list_and_of_a_purge(flows: Flows, filters: Mapping[str, Any]) -> None:
    options = FlowOptions(priority=7, fairness_key="team-7", concurrency_key="customer-7")
    old = (await flows.run(Work.working, {"fail": True}, options)).flow_key
    await anyio.sleep(100)
    young = (await flows.run(Work.asking, {"items": []})).flow_key
    if "thread" in filters:
        filters = {"thread": old}
    assert [one.flow_key for one in (await flows.list(**filters)).flows] == [old]
    assert [one.flow_key for one in (await flows.list(newer_than="50s")).flows] == [young]
    assert await flows.purge(**filters) == 1
    assert [one.flow_key for one in (await flows.list()).flows] == [young]


async def test_a_list_has_pages_and_called_flows_where_they_are_wanted(flows: Flows) -> None:
    one, two = [(await flows.run(Work.calling)).flow_key for _ in range(2)]
    page = await flows.list(limit=1)
    assert [flow.flow_key for flow in page.flows] == [two]
    assert [flow.flow_key for flow in (await flows.list(limit=1, cursor=page.next_cursor)).flows] == [one]
    assert len((await flows.list(include_subflows=True)).flows) == 4
    assert await flows.purge("completed", limit=1) == 1
    assert [flow.flow_key for flow in (await flows.list()).flows] == [two]


async def test_an_answer_goes_to_the_step_that_is_named(flows: Flows) -> None:
    outcome = await flows.run(Work.asking, {"items": [1, 2]})
    first, second = (step_key for step_key, _ in outcome.interrupts)
    await flows.resume(outcome.flow_key, 5, second)
    assert [step_key for step_key, _ in (await flows.snapshot(outcome.flow_key)).interrupts] == [first]
    await flows.resume(outcome.flow_key)
    assert (await flows.wait(outcome.flow_key)).status == "completed"
    assert [(await flows.step(key)).changes for key in (first, second)] == [{"answer": {}}, {"answer": 5}]


async def test_a_cancel_has_its_reason(flows: Flows) -> None:
    key = (await flows.run(Work.asking, {"items": [1]})).flow_key
    await flows.cancel(key, "no longer wanted")
    assert (await flows.wait(key)).cancel_reason == "no longer wanted"


async def test_fields_that_are_given_replace_those_of_the_state(flows: Flows) -> None:
    failed = await flows.run(Work.working, {"fail": True})
    (step,) = await flows.history(failed.flow_key)
    forked = await flows.fork(step.step_key, {"fail": None, "n": 0})
    assert (await flows.wait(forked)).state == {"n": 0}
    continued = await flows.continue_thread((await flows.run(Work.working)).flow_key, {"n": 1})
    assert (await flows.wait(continued)).state == {"n": 1}
    (step,) = await flows.history(continued)
    await flows.restart_from(step.step_key, {"n": 2})
    assert (await flows.wait(continued)).state == {"n": 2}
    await flows.restart(continued, {"n": 3, "fail": True})
    assert (await flows.wait(continued)).status == "failed"
    await flows.recover(continued, {"n": 4})
    assert (await flows.wait(continued)).state == {"n": 4, "fail": True}
    await flows.retry(continued, {"n": 5, "fail": None})
    assert (await flows.wait(continued)).state == {"n": 5}


async def test_a_breakpoint_is_set_and_taken_away_and_gone_on_from_with_other_fields(flows: Flows) -> None:
    key, unbroken = [await flows.create(Work.working, start=False) for _ in range(2)]
    for one in (key, unbroken):
        await flows.break_before(one, Work.works)
    await flows.break_before(unbroken, Work.works, on=False)
    for one, status in ((key, "interrupted"), (unbroken, "completed")):
        await flows.start(one)
        assert (await flows.wait(one)).status == status
    await flows.resume_break(key, {"n": 1})
    assert (await flows.wait(key)).state == {"n": 1}


async def test_a_schedule_is_kept_as_it_was_given(flows: Flows) -> None:
    options = FlowOptions(priority=7)
    await flows.schedule(
        "s", Work.working, YEARLY, timezone="Europe/Berlin", state={"n": 1}, options=options, catch_up="none"
    )
    (kept,) = await flows.schedules()
    assert (kept.workflow, kept.cron, kept.timezone) == (Work.working.url, YEARLY, "Europe/Berlin")
    assert (kept.state, kept.options, kept.catch_up) == ({"n": 1}, options, "none")


async def test_what_a_flow_calls_and_what_is_derived_from_it_has_its_baggage(flows: Flows) -> None:
    called = await flows.run(Work.calling, {}, FlowOptions(baggage={"team": 7}))
    assert called.state == {"team": 7}
    (step,) = await flows.history(called.flow_key)
    for key in (
        await flows.continue_thread(called.flow_key, {"team": None}), await flows.fork(step.step_key, {"n": 1}),
    ):  # fmt: skip
        assert (await flows.wait(key)).state["team"] == 7
