"""The commands and their options. Exit codes: 0 a clean end, 1 the tree gave up or did not start, 2 a faulty file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import mbactor
from mbactor.cli.file import PATH, PATH_OR_STDIN, STDIN, counted, declared, load
from mbactor.cli.flows.commands import flows
from mbactor.cli.program import Program
from mbactor.errors import InvalidSpec, MbactorError

if TYPE_CHECKING:
    from mbactor.supervisor.operate.by_name import Verb
    from mbactor.supervisor.topology import Topology
    from mbactor.supervisor.tree import TreeNode

SHORTEST_PERIOD = 0.05
FILE = click.argument("file", type=PATH)
FILE_OR_STDIN = click.argument("file", type=PATH_OR_STDIN)
OVERLAYS = click.option(
    "-o",
    "--overlay",
    "overlays",
    multiple=True,
    type=PATH,
    help="A file that changes FILE for one deployment; several are worked in one after another.",
)
PID = click.option(
    "--pid", type=int, help="Which process, where several run FILE; it may be one that runs another file."
)
NAME = click.argument("name")
OF = click.option(
    "-f", "--file", type=PATH, help="The topology file that runs.  [default: that of the one tree there is]"
)
TIMEOUT = click.option(
    "--timeout", metavar="DURATION", help="How long to wait, such as 30s.  [default: until it is done]"
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mbactor.__version__, prog_name="mbactor")
def main() -> None:
    """Run microservices as supervised actors, with durable workflows through the same actors.

    A topology file (YAML) declares the supervision tree: which actors run, with which arguments, and what happens
    when one of them fails.
    """


@main.command(short_help="Start the tree of FILE and serve until Ctrl-C.")
@FILE
@OVERLAYS
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="auto: text on a terminal, JSON elsewhere.",
)
def run(file: Path, overlays: tuple[Path, ...], log_level: str, log_format: str) -> None:
    """Start the tree of FILE and serve until Ctrl-C (or SIGTERM).

    The first signal stops everything in reverse order, giving each child its shutdown time; a second one ends the
    process at once. Exit code 0 after a clean stop, 1 when the root supervisor gave up or the tree did not start,
    2 for a faulty file.
    """
    _end_quietly_until_something_runs()
    from mbactor.cli.run import serve

    sys.exit(serve(load(file, overlays), log_level=log_level, log_format=log_format))


@main.command(short_help="Report every mistake in FILE, without starting anything.")
@FILE_OR_STDIN
@OVERLAYS
@click.option("--strict", is_flag=True, help="Take warnings for mistakes: exit code 2 where there are any.")
def check(file: Path, overlays: tuple[Path, ...], strict: bool) -> None:
    """Import the classes of FILE and report every mistake, with file, line and column. `-` is stdin.

    Warnings tell what is allowed and hardly meant, such as restarts that can never be counted together. The graphs of
    the actors' workflows are judged too, and whether there are the workflows that schedules name. Nothing is started.
    Exit code 0 when the file is right, 2 when it is not.
    """
    from mbactor.cli.flows.declared import judge_schedules
    from mbactor.cli.flows.graphs import judge_graphs

    topology = load(file, overlays)
    unfit, doubtful = asyncio.run(judge_graphs(topology.classes))
    found = [*topology.warnings, *((str(file), text) for text in doubtful)]
    for where, text in found:
        told = f"{click.style('warning:', fg='yellow', bold=True)} {click.style(where, bold=True)}: {text}"
        click.echo(told, err=True)
    wrong = [*((str(file), text) for text in unfit), *judge_schedules(topology)]
    for where, text in wrong:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {click.style(where, bold=True)}: {text}", err=True)
    if wrong:
        click.echo(f"{file}: {counted(len(wrong), 'mistake')}, nothing was started", err=True)
        sys.exit(2)
    if strict and found:
        click.echo(f"{file}: {counted(len(found), 'warning')}, refused by --strict", err=True)
        sys.exit(2)
    click.echo(f"{file}: ok, {topology.name}: {_counted(topology)}")


@main.command(short_help="Print FILE as it is understood.")
@FILE_OR_STDIN
@OVERLAYS
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "json", "text", "mermaid", "dot"]),
    default="yaml",
    show_default=True,
    help="yaml and json are the file itself, text, mermaid and dot its tree.",
)
def render(file: Path, overlays: tuple[Path, ...], form: str) -> None:
    """Print FILE as it is understood: with its includes, overlays, templates, variables and defaults worked in.
    `-` is stdin.

    The YAML says of each value in which line of which file it was written. It can be run as it is, without the
    environment it was made with. A secret (`${file:...}`) stays a reference to its file.
    """
    from mbactor.supervisor.topology import as_json, as_yaml
    from mbactor.supervisor.tree import render as drawn

    topology = load(file, overlays)
    if form in {"yaml", "json"}:
        write = as_yaml if form == "yaml" else as_json
        click.echo(write(topology.document).rstrip("\n"))
    else:
        click.echo(drawn(declared(topology), form))


@main.command(short_help="Draw the tree of FILE; with --live the one that runs.")
@FILE_OR_STDIN
@OVERLAYS
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "dot", "json"]),
    default="text",
    show_default=True,
    help="text is a tree for the terminal, mermaid and dot are diagrams, json is for programs.",
)
@click.option("--live", is_flag=True, help="Show the running tree of FILE, refreshed until Ctrl-C.")
@click.option("--every", metavar="DURATION", help="With --live: how often, such as 500ms.  [default: 1s]")
@click.option("--once", is_flag=True, help="With --live: show it once, with every row.")
@click.option("--all", "whole", is_flag=True, help="With --live: every row, also where they do not fit the terminal.")
@click.option("--pid", type=int, help="With --live: which process, where several run FILE.")
def tree(
    file: Path,
    overlays: tuple[Path, ...],
    form: str,
    live: bool,
    every: str | None,
    once: bool,
    whole: bool,
    pid: int | None,
) -> None:
    """Draw the tree that FILE declares (`-` is stdin), without starting it; or, with --live, the one that runs.

    The live table shows each actor's state, incarnation, uptime and restarts, what waits in its mailbox and what it
    is handling now, as `mbactor run FILE` tells by a socket that only its own user can open. With --format json it
    is one object a line. Exit code 1 when FILE is not running, or stops.
    """
    if live:
        if file == STDIN:
            raise click.UsageError("'-' cannot be given with --live: what runs is found by its file")
        if overlays:
            raise click.UsageError("--overlay cannot be given with --live: what runs has its overlays already")
        sys.exit(_live(file, form, every=every, once=once, whole=whole, pid=pid))
    for option, given in (("--every", every), ("--once", once), ("--all", whole), ("--pid", pid)):
        if given:
            raise click.UsageError(f"{option} goes with --live")
    from mbactor.supervisor.tree import render as drawn

    topology = load(file, overlays)
    click.echo(drawn(declared(topology), form))


def _live(file: Path, form: str, *, every: str | None, once: bool, whole: bool, pid: int | None) -> int:
    from mbactor.cli.live import View, show

    if form not in {"text", "json"}:
        raise click.UsageError(f"--format {form} draws what FILE declares; with --live, text or json")
    return show(file, pid, View(every=_period(every or "1s"), once=once, whole=whole, json=form == "json"))


def _duration(option: str, text: str) -> float:
    from mbactor.durations import seconds_of_text

    try:
        return seconds_of_text(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _period(text: str) -> float:
    found = _duration("--every", text)
    if found < SHORTEST_PERIOD:
        raise click.UsageError(f"--every: {text} given, at least 50ms expected")
    return found


@main.command(short_help="Compare FILE with the tree that runs.")
@FILE
@OVERLAYS
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: for programs.",
)
@click.option("--exit-code", "differs", is_flag=True, help="Exit code 3 where there is something to do.")
@PID
def plan(file: Path, overlays: tuple[Path, ...], form: str, differs: bool, pid: int | None) -> None:
    """Compare FILE with the tree that runs, and print what `apply` would do.

    + is started, - is stopped, ~ is restarted, = is changed while it goes on

    The running process reads FILE itself, with its own environment and the overlays it was started with, if none are
    given. Code of modules that it has imported already is not read again: that takes another start. What was added at
    run time is left alone, but for what goes with its supervisor: the plan counts it. What an operator stopped stays
    stopped. Exit code 0, also where there is something to do (but see --exit-code), 1 when FILE is not running, 2 for
    a faulty file.
    """
    from mbactor.cli.operate import plan as planned

    sys.exit(planned(file, overlays, pid, form=form, differs=differs))


@main.command(short_help="Change the tree that runs to what FILE says.")
@FILE
@OVERLAYS
@PID
def apply(file: Path, overlays: tuple[Path, ...], pid: int | None) -> None:
    """Change the running tree to what FILE says, step by step, as `plan` prints it.

    Whatever the changes do not concern goes on. A faulty FILE changes nothing. The first step that fails ends it:
    nothing is taken back, and another `apply` goes on from there. Ctrl-C lets the step in hand be finished. Code of
    modules that the process has imported already is not read again: that takes another start. Exit code 0 when all is
    done, 1 when a step failed or FILE is not running, 2 for a faulty file.
    """
    from mbactor.cli.operate import apply as applied

    sys.exit(applied(file, overlays, pid))


@main.command(short_help="Stop a child of the tree that runs.")
@NAME
@OF
@PID
@TIMEOUT
def stop(name: str, file: Path | None, pid: int | None, timeout: str | None) -> None:
    """Stop the child NAME of the running tree, an actor or a whole supervisor, until `mbactor start` starts it.

    NAME is its id, or as much of the path of ids as it takes (`pipelines/orders`). Restarts of its siblings
    leave it stopped; a supervisor above it that is started again, or whose process is, starts it too. Exit code 0 when
    it is stopped, 1 when nothing runs, 4 when NAME is unknown or ambiguous, 5 when it is not done within --timeout.
    """
    _operate("stop", name, file, pid, timeout)


@main.command(short_help="Start a child that was stopped or has ended.")
@NAME
@OF
@PID
@TIMEOUT
def start(name: str, file: Path | None, pid: int | None, timeout: str | None) -> None:
    """Start the child NAME of the running tree, which was stopped or has ended.

    Exit code 0 when it runs, 1 when it does not start or nothing runs, 4 when it runs already or is about to be
    restarted, or NAME is unknown or ambiguous, 5 when it is not done within --timeout.
    """
    _operate("start", name, file, pid, timeout)


@main.command(short_help="Stop a child of the tree that runs and start it again.")
@NAME
@OF
@PID
@TIMEOUT
def restart(name: str, file: Path | None, pid: int | None, timeout: str | None) -> None:
    """Stop the child NAME of the running tree and start it again; one that does not run is started.

    It is not counted as a restart by its supervisor. Exit codes as of `start`.
    """
    _operate("restart", name, file, pid, timeout)


def _operate(verb: Verb, name: str, file: Path | None, pid: int | None, timeout: str | None) -> None:
    from mbactor.cli.operate import operate

    seconds = None if timeout is None else _duration("--timeout", timeout)
    sys.exit(operate(verb, name, file, pid, seconds))


@main.command(short_help="Ask an actor of the tree that runs.")
@click.argument("address")
@click.argument("arguments", default="")
@click.option(
    "--method",
    type=click.Choice(["POST", "GET", "PUT", "PATCH", "DELETE"]),
    default="POST",
    show_default=True,
    help="That of the endpoint.",
)
@OF
@PID
@click.option("--timeout", metavar="DURATION", help="How long the answer may take, such as 1m.  [default: 20s]")
def call(address: str, arguments: str, method: str, file: Path | None, pid: int | None, timeout: str | None) -> None:
    """Ask the actor at ADDRESS, such as orders.example/place, and print its answer as JSON.

    ARGUMENTS is a JSON object with the method's parameters by name, '{"by": 5}'; `-` reads it from stdin. The running
    tree asks, so it may be any actor that it reaches, also over its broker. It acts for no end user. Exit code 0 with
    an answer, 1 when the method fails or nothing runs, 4 when it is refused (nobody serves ADDRESS, or not with these
    ARGUMENTS), 5 without an answer in time, where it may yet be done.
    """
    from mbactor.cli.operate import call as called

    text = _stdin() if arguments == "-" else arguments
    seconds = None if timeout is None else _duration("--timeout", timeout)
    if seconds == 0:
        raise click.UsageError(f"--timeout: {timeout} given, more than 0 expected")
    sys.exit(called(address, _object(text), method, file, pid, seconds))


def _stdin() -> str:
    stdin: Any = sys.stdin  # None where it was closed
    return "" if stdin is None else stdin.buffer.read().decode("utf-8", "surrogateescape")


def _object(text: str) -> str:
    """ARGUMENTS, sent as they are given: a number keeps all its digits."""
    if not text.strip():
        return ""
    shown = repr(text if len(text) <= 80 else f"{text[:79]}…")
    try:
        text.encode()
        given = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise click.UsageError(f"ARGUMENTS: {shown} given, which is nested too deep") from None
    except ValueError as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeError) else error
        raise click.UsageError(f"ARGUMENTS: {shown} given, a JSON object expected: {why}") from None
    if not isinstance(given, dict):
        raise click.UsageError(f"ARGUMENTS: {shown} given, a JSON object expected, with the parameters by name")
    return text


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


@main.command(short_help="Begin a service: an actor, a workflow, tests and a tree.")
@click.argument("folder", type=PATH)
def new(folder: Path) -> None:
    """Begin a service in FOLDER, which is made: an actor, a workflow, their tests, and a topology file that runs them.

    The name of FOLDER is that of the module, such as shop. Exit code 1 where it cannot be written or is there already,
    2 for a name that no module can have.
    """
    from mbactor.cli.new import begin

    try:
        begin(folder)
    except InvalidSpec as error:
        raise click.UsageError(f"FOLDER: {error}") from None
    except MbactorError as error:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error.message}", err=True)
        sys.exit(1)


@main.command(short_help="Print the JSON Schema of the file, for editors.")
@click.option("--overlay", is_flag=True, help="Of a file for -o, which may name parts of children.")
@click.argument("file", type=PATH_OR_STDIN, required=False)
def schema(overlay: bool, file: Path | None) -> None:
    """Print the JSON Schema of the topology file, for editors that complete and check it.

    With FILE (`-` is stdin) it knows what the actors that are named there have for their `config`.
    """
    from mbactor.supervisor.topology import schema as topology_schema

    classes = {} if file is None else load(file).classes
    click.echo(json.dumps(topology_schema(overlay=overlay, classes=classes), indent=2))


main.add_command(flows)


def _end_quietly_until_something_runs() -> None:
    """A signal before the tree is being started has nothing to stop; the running tree replaces these handlers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))


def _counted(topology: Topology) -> str:
    """How many actors there are; a supervisor that makes its children itself counts as one."""

    def leaves(node: TreeNode) -> int:
        return sum(map(leaves, node.children)) if node.children else 1

    return counted(sum(map(leaves, declared(topology).children)), "actor")
