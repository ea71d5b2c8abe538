"""The group of commands `mbactor flows ...`, and the options that they share.

What a command needs is imported when it is called, so that `--help` and completion are quick.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from mbactor.cli.file import PATH

if TYPE_CHECKING:
    from mbactor.cli.flows.database import Where
    from mbactor.foreman.host import Host
    from mbactor.foreman.model.query import FlowQuery
    from mbactor.foreman.roll import Roll
    from mbactor.foreman.shards import Shards

Command = TypeVar("Command", bound=Callable[..., Any])
Options = dict[str, Any]

STATUSES = ("created", "running", "interrupted", "completed", "failed", "cancelled")
SHORTEST_PERIOD = 0.05
KEY = click.argument("flow_key", metavar="FLOW")
STEP = click.argument("step_key", metavar="STEP")
NAME = click.argument("name", metavar="NAME")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
STATE = click.option("--state", metavar="JSON", help="Fields that replace those of the state; null removes one.")
_WHERE = (
    click.option(
        "--database", metavar="URL", envvar="MBACTOR_DATABASE", show_envvar=True,
        help="sqlite:///file.db or postgresql://user:password@host/name.",
    ),
    click.option(
        "-f", "--file", type=PATH, help="A topology file: the database is that of its Foreman."
    ),
    click.option("-o", "--overlay", "overlays", multiple=True, type=PATH, help="As of `run`."),
)  # fmt: skip
_FILTERS = (
    click.option("--status", type=click.Choice(STATUSES)),
    click.option(
        "--workflow", metavar="WORKFLOW", help="MODULE:CLASS.WORKFLOW in the code here, or the URL of a workflow."
    ),
    click.option("--thread", metavar="FLOW", help="Flows of the same thread as this one."),
    click.option("--task", metavar="NODE", help="The node that a flow is at, or has failed at."),
    click.option("--fairness-key", metavar="TEXT"),
    click.option("--concurrency-key", metavar="TEXT"),
    click.option("--priority", type=int),
    click.option("--older-than", metavar="DURATION", help="Unchanged in status for so long, such as 30d."),
    click.option("--newer-than", metavar="DURATION", help="Changed in status within that time."),
    click.option("--search", metavar="TEXT", help="In workflow, node, error, reason of a cancel, or key; in any case."),
    click.option("--shard", type=int),
)


def _all_of(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


WHERE = _all_of(_WHERE)
FILTERS = _all_of(_FILTERS)


def work_on(given: Options, work: Callable[[Shards], Awaitable[int]], host: Host | None = None) -> NoReturn:
    """Do the work over the database that the options say, and end the program with its exit code."""
    from mbactor.cli.flows.database import operate

    sys.exit(operate(where_of(given), work, host))


def work_on_roll(given: Options, work: Callable[[Shards, Roll], Awaitable[int]]) -> NoReturn:
    """The same for what changes which shards there are."""
    from mbactor.cli.flows.database import operate_roll

    sys.exit(operate_roll(where_of(given), work))


def where_of(given: Options) -> Where:
    """The database that the options say."""
    from mbactor.cli.flows.database import Where

    overlays: tuple[Path, ...] = given["overlays"]
    if overlays and given["file"] is None:
        raise click.UsageError("--overlay goes with --file")
    said = click.get_current_context().get_parameter_source("database") is ParameterSource.COMMANDLINE
    if said and given["file"] is not None:
        raise click.UsageError("give --database or --file, one of them: the database of a file is that of its Foreman")
    # A URL that a variable says is what there is where no file is named.
    return Where(None if given["file"] else given["database"], given["file"], overlays)


def where_text(given: Options) -> str:
    """The options that name the file of the database, for a command that is suggested."""
    named = [("-f", given["file"]), *(("-o", overlay) for overlay in given["overlays"])]
    return "".join(f" {option} {shlex.quote(str(path))}" for option, path in named if path is not None)


def query_of(given: Options, **more: Any) -> FlowQuery:
    """What the filters say."""
    from mbactor.errors import MbactorError
    from mbactor.foreman.model.query import FlowQuery

    names = ("status", "thread", "task", "fairness_key", "concurrency_key", "priority", "search", "shard")
    filters = {name: given[name] for name in names} | more
    filters |= {name: duration_of(name, given[name]) for name in ("older_than", "newer_than")}
    try:
        return FlowQuery(workflow=_workflow_url(given), **filters)
    except MbactorError as error:
        raise click.UsageError(error.message) from None


def _workflow_url(given: Options) -> str | None:
    """The URL that flows of --workflow were created with."""
    text: str | None = given["workflow"]
    if text is None or "://" in text:
        return text
    from mbactor.cli.flows.graphs import reference_of

    where_of(given).topology()  # modules beside the file are found from now on
    return reference_of(text).url


def duration_of(name: str, text: str | None) -> float | None:
    """The seconds that an option says."""
    from mbactor.durations import seconds_of_text

    try:
        return None if text is None else seconds_of_text(text)
    except ValueError as error:
        raise click.UsageError(f"--{name.replace('_', '-')}: {error}") from None


def json_of(option: str, text: str | None) -> Any:
    """The value that an option says as JSON."""
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        hint = f"; a text needs quotes of its own: {option} '\"{text}\"'" if '"' not in str(text) else ""
        if str(text).lstrip()[:1] in {"{", "["}:
            hint = "; names and texts in it are in double quotes"
        raise click.UsageError(f"{option}: {text!r} is no JSON: {error}{hint}") from None


def state_of(text: str | None) -> Any:
    """The fields that --state says."""
    state = json_of("--state", text)
    if state is not None and not isinstance(state, dict):
        raise click.UsageError(f"--state: {text!r} given, a JSON object of fields expected")
    return state


SECTIONS = {
    "Look": ("list", "show", "history", "watch", "fingerprint", "schedules", "shards", "check-graph"),
    "Steer": (
        "start", "resume", "cancel", "recover", "retry", "restart", "restart-from", "fork", "continue", "break",
        "resume-break", "delete", "purge", "schedule", "pause-schedule", "resume-schedule", "unschedule",
    ),
    "Shards": ("cordon", "uncordon", "drain", "add-shard", "remove-shard"),
}  # fmt: skip


class Sections(click.Group):
    """A group whose help has its commands by what they are for, and not by their letters."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for names in SECTIONS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        longest = max(map(len, self.commands))
        for title, names in SECTIONS.items():
            rows = [(f"{name:{longest}}", self.commands[name].short_help or "") for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=Sections)
def flows() -> None:
    """Look at flows and steer them, over their database.

    Works beside a running Foreman and without one: what is changed here is found by whoever runs the flows, and no
    task is run by these commands. A key, as `list` prints it, gives full power over its flow.

    Exit codes: 0 done, 1 the database does not answer, 2 what was given cannot be, 3 a flow that was waited for did not
    complete (a shard: is not drained), 4 refused: there is no such flow, or its status does not allow it.
    """
