"""The commands that print what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbactor.cli.flows.group import (
    FILTERS,
    JSON,
    KEY,
    SHORTEST_PERIOD,
    WHERE,
    duration_of,
    flows,
    query_of,
    where_of,
    where_text,
    work_on,
)


@flows.command("list", short_help="Print flows, newest first.")
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

    query = query_of(given, include_subflows=subflows, limit=limit, cursor=cursor)
    work_on(given, lambda shards: listed(shards, query, json=as_json))


@flows.command(short_help="Print all of one flow, or of one step.")
@click.argument("flow_key", metavar="[FLOW]", required=False)
@WHERE
@click.option("--step", "step_key", metavar="STEP", help="A step instead, as `history` prints its key.")
@JSON
def show(flow_key: str | None, step_key: str | None, as_json: bool, **given: Any) -> None:
    """Print all of one flow: how it stands, its error, its open questions, its state.

    With --step, one step: its input, what it changed, its error with the traceback.
    """
    from mbactor.cli.flows.looking import show_flow, show_step

    if step_key is not None and flow_key is None:
        work_on(given, lambda shards: show_step(shards, step_key, json=as_json))
    if flow_key is None or step_key is not None:
        raise click.UsageError("give the key of a flow, or --step STEP: one of them")
    work_on(given, lambda shards: show_flow(shards, flow_key, json=as_json, where=where_text(given)))


@flows.command(short_help="Print the steps of a flow: a table, a page, a diagram.")
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
    work_on(given, lambda shards: show_history(shards, flow_key, html=html, mermaid=mermaid, json=as_json))


@flows.command(short_help="Show flows as they go.")
@click.argument("flow_keys", metavar="[FLOW]...", nargs=-1)
@WHERE
@FILTERS
@click.option("--limit", type=int, default=100, show_default=True)
@click.option("--every", metavar="DURATION", default="1s", show_default=True)
@click.option("--once", is_flag=True, help="Show it once.")
@JSON
def watch(flow_keys: tuple[str, ...], limit: int, every: str, once: bool, as_json: bool, **given: Any) -> None:
    """Show flows as they go, refreshed until Ctrl-C: those that have not ended, or the ones that are named.

    Named flows are watched until all have ended or wait for an answer; exit code 0 when all completed, 3 when some did
    not. While the database is away, what was seen last is shown with a note. The bars are steps done of those known so
    far: what will still come is not known, so no time of arrival is given.
    """
    from mbactor.cli.flows.watch import View
    from mbactor.cli.flows.watch import watch as watched

    query, period = query_of(given, limit=limit), duration_of("every", every) or 0.0
    if flow_keys and (query.narrows or query.shard is not None):
        raise click.UsageError("name flows or give filters, one of them")
    if period < SHORTEST_PERIOD:
        raise click.UsageError(f"--every: {every} given, at least 50ms expected")
    view = View(flow_keys, query, period, once, as_json)
    work_on(given, lambda shards: watched(shards, view))


@flows.command(short_help="Print a hash that changes with whatever happens in a flow.")
@KEY
@WHERE
@JSON
def fingerprint(flow_key: str, as_json: bool, **given: Any) -> None:
    """Print a hash that changes with whatever happens in a flow or in those that it called, and its status.

    It costs one query: what to look at again and again before a history is read anew.
    """
    from mbactor.cli.flows.looking import show_fingerprint

    work_on(given, lambda shards: show_fingerprint(shards, flow_key, json=as_json))


@flows.command("check-graph", short_help="Say which open flows a changed graph would stop.")
@click.argument("workflow", metavar="WORKFLOW")
@WHERE
@JSON
def check_graph(workflow: str, as_json: bool, **given: Any) -> None:
    """Say whether the open flows of a workflow could go on under the graph that its code has now.

    WORKFLOW is MODULE:CLASS.WORKFLOW in the code here, or its URL, of which the running system is asked as by `start`.

    Each flow keeps the graph it was created with, so nothing stops it; this tells, before a new version is deployed,
    which flows are at or before nodes and edges that are gone, or whose reducers are others. Exit code 1 where there
    are any.
    """
    from mbactor.cli.flows.checking import check_graph as checked

    where = where_of(given)
    work_on(given, lambda shards: checked(shards, workflow, where, json=as_json))


@flows.command(short_help="Print how each shard fares.")
@WHERE
@JSON
def shards(as_json: bool, **given: Any) -> None:
    """Print the shards: how many flows are open on each, how many steps wait or run, and how quickly it answers.

    Exit code 1 where one does not answer.
    """
    from mbactor.cli.flows.looking import list_shards

    work_on(given, lambda known: list_shards(known, json=as_json))


@flows.command(short_help="Print what creates flows by itself, and when next.")
@WHERE
@click.option("--ticks", type=click.IntRange(1, 100), default=1, show_default=True, help="So many next ticks of each.")
@JSON
def schedules(ticks: int, as_json: bool, **given: Any) -> None:
    """Print what creates flows by itself: when next, in the time zone of the schedule, and the flow that it made last.

    A tick that is late is one that no Foreman has made a flow of yet: none runs, or nobody serves the workflow.
    """
    from mbactor.cli.flows.scheduling import list_schedules

    work_on(given, lambda shards: list_schedules(shards, ticks=ticks, json=as_json))
