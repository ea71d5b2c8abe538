"""`mbactor flows watch`: flows as they go, refreshed until Ctrl-C, or until those that were named have stopped.

On a terminal one table is redrawn in place; elsewhere snapshots follow one another, as text or as JSON lines.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mbactor import clock
from mbactor.cli.flows.printing import PLAIN_WIDTH
from mbactor.cli.flows.table import flows_table
from mbactor.durations import text_of
from mbactor.errors import FlowNotFound
from mbactor.foreman.model.outcome import FlowPage, FlowSummary
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.model.status import FlowStatus, is_stopped
from mbactor.foreman.shards import Shards
from mbactor.foreman.store.store import StoreTrouble

OPEN: tuple[FlowStatus, ...] = ("running", "interrupted", "created")
LINGER = 15.0
"""Seconds for which a flow is still shown when it has ended."""
NOT_ALL_WELL = 3
"""Exit code where a flow that was watched did not complete."""


@dataclass(frozen=True, slots=True)
class View:
    """How to look: at these flows, or at those of the query; `every` so many seconds, or `once`."""

    keys: Sequence[str] = ()
    query: FlowQuery = field(default_factory=FlowQuery)
    every: float = 1.0
    once: bool = False
    json: bool = False


async def watch(shards: Shards, view: View) -> int:
    """Show the flows again and again; the exit code."""
    console = Console(highlight=False)
    live = console.is_terminal and not console.is_dumb_terminal and not (view.once or view.json)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    page = FlowPage([])
    try:
        if live:
            with Live(console=console, screen=True, auto_refresh=False) as screen:
                async for page in pages(shards, view):
                    screen.update(picture(page, view, console), refresh=True)
        else:
            async for page in pages(shards, view):
                _print(console, page, view)
    finally:
        if live:
            console.print(flows_table(page.flows, clock.utcnow(), bars=True, width=console.width))
    return NOT_ALL_WELL if view.keys and any(flow.status != "completed" for flow in page.flows) else 0


async def pages(shards: Shards, view: View) -> AsyncIterator[FlowPage]:
    """What there is to see, again and again."""
    look = _named(shards, view.keys) if view.keys else _open_and_ended(shards, view.query)
    page: FlowPage | None = None
    while True:
        try:
            page = await look()
        except StoreTrouble as error:
            if page is None or view.once:
                raise
            # What was seen last stays in sight while the database is away.
            page = FlowPage(page.flows, notes=[f"as seen last, trying again: {error.message}"])
        yield page
        if view.once or (view.keys and all(is_stopped(flow.status) for flow in page.flows)):
            return
        await asyncio.sleep(view.every)


def _named(shards: Shards, keys: Sequence[str]) -> Callable[[], Awaitable[FlowPage]]:
    async def look() -> FlowPage:
        return FlowPage([await shards.of(key).summary(key) for key in keys])

    return look


def _open_and_ended(shards: Shards, query: FlowQuery) -> Callable[[], Awaitable[FlowPage]]:
    """Those that have not ended, and for a while those that were seen and have."""
    ended: dict[str, float] = {}
    before: set[str] = set()

    async def look() -> FlowPage:
        nonlocal before
        page = await _open_flows(shards, query)
        now, there = asyncio.get_running_loop().time(), {flow.flow_key for flow in page.flows}
        ended.update(dict.fromkeys(before - there, now))
        for key in [key for key, since in ended.items() if now - since >= LINGER or key in there]:
            del ended[key]
        page.flows += await _there(shards, list(ended))
        before = there
        return page

    return look


async def _open_flows(shards: Shards, query: FlowQuery) -> FlowPage:
    """The newest flows that have not ended."""
    statuses = OPEN if query.status is None else (query.status,)
    found = [await shards.list(msgspec.structs.replace(query, status=status)) for status in statuses]
    flows = [flow for page in found for flow in page.flows]
    flows.sort(key=lambda flow: flow.created_at.timestamp() if flow.created_at is not None else 0.0, reverse=True)
    return FlowPage(flows[: query.limit], "", list(dict.fromkeys(note for page in found for note in page.notes)))


async def _there(shards: Shards, keys: Sequence[str]) -> list[FlowSummary]:
    found = []
    for key in keys:
        try:
            found.append(await shards.of(key).summary(key))
        except FlowNotFound:
            continue
    return found


def picture(page: FlowPage, view: View, console: Console) -> RenderableType:
    """As much of a page as there is room for, newest first."""
    room = max(1, console.height - 4 - len(page.notes))
    shown = page.flows[:room]
    more = f"{len(page.flows) - len(shown)} more  " if len(shown) < len(page.flows) else ""
    counted = f"{len(page.flows)} flow{'' if len(page.flows) == 1 else 's'}"
    notes = [Text(note, style="bold red", no_wrap=True, overflow="ellipsis") for note in page.notes]
    footer = Text(f"\n{more}{counted}, every {text_of(view.every)}, Ctrl-C ends", style="dim")
    return Group(*notes, flows_table(shown, clock.utcnow(), bars=True, width=console.width), footer)


def _print(console: Console, page: FlowPage, view: View) -> None:
    if view.json:
        print(msgspec.json.encode(page).decode(), flush=True)  # noqa: T201
        return
    if view.once and not page.flows:
        print("\n".join([*page.notes, "no flows"]), file=sys.stderr)  # noqa: T201
        return
    with console.capture() as capture:
        console.print(flows_table(page.flows, clock.utcnow(), width=console.width))
    text = "\n".join(line.rstrip() for line in capture.get().splitlines())
    print("\n".join([*page.notes, text, *([] if view.once else [""])]), flush=True)  # noqa: T201
