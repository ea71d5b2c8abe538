"""Whether somebody goes on with a flow that may go on: a person who is not told waits for nothing where nobody does.

A database does not know who works over it, and an idle Foreman leaves no trace there. What can be seen is whether a
step begins, which takes a Foreman its `poll_interval` at most. So that is waited for where a person looks; a program is
not kept.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence

import click

from mbactor import clock
from mbactor.errors import MbactorError
from mbactor.foreman.model.outcome import StepRecord

PAUSES = (0.1, 0.2, 0.4, 0.6, 0.7)
"""Seconds from one look to the next."""
GOES_ON = "a flow goes on while a tree with a Foreman on this database runs (`mbactor run FILE`)"


def is_idle(steps: Sequence[StepRecord]) -> bool:
    """Whether steps of a flow, or of those that it calls, wait to be begun and none runs. Those that are put off wait
    for the time, and not for somebody.
    """
    found = [*_at_hand(steps)]
    waits = any(step.status == "pending" and not _is_put_off(step) for step in found)
    return waits and all(step.status != "running" for step in found)


def _is_put_off(step: StepRecord) -> bool:
    return step.due_at is not None and step.due_at.timestamp() > clock.unix()


def _at_hand(steps: Sequence[StepRecord]) -> Iterator[StepRecord]:
    """The steps; of one that runs because it waits for a flow, those of that flow."""
    for step in steps:
        if step.status == "running" and step.subflow is not None:
            yield from _at_hand(step.subflow.steps)
        else:
            yield step


async def tell_unless_begun(look: Callable[[], Awaitable[Sequence[StepRecord]]]) -> None:
    """Tell whoever sits at a terminal that none of the steps begins, where none does for 2 seconds.

    `look` has the steps: those of a flow, or the one that runs again.
    """
    if not sys.stderr.isatty():
        return
    for pause in PAUSES:
        if not await _idle(look):
            return
        await asyncio.sleep(pause)
    if await _idle(look):
        click.echo(f"nothing of it has begun in {sum(PAUSES):g} s; {GOES_ON}", err=True)


async def _idle(look: Callable[[], Awaitable[Sequence[StepRecord]]]) -> bool:
    try:
        return is_idle(await look())
    except MbactorError:  # a disposable one has completed; or the database is gone, and what was asked is done
        return False
