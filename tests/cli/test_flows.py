"""`mbactor flows ...` as a person meets it: a real database, with and without a Foreman beside it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mbactor import Actor, ActorSystem
from mbactor.cli.main import main
from mbactor.errors import MbactorError
from mbactor.foreman import Flows, Foreman, task, workflow
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import FlowOptions
from mbactor.foreman.store.open import open_store, url_of_shard
from mbactor.testing.postgres import PostgresServer
from tests.foreman.world import World, a_world, ok
from tests.process import ROOT

URL = "https://shop.example:428/order"
SHOP = """
from mbactor import Actor
from mbactor.foreman import END, Graph, task, workflow

class Shop(Actor):
    host = "shop.example"

    def __init__(self, size: int) -> None: ...

    @task
    async def question(self) -> None: ...
    @task
    async def pay(self) -> None: ...

    @workflow
    def order(self) -> Graph:
        graph = Graph("Order")
        graph.add_transition_chain(Shop.question, Shop.pay, END)
        return graph

    @workflow
    def moody(self) -> Graph:
        return Graph(str(self.size))
"""


@dataclass
class Shop:
    """A database with a flow of each kind."""

    url: str
    keys: dict[str, str]

    def run(self, *arguments: str, **more: Any) -> Result:
        return CliRunner().invoke(main, ["flows", *arguments], env={"MBACTOR_DATABASE": self.url}, **more)

    def told(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.told(*arguments, "--json"))


def fails(_: Flow) -> None:
    raise MbactorError("the supplier does not answer")


async def fill(url: str) -> dict[str, str]:
    async with a_world(url) as world:
        order = Graph("Order")
        order.add_transition_chain("question", "pay", END)
        for name in ("question", "pay"):
            order.set_endpoint(name, f"https://shop.example:428/{name}")
        failing = Graph("Failing")
        failing.add_transition_chain("start", "call", "bad", END)
        world.host.graphs |= {URL: order, "https://shop.example:428/fail": failing, "inner": inner()}
        world.host.tasks |= {"https://shop.example:428/question": ask, "https://shop.example:428/pay": ok, "start": ok,
                             "call": lambda flow: flow.subgraph("inner", {}), "bad": fails, "deep": ok}  # fmt: skip
        return {
            "completed": await completed(world),
            "asks": await stopped(world, URL, {"amount": 7}),
            "failed": await stopped(world, "https://shop.example:428/fail", priority=7),
            "created": await world.engine.create(URL, start=False),
        }


def inner() -> Graph:
    graph = Graph("Inner")
    graph.add_transition("deep", END)
    return graph


def ask(flow: Flow) -> None:
    flow["answer"] = flow.interrupt({"question": "pay?"})


async def stopped(world: World, workflow: str, state: Any = None, **options: Any) -> str:
    key = await world.engine.create(workflow, state, FlowOptions(**options))
    await world.engine.wait(key)
    return key


async def completed(world: World) -> str:
    key = await stopped(world, URL)
    await world.engine.resume(key, "yes")
    await world.engine.wait(key)
    return key


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/flows.db"
    return Shop(url, asyncio.run(fill(url)))


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "shop_of_flows.py"
    file.write_text(SHOP)
    yield file
    sys.modules.pop("shop_of_flows", None)


def test_list_prints_whole_keys_newest_first_and_takes_filters(shop: Shop) -> None:
    lines = shop.told("list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        shop.keys[name] for name in ("created", "failed", "asks", "completed")
    ]
    assert re.search(rf"{shop.keys['failed']} +failed +Failing +bad +3/3 .*the supplier does not answer", lines[2])
    assert [flow["task"] for flow in shop.json("list", "--status", "interrupted")["flows"]] == ["question"]
    for filters, name in ((["--priority", "7"], "failed"), (["--task", "pay"], None), (["--search", "SUPPLIER"], "failed"),
                          (["--newer-than", "1h", "--status", "created"], "created"), (["--older-than", "1h"], None)):  # fmt: skip
        found = [flow["flow_key"] for flow in shop.json("list", *filters)["flows"]]
        assert found == ([] if name is None else [shop.keys[name]]), filters
    assert len(shop.json("list", "--subflows")["flows"]) == 5
    first = shop.run("list", "--limit", "3")
    cursor = re.search(r"there are more: --cursor (\S+)", first.stderr)
    assert cursor is not None
    assert shop.keys["completed"] in shop.told("list", "--cursor", cursor[1])
    for command in (["list"], ["watch", "--once"]):
        none = shop.run(*command, "--search", "nothing")
        assert (none.exit_code, none.stdout, none.stderr) == (0, "", "no flows\n")


def test_a_flow_that_waits_for_a_place_says_for_which_and_who_has_it(shop: Shop) -> None:
    async def queue() -> list[str]:
        async with a_world(shop.url, workers=0) as world:
            options = FlowOptions(concurrency_key="customer-7")
            graph = world.host.graphs[URL] = Graph("Order")
            graph.add_transition("question", END)
            return [await world.engine.create(URL, options=options) for _ in range(2)]

    first, second = asyncio.run(queue())
    listed = shop.told("list", "--concurrency-key", "customer-7").splitlines()
    assert re.search(rf"{second} +created +Order +question .* customer-7 +queued, 1 of 1 taken", listed[1])
    assert re.search(rf"{first} +running +Order +question .* customer-7$", listed[2])
    assert re.search(rf"{shop.keys['created']} +created .* not started$", shop.told("watch", "--once"), re.MULTILINE)
    assert "queued, 1 of 1 taken" in shop.run("watch", second, "--once").stdout
    shown = shop.told("show", second)
    assert re.search(
        rf"concurrency key +customer-7, at most 1 at once\nwaits for a place +1 of 1 taken\ntaken by +{first}", shown
    )
    assert shop.json("list", "--concurrency-key", "customer-7")["flows"][0]["waits_for"] == [first]
    assert f"waits to be started\n  mbactor flows start {shop.keys['created']}\n" in shop.told(
        "show", shop.keys["created"]
    )
    assert shop.told("purge", "--concurrency-key", "customer-7", "--yes") == "1 flow purged\n"


def test_show_tells_questions_errors_and_the_state(shop: Shop) -> None:
    asks = shop.told("show", shop.keys["asks"])
    assert 'waits for an answer to {"question":"pay?"}' in asks
    assert f"mbactor flows resume {shop.keys['asks']} --step 1-" in asks
    assert '"amount": 7' in asks
    failed = shop.told("show", shop.keys["failed"])
    assert re.search(r"failed at +bad", failed)
    assert f"what failed runs again by\n  mbactor flows recover {shop.keys['failed']}\n" in failed
    assert "the supplier does not answer" in failed
    assert re.search(r"ended .* ago\), after \d+ms", failed)
    both = shop.json("show", shop.keys["completed"])
    assert both["outcome"]["state"] == {"answer": "yes"}
    assert both["flow"]["steps_done"] == 2
    step = shop.json("history", shop.keys["failed"])[-1]["step_key"]
    assert "Traceback" in shop.told("show", "--step", step)
    assert shop.json("show", "--step", step)["node"] == "bad"
    for neither_or_both in ([], [shop.keys["failed"], "--step", step]):
        refused = shop.run("show", *neither_or_both)
        assert (refused.exit_code, "give the key of a flow, or --step STEP: one of them" in refused.stderr) == (2, True)
    call = shop.json("history", shop.keys["failed"])[1]
    assert f"called Inner; for more, `history {call['subflow']['flow_key']}`\n" in shop.told(
        "show", "--step", call["step_key"]
    )


def test_history_says_how_often_each_step_ran_and_which_runs_were_lost(shop: Shop) -> None:
    async def lose() -> None:
        async with a_world(shop.url, workers=0) as world:
            query = "UPDATE mbactor_step SET lease_number = lease_number + 2, lost_leases = 2 WHERE node = 'bad' RETURNING id"
            await world.sql(query)

    asyncio.run(lose())
    _, start, call, _, bad = shop.told("history", shop.keys["failed"]).splitlines()
    assert re.search(r"start +completed +1 +\d", start)
    assert re.search(r"call +completed +2 +\d", call)
    assert re.search(r"bad +failed +3, 2 lost +\d", bad)
    shown = shop.told("show", "--step", bad.split()[0])
    assert "started 3 times, of which 2 were lost: the process ended or stood still" in shown


def test_history_prints_steps_a_diagram_or_a_page(shop: Shop, tmp_path: Path) -> None:
    lines = shop.told("history", shop.keys["failed"]).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["start", "call", "deep", "bad"]
    assert re.search(r"  deep +completed", lines[3])
    assert "flowchart TD" in shop.told("history", shop.keys["failed"], "--mermaid")
    page = tmp_path / "page.html"
    assert "3 steps of Failing" in shop.told("history", shop.keys["failed"], "--html", str(page))
    assert page.read_text().startswith("<!doctype html>")
    refused = shop.run("history", shop.keys["failed"], "--html", str(tmp_path / "no" / "page.html"))
    assert (refused.exit_code, "cannot be written: No such file" in refused.stderr) == (2, True)
    assert shop.run("history", shop.keys["failed"], "--mermaid", "--json").exit_code == 2


def test_resume_cancel_and_delete_say_what_they_did(shop: Shop) -> None:
    assert shop.told("resume", shop.keys["asks"], "--data", "null") == f"{shop.keys['asks']}: resumed, running\n"
    again = shop.run("resume", shop.keys["asks"])
    assert (again.exit_code, "is running; resume is refused" in again.stderr) == (4, True)
    assert shop.told("cancel", shop.keys["asks"], "--reason", "too late").endswith("cancelled\n")
    assert "too late" in shop.told("show", shop.keys["asks"])
    step = shop.json("history", shop.keys["failed"])[-1]["step_key"]
    refused = shop.run("delete", shop.keys["failed"], "nonsense")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert shop.told("delete", shop.keys["asks"], shop.keys["failed"]).count("deleted") == 2
    shop.told("start", shop.keys["created"])
    refused = shop.run("delete", shop.keys["completed"], shop.keys["created"], shop.keys["asks"])
    assert (refused.exit_code, refused.stdout) == (4, f"{shop.keys['completed']}: deleted\n")
    assert refused.stderr.endswith("; 1 of 3 flows deleted\n")
    # No Foreman runs that removes them.
    for command in (["show"], ["history"], ["fingerprint"], ["watch", "--once"]):
        gone = shop.run(*command, shop.keys["failed"])
        assert (gone.exit_code, "no flow has this key" in gone.stderr) == (4, True), gone.output
    gone = shop.run("show", "--step", step)
    assert (gone.exit_code, "no step has this key" in gone.stderr) == (4, True), gone.output
    assert {flow["status"] for flow in shop.json("list")["flows"]} == {"running"}


def test_what_was_resumed_is_run_by_whoever_runs_flows(shop: Shop) -> None:
    shop.told("resume", shop.keys["asks"], "--data", '{"ok": [1, null]}')

    async def run() -> Any:
        async with a_world(shop.url) as world:
            world.host.tasks |= {"https://shop.example:428/question": ask, "https://shop.example:428/pay": ok}
            return (await world.engine.wait(shop.keys["asks"])).state

    assert asyncio.run(run()) == {"amount": 7, "answer": {"ok": [1, None]}}


def test_what_failed_is_run_again_in_place_or_in_a_fork(shop: Shop) -> None:
    bad = shop.json("history", shop.keys["failed"])[-1]["step_key"]
    forked = shop.told("fork", bad, "--state", '{"amount": 9}').strip()
    assert shop.json("show", forked)["flow"]["status"] == "running"
    assert shop.told("retry", shop.keys["failed"]).endswith("its last failed step runs again, running\n")
    for command in ("recover", "retry", "restart"):
        refused = shop.run(command, forked)
        assert (refused.exit_code, "is running; " in refused.stderr) == (4, True)
    assert shop.told("restart", shop.keys["completed"], "--state", '{"amount": null}').endswith("restarted, running\n")
    step = shop.json("history", shop.keys["asks"])[0]["step_key"]
    assert shop.run("restart-from", step).exit_code == 0
    assert shop.run("resume-break", forked).exit_code == 4
    assert shop.run("fork", bad, "--state", "[1]").exit_code == 2


def test_a_flow_at_a_breakpoint_says_so_and_goes_on(shop: Shop) -> None:
    async def pause() -> None:
        async with a_world(shop.url) as world:
            await world.engine.recovery.break_before(shop.keys["created"], "question")
            await world.engine.start(shop.keys["created"])
            await world.engine.wait(shop.keys["created"])

    asyncio.run(pause())
    told = shop.told("show", shop.keys["created"])
    assert "waits at a breakpoint before question" in told
    assert f"mbactor flows resume-break {shop.keys['created']}" in told
    assert shop.told("resume-break", shop.keys["created"]).endswith("goes on, running\n")


def test_purge_asks_first_and_takes_all_in_batches(shop: Shop) -> None:
    refused = shop.run("purge", "--status", "completed", input="n\n")
    assert (refused.exit_code, len(shop.json("list")["flows"])) == (1, 4)
    assert "Remove 1 flow, with all steps, for good? [y/N]" in refused.stderr
    for options, meant in (
        (["--older-than", "0s"], "Remove 4 flows"),
        (["--older-than", "0s", "--limit", "3"], "Remove the oldest 3 flows"),
    ):
        assert meant in shop.run("purge", *options, input="n\n").stderr
    assert shop.told("purge", "--status", "running") == "0 flows purged\n"
    assert shop.run("purge").exit_code == 2
    assert shop.told("purge", "--older-than", "0s", "--limit", "1", "--yes") == "1 flow purged\n"
    assert shop.told("purge", "--older-than", "0s", "--yes") == "3 flows purged\n"
    assert shop.json("list") == {"flows": [], "next_cursor": "", "notes": []}


def test_watch_ends_when_what_it_was_told_to_watch_has_stopped(shop: Shop) -> None:
    assert shop.run("watch", shop.keys["completed"]).exit_code == 0
    both = shop.run("watch", shop.keys["completed"], shop.keys["failed"])
    assert (both.exit_code, len(re.findall("(?m)^1-", both.stdout))) == (3, 2)
    once = shop.told("watch", "--once")
    assert [line.split()[1] for line in once.splitlines()[1:]] == ["created", "interrupted"]
    assert len(json.loads(shop.told("watch", "--once", "--json"))["flows"]) == 2
    assert shop.run("watch", "--every", "1ms").exit_code == 2
    for narrower in (["--status", "failed"], ["--shard", "1"]):
        refused = shop.run("watch", shop.keys["completed"], *narrower)
        assert (refused.exit_code, "name flows or give filters" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", "1-99-0123456789abcdef"], 4, "no flow has this key"),
        (["show", "nonsense"], 2, "expected shard-id-token"),
        (["show", "9-1-0123456789abcdef"], 4, "no flow has this key"),
        (["list", "--limit", "0"], 2, "limit=0: expected"),
        (["list", "--cursor", "x"], 2, "next_cursor"),
        (["list", "--older-than", "soon"], 2, "--older-than"),
        (["list", "--status", "done"], 2, "--status"),
        (["resume", "1-1-0123456789abcdef", "--data", "yes"], 2, """needs quotes of its own: --data '"yes"'"""),
        (["resume", "1-1-0123456789abcdef", "--data", "{ok: 1}"], 2, "names and texts in it are in double quotes"),
        (["list", "--overlay", "x.yaml"], 2, "--overlay goes with --file"),
        (
            ["list", "--database", "sqlite:///nowhere.db", "-f", "tree.yaml"],
            2,
            "give --database or --file, one of them",
        ),
        (["list", "--database", "sqlite:///nowhere.db"], 2, "database sqlite:///nowhere.db has no flows"),
        (["list", "--database", "mysql://u:hunter2@h/x"], 2, "expected sqlite:///"),
        (["list", "--database", "postgresql://u:hunter2@127.0.0.1:1/x"], 1, "does not answer"),
    ],
)
def test_what_cannot_be_is_said_with_an_exit_code_and_no_secret(
    shop: Shop, arguments: list[str], code: int, told: str
) -> None:
    done = shop.run(*arguments)
    assert done.exit_code == code
    assert told in done.stderr
    assert "hunter2" not in done.output
    assert "Traceback" not in done.output
    assert not Path("nowhere.db").exists()


def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "books.db"
    with closing(sqlite3.connect(file)) as books:
        books.execute("CREATE TABLE book (title)")
    before = file.read_bytes()
    done = CliRunner().invoke(main, ["flows", "list", "--database", f"sqlite:///{file}"])
    assert (done.exit_code, "has no flows: no Foreman has used it" in done.stderr) == (2, True)
    assert file.read_bytes() == before
    file.write_text("no database at all, but text")
    done = CliRunner().invoke(main, ["flows", "list", "--database", f"sqlite:///{file}"])
    assert (done.exit_code, "cannot be used: file is not a database" in done.stderr) == (2, True)


def test_the_database_is_that_of_the_foreman_in_the_file(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(shop.url)
    tree = "version: 1\nname: x\nsupervisor:\n  children:\n    - supervisor: below\n      children:\n        - foreman: {%s}\n"

    def listed(foreman: str) -> Result:
        (tmp_path / "tree.yaml").write_text(tree % foreman)
        return CliRunner().invoke(main, ["flows", "list", "-f", "tree.yaml", "--json"])

    for foreman in (f'database: "{shop.url}"', 'database: "${file:url}"'):
        assert len(json.loads(listed(foreman).stdout)["flows"]) == 4
    assert (
        len(
            json.loads(listed(f'database: "{shop.url}"}}\n        - foreman: {{id: f, database: "{shop.url}"').stdout)[
                "flows"
            ]
        )
        == 4
    )
    whole = tree
    tree = whole.replace("      children:", "      partitions: 1\n      children:")
    assert len(json.loads(listed(f'database: "{shop.url}"').stdout)["flows"]) == 4
    tree = whole
    assert "in memory" in listed("workers: 1").stderr
    (tmp_path / "tree.yaml").write_text("version: 1\nname: x\nsupervisor:\n  children:\n    - gateway: {port: 1}\n")
    none = CliRunner().invoke(main, ["flows", "list", "-f", "tree.yaml"])
    assert (none.exit_code, "has no Foreman" in none.stderr) == (2, True)
    nothing = CliRunner().invoke(main, ["flows", "list"], env={"MBACTOR_DATABASE": None})
    assert (nothing.exit_code, "which database?" in nothing.stderr) == (2, True)


def test_the_foreman_of_a_class_of_supervisors_in_the_file_is_found(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "branch_of_flows.py").write_text(
        "from mbactor import Supervisor, child\nfrom mbactor.foreman import Foreman\n\n\n"
        f"class Branch(Supervisor):\n    children = (child(Foreman, args={{'database': {shop.url!r}}}),)\n"
    )
    (tmp_path / "tree.yaml").write_text(
        "version: 1\nsupervisor: {children: [{supervisor: 'branch_of_flows:Branch'}]}\n"
    )
    found = CliRunner().invoke(main, ["flows", "list", "-f", "tree.yaml", "--json"])
    assert found.exit_code == 0, found.stderr
    assert len(json.loads(found.stdout)["flows"]) == 4


def test_check_graph_tells_which_open_flows_could_not_go_on(shop: Shop, code: Path) -> None:
    assert "2 open flows of https://shop.example:428/order: all could go on" in shop.told(
        "check-graph", "shop_of_flows:Shop.order"
    )
    sys.modules.pop("shop_of_flows")
    code.write_text(SHOP.replace("Shop.question, Shop.pay, END", "Shop.question, END"))
    changed = shop.run("check-graph", "shop_of_flows:Shop.order")
    assert changed.exit_code == 1
    assert (
        f"{shop.keys['asks']} at question\n  - node 'pay' is gone\n  - edge question -> pay is gone\n" in changed.stdout
    )
    assert "2 could not go on" in changed.stdout
    assert "the methods of its nodes have to stay in the code" in changed.stdout
    for_programs = shop.run("check-graph", "shop_of_flows:Shop.order", "--json")
    assert for_programs.exit_code == changed.exit_code == 1
    as_json = json.loads(for_programs.stdout)
    assert {one["flow_key"] for one in as_json} == {shop.keys["asks"], shop.keys["created"]}
    for given, told in (
        ("order", "module:Class.workflow or a URL expected"),
        ("nowhere:Shop.order", "no module 'nowhere'"),
        ("shop_of_flows:Shop.orders", "it has moody, order"),
        ("shop_of_flows:Shop.moody", "without a running actor"),
    ):
        refused = shop.run("check-graph", given)
        assert (refused.exit_code, told in refused.stderr) == (2, True), given


def test_flows_of_a_workflow_are_listed_by_its_code_or_by_its_url(shop: Shop, code: Path) -> None:
    del code
    by_url = shop.json("list", "--workflow", URL)["flows"]
    assert {one["flow_key"] for one in by_url} == {shop.keys[name] for name in ("completed", "asks", "created")}
    assert shop.json("list", "--workflow", "shop_of_flows:Shop.order")["flows"] == by_url
    for given, told in (
        ("order", "'order' given, module:Class.workflow or a URL expected"),
        ("shop_of_flows:Shop.orders", "it has moody, order"),
    ):
        refused = shop.run("purge", "--yes", "--workflow", given)
        assert (refused.exit_code, told in refused.stderr) == (2, True), given


def test_a_workflow_beside_the_file_is_found(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_of_the_file.py").write_text(SHOP)
    (tmp_path / "shop.yaml").write_text(
        f'version: 1\nname: shop\nsupervisor: {{children: [{{foreman: {{database: "{shop.url}"}}}}]}}\n'
    )
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", list(sys.path))
    listed = shop.told("list", "-f", f"{tmp_path}/shop.yaml", "--workflow", "shop_of_the_file:Shop.order")
    sys.modules.pop("shop_of_the_file")
    assert listed.count("Order") == 3


def test_a_postgres_database_is_worked_on_alike(mbactor_postgres_server: PostgresServer) -> None:
    url = mbactor_postgres_server.fresh()
    empty = Shop(url, {}).run("list")
    assert (empty.exit_code, "has no flows: no Foreman has used it" in empty.stderr) == (2, True)
    shop = Shop(url, asyncio.run(fill(url)))
    assert len(shop.json("list")["flows"]) == 4
    assert shop.told("resume", shop.keys["asks"]).endswith("resumed, running\n")
    assert shop.told("purge", "--status", "failed", "--yes") == "1 flow purged\n"


def test_a_reader_that_has_had_enough_ends_a_watch_without_complaint(shop: Shop) -> None:
    line = [sys.executable, "-m", "mbactor", "flows", "watch", "--every", "50ms", "--database", shop.url]
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1', "sh", *line], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith("FLOW")
    assert done.stderr == ""


def test_all_shards_that_the_first_one_knows_of_are_looked_at(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows-%d.db"

    async def make() -> list[str]:
        async with ActorSystem() as system:
            await system.spawn(Foreman, database=url, shards=3)
            await system.spawn(Lone)
            flows = Flows(system)
            options = [FlowOptions(concurrency_key=f"key-{n % 2}") for n in range(12)]
            keys = [(await flows.run(Lone.alone, options=one)).flow_key for one in options]
            while len((await open_roll(url)).split()) < 3:
                await asyncio.sleep(0.01)
            return keys

    keys = asyncio.run(make())
    shop = Shop(url, {})
    assert [flow["flow_key"] for flow in shop.json("list")["flows"]] == keys[::-1]
    assert {flow["flow_key"][0] for flow in shop.json("list", "--shard", "2")["flows"]} <= {"2"}
    assert [flow["flow_key"] for flow in shop.json("list", "--concurrency-key", "key-1")["flows"]] == keys[::-2]
    assert shop.told("show", keys[0]).startswith("Alone  completed")
    assert all(0 < one["latency_ms"] < 60_000 for one in shop.json("shards"))
    assert [(one["shard"], one.get("flows", 0)) for one in shop.json("shards")] == [(1, 0), (2, 0), (3, 0)]
    assert [line.split()[1] for line in shop.told("shards").splitlines()[1:]] == ["active"] * 3
    assert shop.told("purge", "--status", "completed", "--limit", "5", "--yes") == "5 flows purged\n"
    assert len(shop.json("list")["flows"]) == 7


async def open_roll(url: str) -> str:
    store = await open_store(url_of_shard(url, 1))
    try:
        return " ".join(map(str, await store.roll()))
    finally:
        await store.close()


class Lone(Actor):
    host = "lone.example"

    @task
    async def step(self) -> None: ...

    @workflow
    def alone(self) -> Graph:
        graph = Graph("Alone")
        graph.add_transition(Lone.step, END)
        return graph
