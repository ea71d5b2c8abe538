"""`mbactor run` of a tree over several processes: one log, one exit code, and no process is left."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import PATIENCE, ROOT, Served, alive, command, pause, serving

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "credit_approval"
ACTORS = """
import os
from mbactor import Actor, endpoint


class Till(Actor):
    host = "till.example"

    @endpoint
    async def pid(self) -> int:
        self.log.info("asked", by="a test")
        print("asked")
        return os.getpid()
"""
TREE = """
version: 1
name: shop
supervisor:
  max_restarts: {max_restarts}
  children:
    - actor: shop:Till
      process: true
    - gateway: {{port: 0}}
"""
NESTED = """
version: 1
name: shop
supervisor:
  children:
    - supervisor: back
      process: true
      children:
        - actor: shop:Till
          replicas: 2
    - gateway: {port: 0}
"""
REDUCING = """
from mbactor import Actor, endpoint
from mbactor.foreman import END, Flows, Graph, reducer, task, workflow


@reducer("longest of a node")
def longest(base: str | None, incoming: str) -> str:
    return max(base or "", incoming, key=len)


class Till(Actor):
    host = "till.example"

    @task
    async def begin(self) -> None: ...

    @task
    async def name(self, item: str) -> dict[str, str]:
        return {"title": item}

    @task
    async def end(self) -> None: ...

    @workflow
    def naming(self) -> Graph:
        graph = Graph("Naming")
        graph.add_transition_for_each(Till.begin, Till.name, for_each="items")
        graph.add_transition(Till.name, Till.end)
        graph.set_fan_in(Till.end)
        graph.set_reducer("title", "longest of a node")
        graph.add_transition(Till.end, END)
        return graph

    @endpoint
    async def longest(self, items: list[str]) -> dict[str, str]:
        outcome = await Flows(self).run(Till.naming, {"items": items})
        return {"title": outcome.state["title"]}
"""
FOREMAN = """
version: 1
name: shop
supervisor:
  children:
    - actor: shop:Till
    - supervisor: back
      process: true
      children:
        - foreman: {database: "sqlite:///flows.db"}
          process: NESTED
    - gateway: {port: 0}
"""


@pytest.mark.parametrize("nested", ["false", "true"])
def test_a_foreman_in_a_process_of_its_own_knows_the_reducers_of_the_file(tmp_path: Path, nested: str) -> None:
    (tmp_path / "shop.py").write_text(REDUCING)
    (tmp_path / "shop.yaml").write_text(FOREMAN.replace("NESTED", nested))
    with serving(tmp_path / "shop.yaml", tmp_path) as served:
        assert post(f"{served.url}/till.example/longest", items=["a", "ccc", "bb"]) == {"title": "ccc"}


def post(url: str, **arguments: Any) -> dict[str, Any]:
    """The answer, as soon as there is one: what is restarted just now is asked again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = httpx.post(url, json=arguments, timeout=PATIENCE)
        if answer.status_code == 200:
            found: dict[str, Any] = answer.json()
            return found
        assert answer.status_code in {500, 503}, answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


def nodes(served: Served) -> dict[str, int]:
    """The processes of the tree that was printed when it was up."""
    found = {}
    for line in served.lines:
        words = line.replace("├── ", "").replace("└── ", "").replace("│", "").split()
        if "process" in words:
            found[words[0]] = int(words[words.index("process") + 1])
    return found


def test_a_workflow_goes_on_through_the_death_of_every_process_it_runs_in(tmp_path: Path) -> None:
    overlay = str(EXAMPLE / "nodes.yaml")
    with serving(EXAMPLE / "topology.yaml", tmp_path, "-o", overlay, FLOWS_DB="sqlite:///flows.db") as served:
        url = served.url
        pids = nodes(served)
        assert list(pids) == ["foreman", "credit-1", "credit-2"]
        parked = post(f"{url}/credit.example/apply", name="Ada", credit_score=700, amount=500_000)
        assert parked["status"] == "interrupted"
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
            done = post(f"{url}/credit.example/apply", name="Ada", credit_score=700, amount=5_000)
            assert (done["status"], done["state"]["approved"]) == ("completed", True)
        done = post(f"{url}/credit.example/answer", flow_key=parked["flow_key"], approved=True)
        assert (done["status"], done["state"]["decided_by"]) == ("completed", "a human")
        served.signal(signal.SIGINT)
        assert served.end() == 0
    restarted = [json.loads(line) for line in served.errors if "supervisor.restarting" in line]
    assert [line["child"] for line in restarted] == list(pids)
    assert all("was killed by SIGKILL" in line["reason"] for line in restarted)
    assert not [pid for pid in pids.values() if alive(pid)]


@pytest.mark.parametrize("named", [{}, {"OTEL_SERVICE_NAME": "counter"}])
def test_the_spans_of_every_process_are_those_of_one_service(tmp_path: Path, named: dict[str, str]) -> None:
    (tmp_path / "shop.py").write_text(ACTORS)
    (tmp_path / "shop.yaml").write_text(TREE.format(max_restarts=3))
    with serving(tmp_path / "shop.yaml", tmp_path, OTEL_TRACES_EXPORTER="console", **named) as served:
        assert httpx.get(f"{served.url}/till.example/pid", timeout=PATIENCE).status_code == 200
        served.signal(signal.SIGINT)
        assert served.end() == 0
    service = named.get("OTEL_SERVICE_NAME", "shop")
    names = [line.partition('"service.name": ') for line in served.lines if '"service.name": ' in line]
    assert {name for _, _, name in names} == {f'"{service}"'}
    assert {before.strip() for before, _, _ in names} == {"till |", ""}


def test_what_runs_in_other_processes_is_shown_and_reached_by_name(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(ACTORS)
    (tmp_path / "shop.yaml").write_text(NESTED)
    places = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}  # those of other runs are not looked at
    with serving(tmp_path / "shop.yaml", tmp_path, **places) as served:
        url = served.url
        pid = httpx.get(f"{url}/till.example/pid", timeout=PATIENCE).json()
        shown = command("tree", "shop.yaml", "--live", "--once", cwd=tmp_path, COLUMNS="110", **places)
        lines = {line.split("─ ")[1].split()[0]: line for line in shown.stdout.splitlines() if "─ " in line}
        assert list(lines) == ["back", "till-1", "till-2", "gateway"]
        assert str(pid) in lines["back"]
        assert "running" in lines["till-2"]
        told = command("stop", "till-2", cwd=tmp_path, **places).stdout
        assert told.startswith("shop/back/till-2: stopped; it stays so until")
        shown = command("tree", "shop.yaml", "--live", "--once", cwd=tmp_path, COLUMNS="110", **places)
        assert "held" in next(line for line in shown.stdout.splitlines() if "till-2" in line)
        again = command("restart", "back", cwd=tmp_path, **places)
        assert again.returncode == 0, again.stderr
        assert httpx.get(f"{url}/till.example/pid", timeout=PATIENCE).json() != pid
        pause(pid := httpx.get(f"{url}/till.example/pid", timeout=PATIENCE).json())
        shown = command("tree", "shop.yaml", "--live", "--once", cwd=tmp_path, COLUMNS="110", **places)
        assert f"back: its process {pid} has not answered for" in shown.stdout
        served.signal(signal.SIGINT)
        os.kill(pid, signal.SIGCONT)
        assert served.end() == 0


def test_a_node_that_dies_too_often_is_the_end_of_the_whole_and_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(ACTORS)
    (tmp_path / "shop.yaml").write_text(TREE.format(max_restarts=0))
    with serving(tmp_path / "shop.yaml", tmp_path) as served:
        pid = httpx.get(f"{served.url}/till.example/pid", timeout=PATIENCE).json()
        assert nodes(served) == {"till": pid}
        served.until_error('"asked"')  # what a process has not handed over yet dies with it
        os.kill(pid, signal.SIGKILL)
        assert served.end() == 1
    assert "till | asked" in served.lines
    assert [json.loads(line)["node"] for line in served.errors if '"asked"' in line] == ["shop/till"]
    assert f"the process {pid} was killed by SIGKILL" in served.errors[-1]


def test_a_process_that_does_not_start_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        ACTORS + "\n    async def on_start(self) -> None:\n        raise ValueError('no money in it')\n"
    )
    (tmp_path / "shop.yaml").write_text(TREE.format(max_restarts=3))
    done = command("run", "shop.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: child 'till' failed to start: ValueError: no money in it"
