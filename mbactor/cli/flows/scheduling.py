"""`mbactor flows schedule`, `schedules`, `pause-schedule` ...: what creates flows by itself."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import click
import msgspec

from mbactor import clock
from mbactor.cli.flows.database import Where, tell_warning
from mbactor.cli.flows.printing import print_json, print_rich, terminal_width
from mbactor.cli.flows.table import schedules_table
from mbactor.cli.flows.workflows import told_graph_of, workflow_of
from mbactor.errors import Unavailable
from mbactor.foreman.model.outcome import FlowOptions
from mbactor.foreman.model.schedule import CatchUp, Schedule, ticks_after
from mbactor.foreman.schedules import Schedules
from mbactor.foreman.shards import Shards


async def list_schedules(shards: Shards, *, ticks: int, json: bool) -> int:
    """Print the schedules by name, each with so many of its next ticks."""
    found = [(one, _ticks(one, ticks)) for one in await Schedules(shards).all()]
    if json:
        print_json([{**msgspec.to_builtins(one), "ticks": following} for one, following in found])
    elif found:
        print_rich(schedules_table(found, clock.utcnow(), width=terminal_width()))
    else:
        click.echo("no schedules", err=True)
    return 0


def _ticks(schedule: Schedule, count: int) -> list[dt.datetime]:
    """The next tick, and those after it."""
    if schedule.next_tick is None:
        return []
    first = schedule.next_tick.timestamp()
    following = [first, *ticks_after(schedule, first, count - 1)]
    return [dt.datetime.fromtimestamp(tick, dt.UTC) for tick in following]


class Wanted(NamedTuple):
    """A schedule as it was given; its workflow is `module:Class.workflow` or a URL."""

    name: str
    workflow: str
    cron: str
    timezone: str
    state: dict[str, Any]
    options: FlowOptions
    catch_up: CatchUp


async def put_schedule(shards: Shards, wanted: Wanted, where: Where) -> int:
    """Make a schedule, or change the one of its name."""
    workflow = workflow_of(wanted.workflow, where)
    schedule = Schedule(**{**wanted._asdict(), "workflow": workflow.url})
    try:
        await told_graph_of(workflow)
    except Unavailable as error:  # its first tick may be far off
        tell_warning(f"whether the workflow is there is not known: {error.message}")
    schedules = Schedules(shards)
    await schedules.put(schedule)
    return await _told(schedules, wanted.name, "scheduled")


async def _told(schedules: Schedules, name: str, verb: str) -> int:
    """Say what was done with a schedule, and when it ticks next."""
    for one in await schedules.all():
        if one.name == name:
            following = "" if one.next_tick is None else f", next at {one.next_tick:%Y-%m-%d %H:%M:%S} UTC"
            click.echo(f"{name}: {verb}{following}")
    return 0


async def pause_schedule(shards: Shards, name: str, *, paused: bool) -> int:
    """Pause a schedule, or let it go on."""
    schedules = Schedules(shards)
    await schedules.pause(name, paused)
    return await _told(schedules, name, "paused" if paused else "goes on")


async def unschedule(shards: Shards, name: str) -> int:
    """Forget a schedule."""
    await Schedules(shards).drop(name)
    click.echo(f"{name}: forgotten; its flows stay")
    return 0
