"""`mbactor run`, `check` and `tree` as a person meets them: real processes, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.process import PATIENCE, ROOT, command, serving

EXAMPLE = ROOT / "examples" / "credit_approval" / "topology.yaml"

ACTORS = '''
import asyncio, os, time
from mbactor import Actor, MbactorError, endpoint


class Loud(Actor):
    """Tells a file of its life."""

    host = "loud.example"

    def __init__(self, name: str = "loud", slow: float = 0.0) -> None:
        self.name = name
        self.slow = slow

    async def on_start(self) -> None:
        self._tell("start")

    async def on_stop(self, exit) -> None:
        await asyncio.sleep(self.slow)
        self._tell("stop")

    def _tell(self, what: str) -> None:
        with open("life.txt", "a") as life:
            life.write(f"{what} {self.name}\\n")

    @endpoint
    async def echo(self, value: int) -> int:
        return value

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("a bad message")

    @endpoint
    async def leave(self) -> None:
        raise SystemExit(3)

    @endpoint
    async def stay(self) -> None:
        print("stays", flush=True)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass


class Crasher(Loud):
    host = "crasher.example"

    @endpoint
    async def crash_by_tell(self, times: int) -> None:
        for _ in range(times):
            self.tell(Crasher.crash)


class Broken(Actor):
    async def on_start(self) -> None:
        raise RuntimeError("no database")


class Blocking(Actor):
    """Stands in the way of the loop."""

    async def on_start(self) -> None:
        print("blocks", flush=True)
        while True:
            time.sleep(0.01)


class Fragile(Actor):
    """Starts once, and never again."""

    async def on_start(self) -> None:
        if os.path.exists("started"):
            raise RuntimeError("cannot start again")
        open("started", "w").close()
        self.spawn_task(self._end())

    async def _end(self) -> None:
        raise RuntimeError("first crash")
'''


def write(folder: Path, text: str) -> Path:
    (folder / "loud.py").write_text(ACTORS)
    topology = folder / "topology.yaml"
    topology.write_text(text)
    return topology


TREE = """
version: 1
name: loud
supervisor:
  children:
    - actor: loud:Loud
      id: first
      args: {name: first}
    - actor: loud:Loud
      id: second
      args: {name: second}
    - gateway: {port: "${PORT}"}
"""

ONE = "version: 1\nname: loud\nsupervisor: {{children: [{{actor: 'loud:{}'}}]}}\n"


def life(folder: Path) -> list[str]:
    return (folder / "life.txt").read_text().splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_tree_in_reverse_order_with_exit_code_0(tmp_path: Path, number: int) -> None:
    with serving(write(tmp_path, TREE), tmp_path) as served:
        assert httpx.post(f"{served.url}/loud.example/echo", json={"value": 3}, timeout=PATIENCE).json() == 3
        served.signal(number)
        assert served.end() == 0, served.told()
        drawn = "\n".join(served.lines)
        assert "loud  supervisor" in drawn
        assert "├── first" in drawn
        assert "└── gateway" in drawn
    assert life(tmp_path) == ["start first", "start second", "stop second", "stop first"]


def test_the_example_takes_an_application_over_http(tmp_path: Path) -> None:
    with serving(EXAMPLE, tmp_path) as served:
        url = f"{served.url}/credit.example"
        applied = httpx.post(
            f"{url}/apply", content='{"name": "Ada", "credit_score": 700, "amount": 5000}', timeout=PATIENCE
        )
        assert applied.status_code == 200
        assert applied.json()["status"] == "completed"
        assert applied.json()["state"]["sumScore"] == 3
        waiting = httpx.post(
            f"{url}/apply", json={"name": "Ada", "credit_score": 700, "amount": 500000}, timeout=PATIENCE
        ).json()
        assert waiting["status"] == "interrupted"
        key = waiting["flow_key"]
        assert httpx.get(f"{url}/status", params={"flow_key": key}, timeout=PATIENCE).json()["status"] == "interrupted"
        answered = httpx.post(f"{url}/answer", json={"flow_key": key, "approved": True}, timeout=PATIENCE).json()
        assert answered["state"]["approved"] is True
        bad = httpx.post(f"{url}/apply", json={"name": "Ada", "credit_score": "good", "amount": 1}, timeout=PATIENCE)
        assert bad.status_code == 400
        assert "$.credit_score" in bad.json()["error"]
        served.signal(signal.SIGINT)
        assert served.end() == 0, served.told()


def test_an_interrupted_flow_waits_through_a_restart_of_the_process(tmp_path: Path) -> None:
    with serving(EXAMPLE, tmp_path) as served:
        applied = {"name": "Ada", "credit_score": 700, "amount": 500000}
        key = httpx.post(f"{served.url}/credit.example/apply", json=applied, timeout=PATIENCE).json()["flow_key"]
        served.signal(signal.SIGKILL)
        served.end()
    with serving(EXAMPLE, tmp_path) as served:
        answer = {"flow_key": key, "approved": False}
        outcome = httpx.post(f"{served.url}/credit.example/answer", json=answer, timeout=PATIENCE).json()
        assert outcome["status"] == "completed"
        assert outcome["state"]["approved"] is False


def test_tells_that_crash_an_actor_four_times_bring_the_tree_down_in_reverse_order(tmp_path: Path) -> None:
    crasher = "    - actor: loud:Crasher\n      args: {name: crasher}\n    - gateway"
    with serving(write(tmp_path, TREE.replace("    - gateway", crasher)), tmp_path) as served:
        httpx.post(f"{served.url}/crasher.example/crash-by-tell", json={"times": 4}, timeout=PATIENCE)
        assert served.end() == 1, served.told()
        assert "gave up" in served.errors[-1]
    assert life(tmp_path).count("start crasher") == 4
    assert life(tmp_path)[-3:] == ["stop crasher", "stop second", "stop first"]


async def _bad_requests(port: int, count: int, connections: int) -> list[int]:
    """Raw HTTP over kept-alive connections: the statuses of `count` requests that the actor's signature refuses."""
    body = b'{"value": "x"}'
    request = b"POST /loud.example/echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def one(times: int) -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        statuses = []
        for _ in range(times):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            statuses.append(int(head.split()[1]))
        writer.close()
        return statuses

    done = await asyncio.gather(*(one(count // connections) for _ in range(connections)))
    return [status for statuses in done for status in statuses]


def test_bad_requests_do_not_bring_the_tree_down(tmp_path: Path) -> None:
    with serving(write(tmp_path, TREE), tmp_path) as served:
        url = served.url
        with httpx.Client(timeout=PATIENCE) as client:
            for _ in range(8):
                crashed = client.post(f"{url}/loud.example/crash")
                assert crashed.status_code == 500
                assert "a bad message" in crashed.json()["error"]
            statuses = asyncio.run(_bad_requests(int(url.rpartition(":")[2]), 10_000, 20))
            assert set(statuses) == {400}
            assert len(statuses) == 10_000
            assert client.post(f"{url}/loud.example/echo", json={"value": 1}).json() == 1
        served.signal(signal.SIGTERM)
        assert served.end() == 0, served.told()


def test_a_signal_stops_it_though_nobody_reads_what_it_tells_any_more(tmp_path: Path) -> None:
    file = write(tmp_path, ONE.format("Loud"))
    started = subprocess.Popen(
        [sys.executable, "-m", "mbactor", "run", str(file)], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
    )  # fmt: skip
    with started as process:
        assert process.stdout is not None
        try:
            while "Ctrl-C stops it" not in process.stdout.readline():
                assert process.poll() is None
            process.stdout.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert life(tmp_path) == ["start loud", "stop loud"]


def test_it_serves_though_what_it_prints_has_no_place(tmp_path: Path) -> None:
    file = write(tmp_path, ONE.format("Loud"))
    with open("/dev/full", "w") as full:  # noqa: PTH123
        started = subprocess.Popen(
            [sys.executable, "-m", "mbactor", "run", str(file)], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        )  # fmt: skip
    with started as process:
        assert process.stderr is not None
        try:
            while "system.serving" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            told = process.stderr.read()
            assert (process.wait(PATIENCE), "Traceback" in told) == (0, False), told
        finally:
            process.kill()
    assert life(tmp_path) == ["start loud", "stop loud"]


def test_a_second_signal_ends_it_though_something_blocks_the_loop(tmp_path: Path) -> None:
    file = write(tmp_path, ONE.format("Blocking"))
    with serving(file, tmp_path) as served:
        served.until("blocks")
        served.signal(signal.SIGINT)
        served.until_error("the same again ends it at once")
        while served.process.poll() is None:  # the same signal twice within half a second is one
            served.signal(signal.SIGINT)
            time.sleep(0.05)
        assert served.end() == 128 + signal.SIGINT
    assert any("stopped by a second signal" in line for line in served.errors)


def test_who_takes_long_to_start_is_named_and_a_signal_breaks_it_off(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio\nfrom mbactor import Actor\n\n\nclass Slow(Actor):\n"
        "    async def on_start(self) -> None:\n        await asyncio.sleep(3600)\n\n\n"
        "class Quick(Actor): ...\n"
    )
    (tmp_path / "slow.yaml").write_text(
        "version: 1\nname: shop\nsupervisor:\n  children:\n    - supervisor: back\n      children:\n"
        "        - actor: slow:Quick\n        - actor: slow:Slow\n"
    )
    with serving(tmp_path / "slow.yaml", tmp_path) as served:
        served.until_error(r"^starting since 3s: shop/back/slow$")
        served.signal(signal.SIGINT)
        assert served.end() == 0


def test_a_child_that_does_not_start_is_named_and_nothing_stays_behind(tmp_path: Path) -> None:
    topology = write(tmp_path, TREE.replace("    - gateway", "    - actor: loud:Broken\n    - gateway"))
    done = command("run", str(topology), cwd=tmp_path, PORT="0")
    assert done.returncode == 1
    assert "broken" in done.stderr
    assert "no database" in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr.split("error:")[-1]
    assert life(tmp_path) == ["start first", "start second", "stop second", "stop first"]


def test_a_child_that_cannot_be_started_again_brings_the_tree_down(tmp_path: Path) -> None:
    topology = write(tmp_path, TREE.replace("    - gateway", "    - actor: loud:Fragile\n    - gateway"))
    done = command("run", str(topology), cwd=tmp_path, PORT="0")
    assert done.returncode == 1
    assert life(tmp_path)[-2:] == ["stop second", "stop first"]


def test_a_busy_port_is_a_failed_start_that_says_so(tmp_path: Path) -> None:
    with serving(write(tmp_path, TREE), tmp_path) as served:
        port = served.url.rpartition(":")[2]
        done = command("run", str(tmp_path / "topology.yaml"), cwd=tmp_path, PORT=port)
        assert done.returncode == 1
        assert "in use" in done.stderr


MISTAKEN = """version: 1
name: shop
supervisor:
  stratgy: one_for_all
  children:
    - actor: loud:Missing
    - actor: loud:Loud
      id: twice
    - actor: loud:Loud
      id: twice
"""


@pytest.mark.parametrize("verb", ["check", "run", "tree"])
def test_every_mistake_of_a_file_is_reported_with_its_place(tmp_path: Path, verb: str) -> None:
    topology = write(tmp_path, MISTAKEN)
    done = command(verb, str(topology), cwd=tmp_path)
    assert done.returncode == 2
    assert "topology.yaml:4:3:" in done.stderr
    assert "strategy" in done.stderr
    assert "topology.yaml:6:" in done.stderr
    assert "Missing" in done.stderr
    assert "topology.yaml:10:" in done.stderr
    assert "twice" in done.stderr
    assert "3 mistakes" in done.stderr
    assert not (tmp_path / "life.txt").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = command("check", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_right_file_passes_the_check(tmp_path: Path) -> None:
    done = command("check", str(write(tmp_path, TREE)), cwd=tmp_path, PORT="0")
    assert done.returncode == 0, done.stderr
    assert "ok, loud: 3 actors" in done.stdout


def test_a_tree_is_drawn_as_text_mermaid_dot_and_json(tmp_path: Path) -> None:
    topology = str(write(tmp_path, TREE))
    text = command("tree", topology, cwd=tmp_path, PORT="0").stdout
    assert "├── first" in text
    mermaid = command("tree", topology, "--format", "mermaid", cwd=tmp_path, PORT="0").stdout
    assert mermaid.startswith(("graph", "flowchart"))
    dot = command("tree", topology, "--format", "dot", cwd=tmp_path, PORT="0").stdout
    assert dot.startswith("digraph tree {")
    drawn = json.loads(command("tree", topology, "--format", "json", cwd=tmp_path, PORT="0").stdout)
    assert [child["id"] for child in drawn["children"]] == ["first", "second", "gateway"]


def test_the_schema_is_json(tmp_path: Path) -> None:
    assert json.loads(command("schema", cwd=tmp_path).stdout)["type"] == "object"
    overlay = json.loads(command("schema", "--overlay", cwd=tmp_path).stdout)
    assert overlay["required"] == []


OVERLAY = """
supervisor:
  strategy: one_for_all
  children:
    - {id: first, restart: transient}
    - {id: second, remove: true}
"""


def test_an_overlay_is_worked_in_by_check_tree_and_render(tmp_path: Path) -> None:
    topology = str(write(tmp_path, TREE))
    (tmp_path / "prod.yaml").write_text(OVERLAY)
    given = (topology, "-o", "prod.yaml")
    assert "ok, loud: 2 actors" in command("check", *given, cwd=tmp_path, PORT="0").stdout
    text = command("tree", *given, cwd=tmp_path, PORT="0").stdout
    assert "├── first  actor  transient" in text
    assert command("render", *given, "--format", "text", cwd=tmp_path, PORT="0").stdout == text
    (tmp_path / "prod.yaml").write_text(OVERLAY.replace("second", "secnd"))
    done = command("check", *given, cwd=tmp_path, PORT="0")
    assert done.returncode == 2
    assert "prod.yaml:6:12: supervisor.children[1].id: there is no child 'secnd' to remove here" in done.stderr


def test_a_rendered_file_stands_alone(tmp_path: Path) -> None:
    topology = str(write(tmp_path, TREE))
    (tmp_path / "prod.yaml").write_text(OVERLAY)
    rendered = command("render", topology, "-o", "prod.yaml", cwd=tmp_path, PORT="0").stdout
    assert "restart: transient  # prod.yaml:5" in rendered
    (tmp_path / "rendered.yaml").write_text(rendered)
    tree = command("tree", "rendered.yaml", "--format", "json", cwd=tmp_path).stdout
    assert tree == command("tree", topology, "-o", "prod.yaml", "--format", "json", cwd=tmp_path, PORT="0").stdout
    document = json.loads(command("render", "rendered.yaml", "--format", "json", cwd=tmp_path).stdout)
    assert [child["id"] for child in document["supervisor"]["children"]] == ["first", "gateway"]


def test_what_is_hardly_meant_is_a_warning_of_check_and_a_mistake_when_it_is_strict(tmp_path: Path) -> None:
    topology = str(write(tmp_path, TREE))
    (tmp_path / "prod.yaml").write_text(
        "supervisor: {strategy: one_for_all, children: [{id: second, shutdown: 10s}]}\n"
    )
    given = (topology, "-o", "prod.yaml")
    done = command("check", *given, cwd=tmp_path, PORT="0")
    assert done.returncode == 0
    assert f"warning: {topology}:5:3: supervisor: 3 restarts of 'first' may take 30s" in done.stderr
    done = command("check", *given, "--strict", cwd=tmp_path, PORT="0")
    assert done.returncode == 2
    assert "1 warning, refused by --strict" in done.stderr
    assert command("check", topology, "--strict", cwd=tmp_path, PORT="0").returncode == 0


def test_a_run_logs_once_what_is_hardly_meant(tmp_path: Path) -> None:
    tree = TREE.replace("name: loud\nsupervisor:\n", "name: loud\nsupervisor:\n  strategy: one_for_all\n")
    tree = tree.replace("id: second\n", "id: second\n      shutdown: 10s\n")
    with serving(write(tmp_path, tree), tmp_path) as served:
        assert served.url
        served.signal(signal.SIGTERM)
        assert served.end() == 0, served.told()
        lines = [line for line in served.errors if "topology.doubtful" in line]
        assert len(lines) == 1
        assert "3 restarts of " in lines[0]


def test_overlays_are_for_what_a_file_declares(tmp_path: Path) -> None:
    done = command("tree", str(write(tmp_path, TREE)), "--live", "-o", "prod.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be given with --live" in done.stderr


@pytest.mark.parametrize("verb", [(), ("run",), ("check",), ("tree",), ("render",), ("schema",)])
def test_help_helps(tmp_path: Path, verb: tuple[str, ...]) -> None:
    done = command(*verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_a_method_that_exits_ends_the_process_and_nothing_keeps_it_alive(tmp_path: Path) -> None:
    tree = TREE.replace("    - gateway", "    - foreman: {database: 'sqlite:///flows.db'}\n    - gateway")
    with serving(write(tmp_path, tree), tmp_path) as served:
        answer = httpx.post(f"{served.url}/loud.example/leave", timeout=PATIENCE)
        assert answer.status_code == 500
        assert served.end() == 3, served.told()


def _ask_in_vain(url: str) -> None:
    with suppress(httpx.HTTPError):
        httpx.post(url, timeout=PATIENCE)


def test_a_method_that_swallows_its_cancellation_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    tree = TREE.replace("      args: {name: second}\n", "      args: {name: second}\n      shutdown: 100ms\n")
    tree = tree.replace("      args: {name: first}\n", "      args: {name: first}\n      shutdown: 100ms\n")
    with serving(write(tmp_path, tree), tmp_path) as served:
        url = served.url
        asking = threading.Thread(target=_ask_in_vain, args=(f"{url}/loud.example/stay",))
        asking.start()
        served.until("stays")
        served.signal(signal.SIGTERM)
        assert served.end() == 0, served.told()
        asking.join()
        assert "actor.abandoned" in "\n".join(served.errors)


def test_check_judges_the_graphs_of_workflows_and_passes_over_those_that_need_an_actor(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from mbactor import Actor\n"
        "from mbactor.foreman import END, Graph, task, workflow\n\n\n"
        "class Shop(Actor):\n    host = 'shop.example'\n\n"
        "    @task\n    async def pay(self) -> None: ...\n\n"
        "    @task\n    async def ship(self) -> None: ...\n\n"
        "    @workflow\n    def sell(self) -> Graph:\n"
        "        graph = Graph('Sell')\n"
        "        graph.add_transition_when(Shop.pay, Shop.ship, 'paid')\n"
        "        graph.add_transition_when(Shop.pay, END, '!paid')\n"
        "        return graph\n\n"
        "    @workflow\n    def lend(self) -> Graph:\n"
        "        graph = Graph('Lend')\n"
        "        graph.add_transition_when(Shop.pay, END, 'paid &&')\n"
        "        return graph\n\n"
        "    @workflow\n    def give(self) -> Graph:\n"
        "        graph = Graph('Give')\n"
        "        graph.add_transition(Shop.ship, END)\n"
        "        graph.set_reducer('total', max)\n"
        "        return graph\n\n"
        "    @workflow\n    def forgets(self) -> Graph:\n"
        "        Graph('Forgets')\n\n"
        "    @workflow\n    def depends(self) -> Graph:\n"
        "        return self.made_by_the_constructor\n"
    )
    topology = tmp_path / "topology.yaml"
    topology.write_text("version: 1\nsupervisor: {children: [{actor: 'shop:Shop'}]}\n")
    done = command("check", str(topology), cwd=tmp_path)
    assert done.returncode == 2
    told = f"error: {topology}: shop:Shop.give: TypeError: set_reducer('total') needs the name of a reducer"
    assert told in done.stderr
    assert (
        f"error: {topology}: shop:Shop.forgets: Shop.forgets returned NoneType; a workflow returns a Graph"
        in done.stderr
    )
    assert f"error: {topology}: shop:Shop.sell: graph 'Sell' is invalid:" in done.stderr
    assert f"error: {topology}: shop:Shop.lend: " in done.stderr
    assert done.stderr.endswith(f"{topology}: 4 mistakes, nothing was started\n")
    assert "depends" not in done.stderr


def test_check_refuses_a_schedule_of_a_workflow_that_its_class_has_not(tmp_path: Path) -> None:
    """Other hosts may be served elsewhere; and it is told where the Foreman stands, however deep."""
    (tmp_path / "shop_of_ticks.py").write_text(
        "from mbactor import Actor\n"
        "from mbactor.foreman import END, Graph, task, workflow\n\n\n"
        "class Shop(Actor):\n    host = 'shop.example'\n\n"
        "    @task\n    async def pay(self) -> None: ...\n\n"
        "    @workflow\n    def sell(self) -> Graph:\n"
        "        graph = Graph('Sell')\n"
        "        graph.add_transition(Shop.pay, END)\n"
        "        return graph\n\n\n"
        "class Bare(Actor):\n    host = 'bare.example'\n\n\n"
        "class Nameless(Actor): ...\n"
    )
    topology = tmp_path / "topology.yaml"

    def checked(*workflows: str, several: str = "") -> subprocess.CompletedProcess[str]:
        named = [f"{{name: s{n}, workflow: '{one}', cron: '0 3 * * *'}}" for n, one in enumerate(workflows)]
        topology.write_text(
            "version: 1\nsupervisor:\n  children:\n"
            "    - {actor: 'shop_of_ticks:Shop'}\n    - {actor: 'shop_of_ticks:Bare'}\n"
            "    - {actor: 'shop_of_ticks:Nameless'}\n"
            f"    - supervisor: inner\n{several}"
            f"      children:\n        - foreman: {{schedules: [{', '.join(named)}]}}\n"
        )
        return command("check", str(topology), cwd=tmp_path)

    good = checked("https://shop.example:428/sell", "https://elsewhere.example:428/sell")
    assert good.returncode == 0, good.stderr
    bad = checked("https://shop.example:428/sel", "https://shop.example:428/sell", "https://bare.example:428/sell")
    assert bad.returncode == 2
    assert bad.stderr == (
        f"error: {topology}:9:11: schedule 's0': shop.example has no workflow https://shop.example:428/sel, "
        "did you mean 'https://shop.example:428/sell'?\n"
        f"error: {topology}:9:11: schedule 's2': bare.example has no workflow https://bare.example:428/sell; it has none\n"
        f"{topology}: 2 mistakes, nothing was started\n"
    )
    partition = checked("https://shop.example:428/sel", several="      partitions: 1\n")
    assert f"error: {topology}:10:11: schedule 's0': shop.example has no workflow" in partition.stderr
    no_workflow = checked("https://shop.example/sell")
    assert no_workflow.returncode == 2
    assert "is at port 443, and workflows are at 428" in no_workflow.stderr
