"""`mbactor flows start`: a new flow of a workflow, or one that was created and not started."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click
import msgspec

from mbactor import clock
from mbactor.cli.flows.begun import GOES_ON, tell_unless_begun
from mbactor.cli.flows.card import flow_card
from mbactor.cli.flows.printing import print_json, print_rich
from mbactor.cli.flows.workflows import Workflow
from mbactor.durations import seconds_of_text
from mbactor.errors import BadRequest, FlowNotFound, did_you_mean
from mbactor.foreman.model.outcome import FlowOptions, FlowOutcome
from mbactor.foreman.shards import Shards

NOT_WELL = 3
"""Exit code where a flow that was waited for did not complete."""

PATIENCE = 5.0
"""Seconds of waiting after which it is said who runs a flow: without a Foreman the waiting has no end."""

_DURATIONS = ("time_budget", "start_at")


@dataclass(frozen=True)
class Start:
    """What is to be started: a workflow, or a flow by its key. `wait` until it stops, at most `within`."""

    what: str
    state: Mapping[str, Any] | None = None
    options: FlowOptions = field(default_factory=FlowOptions)
    begin: bool = True
    wait: bool = False
    within: float | None = None
    json: bool = False
    where: str = ""
    """The options that name the database, for the commands that are suggested."""

    @property
    def is_key(self) -> bool:
        """Whether it says a flow that is there; no module's name begins with a digit."""
        return re.match(r"\d", self.what) is not None


async def start(shards: Shards, workflow: Workflow, given: Start) -> int:
    """Start the flow, print its key, and wait for it where that is asked for; the exit code."""
    key = given.what
    if given.is_key:
        await shards.of(key).start(key)
    else:
        key = await shards.create(workflow.url, given.state, given.options, start=given.begin)
    if given.wait:
        # Whatever ends the waiting, the key has been told.
        click.echo(key, err=given.json)
        return await _waited(shards, key, given)
    if given.json:
        print_json(await shards.of(key).snapshot(key))
    else:
        click.echo(key)
    if given.begin and given.options.start_at is None:
        await tell_unless_begun(lambda: shards.of(key).history(key))
    return 0


async def _waited(shards: Shards, key: str, given: Start) -> int:
    engine = shards.of(key)
    told = asyncio.get_running_loop().call_later(PATIENCE, _tell_waiting)
    try:
        outcome = await (engine.wait(key) if given.within is None else engine.poll(key, given.within))
        summary = await engine.summary(key)
    except FlowNotFound:
        # Of a disposable flow that is what says that it has completed.
        if not given.options.delete_on_completion:
            raise
        _tell_gone(key, json=given.json)
        return 0
    finally:
        told.cancel()
    if given.json:
        print_json(outcome)
    else:
        print_rich(flow_card(summary, outcome, clock.utcnow(), given.where))
    return 0 if outcome.status == "completed" else NOT_WELL


def _tell_waiting() -> None:
    click.echo(f"... still waiting; {GOES_ON}", err=True)


def _tell_gone(key: str, *, json: bool) -> None:
    if json:
        print_json(FlowOutcome(flow_key=key, status="completed"))
    else:
        click.echo("completed, and removed as its options say")


def options_of(given: Any) -> FlowOptions:
    """The options that a JSON object says; BadRequest names the one that cannot be."""
    known = FlowOptions.__struct_fields__
    if not isinstance(given, dict):
        raise BadRequest(f'{given!r} given, an object of options expected, such as {{"priority": 10}}')
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise BadRequest(f"no option is called {name!r}{hint}")
    try:
        return msgspec.convert({name: _plain(name, value) for name, value in given.items()}, FlowOptions)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$.")
        name = where.rstrip("`")
        also = ", or a duration such as '1h'" if name in _DURATIONS else ""
        raise BadRequest(f"{name}={given.get(name)!r}: {text}{also}" if name else text) from None


def _plain(name: str, value: Any) -> Any:
    """A duration as seconds; all else, a moment too, as it is."""
    if name in _DURATIONS and isinstance(value, str):
        try:
            return seconds_of_text(value)
        except ValueError:
            return value
    return value
