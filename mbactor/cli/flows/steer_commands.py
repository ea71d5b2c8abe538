"""The commands that start flows, go on with them or end them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from mbactor.cli.flows.group import (
    FILTERS,
    JSON,
    KEY,
    NAME,
    STATE,
    STEP,
    WHERE,
    Options,
    duration_of,
    flows,
    json_of,
    query_of,
    state_of,
    where_of,
    where_text,
    work_on,
)

if TYPE_CHECKING:
    from mbactor.foreman.model.outcome import FlowOptions
    from mbactor.foreman.model.query import FlowQuery
    from mbactor.foreman.model.schedule import CatchUp
    from mbactor.foreman.shards import Shards


@flows.command(short_help="Create a flow, or start one that was created.")
@click.argument("what", metavar="WORKFLOW|FLOW")
@WHERE
@click.option("--state", metavar="JSON", help="The fields that the flow begins with.")
@click.option("--options", metavar="JSON", help='Those of FlowOptions, such as \'{"priority": 10, "start_at": "1h"}\'.')
@click.option("--no-start", is_flag=True, help="Only create it; `start FLOW` starts it then.")
@click.option("--wait", is_flag=True, help="Print how it ends: wait until it stops.")
@click.option("--within", metavar="DURATION", help="Wait at most so long; the flow goes on.")
@JSON
def start(
    what: str,
    state: str | None,
    options: str | None,
    no_start: bool,
    wait: bool,
    within: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Create a flow of a workflow and print its key; or start one that was created and not started.

    WORKFLOW is MODULE:CLASS.WORKFLOW, whose graph is that of the code here; or its URL, such as
    https://credit.example:428/approval: then whoever serves it in the running system is asked for its graph, where
    `mbactor run` runs on this machine (that of -f FILE, or the only one), or by the NATS server that FILE names.

    A Foreman, wherever it runs, finds the flow and runs its tasks. A task has the time budget that its node, the
    options or the Foreman in the file says, else 20s.

    With --wait the exit code is 0 where the flow completed, 3 where it did not, or not yet.
    """
    from mbactor.cli.flows.starting import Start
    from mbactor.cli.flows.starting import start as started
    from mbactor.cli.flows.workflows import HostOf, workflow_of

    limit = duration_of("within", within)
    asked = Start(
        what, state_of(state), _options(options), begin=not no_start, wait=wait or limit is not None, within=limit,
        json=as_json, where=where_text(given),
    )  # fmt: skip
    if asked.is_key and (state is not None or options is not None or no_start):
        raise click.UsageError(f"{what} is there already: --state, --options and --no-start are for a new flow")
    workflow = workflow_of(what, where_of(given))
    work_on(given, lambda shards: started(shards, workflow, asked), HostOf(workflow))


def _options(text: str | None) -> FlowOptions:
    from mbactor.cli.flows.starting import options_of
    from mbactor.errors import MbactorError

    try:
        return options_of({} if text is None else json_of("--options", text))
    except MbactorError as error:
        raise click.UsageError(f"--options: {error.message}") from None


@flows.command(short_help="Answer the question that a flow waits with.")
@KEY
@WHERE
@click.option("--data", metavar="JSON", help="The answer.  [default: {}]")
@click.option("--step", metavar="STEP", help="Which question, where several wait; as `show` prints it.")
def resume(flow_key: str, data: str | None, step: str | None, **given: Any) -> None:
    """Answer the question that a flow waits with: the earliest, or that of --step."""
    from mbactor.cli.flows.steering import resume as resumed

    answer = {} if data is None else json_of("--data", data)
    work_on(given, lambda shards: resumed(shards, flow_key, answer, step))


@flows.command(short_help="End a flow that has not ended.")
@KEY
@WHERE
@click.option("--reason", default="", help="Kept with the flow.")
def cancel(flow_key: str, reason: str, **given: Any) -> None:
    """End a flow that has not ended, with the flows it called. Tasks that run are cancelled within their lease."""
    from mbactor.cli.flows.steering import cancel as cancelled

    work_on(given, lambda shards: cancelled(shards, flow_key, reason))


@flows.command(short_help="Make a new flow that goes on from a step.")
@STEP
@WHERE
@STATE
def fork(step_key: str, state: str | None, **given: Any) -> None:
    """Make a new flow that goes on from a step of one that has ended, and print its key. The old one stays as it is."""
    from mbactor.cli.flows.steering import fork as forked

    fields = state_of(state)
    work_on(given, lambda shards: forked(shards, step_key, fields))


@flows.command(short_help="Run every failed step of a flow again.")
@KEY
@WHERE
@STATE
def recover(flow_key: str, state: str | None, **given: Any) -> None:
    """Run every failed step of a failed flow again; the flow goes on from there."""
    _again("recover", flow_key, state, given)


@flows.command(short_help="Run the step of a flow again that failed last.")
@KEY
@WHERE
@STATE
def retry(flow_key: str, state: str | None, **given: Any) -> None:
    """Run the step of a failed flow again that failed last; other branches that failed stay so."""
    _again("retry", flow_key, state, given)


@flows.command(short_help="Run a flow again from its first step.")
@KEY
@WHERE
@STATE
def restart(flow_key: str, state: str | None, **given: Any) -> None:
    """Run a flow that has stopped from its first step, under the same key; what it had done is forgotten."""
    _again("restart", flow_key, state, given)


def _again(how: Literal["recover", "retry", "restart"], flow_key: str, state: str | None, given: Options) -> None:
    from mbactor.cli.flows.steering import again

    fields = state_of(state)
    work_on(given, lambda shards: again(shards, how, flow_key, fields))


@flows.command("restart-from", short_help="Run a step again, and all that followed from it.")
@STEP
@WHERE
@STATE
def restart_from(step_key: str, state: str | None, **given: Any) -> None:
    """Run a step that has ended again, in its flow: all that followed from it is forgotten and done anew."""
    from mbactor.cli.flows.steering import restart_from as restarted

    fields = state_of(state)
    work_on(given, lambda shards: restarted(shards, step_key, fields))


@flows.command("continue", short_help="Make a new flow that goes on where a completed one ended.")
@KEY
@WHERE
@click.option("--state", metavar="JSON", help="Fields that are reduced onto the final state; null removes one.")
def continue_thread(flow_key: str, state: str | None, **given: Any) -> None:
    """Make the next flow of a thread, and print its key: it begins with the final state of the latest.

    FLOW is any flow of the thread. The latest has to have completed; of several that continue at once one wins.
    """
    from mbactor.cli.flows.steering import continue_thread as continued

    fields = state_of(state)
    work_on(given, lambda shards: continued(shards, flow_key, fields))


@flows.command("break", short_help="Have a flow pause before a node.")
@KEY
@click.argument("node", metavar="NODE")
@WHERE
@click.option("--off", is_flag=True, help="Pause there no longer.")
def break_before(flow_key: str, node: str, off: bool, **given: Any) -> None:
    """Have a flow, and the flows it calls, pause before each step of a node, until `resume-break`.

    What runs already is left alone. `show` prints where a flow pauses.
    """
    from mbactor.cli.flows.steering import break_before as broken

    work_on(given, lambda shards: broken(shards, flow_key, node, on=not off))


@flows.command("resume-break", short_help="Let a flow go on that waits at a breakpoint.")
@KEY
@WHERE
@STATE
def resume_break(flow_key: str, state: str | None, **given: Any) -> None:
    """Let a flow go on that waits at a breakpoint, at the one that was reached first."""
    from mbactor.cli.flows.steering import resume_break as resumed

    fields = state_of(state)
    work_on(given, lambda shards: resumed(shards, flow_key, fields))


@flows.command(short_help="Remove flows that do not run.")
@click.argument("flow_keys", metavar="FLOW...", nargs=-1, required=True)
@WHERE
def delete(flow_keys: tuple[str, ...], **given: Any) -> None:
    """Remove flows that do not run, with all their steps. One that waits for an answer is ended by it."""
    from mbactor.cli.flows.steering import delete as deleted

    work_on(given, lambda shards: deleted(shards, flow_keys))


@flows.command(short_help="Remove all flows that filters are about.")
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
    query = query_of(given)
    if not query.narrows:
        raise click.UsageError("give at least one filter; --older-than 0s is all flows that do not run")
    if not yes:
        found = _meant(given, query, limit)
        if not found:
            click.echo("0 flows purged")
            return
        click.confirm(f"Remove {found}, with all steps, for good?", abort=True, err=True)
    work_on(given, lambda shards: purged(shards, query, limit))


def _meant(given: dict[str, Any], query: FlowQuery, limit: int | None) -> str:
    """How many flows a purge is about; empty for none. Ends the program where that cannot be seen."""
    from mbactor.cli.flows.database import operate
    from mbactor.cli.flows.steering import meant

    found: list[str] = []

    async def look(shards: Shards) -> int:
        found.append(await meant(shards, query, limit))
        return 0

    # Not in one go with the purge: while a question waits for its answer, the loop would take no Ctrl-C.
    code = operate(where_of(given), look)
    if code:
        sys.exit(code)
    return found[0]


@flows.command(short_help="Have flows created at the ticks of a cron expression.")
@NAME
@click.argument("workflow", metavar="WORKFLOW")
@click.argument("cron", metavar="CRON")
@WHERE
@click.option("--timezone", metavar="NAME", default="UTC", show_default=True, help="Such as Europe/Berlin.")
@click.option("--state", metavar="JSON", help="The fields that each flow begins with.")
@click.option("--options", metavar="JSON", help="Those of FlowOptions, such as '{\"priority\": 10}'.")
@click.option(
    "--catch-up",
    type=click.Choice(["latest", "all", "none"]),
    default="latest",
    show_default=True,
    help="Which ticks are made up for at which no Foreman ran.",
)
def schedule(
    name: str,
    workflow: str,
    cron: str,
    state: str | None,
    options: str | None,
    timezone: str,
    catch_up: CatchUp,
    **given: Any,
) -> None:
    """Have a flow created at each tick of a cron expression; the schedule of this name is changed, where there is one.

    WORKFLOW is MODULE:CLASS.WORKFLOW in the code here, or its URL: then the running system, where there is one, is
    asked whether it is there, as by `start`.

    CRON has five fields (minute, hour, day of month, month, day of week), or six with seconds before them. A Foreman
    asks the workflow for its graph at each tick. One of a topology file is what the file says when its Foreman starts.
    Foremen that run see a new schedule, or a changed one, within 15 s: a tick that comes sooner is as late.
    """
    from mbactor.cli.flows.scheduling import Wanted, put_schedule

    wanted = Wanted(name, workflow, cron, timezone, state_of(state) or {}, _options(options), catch_up)
    where = where_of(given)
    work_on(given, lambda shards: put_schedule(shards, wanted, where))


@flows.command("pause-schedule", short_help="Create no more flows by a schedule.")
@NAME
@WHERE
def pause_schedule(name: str, **given: Any) -> None:
    """Create no more flows by a schedule until `resume-schedule`; what falls in between is not made up for."""
    from mbactor.cli.flows.scheduling import pause_schedule as paused

    work_on(given, lambda shards: paused(shards, name, paused=True))


@flows.command("resume-schedule", short_help="Let a schedule go on.")
@NAME
@WHERE
def resume_schedule(name: str, **given: Any) -> None:
    """Let a schedule go on, with the next tick from now."""
    from mbactor.cli.flows.scheduling import pause_schedule as paused

    work_on(given, lambda shards: paused(shards, name, paused=False))


@flows.command(short_help="Forget a schedule.")
@NAME
@WHERE
def unschedule(name: str, **given: Any) -> None:
    """Forget a schedule; the flows that it made stay. One of a topology file comes back when its Foreman starts."""
    from mbactor.cli.flows.scheduling import unschedule as dropped

    work_on(given, lambda shards: dropped(shards, name))
