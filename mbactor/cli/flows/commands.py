"""The commands `mbactor flows ...` and their options. What they need is imported when one of them is called."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from mbactor.foreman.model.query import FlowQuery
    from mbactor.foreman.shards import Shards

Command = TypeVar("Command", bound=Callable[..., Any])
Options = dict[str, Any]

STATUSES = ("created", "running", "interrupted", "completed", "failed", "cancelled")
SHORTEST_PERIOD = 0.05
KEY = click.argument("flow_key", metavar="FLOW")
STEP = click.argument("step_key", metavar="STEP")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
STATE = click.option("--state", metavar="JSON", help="Fields that replace those of the state; null removes one.")
_WHERE = (
    click.option(
        "--database", metavar="URL", envvar="MBACTOR_DATABASE", show_envvar=True,
        help="sqlite:///file.db or postgresql://user:password@host/name.",
    ),
    click.option(
        "-f", "--file", type=click.Path(path_type=Path), help="A topology file: the database is that of its Foreman."
    ),
    click.option("-o", "--overlay", "overlays", multiple=True, type=click.Path(path_type=Path), help="As of `run`."),
)  # fmt: skip
_FILTERS = (
    click.option("--status", type=click.Choice(STATUSES)),
    click.option("--workflow", metavar="URL", help="The URL that flows were created with."),
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


def _work(given: Options, work: Callable[[Shards], Awaitable[int]]) -> NoReturn:
    from mbactor.cli.flows.database import Where, operate

    overlays: tuple[Path, ...] = given["overlays"]
    if overlays and given["file"] is None:
        raise click.UsageError("--overlay goes with --file")
    # A URL that a variable says is what there is where no file is named.
    sys.exit(operate(Where(None if given["file"] else given["database"], given["file"], overlays), work))


def _query(given: Options, **more: Any) -> FlowQuery:
    from mbactor.errors import MbactorError
    from mbactor.foreman.model.query import FlowQuery

    names = ("status", "workflow", "thread", "task", "fairness_key", "concurrency_key", "priority", "search", "shard")
    filters = {name: given[name] for name in names} | more
    filters |= {name: _duration(name, given[name]) for name in ("older_than", "newer_than")}
    try:
        return FlowQuery(**filters)
    except MbactorError as error:
        raise click.UsageError(error.message) from None


def _duration(name: str, text: str | None) -> float | None:
    from mbactor.durations import seconds_of_text

    try:
        return None if text is None else seconds_of_text(text)
    except ValueError as error:
        raise click.UsageError(f"--{name.replace('_', '-')}: {error}") from None


def _json(option: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        hint = f"; a text needs quotes of its own: {option} '\"{text}\"'" if '"' not in str(text) else ""
        raise click.UsageError(f"{option}: {text!r} is no JSON: {error}{hint}") from None


def _state(text: str | None) -> Any:
    state = _json("--state", text)
    if state is not None and not isinstance(state, dict):
        raise click.UsageError(f"--state: {text!r} given, a JSON object of fields expected")
    return state


@click.group()
def flows() -> None:
    """Look at flows and steer them, over their database.

    Works beside a running Foreman and without one: what is changed here is found by whoever runs the flows, and no
    task is run by these commands. A key, as `list` prints it, gives full power over its flow.

    Exit codes: 0 done, 1 the database does not answer, 2 what was given cannot be, 4 refused: there is no such flow, or
    its status does not allow it.
    """


# --- looking ------------------------------------------------------------------------------------------------------


@flows.command("list")
@WHERE
@FILTERS
@click.option("--subflows", is_flag=True, help="Also flows that other flows called.")
@click.option("--limit", type=int, default=50, show_default=True)
@click.option("--cursor", default="", help="The next page, as the page before says.")
@JSON
def list_flows(subflows: bool, limit: int, cursor: str, as_json: bool, **given: Any) -> None:
    """Print flows, newest first.

    AT is the node that a flow is at, or has failed at; STEPS are those done, of those known so far; AGE is since its
    creation, SINCE since the last change of its status.
    """
    from mbactor.cli.flows.looking import list_flows as listed

    query = _query(given, include_subflows=subflows, limit=limit, cursor=cursor)
    _work(given, lambda shards: listed(shards, query, json=as_json))


@flows.command()
@KEY
@WHERE
@click.option("--step", "is_step", is_flag=True, help="The key is that of a step.")
@JSON
def show(flow_key: str, is_step: bool, as_json: bool, **given: Any) -> None:
    """Print all of one flow: how it stands, its error, its open questions, its state.

    With --step, one step: its input, what it changed, its error with the traceback.
    """
    from mbactor.cli.flows.looking import show_flow, show_step

    if is_step:
        _work(given, lambda shards: show_step(shards, flow_key, json=as_json))
    named = [("-f", given["file"]), *(("-o", overlay) for overlay in given["overlays"])]
    where = "".join(f" {option} {shlex.quote(str(path))}" for option, path in named if path is not None)
    _work(given, lambda shards: show_flow(shards, flow_key, json=as_json, where=where))


@flows.command()
@KEY
@WHERE
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with a timeline instead.")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid diagram instead.")
@JSON
def history(flow_key: str, html: Path | None, mermaid: bool, as_json: bool, **given: Any) -> None:
    """Print the steps of a flow: what ran, when, how often, for how long, and how it ended.

    The page of --html needs nothing else: no network, no script.
    """
    from mbactor.cli.flows.looking import show_history

    if sum([html is not None, mermaid, as_json]) > 1:
        raise click.UsageError("one of --html, --mermaid and --json at a time")
    _work(given, lambda shards: show_history(shards, flow_key, html=html, mermaid=mermaid, json=as_json))


@flows.command()
@click.argument("flow_keys", metavar="[FLOW]...", nargs=-1)
@WHERE
@FILTERS
@click.option("--limit", type=int, default=100, show_default=True)
@click.option("--every", metavar="DURATION", default="1s", show_default=True)
@click.option("--once", is_flag=True, help="Show it once.")
@JSON
def watch(flow_keys: tuple[str, ...], limit: int, every: str, once: bool, as_json: bool, **given: Any) -> None:
    """Show flows as they go, refreshed until Ctrl-C: those that have not ended, or the ones that are named.

    Named flows are watched until all have stopped; exit code 0 when all completed, 3 when some did not. The bars are
    steps done of those known so far: what will still come is not known, so no time of arrival is given.
    """
    from mbactor.cli.flows.watch import View
    from mbactor.cli.flows.watch import watch as watched

    query, period = _query(given, limit=limit), _duration("every", every) or 0.0
    if period < SHORTEST_PERIOD:
        raise click.UsageError(f"--every: {every} given, at least 50ms expected")
    view = View(flow_keys, query, period, once, as_json)
    _work(given, lambda shards: watched(shards, view))


@flows.command("check-graph")
@click.argument("workflow", metavar="MODULE:CLASS.WORKFLOW")
@WHERE
@JSON
def check_graph(workflow: str, as_json: bool, **given: Any) -> None:
    """Say whether the open flows of a workflow could go on under the graph that its code has now.

    Each flow keeps the graph it was created with, so nothing stops it; this tells, before a new version is deployed,
    which flows are at or before nodes and edges that are gone, or whose reducers are others. Exit code 1 where there
    are any.
    """
    from mbactor.cli.flows.checking import check_graph as checked

    _work(given, lambda shards: checked(shards, workflow, json=as_json))


@flows.command()
@WHERE
@JSON
def shards(as_json: bool, **given: Any) -> None:
    """Print the shards: how many flows are open on each, how many steps wait or run, and how quickly it answers.

    Exit code 1 where one does not answer.
    """
    from mbactor.cli.flows.looking import list_shards

    _work(given, lambda known: list_shards(known, json=as_json))


# --- steering -----------------------------------------------------------------------------------------------------


@flows.command()
@KEY
@WHERE
@click.option("--data", metavar="JSON", help="The answer.  [default: {}]")
@click.option("--step", metavar="STEP", help="Which question, where several wait; as `show` prints it.")
def resume(flow_key: str, data: str | None, step: str | None, **given: Any) -> None:
    """Answer the question that a flow waits with: the earliest, or that of --step."""
    from mbactor.cli.flows.steering import resume as resumed

    answer = {} if data is None else _json("--data", data)
    _work(given, lambda shards: resumed(shards, flow_key, answer, step))


@flows.command()
@KEY
@WHERE
@click.option("--reason", default="", help="Kept with the flow.")
def cancel(flow_key: str, reason: str, **given: Any) -> None:
    """End a flow that has not ended, with the flows it called. Tasks that run are cancelled within their lease."""
    from mbactor.cli.flows.steering import cancel as cancelled

    _work(given, lambda shards: cancelled(shards, flow_key, reason))


@flows.command()
@STEP
@WHERE
@STATE
def fork(step_key: str, state: str | None, **given: Any) -> None:
    """Make a new flow that goes on from a step of one that has ended, and print its key. The old one stays as it is."""
    from mbactor.cli.flows.steering import fork as forked

    fields = _state(state)
    _work(given, lambda shards: forked(shards, step_key, fields))


@flows.command()
@KEY
@WHERE
@STATE
def recover(flow_key: str, state: str | None, **given: Any) -> None:
    """Run every failed step of a failed flow again; the flow goes on from there."""
    _again("recover", flow_key, state, given)


@flows.command()
@KEY
@WHERE
@STATE
def retry(flow_key: str, state: str | None, **given: Any) -> None:
    """Run the step of a failed flow again that failed last; other branches that failed stay so."""
    _again("retry", flow_key, state, given)


@flows.command()
@KEY
@WHERE
@STATE
def restart(flow_key: str, state: str | None, **given: Any) -> None:
    """Run a flow that has stopped from its first step, under the same key; what it had done is forgotten."""
    _again("restart", flow_key, state, given)


def _again(how: Literal["recover", "retry", "restart"], flow_key: str, state: str | None, given: Options) -> None:
    from mbactor.cli.flows.steering import again

    fields = _state(state)
    _work(given, lambda shards: again(shards, how, flow_key, fields))


@flows.command("restart-from")
@STEP
@WHERE
@STATE
def restart_from(step_key: str, state: str | None, **given: Any) -> None:
    """Run a step that has ended again, in its flow: all that followed from it is forgotten and done anew."""
    from mbactor.cli.flows.steering import restart_from as restarted

    fields = _state(state)
    _work(given, lambda shards: restarted(shards, step_key, fields))


@flows.command("resume-break")
@KEY
@WHERE
@STATE
def resume_break(flow_key: str, state: str | None, **given: Any) -> None:
    """Let a flow go on that waits at a breakpoint, at the one that was reached first."""
    from mbactor.cli.flows.steering import resume_break as resumed

    fields = _state(state)
    _work(given, lambda shards: resumed(shards, flow_key, fields))


@flows.command()
@click.argument("flow_keys", metavar="FLOW...", nargs=-1, required=True)
@WHERE
def delete(flow_keys: tuple[str, ...], **given: Any) -> None:
    """Remove flows that do not run, with all their steps. One that waits for an answer is ended by it."""
    from mbactor.cli.flows.steering import delete as deleted

    _work(given, lambda shards: deleted(shards, flow_keys))


@flows.command()
@WHERE
@FILTERS
@click.option("--limit", type=int, help="At most so many, oldest first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(limit: int | None, yes: bool, **given: Any) -> None:
    """Remove all flows that the filters are about and that do not run, with all their steps; one filter at least.

    Flows that wait for an answer are ended by it, unless --status says otherwise.
    """
    from mbactor.cli.flows.steering import purge as purged

    if limit is not None and limit < 1:
        raise click.UsageError(f"--limit: {limit} given, 1 or more expected")
    query = _query(given)
    if not query.narrows:
        raise click.UsageError("give at least one filter; --older-than 0s is all flows that do not run")
    if not yes:
        click.confirm("Remove these flows and their steps for good?", abort=True, err=True)
    _work(given, lambda shards: purged(shards, query, limit))
