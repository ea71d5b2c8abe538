"""`mbactor flows resume`, `cancel`, `fork`, `recover`, `purge` ...: each is one operation, and tells what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import click
import msgspec

from mbactor.cli.file import counted
from mbactor.cli.flows.begun import tell_unless_begun
from mbactor.cli.flows.database import tell_warning
from mbactor.errors import did_you_mean
from mbactor.foreman.model.outcome import StepRecord
from mbactor.foreman.model.query import MOST_PURGED, FlowQuery
from mbactor.foreman.model.state import overrides_of
from mbactor.foreman.shards import Shards
from mbactor.foreman.store.keeping import AT_REST

MOST_COUNTED = 10_000
"""So many flows of each status are counted before they are purged."""


async def resume(shards: Shards, flow_key: str, answer: Any, step_key: str | None) -> int:
    """Answer a question."""
    engine = shards.of(flow_key)
    await engine.resume(flow_key, answer, step_key)
    await _tell(shards, flow_key, "resumed")
    await tell_unless_begun(lambda: shards.of(flow_key).history(flow_key))
    return 0


async def cancel(shards: Shards, flow_key: str, reason: str) -> int:
    """End a flow."""
    await shards.of(flow_key).cancel(flow_key, reason)
    click.echo(f"{flow_key}: cancelled")
    return 0


async def delete(shards: Shards, flow_keys: Sequence[str]) -> int:
    """Remove flows, one after the other; the first that is refused ends it, and it is told how far it came.

    What was done is printed at the end: that this has no place keeps no flow from being removed.
    """
    found = [(flow_key, shards.of(flow_key)) for flow_key in flow_keys]  # before any is removed: one may be no key
    deleted: list[str] = []
    try:
        for flow_key, engine in found:
            await engine.delete(flow_key)
            deleted.append(f"{flow_key}: deleted")
    except BaseException as ended:
        ended.add_note(f"{len(deleted)} of {counted(len(found), 'flow')} deleted")
        with suppress(OSError):
            _print(deleted)
        raise
    try:
        _print(deleted)
    except OSError as error:
        error.add_note(f"{counted(len(found), 'flow')} deleted")
        raise
    return 0


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


async def fork(shards: Shards, step_key: str, state: Mapping[str, Any] | None) -> int:
    """Make a new flow from a step of an old one."""
    flow_key = await shards.of(step_key, "step").recovery.fork(step_key, overrides_of(state))
    click.echo(flow_key)
    await tell_unless_begun(lambda: shards.of(flow_key).history(flow_key))
    return 0


async def continue_thread(shards: Shards, flow_key: str, state: Mapping[str, Any] | None) -> int:
    """Make the next flow of a thread."""
    new_key = await shards.of(flow_key).recovery.continue_thread(flow_key, overrides_of(state))
    click.echo(new_key)
    await tell_unless_begun(lambda: shards.of(new_key).history(new_key))
    return 0


async def again(
    shards: Shards, how: Literal["recover", "retry", "restart"], flow_key: str, state: Mapping[str, Any] | None
) -> int:
    """Run steps of a flow again, in place."""
    recovery = shards.of(flow_key).recovery
    run = {"recover": recovery.recover, "retry": recovery.retry, "restart": recovery.restart}[how]
    await run(flow_key, overrides_of(state))
    await _tell(shards, flow_key, _DONE[how])
    await tell_unless_begun(lambda: shards.of(flow_key).history(flow_key))
    return 0


async def restart_from(shards: Shards, step_key: str, state: Mapping[str, Any] | None) -> int:
    """Run a step again, in place."""
    engine = shards.of(step_key, "step")
    await engine.recovery.restart_from(step_key, overrides_of(state))
    click.echo(f"{step_key}: runs again, and all that follows from it")

    async def look() -> list[StepRecord]:
        return [await engine.step(step_key)]

    await tell_unless_begun(look)
    return 0


async def break_before(shards: Shards, flow_key: str, node: str, *, on: bool) -> int:
    """Have a flow pause before a node, or no longer."""
    engine = shards.of(flow_key)
    await engine.recovery.break_before(flow_key, node, on)
    _, graph = await engine.graph_of(flow_key)
    if on and not graph.has_node(node):
        nodes = [one.name for one in graph.nodes]
        hint = did_you_mean(node, nodes) or f"; it has {', '.join(nodes)}."
        tell_warning(f"{graph.name} has no node {node!r}{hint} Flows that it calls may have one.")
    await _tell(shards, flow_key, f"pauses before {node}" if on else f"does not pause before {node}")
    return 0


async def resume_break(shards: Shards, flow_key: str, state: Mapping[str, Any] | None) -> int:
    """Let a flow go on that waits at a breakpoint."""
    await shards.of(flow_key).recovery.resume_break(flow_key, overrides_of(state))
    await _tell(shards, flow_key, "goes on")
    await tell_unless_begun(lambda: shards.of(flow_key).history(flow_key))
    return 0


_DONE = {"recover": "its failed steps run again", "retry": "its last failed step runs again", "restart": "restarted"}


async def meant(shards: Shards, query: FlowQuery, limit: int | None) -> str:
    """How many flows a purge is about by now; empty for none."""
    most = MOST_COUNTED if limit is None else min(limit, MOST_COUNTED)
    count, more = 0, False
    for status in AT_REST if query.status is None else {query.status} & {*AT_REST}:
        page = await shards.list(msgspec.structs.replace(query, status=status, limit=most))
        for note in page.notes:
            tell_warning(note)
        count += len(page.flows)
        more = more or bool(page.next_cursor)
    if not count:
        return ""
    if limit is not None and count >= limit:
        return "the oldest flow" if limit == 1 else f"the oldest {limit} flows"
    return f"more than {count} flows" if more else counted(count, "flow")


async def purge(shards: Shards, query: FlowQuery, limit: int | None) -> int:
    """Remove all that the query is about, batch by batch."""
    total = 0
    while limit is None or total < limit:
        most = MOST_PURGED if limit is None else min(MOST_PURGED, limit - total)
        count = await shards.purge(msgspec.structs.replace(query, limit=most))
        total += count
        if count == 0:
            break
    click.echo(f"{total} flow{'' if total == 1 else 's'} purged")
    return 0


async def _tell(shards: Shards, flow_key: str, verb: str) -> None:
    outcome = await shards.of(flow_key).snapshot(flow_key)
    left = f", {len(outcome.interrupts)} more to answer" if outcome.interrupts else ""
    click.echo(f"{flow_key}: {verb}, {outcome.status}{left}")
