"""`mbactor flows start`, `break` and the schedules, over a real database with a Foreman beside it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mbactor.cli.main import main
from mbactor.errors import MbactorError
from mbactor.foreman import END, Flow, Graph, Schedule
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.schedules import Schedules
from mbactor.foreman.shards import Member, Shards
from tests.foreman.world import World, a_world, ok

CODE = """
from typing import TypedDict
from mbactor import Actor
from mbactor.foreman import END, Graph, task, workflow

class Parcel(TypedDict):
    number: int

class Shop(Actor):
    host = "shop.example"

    @task
    async def pay(self) -> None: ...
    @task
    async def ship(self) -> Parcel: ...

    @workflow
    def order(self) -> Graph:
        graph = Graph("Order")
        graph.add_transition_chain(Shop.pay, Shop.ship, END)
        return graph

    @workflow
    def doubtful(self) -> Graph:
        graph = Graph("Doubtful")
        graph.add_transition_fan_out(Shop.pay, "one", "two")
        for name in ("one", "two"):
            graph.set_endpoint(name, Shop.ship)
            graph.add_transition(name, "join")
        graph.set_endpoint("join", Shop.pay)
        graph.set_fan_in("join")
        graph.add_transition("join", END)
        return graph

    @workflow
    def broken(self) -> Graph:
        return Graph("Broken")
"""
ORDER = "shop_to_start:Shop.order"
PAY, SHIP = (f"https://shop.example:428/{name}" for name in ("pay", "ship"))


def run(url: str, *arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(main, ["flows", *arguments], env={"MBACTOR_DATABASE": url}, **more)


def told(url: str, *arguments: str) -> str:
    done = run(url, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@asynccontextmanager
async def working(url: str, **tasks: Any) -> AsyncIterator[World]:
    """A Foreman for the shop."""
    async with a_world(url, poll_interval=0.02) as world:
        world.host.tasks |= {PAY: tasks.get("pay", ok), SHIP: tasks.get("ship", ok)}
        yield world


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "shop_to_start.py").write_text(CODE)
    url = f"sqlite:///{tmp_path}/flows.db"
    asyncio.run(made(url))
    yield url
    sys.modules.pop("shop_to_start", None)


async def made(url: str) -> None:
    async with a_world(url, workers=0):
        pass


async def beside(url: str, *arguments: str, **tasks: Any) -> Result:
    """The command, while a Foreman works."""
    async with working(url, **tasks):
        return await asyncio.to_thread(run, url, *arguments)


def test_a_flow_that_is_started_is_run_by_whoever_runs_flows(url: str) -> None:
    key = told(url, "start", ORDER, "--state", '{"amount": 7}', "--options", '{"priority": 3}').strip()
    flow = json.loads(told(url, "show", key, "--json"))["flow"]
    assert (flow["workflow"], flow["status"], flow["priority"]) == ("https://shop.example:428/order", "running", 3)

    async def ended() -> Any:
        async with working(url) as world:
            return await world.engine.wait(key)

    outcome = asyncio.run(ended())
    assert (outcome.status, outcome.state) == ("completed", {"amount": 7})
    again = told(url, "start", ORDER, "--options", '{"idempotency_key": "x"}')
    assert told(url, "start", ORDER, "--options", '{"idempotency_key": "x"}') == again
    assert json.loads(told(url, "start", ORDER, "--json"))["status"] == "running"


def test_one_that_is_waited_for_says_how_it_ends_by_its_exit_code_too(url: str) -> None:
    def pay(flow: Flow) -> None:
        if flow.get("asks"):
            flow.interrupt({"question": "sure?"})
        if flow.get("fails"):
            raise MbactorError("no money")
        flow["paid"] = True

    done = asyncio.run(beside(url, "start", ORDER, "--wait", pay=pay))
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "Order  completed")
    assert '"paid": true' in done.stdout
    failed = asyncio.run(beside(url, "start", ORDER, "--wait", "--state", '{"fails": true}', pay=pay))
    assert failed.exit_code == 3
    assert re.search("failed at +pay", failed.stdout)
    asks = asyncio.run(beside(url, "start", ORDER, "--wait", "--state", '{"asks": true}', "--json", pay=pay))
    outcome = json.loads(asks.stdout)
    assert (asks.exit_code, outcome["status"], asks.stderr.split()[0]) == (3, "interrupted", outcome["flow_key"])
    gone = asyncio.run(beside(url, "start", ORDER, "--wait", "--options", '{"delete_on_completion": true}'))
    assert (gone.exit_code, gone.stdout.splitlines()[1]) == (0, "completed, and removed as its options say")


def test_waiting_ends_in_time_and_the_flow_goes_on(url: str) -> None:
    done = run(url, "start", ORDER, "--within", "50ms")
    key, title = done.stdout.splitlines()[:2]
    assert (done.exit_code, title) == (3, "Order  running")
    assert json.loads(told(url, "show", key, "--json"))["flow"]["status"] == "running"


def test_who_waits_long_is_told_who_runs_flows(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbactor.cli.flows.starting.PATIENCE", 0)
    done = run(url, "start", ORDER, "--within", "50ms", "--json")
    assert json.loads(done.stdout)["status"] == "running"
    assert "a flow goes on while a tree with a Foreman on this database runs (`mbactor run FILE`)" in done.stderr


def test_a_flow_that_was_only_created_is_started_by_its_key(url: str) -> None:
    key = told(url, "start", ORDER, "--no-start").strip()
    assert "waits to be started" in told(url, "show", key)
    assert told(url, "start", key) == f"{key}\n"
    again = run(url, "start", key)
    assert (again.exit_code, "it has been started" in again.stderr) == (4, True)
    for of_a_new_one in (("--state", "{}"), ("--options", "{}"), ("--no-start",)):
        more = run(url, "start", key, *of_a_new_one)
        assert (more.exit_code, "is there already" in more.stderr) == (2, True)


def test_what_is_doubtful_about_the_graph_is_said_and_what_cannot_run_refused(url: str) -> None:
    done = run(url, "start", "shop_to_start:Shop.doubtful", "--state", "{}")
    assert (done.exit_code, done.stderr.count("write one field 'number'")) == (0, 1), done.stderr
    assert done.stderr.startswith("warning: graph 'Doubtful'")
    checked = run(url, "check-graph", "shop_to_start:Shop.doubtful")
    assert (checked.exit_code, checked.stderr.count("write one field 'number'")) == (0, 1), checked.stderr
    assert checked.stderr.startswith("warning: graph 'Doubtful'")
    broken = run(url, "start", "shop_to_start:Shop.broken")
    assert (broken.exit_code, "Traceback" in broken.output) == (2, False)
    assert "Broken" in broken.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([ORDER, "--state", "[1]"], "a JSON object of fields expected"),
        ([ORDER, "--options", "[1]"], "--options: [1] given, an object of options expected"),
        ([ORDER, "--options", '{"prioriti": 1}'], "no option is called 'prioriti', did you mean 'priority'"),
        ([ORDER, "--options", '{"priority": "high"}'], "priority='high': Expected `int`, got `str`"),
        ([ORDER, "--options", '{"priority": -1}'], "priority=-1 is negative"),
        (
            [ORDER, "--options", '{"start_at": "soon"}'],
            "start_at='soon': Invalid RFC3339 encoded datetime, or a duration",
        ),
        ([ORDER, "--options", '{"start_at": "2030-01-01T00:00:00"}'], "has no time zone"),
        ([ORDER, "--within", "soon"], "--within: 'soon' is not a duration"),
        (["shop"], "module:Class.workflow or a URL expected"),
        (["shop_to_start:Shop.orders"], "it has broken, doubtful, order"),
        (["1-2"], "is no flow key"),
    ],
)
def test_what_cannot_be_started_is_said(url: str, arguments: list[str], expected: str) -> None:
    done = run(url, "start", *arguments)
    assert (done.exit_code, expected in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_durations_and_moments_are_taken_as_texts(url: str) -> None:
    for options in ('{"start_at": "1h", "time_budget": "30s"}', '{"start_at": "2099-01-01T00:00:00Z"}'):
        told(url, "start", ORDER, "--options", options)

    async def rows() -> list[Any]:
        async with a_world(url, workers=0) as world:
            return await world.sql(
                """SELECT flow.time_budget, step.not_before - flow.created_at FROM mbactor_flow AS flow
                JOIN mbactor_step AS step ON step.flow_id = flow.id ORDER BY flow.id"""
            )

    (first, first_delay), (second, second_delay) = asyncio.run(rows())
    assert (first, second) == (30.0, 20.0)
    assert 3590 < first_delay < 3610
    assert second_delay > 86400


def test_a_task_has_the_time_budget_of_the_foreman_in_the_file(url: str, tmp_path: Path) -> None:
    text = 'version: 1\nname: x\nsupervisor:\n  children:\n    - foreman: {database: "%s", default_time_budget: 1m}\n'
    (tmp_path / "tree.yaml").write_text(text % url)
    done = CliRunner().invoke(main, ["flows", "start", ORDER, "-f", "tree.yaml"])
    assert done.exit_code == 0, done.output

    async def budgets() -> list[Any]:
        async with a_world(url, workers=0) as world:
            return await world.sql("SELECT time_budget FROM mbactor_flow")

    assert [tuple(row) for row in asyncio.run(budgets())] == [(60.0,)]


def test_a_flow_pauses_where_it_is_told_to(url: str) -> None:
    key = told(url, "start", ORDER, "--no-start").strip()
    assert told(url, "break", key, "ship") == f"{key}: pauses before ship, created\n"
    odd = run(url, "break", key, "shop")
    assert "warning: Order has no node 'shop', did you mean 'ship'? Flows that it calls may" in odd.stderr
    assert re.search("pauses before +ship, shop", told(url, "show", key))
    off = run(url, "break", key, "shop", "--off")
    assert (off.stdout, off.stderr) == (f"{key}: does not pause before shop, created\n", "")
    done = asyncio.run(beside(url, "start", key, "--wait"))
    assert (done.exit_code, "waits at a breakpoint before ship" in done.stdout) == (3, True)
    assert told(url, "resume-break", key) == f"{key}: goes on, running\n"
    told(url, "cancel", key)
    refused = run(url, "break", key, "ship")
    assert (refused.exit_code, "break is refused: it has ended" in refused.stderr) == (4, True)


def test_a_thread_is_continued(url: str) -> None:
    def pay(flow: Flow) -> None:
        flow["sumPaid"] = flow.get("sumPaid", 0) + 1

    done = asyncio.run(beside(url, "start", ORDER, "--wait", pay=pay))
    key = done.stdout.split()[0]
    following = told(url, "continue", key, "--state", '{"sumPaid": 10}').strip()
    assert following != key
    again = run(url, "continue", key)
    assert (again.exit_code, "the latest of its thread, is running" in again.stderr) == (4, True)
    told(url, "cancel", following)
    wrong = asyncio.run(beside(url, "start", ORDER, "--wait", pay=pay)).stdout.split()[0]
    refused = run(url, "continue", wrong, "--state", '{"sumPaid": "ten"}')
    assert (refused.exit_code, "state.sumPaid: string given, to be reduced by 'add'" in refused.stderr) == (2, True)


# --- schedules ----------------------------------------------------------------------------------------------------


async def scheduled(url: str) -> None:
    """A schedule whose latest tick was missed and is made up for, and one that is late."""
    async with working(url) as world:
        world.host.graphs["tick"] = Graph("Tick")
        world.host.graphs["tick"].add_transition("pay", END)
        world.host.graphs["tick"].set_endpoint("pay", PAY)
        schedules = Schedules(Shards([Member(1, engine=world.engine)]))
        await schedules.put(Schedule(name="yearly", workflow="tick", cron="0 0 1 1 *", timezone="Europe/Berlin"))
        await world.sql("UPDATE mbactor_schedule SET last_tick = last_tick - 400 * 86400 RETURNING name")
        await schedules.run_due()
        await schedules.put(Schedule(name="late", workflow="nobody has it", cron="0 0 1 1 *"))
        await world.sql("UPDATE mbactor_schedule SET last_tick = 0 WHERE name = 'late' RETURNING name")
        (flow,) = (await world.engine.list(FlowQuery(workflow="tick"))).flows
        await world.engine.wait(flow.flow_key)


def test_schedules_say_when_next_and_what_they_made_last(url: str) -> None:
    assert run(url, "schedules").stderr == "no schedules\n"
    asyncio.run(scheduled(url))
    (flow,) = json.loads(told(url, "list", "--json"))["flows"]
    late, yearly = told(url, "schedules").splitlines()[1:]
    assert re.fullmatch(r"late +0 0 1 1 \* +1971-01-01 00:00 UTC +\S+ late +nobody has it", late)
    key = flow["flow_key"]
    assert re.fullmatch(rf"yearly +0 0 1 1 \* +\d+-01-01 00:00 CET +\d+\S+ +{key} +completed +tick", yearly)
    found = {one["name"]: one for one in json.loads(told(url, "schedules", "--ticks", "3", "--json"))}
    assert (found["yearly"]["last_flow"], found["yearly"]["last_status"]) == (key, "completed")
    assert [tick[:10] for tick in found["late"]["ticks"]] == ["1971-01-01", "1972-01-01", "1973-01-01"]
    assert len(re.findall("(?m)-01-01 00:00", told(url, "schedules", "--ticks", "3"))) == 6
    told(url, "delete", key)
    assert key not in told(url, "schedules")


def test_a_schedule_is_paused_goes_on_and_is_forgotten(url: str) -> None:
    asyncio.run(scheduled(url))
    assert told(url, "pause-schedule", "late") == "late: paused\n"
    assert re.search(r"(?m)^late +0 0 1 1 \* +paused +nobody", told(url, "schedules"))
    assert re.fullmatch(r"late: goes on, next at 20\d\d-01-01 00:00:00 UTC\n", told(url, "resume-schedule", "late"))
    assert told(url, "unschedule", "yearly") == "yearly: forgotten; its flows stay\n"
    refused = run(url, "pause-schedule", "yearly")
    assert (refused.exit_code, "no such schedule; there are: late" in refused.stderr) == (2, True)
    assert len(json.loads(told(url, "list", "--json"))["flows"]) == 1


def test_a_schedule_is_made_and_changed(url: str) -> None:
    made = told(url, "schedule", "yearly", ORDER, "0 0 1 1 *", "--state", '{"n": 1}', "--options", '{"priority": 7}')
    assert re.fullmatch(r"yearly: scheduled, next at \d+-01-01 00:00:00 UTC\n", made)
    (one,) = json.loads(told(url, "schedules", "--json"))
    assert (one["state"], one["options"]) == ({"n": 1}, {"priority": 7})
    told(url, "schedule", "yearly", ORDER, "30 2 1 1 *", "--timezone", "Asia/Tokyo", "--catch-up", "none")
    (one,) = json.loads(told(url, "schedules", "--json"))
    assert (one["cron"], one["timezone"], one["catch_up"]) == ("30 2 1 1 *", "Asia/Tokyo", "none")
    assert (one["workflow"], "state" in one) == ("https://shop.example:428/order", False)
    for arguments, expected in (
        (["yearly", ORDER, "never"], "five fields expected"),
        (["yearly", ORDER, "0 0 1 1 *", "--timezone", "Mars/Base"], "the name of a time zone expected"),
        (["yearly", ORDER, "0 0 1 1 *", "--options", '{"start_at": "1h"}'], "each of its flows has its own"),
        (["yearly", "shop_to_start:Shop.broken", "0 0 1 1 *"], "Broken"),
        (["yearly", "shop", "0 0 1 1 *"], "module:Class.workflow or a URL expected"),
    ):
        refused = run(url, "schedule", *arguments)
        assert (refused.exit_code, expected in refused.stderr) == (2, True), refused.output
