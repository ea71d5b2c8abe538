"""Schedules: when flows are to be created by themselves (pure).

    nightly = Schedule(name="nightly", workflow="https://report.example:428/nightly", cron="0 3 * * *")
    due(nightly, last=yesterday_at_3, now=today_at_4) == Due([today_at_3], today_at_3)

A cron expression has five fields (minute, hour, day of month, month, day of week), or six with seconds before them.
When clocks are changed, it behaves as Debian's cron does: what falls into the hour that is skipped runs right after it,
and what runs at fixed times runs once in the hour that comes twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from mbactor.errors import BadRequest
from mbactor.foreman.model.outcome import FlowOptions, check_length
from mbactor.foreman.model.state import is_storable
from mbactor.foreman.model.status import FlowStatus

CatchUp = Literal["latest", "all", "none"]

MISSED_AFTER = 60.0
"""Seconds after which a tick has been missed."""
MOST_AT_ONCE = 100
"""Ticks that are caught up with in one go; the others follow."""


class Schedule(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A workflow of which a flow is created at each tick of a cron expression.

        Schedule(name="nightly", workflow="https://report.example:428/nightly", cron="0 3 * * *",
                 timezone="Europe/Berlin", state={"depth": 3})

    Each tick makes exactly one flow, however many Foremen share the database; its baggage says of which `schedule` and
    `tick` it is. `BadRequest` (400) says what cannot be.
    """

    name: str
    workflow: str
    """Its URL."""
    cron: str
    timezone: str = "UTC"
    state: dict[str, Any] = {}
    options: FlowOptions = msgspec.field(default_factory=FlowOptions)
    """How the flows are to run; without a start, a thread and an idempotency key of their own."""
    catch_up: CatchUp = "latest"
    """What becomes of ticks at which no Foreman ran, for more than a minute: all, the latest, or none of them are made
    up for."""
    paused: bool = False
    """This, and what follows, is told of a schedule and not declared: `pause_schedule` pauses one."""
    last_tick: dt.datetime | None = None
    """The tick that was dealt with last, or when the schedule was made or resumed."""
    next_tick: dt.datetime | None = None
    """None while it is paused, and where no tick is to come."""
    last_flow: str | None = None
    """The key of the flow that it made last, as long as that is kept."""
    last_status: FlowStatus | None = None

    def __post_init__(self) -> None:
        where = f"schedule {self.name!r}"
        if not self.name or not is_storable(self.name):
            raise BadRequest(f"schedule: name={self.name!r}: a text expected")
        check_length("schedule: name", self.name)
        if not self.workflow:
            raise BadRequest(f"{where}: workflow='': the URL of a workflow expected")
        zone = _zone(where, self.timezone)
        try:
            CronSim(self.cron, dt.datetime(2026, 1, 1, tzinfo=zone))
        except CronSimError as error:
            raise BadRequest(
                f"{where}: cron={self.cron!r}: {error}; five fields expected, such as '*/5 8-18 * * MON-FRI', or six "
                "with seconds before them"
            ) from None
        given = (self.options.start_at, self.options.thread_key, self.options.idempotency_key)
        for name, value in zip(("start_at", "thread_key", "idempotency_key"), given, strict=True):
            if value is not None:
                raise BadRequest(f"{where}: options.{name} is given, and each of its flows has its own")


class Due(NamedTuple):
    """What there is to do for a schedule: the ticks that make a flow, and up to which it is dealt with."""

    ticks: list[float]
    until: float


def due(schedule: Schedule, last: float, now: float) -> Due:
    """Which ticks since the last one make a flow. Times are in Unix seconds."""
    latest = next(_ticks(schedule, int(now) + 1, backwards=True), None)
    if latest is None or latest <= last:
        return Due([], last)
    if schedule.catch_up == "all":
        ticks = list(islice(takewhile(lambda tick: tick <= now, _ticks(schedule, last)), MOST_AT_ONCE))
        return Due(ticks, ticks[-1])
    missed = schedule.catch_up == "none" and now - latest > MISSED_AFTER
    return Due([] if missed else [latest], latest)


def ticks_after(schedule: Schedule, moment: float, count: int) -> list[float]:
    """So many ticks after a moment, or as many as there are."""
    return list(islice(_ticks(schedule, moment), count))


def next_tick(schedule: Schedule, last: float) -> float | None:
    """The first tick after a moment; None where there is none, as on 30 February."""
    return next(_ticks(schedule, last), None)


def _ticks(schedule: Schedule, moment: float, *, backwards: bool = False) -> Iterator[float]:
    begin = dt.datetime.fromtimestamp(moment, _zone("", schedule.timezone))
    for tick in CronSim(schedule.cron, begin, reverse=backwards):
        yield tick.timestamp()


def _zone(where: str, name: str) -> dt.tzinfo:
    if name == "UTC":
        return dt.UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadRequest(
            f"{where}: timezone={name!r}: the name of a time zone expected, such as 'Europe/Berlin'"
        ) from None
