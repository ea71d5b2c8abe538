"""What is read from stdin, where that is called `-`, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mbactor.cli.main import main

CODE = """
from mbactor import Actor, Supervisor

class Band(Supervisor):
    def __init__(self) -> None:
        raise ValueError("no drummer")

class Piper(Actor):
    def __init__(self, tune: str = "") -> None: ...
"""
TREE = """
version: 1
supervisor:
  children:
    - actor: piper_of_stdin:Piper
      args: {tune: "${file:tune.txt}"}
    - include: more.yaml
"""
MORE = "- {actor: piper_of_stdin:Piper, id: second}\n"
OVER = "supervisor: {children: [{id: second, remove: true}]}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in {"piper_of_stdin.py": CODE, "more.yaml": MORE, "tune.txt": "la", "over.yaml": OVER}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("piper_of_stdin", None)


def run(*arguments: str, given: str = TREE) -> Result:
    return CliRunner().invoke(main, arguments, input=given)


def told(*arguments: str, given: str = TREE) -> str:
    done = run(*arguments, given=given)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_only_reads_a_file_reads_it_from_stdin_relative_to_the_working_directory() -> None:
    assert told("check", "-") == "<stdin>: ok, stdin: 2 actors\n"
    assert told("check", "-", "-o", "over.yaml") == "<stdin>: ok, stdin: 1 actor\n"
    assert told("tree", "-").splitlines()[-1].split()[1] == "second"
    assert "piper_of_stdin:Piper" in told("schema", "-")
    rendered = told("render", "-")
    assert "<stdin>:5" in rendered
    assert told("check", "-", given=rendered) == "<stdin>: ok, stdin: 2 actors\n"


def test_mistakes_name_stdin_with_line_and_column() -> None:
    wrong = run("check", "-", given=TREE.replace("Piper", "Pipe", 1))
    assert wrong.exit_code == 2
    assert "error: <stdin>:5:14: supervisor.children[0].actor: module piper_of_stdin has no 'Pipe'" in wrong.stderr
    assert wrong.stderr.endswith("<stdin>: 1 mistake, nothing was started\n")
    assert "<stdin>:1:1: the file is empty" in run("check", "-", given="").stderr
    assert "<stdin>:1:1: the file cannot be read: it has more" in run("check", "-", given=" " * (17 << 20)).stderr
    missing = run("check", "-", given=TREE.replace("piper_of_stdin", "pipr", 1)).stderr
    assert f"no module 'pipr' (looked in {Path.cwd()} and the installed packages)" in missing


@pytest.mark.parametrize(
    "command",
    ["run -", "plan -", "apply -", "stop piper -f -", "start piper -f -", "restart piper -f -", "tree --live -",
     "check more.yaml -o -", "flows list -f -", "flows list -f more.yaml -o -"],
)  # fmt: skip
def test_where_a_running_process_is_found_by_its_file_stdin_is_none(command: str) -> None:
    refused = run(*command.split())
    assert refused.exit_code == 2
    assert "Error: Invalid value for" in refused.stderr or "found by its file" in refused.stderr
    assert "'-'" in refused.stderr


def test_a_file_of_that_name_can_be_given_by_its_folder(folder: Path) -> None:
    (folder / "-").write_text(TREE)
    assert told("check", "./-", given="") == "-: ok, -: 2 actors\n"


FOREMAN = "version: 1\nsupervisor: {{children: [{{supervisor: back, children: [{{foreman: {{{}}}}}]}}]}}"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("lease: 0s", "foreman: lease: '0s' given, a duration above 0 expected"),
        ("shards: 2", "foreman: database: with shards: 2 the URL has no %d, which stands for the number of a shard"),
        ("database: flows.db", "database 'flows.db': expected sqlite:///relative/path.db, sqlite:////absolute"),
        ("database: 'mysql://ada:secret@host/flows'", "database mysql://...: expected sqlite:///relative/path.db"),
    ],
)
@pytest.mark.parametrize("command", ["check", "tree", "render --format dot"])
def test_a_supervisor_that_cannot_be_made_is_a_mistake_of_the_file(command: str, given: str, told: str) -> None:
    refused = run(*command.split(), "-", given=FOREMAN.format(given))
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: <stdin>:2:55: child 'back/foreman' cannot be made: {told}")
    assert refused.stderr.endswith("\n<stdin>: 1 mistake, nothing was started\n")
    assert (refused.stderr.count("\n"), refused.stdout) == (2, "")


def test_what_is_no_supervisors_argument_to_refuse_is_told_too() -> None:
    done = run("check", "-", given="version: 1\nsupervisor: {children: [{supervisor: 'piper_of_stdin:Band'}]}")
    assert done.stderr.startswith("error: <stdin>:2:25: child 'band' cannot be made: ValueError: no drummer\n")


def test_what_has_no_actor_has_none() -> None:
    assert told("check", "-", given="version: 1\nsupervisor: {children: []}") == "<stdin>: ok, stdin: 0 actors\n"
    path = run("check", "-", given="version: 1\nsupervisor: {children: [{actor: './piper_of_stdin.py:Piper'}]}")
    assert "'./piper_of_stdin.py:Piper' given, `module:Class` expected" in path.stderr
