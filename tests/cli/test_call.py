"""`mbactor call` as a person meets it: an actor of a running tree is asked, by the socket of its process."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nats import nats_server
from tests.process import ROOT, command, serving

ACTORS = """
import asyncio

from mbactor import Actor, MbactorError, endpoint


class Clerk(Actor):
    host = "clerk.example"

    @endpoint
    async def greet(self, name: str = "nobody", times: int = 1) -> dict[str, str | int]:
        return {"grüße": name, "times": times}

    @endpoint(method="GET")
    async def double(self, number: int) -> int:
        return 2 * number

    @endpoint
    async def page(self) -> bytes:
        return b"\\xff"

    @endpoint
    async def fail(self) -> None:
        raise ValueError("unlucky \\x1b[2J")

    @endpoint
    async def refuse(self) -> None:
        raise MbactorError("not today", status=409)

    @endpoint
    async def doze(self) -> None:
        await asyncio.Event().wait()

    @endpoint(requires="roles.admin")
    async def close(self) -> None: ...
"""
TREE = "version: 1\nname: office\ntransport: ${BROKER:-local}\nsupervisor:\n  children: [CHILD]\n"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Calls by the only tree that runs."""
    folder = tmp_path_factory.mktemp("office")
    (folder / "clerks.py").write_text(ACTORS)
    (folder / "office.yaml").write_text(TREE.replace("CHILD", "{actor: clerks:Clerk}"))
    with tempfile.TemporaryDirectory(prefix="mb") as runtime:
        variables = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": runtime}

        def call(*arguments: str) -> tuple[int, str, str]:
            done = command("call", *arguments, cwd=folder, **variables)
            return done.returncode, done.stdout, done.stderr

        with serving(folder / "office.yaml", folder, **variables) as served:
            served.until("Ctrl-C stops it")
            yield call


def test_an_answer_is_printed_as_json_that_people_read(office: Call) -> None:
    assert office("clerk.example/greet") == (0, '{\n  "grüße": "nobody",\n  "times": 1\n}\n', "")
    code, told, _ = office("clerk.example/greet", '{"name": "Ada",\n "times": 3}', "-f", "office.yaml")
    assert (code, json.loads(told)) == (0, {"grüße": "Ada", "times": 3})
    assert office("https://clerk.example:443/page")[:2] == (0, '"/w=="\n')
    for given in (["clerk.example/double?number=4"], ["clerk.example/double", '{"number": 4}']):
        assert office(*given, "--method", "GET")[:2] == (0, "8\n")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nobody.example/greet"], 4, "error: nobody serves https://nobody.example/greet\n"),
        (["clerk.example/double"], 4, "error: https://clerk.example/double does not take POST; it takes GET\n"),
        (["clerk.example/greet", '{"name": 1}'], 4, "error: Clerk.greet: Expected `str`, got `int`"),
        (["clerk example/greet"], 4, "has no valid host; expected https://host[:port]/path"),
        (["clerk.example/refuse"], 4, "error: not today\n"),
        (["clerk.example/close"], 4, "requires roles.admin, and the message acts for nobody"),
        (["clerk.example/greet", f'{{"name": "{"x" * 65536}"}}'], 4, "a request of more than 65536 bytes"),
        (["clerk.example/greet", f'{{"name": "{"é" * 60_000}"}}'], 4, "a request of more than 65536 bytes"),
        (["clerk.example/fail"], 1, "error: ValueError: unlucky \\x1b[2J\n"),
        (["clerk.example/doze", "--timeout", "100ms"], 5, "Clerk.doze ran out of its time budget of 100ms"),
        (["clerk.example/greet", "[1]"], 2, "'[1]' given, a JSON object expected, with the parameters by name"),
        (["clerk.example/greet", '{"times": NaN}'], 2, "a JSON object expected: NaN is no number of JSON"),
        (["clerk.example/greet", '{"name": "\udcff"}'], 2, "a JSON object expected: it is not UTF-8"),
        (["clerk.example/greet", f'{{"name": {"[" * 9000}{"]" * 9000}}}'], 2, "…' given, which is nested too deep"),
        (["clerk.example/greet", '{"times": 1e400}'], 4, "Clerk.greet: "),
        (["clerk.example/greet", "{x"], 2, "'{x' given, a JSON object expected: "),
        (["clerk.example/greet", "--timeout", "0s"], 2, "--timeout: 0s given, more than 0 expected"),
        (["clerk.example/greet", "--timeout", "1"], 2, "--timeout: "),
        (["clerk.example/greet", "-f", "other.yaml"], 1, "other.yaml is not running, and there is no such file"),
    ],
)
def test_what_is_not_answered_says_why_and_ends_with_its_exit_code(
    office: Call, arguments: list[str], code: int, told: str
) -> None:
    ended, printed, error = office(*arguments)
    assert (ended, printed) == (code, "")
    assert told in error, error


def test_a_tree_asks_any_actor_that_it_reaches_over_its_broker(tmp_path: Path) -> None:
    (tmp_path / "clerks.py").write_text(ACTORS + "\n\nclass Porter(Actor): ...\n")
    for name, child in (("office", "{actor: clerks:Clerk}"), ("gate", "{actor: clerks:Porter}")):
        (tmp_path / f"{name}.yaml").write_text(TREE.replace("CHILD", child).replace("office", name))
    with nats_server(tmp_path) as server, tempfile.TemporaryDirectory(prefix="mb") as runtime:
        variables = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": runtime, "BROKER": server.url}
        with (
            serving(tmp_path / "office.yaml", tmp_path, **variables) as office,
            serving(tmp_path / "gate.yaml", tmp_path, **variables) as gate,
        ):
            office.until("Ctrl-C stops it")
            gate.until("Ctrl-C stops it")
            done = command("call", "clerk.example/greet", "-f", "gate.yaml", cwd=tmp_path, **variables)
            assert (done.returncode, json.loads(done.stdout)["grüße"]) == (0, "nobody"), done.stderr


def test_the_call_of_the_readme_is_answered_by_the_example(tmp_path: Path) -> None:
    [line] = re.findall(r"^\.venv/bin/mbactor (call .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory(prefix="mb") as runtime:
        variables = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": runtime, "FLOWS_DB": f"sqlite:///{tmp_path}/flows.db"}
        with serving(ROOT / "examples/credit_approval/topology.yaml", tmp_path, **variables) as served:
            served.until("Ctrl-C stops it")
            done = command(*shlex.split(line), cwd=tmp_path, **variables)
            assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "completed"), done.stderr
