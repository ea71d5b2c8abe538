"""`mbactor flows schedules`, `pause-schedule`, `resume-schedule` and `unschedule`: what creates flows by itself."""

from __future__ import annotations

import datetime as dt

import click
import msgspec

from mbactor import clock
from mbactor.cli.flows.printing import print_json, print_rich, terminal_width
from mbactor.cli.flows.table import schedules_table
from mbactor.foreman.model.schedule import Schedule, ticks_after
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


async def pause_schedule(shards: Shards, name: str, *, paused: bool) -> int:
    """Pause a schedule, or let it go on."""
    schedules = Schedules(shards)
    await schedules.pause(name, paused)
    (one,) = [one for one in await schedules.all() if one.name == name]
    following = "" if one.next_tick is None else f", next at {one.next_tick:%Y-%m-%d %H:%M:%S} UTC"
    click.echo(f"{name}: {'paused' if paused else 'goes on'}{following}")
    return 0


async def unschedule(shards: Shards, name: str) -> int:
    """Forget a schedule."""
    await Schedules(shards).drop(name)
    click.echo(f"{name}: forgotten; its flows stay")
    return 0
