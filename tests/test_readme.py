"""The README is true: its snippets run and print what it says, its commands are those that are tested."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

import mbactor
from mbactor import Actor, ActorSystem, endpoint, errors, event, foreman, observe, sink
from mbactor.testing import Recorder
from tests.nats import nats_server
from tests.process import ROOT

README = (ROOT / "README.md").read_text()
FENCES = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [body for language, body in FENCES if language == "python"]
TEST_FILES = {found[1]: body for body in PYTHON if (found := re.match(r"# (test_\w+\.py)\n", body))}
SNIPPETS = [body for body in PYTHON if body not in TEST_FILES.values()]
COMMANDS = [line for language, body in FENCES if language == "sh" for line in body.splitlines()]
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
LINK = r"\]\(((?!http)[^)]+)\)"
SETUP = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && "


def test_the_readme_has_its_snippets_and_commands() -> None:
    assert SNIPPETS
    assert TEST_FILES
    assert COMMANDS


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_python_snippet_runs_and_prints_what_the_readme_says(snippet: str, tmp_path: Path) -> None:
    done = _run([sys.executable, "-c", snippet], tmp_path)
    assert done.returncode == 0, done.stderr
    after = FENCES[FENCES.index(("python", snippet)) + 1 :]
    expected = next(body for language, body in after if language == "text")
    assert done.stdout == expected
    # A machine that is busy elsewhere may keep any loop waiting.
    assert [line for line in done.stderr.splitlines() if '"event": "loop.blocked"' not in line] == []


@pytest.mark.parametrize("name", TEST_FILES)
def test_a_test_file_passes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TEST_FILES[name])
    done = _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", name], tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("text", [README, foreman.Flows.__doc__], ids=["the README", "Flows"])
def test_an_error_that_is_named_can_be_imported_where_the_rest_is(text: str) -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    named = classes.intersection(re.findall(r"\w+", text))
    assert {"FlowConflict"} <= named
    assert named - {*mbactor.__all__, *foreman.__all__} == set()


def test_the_first_two_commands_are_the_documented_set_up() -> None:
    """`.ci/run` runs the second one in a fresh environment; the first differs in its last word only."""
    runs = [line.removeprefix(SETUP) for line in COMMANDS if line.startswith(SETUP)]
    assert runs == [".venv/bin/mbactor run examples/credit_approval/topology.yaml", ".venv/bin/pytest"]


@pytest.mark.parametrize(
    "line", [c for c in COMMANDS if re.match(r"\.venv/bin/mbactor (check|tree|render|schema)", c) and "--live" not in c]
)
def test_a_short_command_ends_well(line: str) -> None:
    done = _run([sys.executable, "-m", "mbactor", *line.split()[1:]], ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_commands_on_flows_end_well_one_after_the_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    done = _run([sys.executable, "-c", ASKED, url], ROOT / "examples" / "credit_approval")
    assert done.returncode == 0, done.stderr
    lines = [line for line in COMMANDS if line.startswith(".venv/bin/mbactor flows ")]
    assert lines
    keys: dict[str, str] = dict(zip(("FLOW", "STEP"), done.stdout.split(), strict=True))
    for line in lines:
        words = [keys.get(word, word) for word in shlex.split(line)[1:]]
        words = [str(tmp_path / word) if word.endswith(".html") else word for word in words]
        told = _run([sys.executable, "-m", "mbactor", *words], ROOT, FLOWS_DB=url)
        assert told.returncode == 0, told.stderr
        assert told.stdout


ASKED = """
import asyncio, sys
from credit import Credit
from mbactor import ActorSystem
from mbactor.foreman import Flows, Foreman

async def main() -> None:
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=sys.argv[1])
        await system.spawn(Credit)
        applied = {"name": "Ada", "credit_score": 700, "amount": 500000, "limit": 100000}
        outcome = await Flows(system).run(Credit.approval, applied)
        print(outcome.flow_key, outcome.interrupts[0][0])

asyncio.run(main())
"""


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    """Set-up lines by `.ci/run`, the served example, its curl line and what is asked of a running tree by tests/cli, the rest here."""
    known = (
        SETUP,
        ".venv/bin/mbactor ",
        "OTEL_TRACES_EXPORTER=console .venv/bin/mbactor run ",
        "BROKER=nats://127.0.0.1:4222 .venv/bin/mbactor run ",
        "curl -s localhost:8080/credit.example/apply ",
    )
    assert [line for line in COMMANDS if not line.startswith(known)] == []


def test_the_topology_in_the_readme_is_right(tmp_path: Path) -> None:
    from mbactor.supervisor.topology import load

    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.py").write_text(
        "from mbactor import Actor, config\nclass Orders(Actor):\n    max_items: int = config(default=10)\n    def __init__(self, start: int = 0) -> None: ...\n"
        "class Archive(Actor):\n    def __init__(self, token: str, name: str) -> None: ...\n"
    )
    (tmp_path / "shop" / "carts.py").write_text("from mbactor import Actor\nclass Cart(Actor): ...\n")
    base, overlay, sessions, nodes = (body for language, body in FENCES if language == "yaml")
    assert nodes == (ROOT / "examples" / "credit_approval" / "nodes.yaml").read_text()
    whole = f"version: 1\nsupervisor:\n  children:\n{indent(sessions, '    ')}"
    (tmp_path / "sessions.yaml").write_text(whole)
    assert load(tmp_path / "sessions.yaml", {}).supervisor.children[0].args == {"max_children": 1000}
    (tmp_path / "topology.yaml").write_text(base)
    topology = load(tmp_path / "topology.yaml", {})
    assert [child.id for child in topology.supervisor.children] == [
        "orders-1",
        "orders-2",
        "pipelines",
        "carts",
        "gateway",
    ]
    assert topology.warnings == ()
    (tmp_path / "token").write_text("t0ken\n")
    (tmp_path / "prod.yaml").write_text(overlay.replace("/run/secrets/archive", "token"))
    environ = {"FLOWS_DB": "sqlite:///x.db", "PLACE": "p"}
    children = load(tmp_path / "topology.yaml", environ, [tmp_path / "prod.yaml"]).supervisor.children
    assert [child.id for child in children] == [*(f"orders-{n}" for n in range(1, 5)), "pipelines", "carts", "archive"]
    assert children[0].args == {"start": 20}
    assert children[-1].args == {"token": "t0ken", "name": "archive of p"}


class Orders(Actor):
    host = "orders.example"

    @event
    async def on_placed(self, sku: str) -> None: ...

    @endpoint
    async def place(self, sku: str) -> bool:
        return self.publish(Orders.on_placed, sku)


class Mail(Actor):
    host = "mail.example"

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    @sink(Orders.on_placed)
    async def placed(self, sku: str) -> None:
        self.heard.append(sku)

    @endpoint
    async def order(self, sku: str) -> bool:
        return await self.ask(Orders.place, sku)


@pytest.mark.anyio
async def test_the_permissions_in_the_readme_are_enough(tmp_path: Path) -> None:
    [conf] = [body for language, body in FENCES if language == "conf"]
    everybody = "users = [{user: all, password: all}, {"
    recorder = Recorder(asyncio.get_running_loop())
    with nats_server(tmp_path, conf.replace("users = [{", everybody)) as server, observe.observing(recorder):
        urls = [server.url.replace("//", f"//{who}@") for who in ("mail:...", "all:all")]
        async with ActorSystem("shop", urls[0]) as shop, ActorSystem("orders", urls[1]) as orders:
            heard: list[str] = []
            await orders.spawn(Orders)
            await shop.spawn(Mail, heard)
            await orders.node.remote.flush()
            await shop.node.remote.flush()
            assert await orders.ask(Mail.order, "tea")
            assert await shop.ask(Orders.place, "tea")
            async with asyncio.timeout(60):
                while heard != ["tea", "tea"]:
                    await asyncio.sleep(0.01)
    assert recorder.find("bus.refused") == []


@pytest.mark.parametrize(
    ("page", "target"),
    sorted({(page, link) for page in PAGES for link in re.findall(LINK, (ROOT / page).read_text())}),
)
def test_every_link_leads_somewhere(page: str, target: str) -> None:
    if target.startswith("#"):
        titles = re.findall(r"^##+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert target.removeprefix("#") in {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}
    else:
        assert (ROOT / page).parent.joinpath(target).exists()


def _run(command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)
