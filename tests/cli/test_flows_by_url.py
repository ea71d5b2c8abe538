"""`mbactor flows start URL` and the like: a workflow of a running system, whose code is not at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mbactor.cli.flows.database import IMPORTS
from mbactor.cli.main import main
from tests.nats import nats_server
from tests.process import Served, command, serving

CODE = """
from mbactor import Actor, endpoint
from mbactor.foreman import END, Graph, task, workflow


class Shop(Actor):
    host = "shop.example"

    @task
    async def pay(self, amount: int) -> dict:
        return {"paid": amount}

    @endpoint
    async def calls(self) -> int:
        return 1

    @workflow
    def order(self) -> Graph:
        graph = Graph("Order")
        graph.add_transition(Shop.pay, END)
        return graph

    @workflow
    def broken(self) -> Graph:
        return Graph("Broken")
"""
TREE = """
version: 1
name: shop
transport: {transport}
supervisor:
  children:
    - foreman: {{database: "sqlite:///{folder}/flows.db"}}
    - actor: shop_by_url:Shop
"""
ORDER = "https://shop.example:428/order"


class Shop:
    """A topology file and its folder; the commands are run elsewhere."""

    def __init__(self, folder: Path, transport: str = "local") -> None:
        (folder / "sockets").mkdir(mode=0o700)
        self.folder, self.file = folder, folder / "shop.yaml"
        self.database = f"sqlite:///{folder}/flows.db"
        self.variables = {"XDG_RUNTIME_DIR": str(folder / "sockets"), "TMPDIR": str(folder)}
        (folder / "shop_by_url.py").write_text(CODE)
        self.file.write_text(TREE.format(folder=folder, transport=transport))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["flows", *arguments], env=self.variables)

    def refused(self, *arguments: str) -> tuple[int, str]:
        done = self.run(*arguments)
        return done.exit_code, done.stderr.strip()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def served(shop: Shop) -> Iterator[Served]:
    with serving(shop.file, shop.folder, **shop.variables) as served:
        served.until("Ctrl-C stops it")
        yield served


@pytest.mark.usefixtures("served")
def test_a_workflow_is_started_by_its_url_in_the_system_that_runs(shop: Shop) -> None:
    state = ("--state", '{"amount": 7}', "--wait")
    for where in (("-f", str(shop.file)), ("--database", shop.database)):
        done = shop.run("start", ORDER, *where, *state)
        assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "Order  completed"), done.output
    (first, _) = json.loads(shop.run("list", "--database", shop.database, "--json").stdout)["flows"]
    assert first["workflow"] == ORDER
    checked = shop.run("check-graph", ORDER, "-f", str(shop.file))
    assert checked.stdout == f"0 open flows of {ORDER}: all could go on under the graph of {ORDER}\n"
    made = shop.run("schedule", "yearly", ORDER, "0 0 1 1 *", "-f", str(shop.file))
    assert re.fullmatch(r"yearly: scheduled, next at \d+-01-01 00:00:00 UTC\n", made.output)


@pytest.mark.usefixtures("served")
def test_where_several_trees_run_the_one_that_is_meant_has_to_be_said(shop: Shop) -> None:
    other = shop.folder / "other.yaml"
    other.write_text("version: 1\nname: other\nsupervisor: {children: [{actor: 'shop_by_url:Shop'}]}\n")
    with serving(other, shop.folder, **shop.variables) as beside:
        beside.until("Ctrl-C stops it")
        unsaid = shop.refused("start", ORDER, "--database", shop.database, "--no-start")
        assert unsaid == (1, "error: several trees are running: other, shop; choose one by -f FILE")
        assert shop.run("start", ORDER, "-f", str(shop.file), "--no-start").exit_code == 0


@pytest.mark.usefixtures("served")
def test_what_is_no_workflow_is_told_and_no_flow_created(shop: Shop) -> None:
    for url, code, told in (
        ("https://shop.example:428/orders", 4, "error: nobody serves https://shop.example:428/orders"),
        ("https://shop.example/calls", 2, "is at port 443, and workflows are at 428: https://shop.example:428/calls"),
        ("https://shop.example:428/pay", 2, "https://shop.example:428/pay does not tell its graph: "),
        ("https://shop.example:428/broken", 2, "graph 'Broken' is invalid"),
        ("https://shop.example:x/order", 2, "has no valid port"),
        ("https:///order", 2, "has no valid host"),
    ):
        for words in (("start", url), ("schedule", "yearly", url, "0 0 1 1 *"), ("check-graph", url)):
            found, why = shop.refused(*words, "-f", str(shop.file))
            assert (found, told in why, "Traceback" in why) == (code, True, False), why
    assert shop.run("list", "-f", str(shop.file)).stderr == "no flows\n"
    assert shop.run("schedules", "-f", str(shop.file)).stderr == "no schedules\n"


REDUCES = """
from mbactor import Actor
from mbactor.foreman import END, Graph, reducer, task, workflow


@reducer("longest of all")
def longest(base: str | None, incoming: str) -> str:
    return max(base or "", incoming, key=len)


class Shop(Actor):
    host = "shop.example"

    @task
    async def name(self) -> dict[str, str]:
        return {"title": "Count"}

    @workflow
    def order(self) -> Graph:
        graph = Graph("Order")
        graph.add_transition(Shop.name, END)
        graph.set_reducer("title", "longest of all")
        return graph
"""


def test_where_a_reducer_is_unknown_here_it_is_said_that_a_file_brings_it(shop: Shop) -> None:
    (shop.folder / "shop_by_url.py").write_text(REDUCES)

    def flows(*arguments: str) -> tuple[int, str]:  # a process of its own, in which nothing is imported
        done = command("flows", *arguments, cwd=shop.folder, **shop.variables)
        return done.returncode, done.stdout.strip() or done.stderr

    by_url, by_file = ("--database", shop.database), ("-f", str(shop.file))
    with serving(shop.file, shop.folder, **shop.variables) as served:
        served.until("Ctrl-C stops it")
        code, why = flows("start", ORDER, *by_url)
        assert (code, why.endswith(f"; {IMPORTS}\n")) == (2, True), why
        code, told = flows("start", ORDER, *by_file, "--wait")
        assert code == 0, told
        key, more = told.split()[0], ("--state", '{"title": "Countess"}')
        code, why = flows("continue", key, *by_url, *more)
        assert (code, why.endswith(f"; {IMPORTS}\n")) == (2, True), why
        code, told = flows("continue", key, *by_file, *more)
        assert code == 0, told


def test_where_nothing_runs_it_is_said_and_a_schedule_is_made_all_the_same(shop: Shop) -> None:
    with serving(shop.file, shop.folder, **shop.variables) as served:
        served.until("Ctrl-C stops it")
    code, why = shop.refused("start", ORDER, "-f", str(shop.file))
    start = (
        f"error: {ORDER} cannot be asked for its graph: {shop.file} is not running; `mbactor run {shop.file}` starts it"
    )
    assert (code, why) == (1, f"{start}, or name the workflow by its code: MODULE:CLASS.WORKFLOW")
    code, why = shop.refused("start", ORDER, "--database", shop.database)
    assert (code, ": nothing is running; `mbactor run FILE` starts it" in why) == (1, True), why
    done = shop.run("schedule", "yearly", ORDER, "0 0 1 1 *", "-f", str(shop.file))
    assert (done.exit_code, "warning: whether the workflow is there is not known" in done.stderr) == (0, True)


def test_a_system_on_other_machines_is_asked_by_its_server(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        shop = Shop(tmp_path, server.url)
        with serving(shop.file, shop.folder, **shop.variables | {"TMPDIR": "/nowhere", "XDG_RUNTIME_DIR": ""}) as there:
            there.until("Ctrl-C stops it")
            done = shop.run("start", ORDER, "-f", str(shop.file), "--state", '{"amount": 7}', "--wait")
            assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "Order  completed"), done.output
            code, why = shop.refused("start", f"{ORDER}s", "-f", str(shop.file))
            assert (code, f"nobody serves {ORDER}s" in why) == (4, True), why
        code, why = shop.refused("start", ORDER, "-f", str(shop.file))
        assert (code, f"nobody serves {ORDER}" in why) == (4, True), why
