"""Schedules: which ticks are due, and that each makes one flow, whoever follows it."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mbactor import Actor, ActorSystem
from mbactor.cli.main import main
from mbactor.errors import BadRequest, FlowNotFound
from mbactor.foreman import END, Flow, FlowOptions, Flows, Foreman, Graph, Schedule, task, workflow
from mbactor.foreman.model.schedule import Due, due, next_tick
from mbactor.foreman.schedules import LONGEST_REST, Schedules
from mbactor.foreman.shards import Member, Shards
from mbactor.supervisor.topology import TopologyError, load
from mbactor.testing import Recorder
from tests.foreman.world import World, a_world, ok

HOUR, DAY = 3600.0, 86400.0
YEARLY = "0 0 1 1 *"
"""None of its ticks comes while a test runs."""


def schedule(cron: str = "0 * * * *", **options: Any) -> Schedule:
    return Schedule(name="s", workflow="tick", cron=cron, **options)


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


# --- which ticks -------------------------------------------------------------------------------------------


def test_nothing_is_due_before_the_next_tick() -> None:
    assert due(schedule(), 0.0, HOUR - 0.1) == Due([], 0.0)
    assert due(schedule(), 0.0, HOUR) == Due([HOUR], HOUR)
    assert next_tick(schedule(), HOUR) == 2 * HOUR


def test_of_missed_ticks_the_latest_all_or_none_are_made_up_for() -> None:
    now = 3 * HOUR + 61
    assert due(schedule(), 0.0, now) == Due([3 * HOUR], 3 * HOUR)
    assert due(schedule(catch_up="all"), 0.0, now) == Due([HOUR, 2 * HOUR, 3 * HOUR], 3 * HOUR)
    assert due(schedule(catch_up="none"), 0.0, now) == Due([], 3 * HOUR)
    assert due(schedule(catch_up="none"), 0.0, now - 60) == Due([3 * HOUR], 3 * HOUR)


def test_a_year_of_seconds_is_caught_up_with_at_once() -> None:
    year = 366 * 86400.0
    assert due(schedule("* * * * * *"), 0.0, year) == Due([year], year)
    assert len(due(schedule("* * * * * *", catch_up="all"), 0.0, year).ticks) == 100


def test_when_clocks_change_nothing_is_left_out_nor_done_twice() -> None:
    nightly = schedule("30 2 * * *", timezone="Europe/Berlin")
    assert next_tick(nightly, at("2026-03-29T00:00+01:00")) == at("2026-03-29T03:00+02:00")
    assert next_tick(nightly, at("2026-10-25T00:00+02:00")) == at("2026-10-25T02:30+02:00")
    assert next_tick(nightly, at("2026-10-25T02:30+02:00")) == at("2026-10-26T02:30+01:00")


def test_a_day_that_never_comes_has_no_tick() -> None:
    with pytest.raises(BadRequest, match="cron='0 0 30 2 \\*': Bad day-of-month"):
        schedule("0 0 30 2 *")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"cron": "every day"}, "schedule 's': cron='every day': Wrong number of fields; five fields expected"),
        ({"timezone": "Mars/Base"}, "timezone='Mars/Base': the name of a time zone expected"),
        ({"workflow": ""}, "workflow='': the URL of a workflow expected"),
        ({"name": ""}, "name='': a text expected"),
        ({"name": "n" * 1001}, "schedule: name is 1001 bytes long; at most 1000 can be stored"),
        ({"options": FlowOptions(start_at="1h")}, "options.start_at is given"),
        ({"options": FlowOptions(idempotency_key="x")}, "options.idempotency_key is given"),
    ],
)
def test_what_cannot_be_is_said(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest, match=text.replace("*", r"\*")):
        Schedule(**{"name": "s", "workflow": "w", "cron": "* * * * *", **wrong})


@given(
    st.sampled_from(["* * * * *", "*/7 3-9 * * MON-FRI", "0 0 1 * *", "15,45 2 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
    st.integers(1_700_000_000, 1_800_000_000),
    st.lists(st.integers(0, 40 * 86400), min_size=1, max_size=5),
)
def test_all_ticks_come_once_in_order_however_time_is_cut(cron: str, zone: str, begin: int, steps: list[int]) -> None:
    one = schedule(cron, timezone=zone, catch_up="all")
    found: list[float] = []
    last, now = float(begin), float(begin)
    for step in steps:
        now += step
        while (part := due(one, last, now)).ticks and len(found) < 1_000:
            found += part.ticks
            last = part.until
    expected: list[float] = []
    tick = next_tick(one, begin)
    while tick is not None and tick <= now and len(expected) < len(found):
        expected.append(tick)
        tick = next_tick(one, tick)
    assert found == expected
    if len(found) < 1_000:
        assert tick is None or tick > now


# --- the flows they make -------------------------------------------------------------------------------------


async def a_tick(world: World) -> str:
    graph = Graph("tick")
    graph.add_transition("t", END)
    return await world.graph(graph, t=ok)


def following(world: World) -> Schedules:
    return Schedules(Shards([Member(1, engine=world.engine)]))


async def back(world: World, seconds: float) -> None:
    """As if the last tick had been so long ago."""
    await world.sql(f"UPDATE mbactor_schedule SET last_tick = last_tick - {seconds} RETURNING name")


@pytest.mark.anyio
async def test_a_tick_makes_one_flow_however_many_follow_it(database: str) -> None:
    async with a_world(database) as world:
        await a_tick(world)
        several = [following(world) for _ in range(4)]
        await several[0].put(schedule(YEARLY, state={"n": 1}, options=FlowOptions(priority=7)))
        await asyncio.gather(*(one.run_due() for one in several))
        assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(0,)]
        await back(world, 400 * DAY)
        await asyncio.gather(*(one.run_due() for one in several))
        (flow,) = await world.sql("SELECT id, token, priority, baggage FROM mbactor_flow")
        assert flow[2] == 7
        assert b'"schedule":"s"' in flow[3]
        outcome = await world.engine.wait(f"1-{flow[0]}-{flow[1]}")
        assert (outcome.status, outcome.state) == ("completed", {"n": 1})
        (told,) = await several[0].all()
        assert told.last_tick is not None
        assert told.next_tick == told.last_tick.replace(year=told.last_tick.year + 1)


@pytest.mark.anyio
async def test_a_paused_schedule_makes_nothing_and_goes_on_with_the_next_tick(database: str) -> None:
    async with a_world(database) as world:
        await a_tick(world)
        schedules = following(world)
        await schedules.put(schedule(YEARLY))
        await schedules.pause("s", True)
        await back(world, 400 * DAY)
        await schedules.run_due()
        assert [(one.paused, one.next_tick) for one in await schedules.all()] == [(True, None)]
        await schedules.pause("s", False)
        await schedules.run_due()
        assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(0,)]
        with pytest.raises(BadRequest, match="schedule='x': no such schedule; there are: s"):
            await schedules.pause("x", True)
        await schedules.drop("s")
        with pytest.raises(BadRequest, match="there are: none"):
            await schedules.drop("s")


@pytest.mark.anyio
async def test_a_tick_whose_workflow_nobody_serves_stays_due(database: str) -> None:
    async with a_world(database) as world:
        schedules = following(world)
        await schedules.put(schedule(YEARLY))
        await back(world, 400 * DAY)
        # It is tried again soon, and then more and more rarely.
        assert [await schedules.run_due() for _ in range(6)] == [1, 2, 4, 8, LONGEST_REST, LONGEST_REST]
        with pytest.raises(FlowNotFound):
            await world.host.load_graph("tick", {})
        await a_tick(world)
        assert await schedules.run_due() == LONGEST_REST
        assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(1,)]


async def test_a_tick_that_is_due_at_the_start_waits_only_until_its_workflow_is_served(
    mbactor: ActorSystem, mbactor_recorder: Recorder
) -> None:
    every_second = Schedule(name="s", workflow=Reports.report.url, cron="* * * * * *")
    await mbactor.spawn(Foreman, database="sqlite://", schedules=[every_second])
    await mbactor_recorder.wait_for("schedule.failed")
    await mbactor.spawn(Reports)
    began = asyncio.get_running_loop().time()
    while not (await Flows(mbactor).list()).flows:
        await asyncio.sleep(0.1)
    assert asyncio.get_running_loop().time() - began < 3


class Reports(Actor):
    host = "reports.example"

    @task
    async def write(self, flow: Flow) -> None:
        flow["schedule"] = flow.baggage["schedule"]

    @workflow
    def report(self) -> Graph:
        graph = Graph("Report")
        graph.add_transition(Reports.write, END)
        return graph


@pytest.mark.anyio
async def test_a_foreman_makes_the_flows_of_schedules_that_are_declared_and_of_others(database: str) -> None:
    declared = Schedule(name="declared", workflow=Reports.report.url, cron="* * * * * *")
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=database, schedules=[declared])
        await system.spawn(Reports)
        flows = Flows(system)
        await flows.schedule("other", Reports.report, "* * * * * *")

        async def made(name: str) -> Callable[[], bool]:
            page = await flows.list(status="completed", limit=50)
            outcomes = [await flows.snapshot(one.flow_key) for one in page.flows]
            return lambda: any(one.state.get("schedule") == name for one in outcomes)

        async with asyncio.timeout(60):
            for name in ("declared", "other"):
                while not (await made(name))():
                    await asyncio.sleep(0.05)
        assert [one.name for one in await flows.schedules()] == ["declared", "other"]
        await flows.pause_schedule("declared")
        await flows.unschedule("other")
        (left,) = await flows.schedules()
        assert (left.name, left.paused) == ("declared", True)
        assert left.last_flow is not None
        assert (await flows.wait(left.last_flow)).state["schedule"] == "declared"
        await flows.resume_schedule("declared")


async def test_what_no_workflow_can_be_at_is_not_called_for_its_graph(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Foreman)
    await mbactor.spawn(Reports)
    flows = Flows(mbactor)
    with pytest.raises(BadRequest, match="at port 443, and workflows are at 428: https://reports.example:428/report"):
        await flows.schedule("s", "https://reports.example/report", YEARLY)
    with pytest.raises(BadRequest, match="at port 443, and workflows are at 428"):
        await flows.run("https://reports.example/report")
    assert await flows.schedules() == []


def test_a_topology_file_declares_schedules_and_says_where_one_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    text = """version: 1
supervisor:
  children:
    - foreman:
        schedules:
          - {name: nightly, workflow: "https://reports.example:428/report", cron: "0 3 * * *", state: {n: 1},
             options: {time_budget: 1m, priority: 7}}
"""
    file.write_text(text)
    (foreman,) = load(file, {}).supervisor.children
    (nightly,) = foreman.args["schedules"]
    assert nightly == Schedule(
        name="nightly", workflow="https://reports.example:428/report", cron="0 3 * * *", state={"n": 1},
        options=FlowOptions(time_budget=60, priority=7),
    )  # fmt: skip
    for url, told in (
        ("https://reports.example/report", "is at port 443, and workflows are at 428: https://reports.example:428/"),
        (
            "https://[reports/report",
            r"'https://\[reports/report' has no valid host: .*; the URL of a workflow expected",
        ),
        ("reports:Reports.report", "'reports:Reports.report' has no valid port: .*; the URL of a workflow expected"),
    ):
        file.write_text(text.replace("https://reports.example:428/report", url))
        checked = CliRunner().invoke(main, ["check", str(file)])
        assert checked.exit_code == 2
        assert re.search(f"tree.yaml:4:7: .*schedule 'nightly': workflow: .*{told}", checked.stderr), checked.stderr
    file.write_text(text.replace("cron:", "paused: true, cron:"))
    checked = CliRunner().invoke(main, ["check", str(file)])
    assert checked.exit_code == 2
    assert re.search("tree.yaml:4:7: .*schedule 'nightly': paused: true given", checked.stderr), checked.stderr
    file.write_text(
        text + "          - {name: nightly, workflow: 'https://reports.example:428/report', cron: '0 4 * * *'}\n"
    )
    checked = CliRunner().invoke(main, ["check", str(file)])
    assert checked.exit_code == 2
    assert re.search("tree.yaml:4:7: .*schedule 'nightly' is declared 2 times", checked.stderr), checked.stderr
    file.write_text(text.replace("cron:", "timezon: Europe/Berlin, cron:").replace("priority:", "priorty:"))
    checked = CliRunner().invoke(main, ["check", str(file)])
    assert checked.exit_code == 2
    where = r"supervisor.children\[0\].foreman.schedules\[0\]"
    for told in (
        rf"tree.yaml:6:77: {where}.timezon: unknown key, did you mean 'timezone'\?",
        rf"tree.yaml:7:41: {where}.options.priorty: unknown key, did you mean 'priority'\?",
    ):
        assert re.search(told, checked.stderr), checked.stderr
    file.write_text(text.replace("0 3", "61 3"))
    with pytest.raises(TopologyError, match=r"tree.yaml:6:11: .*cron='61 3 \* \* \*': Bad minute"):
        load(file, {})
